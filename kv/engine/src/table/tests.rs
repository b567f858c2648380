use std::collections::{BTreeMap, BTreeSet};

use pdpix::Seed;
use quickcheck::quickcheck;

use super::*;

#[derive(Clone, Debug)]
struct Word {
    text: Vec<u8>,
    hash: u64,
    value: u32,
}

impl Item for Word {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn key(&self) -> &[u8] {
        &self.text
    }
}

fn word(seed: &Seed, number: u32) -> Word {
    let text = format!("key:{number}").into_bytes();
    Word { hash: hash_of(seed, &text), text, value: number }
}

fn filled(seed: &Seed, count: u32) -> Table<Word> {
    let mut table = Table::default();
    (0..count).for_each(|number| table.insert(word(seed, number)));
    table
}

quickcheck! {
    /// Against a map: bursts of inserts and removals, so that segments split and join.
    fn behaves_as_a_map(ops: Vec<(bool, u16, u16)>, seed: u64) -> bool {
        let seed = Seed::new(seed);
        let mut table: Table<Word> = Table::default();
        let mut model = BTreeMap::new();
        for (insert, first, count) in ops {
            for number in u32::from(first) % 4000..u32::from(first) % 4000 + u32::from(count) % 1500 {
                let mut item = word(&seed, number);
                if !insert {
                    assert_eq!(table.remove(item.hash, &item.text).map(|w| w.value), model.remove(&item.text));
                } else if let Some(found) = table.locate(item.hash, &item.text) {
                    table[found].value += 1;
                    *model.get_mut(&item.text).unwrap() += 1;
                } else {
                    item.value = number;
                    assert_eq!(model.insert(item.text.clone(), number), None);
                    table.insert(item);
                }
            }
            table.check();
            assert_eq!(table.len(), model.len());
        }
        let found: BTreeMap<_, _> = table.iter().map(|w| (w.text.clone(), w.value)).collect();
        assert_eq!(table.places().count(), table.len());
        found == model
    }

    /// SCAN's promise: what is there from the start to the end of a walk is met exactly once; what comes and goes
    /// meanwhile at most once for each time that it came.
    fn a_walk_meets_what_stays_exactly_once(start: u16, steps: Vec<(bool, u16)>, count: u8, seed: u64) -> bool {
        let seed = Seed::new(seed);
        let stay = u32::from(start) % 3000;
        let mut table = filled(&seed, stay);
        let mut others: Vec<u32> = Vec::new();
        let (mut next_other, mut cursor, mut met) = (1_000_000, Some(0), BTreeMap::new());
        let mut steps = steps.iter().cycle();
        while let Some(from) = cursor {
            cursor = table.walk(from, usize::from(count), |w| *met.entry(w.value).or_insert(0) += 1);
            assert_ne!(cursor, Some(from), "no progress");
            if let Some((grow, by)) = steps.next() {
                for _ in 0..by % 700 {
                    if *grow && others.len() < 6000 {
                        table.insert(word(&seed, next_other));
                        others.push(next_other);
                        next_other += 1;
                    } else if let Some(gone) = others.pop() {
                        let gone = word(&seed, gone);
                        table.remove(gone.hash, &gone.text).unwrap();
                    }
                }
            }
        }
        assert!(met.values().all(|&times| times == 1));
        (0..stay).all(|number| met.contains_key(&number))
    }
}

#[test]
fn a_walk_visits_about_as_many_as_asked_for() {
    let table = filled(&Seed::new(3), 10_000);
    let (mut cursor, mut steps, mut met) = (Some(0), 0, 0);
    while let Some(from) = cursor {
        let before = met;
        cursor = table.walk(from, 10, |_| met += 1);
        assert!((10..=11).contains(&(met - before)) || cursor.is_none());
        steps += 1;
    }
    assert_eq!((met, steps), (10_000, 1000));
}

#[test]
fn memory_comes_back() {
    let seed = Seed::new(4);
    let mut table = filled(&seed, 100_000);
    let full = table.allocated();
    for number in 500..100_000 {
        let gone = word(&seed, number);
        table.remove(gone.hash, &gone.text).unwrap();
    }
    table.check();
    assert!(table.allocated() * 40 < full, "{} of {full}", table.allocated());
    (0..500).for_each(|number| drop(table.remove(word(&seed, number).hash, &word(&seed, number).text)));
    assert_eq!(table.allocated(), 0);
}

#[test]
fn every_item_is_as_likely_as_any_other() {
    let seed = Seed::new(5);
    let mut rng = Rng::new(6);
    for count in [1u32, 7, 2000] {
        let table = filled(&seed, count);
        let mut drawn = vec![0u32; count as usize];
        (0..count * 200).for_each(|_| drawn[table[table.random(&mut rng).unwrap()].value as usize] += 1);
        // A binomial of mean 200 and deviation 14: seven deviations either way.
        assert!(drawn.iter().all(|&times| (100..300).contains(&times)), "{drawn:?}");
    }
    assert_eq!(filled(&seed, 0).random(&mut rng), None);
}

#[test]
fn colliding_hashes_do_not_blow_the_directory_up() {
    let mut table = Table::default();
    for number in 0..5000u32 {
        // All in the top sixty bits.
        table.insert(Word { text: number.to_string().into_bytes(), hash: u64::from(number % 16), value: number });
    }
    table.check();
    assert!(table.directory.len() <= 2 * SPARSENESS_MAX * table.segments.len());
    assert_eq!(table.find(3, b"4995").map(|w| w.value), Some(4995));
    let mut met = BTreeSet::new();
    assert_eq!(table.walk(0, 10, |w| assert!(met.insert(w.value))), Some(1), "one position, visited whole");
    assert_eq!(met.len(), 5000);
}

#[test]
fn the_hash_spreads_over_segments() {
    for text in ["key:{}", "user:{}:profile", "{}"] {
        let mut table = Table::default();
        for number in 0..100_000 {
            let text = text.replace("{}", &number.to_string()).into_bytes();
            table.insert(Word { hash: hash_of(&Seed::new(1), &text), text, value: 0 });
        }
        let fill = table.len() / table.segments.len();
        assert!(
            (224..448).contains(&fill) && table.directory.len() <= 4 * table.segments.len(),
            "{fill} {}",
            table.depth
        );
    }
}
