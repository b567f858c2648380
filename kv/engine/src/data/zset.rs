//! Sorted sets: a few short members packed in their order, each before its score, or a table of scores beside a tree of
//! ranks.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Range;

use pdpix::{Exhausted, Heap, Rng, Seed};

use super::Which;
use super::hash::PackLimits;
use super::ranks::{Ranked, Ranks};
use crate::blob::{Blob, Stored};
use crate::pack::{Pack, Place};
use crate::table::{Item, Table, hash_of};

/// Members in the order of their scores; those of one score in the order of their bytes. No score is a NaN.
#[derive(Debug)]
pub enum Zset {
    /// `listpack`.
    Pack(Pack),
    /// `skiplist`, though it is none.
    Tree(Box<Tree>),
}

/// The large form.
#[derive(Clone, Default, Debug)]
pub struct Tree {
    members: Table<Member>,
    ranks: Ranks,
}

/// A member and its score.
#[derive(Clone, Debug)]
struct Member {
    name: Blob,
    hash: u64,
    score: f64,
}

impl Item for Member {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn key(&self) -> &[u8] {
        &self.name
    }
}

/// What new members become when they are stored: one for each name that was announced, `None` where it needs none.
pub type Names = Vec<Option<Blob>>;

/// Bytes of a score in a pack.
const SCORE_LEN: usize = 8;

/// A score as it is packed. Redis packs a whole number as an integer, and so loses the sign of zero.
fn packed(score: f64) -> [u8; SCORE_LEN] {
    (score + 0.0).to_le_bytes()
}

impl Zset {
    /// An empty sorted set, packed or not.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn new(packed: bool, heap: &Heap) -> Result<Zset, Exhausted> {
        Ok(if packed { Zset::Pack(Pack::new(0, heap)?) } else { Zset::Tree(Box::default()) })
    }

    /// A sorted set of these members, whose names differ; packed if the limits allow it.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn of(mut members: Vec<Ranked>, limits: PackLimits, (heap, seed): (&Heap, &Seed)) -> Result<Zset, Exhausted> {
        if members.len() <= limits.entries && members.iter().all(|member| member.name.len() <= limits.value) {
            members.sort_unstable_by(|a, b| a.cmp_to(b.score, &b.name));
            let size = |member: &Ranked| Pack::size_of(member.name.len()) + Pack::size_of(SCORE_LEN);
            let mut pack = Pack::new(members.iter().map(size).sum(), heap)?;
            for member in members {
                pack.push(&member.name);
                pack.push(&packed(member.score));
            }
            return Ok(Zset::Pack(pack));
        }
        let mut tree = Tree::default();
        members.into_iter().for_each(|member| tree.insert(member.name, member.score, seed));
        Ok(Zset::Tree(Box::new(tree)))
    }

    /// Members in it.
    pub fn len(&self) -> usize {
        match self {
            Zset::Pack(pack) => pack.count() / 2,
            Zset::Tree(tree) => tree.members.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What OBJECT ENCODING calls it.
    pub fn encoding(&self) -> &'static str {
        match self {
            Zset::Pack(_) => "listpack",
            Zset::Tree(_) => "skiplist",
        }
    }

    /// The score of a member.
    pub fn score(&self, name: &[u8], seed: &Seed) -> Option<f64> {
        match self {
            Zset::Pack(pack) => find(pack, name).map(|(_, _, score)| score),
            Zset::Tree(tree) => tree.members.find(hash_of(seed, name), name).map(|member| member.score),
        }
    }

    /// Makes everything ready for [`Zset::set`] with any of `names`: room in the pack, or another form, and what the new
    /// ones of them become. `keep` gives number so many of them in the form in which it is stored.
    ///
    /// # Errors
    /// [`Exhausted`]; nothing has changed.
    pub fn prepare<'a>(
        &mut self,
        names: impl Iterator<Item = &'a [u8]> + Clone,
        mut keep: impl FnMut(usize) -> Result<Blob, Exhausted>,
        limits: PackLimits,
        (heap, seed): (&Heap, &Seed),
    ) -> Result<Names, Exhausted> {
        let mut converted = None;
        if let Zset::Pack(pack) = self {
            let new = || names.clone().filter(|name| find(pack, name).is_none());
            let fits = |count: usize| count == 0 || pack.count() / 2 + count <= limits.entries;
            let short = new().all(|name| name.len() <= limits.value);
            if short && (fits(new().count()) || fits(new().collect::<BTreeSet<_>>().len())) {
                let size = new().map(|name| Pack::size_of(name.len()) + Pack::size_of(SCORE_LEN)).sum();
                pack.reserve(size, heap)?;
                return Ok(names.map(|_| None).collect());
            }
            converted = Some(tree_of(pack, (heap, seed))?);
        }
        let tree = match (&converted, &*self) {
            (Some(tree), _) => tree,
            (None, Zset::Tree(tree)) => tree,
            (None, Zset::Pack(_)) => unreachable!("what is packed was converted"),
        };
        let kept = names.enumerate().map(|(index, name)| {
            let known = tree.members.find(hash_of(seed, name), name).is_some();
            if known { Ok(None) } else { keep(index).map(Some) }
        });
        let kept = kept.collect::<Result<_, _>>()?;
        if let Some(tree) = converted {
            *self = Zset::Tree(Box::new(tree));
        }
        Ok(kept)
    }

    /// Sets the score of a member, which was prepared: `kept` is what it becomes if it is new.
    pub fn set(&mut self, name: &[u8], kept: Option<Blob>, score: f64, seed: &Seed) {
        match self {
            Zset::Pack(pack) => {
                if let Some((place, _, _)) = find(pack, name) {
                    pack.remove_many(place, 2);
                }
                let place = pairs(pack)
                    .find(|(_, other, found)| order(*found, other, score, name).is_gt())
                    .map_or(pack.end(), |(place, _, _)| place);
                // From behind, so that the place is good for both.
                pack.insert(place, &packed(score));
                pack.insert(place, name);
            }
            Zset::Tree(tree) => {
                let hash = hash_of(seed, name);
                if let Some(place) = tree.members.locate(hash, name) {
                    let member = &mut tree.members[place];
                    let old = std::mem::replace(&mut member.score, score);
                    let name = member.name.clone();
                    tree.ranks.remove(old, &name);
                    tree.ranks.insert(Ranked { score, name });
                } else if let Some(name) = kept {
                    tree.insert(name, score, seed);
                }
            }
        }
    }

    /// Takes out a member. False if it was not there.
    pub fn remove(&mut self, name: &[u8], (heap, seed): (&Heap, &Seed)) -> bool {
        match self {
            Zset::Pack(pack) => {
                let Some((place, _, _)) = find(pack, name) else { return false };
                pack.remove_many(place, 2);
                pack.shrink(heap);
                true
            }
            Zset::Tree(tree) => {
                let Some(member) = tree.members.remove(hash_of(seed, name), name) else { return false };
                tree.ranks.remove(member.score, name)
            }
        }
    }

    /// Takes out the members of these ranks.
    pub fn remove_ranks(&mut self, ranks: Range<usize>, (heap, seed): (&Heap, &Seed)) {
        match self {
            Zset::Pack(pack) => {
                let Some(place) = pack.place_of(ranks.start * 2) else { return };
                pack.remove_many(place, ranks.len() * 2);
                pack.shrink(heap);
            }
            Zset::Tree(tree) => {
                // Some at a time, so that a long range needs no long list.
                let mut left = ranks.len();
                while left > 0 {
                    let some: Vec<Ranked> = tree.ranks.iter_from(ranks.start).take(left.min(64)).cloned().collect();
                    left -= some.len();
                    if some.is_empty() {
                        return;
                    }
                    for item in some {
                        tree.members.remove(hash_of(seed, &item.name), &item.name);
                        tree.ranks.remove(item.score, &item.name);
                    }
                }
            }
        }
    }

    /// The rank of a member.
    pub fn rank(&self, name: &[u8], seed: &Seed) -> Option<usize> {
        match self {
            Zset::Pack(pack) => pairs(pack).position(|(_, found, _)| found == name),
            Zset::Tree(tree) => {
                let score = tree.members.find(hash_of(seed, name), name)?.score;
                Some(tree.ranks.partition_point(|item| item.cmp_to(score, name).is_lt()))
            }
        }
    }

    /// How many members `is_before` says so of. It says so of all up to some rank, and of none behind it.
    pub fn partition_point(&self, mut is_before: impl FnMut(&[u8], f64) -> bool) -> usize {
        match self {
            Zset::Pack(pack) => pairs(pack).take_while(|(_, name, score)| is_before(name, *score)).count(),
            Zset::Tree(tree) => tree.ranks.partition_point(|item| is_before(&item.name, item.score)),
        }
    }

    /// The members from rank `first` on, with their scores.
    pub fn iter_from(&self, first: usize) -> impl Iterator<Item = (Stored<'_>, f64)> {
        let (pack, tree) = self.forms();
        let packed = pack.into_iter().flat_map(move |pack| {
            let place = pack.place_of(first * 2).unwrap_or(pack.end());
            pairs_from(pack, place).map(|(_, name, score)| (Stored::Packed(name), score))
        });
        packed.chain(tree.into_iter().flat_map(move |tree| tree.ranks.iter_from(first).map(ranked)))
    }

    /// The members from rank `last` on backwards, with their scores.
    pub fn iter_back_from(&self, last: usize) -> impl Iterator<Item = (Stored<'_>, f64)> {
        let (pack, tree) = self.forms();
        let packed = pack.into_iter().flat_map(move |pack| {
            let end = if last < pack.count() / 2 { pack.place_of(last * 2 + 2).unwrap_or(pack.end()) } else { 0 };
            let mut back = pack.iter_back_from(end);
            std::iter::from_fn(move || {
                let (_, score) = back.next()?;
                Some((Stored::Packed(back.next()?.1), read_score(score)))
            })
        });
        packed.chain(tree.into_iter().flat_map(move |tree| tree.ranks.iter_back_from(last).map(ranked)))
    }

    fn forms(&self) -> (Option<&Pack>, Option<&Tree>) {
        match self {
            Zset::Pack(pack) => (Some(pack), None),
            Zset::Tree(tree) => (None, Some(tree)),
        }
    }

    /// Any member, each as likely as any other.
    pub fn random(&self, rng: &mut Rng) -> Option<Which> {
        match self {
            Zset::Pack(_) if self.is_empty() => None,
            Zset::Pack(_) => Some(Which::Index(rng.below(self.len() as u64) as usize)),
            Zset::Tree(tree) => tree.members.random(rng).map(Which::At),
        }
    }

    /// Which members there are.
    pub fn all(&self) -> Vec<Which> {
        match self {
            Zset::Pack(_) => (0..self.len()).map(Which::Index).collect(),
            Zset::Tree(tree) => tree.members.places().map(Which::At).collect(),
        }
    }

    /// The member meant, and its score.
    pub fn at(&self, which: Which) -> Option<(Stored<'_>, f64)> {
        match (self, which) {
            (Zset::Pack(_), Which::Index(index)) => self.iter_from(index).next(),
            (Zset::Tree(tree), Which::At(place)) => {
                tree.members.at(place).map(|member| (Stored::Blob(&member.name), member.score))
            }
            _ => None,
        }
    }

    /// Goes on with a walk, as [`Table::walk`] does. A packed set is visited whole.
    pub fn walk<'a>(&'a self, from: u64, count: usize, mut visit: impl FnMut(Stored<'a>, f64)) -> Option<u64> {
        match self {
            Zset::Pack(pack) => {
                pairs(pack).for_each(|(_, name, score)| visit(Stored::Packed(name), score));
                None
            }
            Zset::Tree(tree) => {
                tree.members.walk(from, count, |member| visit(Stored::Blob(&member.name), member.score))
            }
        }
    }

    /// A copy of its own. Long names are shared.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn try_clone(&self, heap: &Heap) -> Result<Zset, Exhausted> {
        Ok(match self {
            Zset::Pack(pack) => Zset::Pack(pack.try_clone(heap)?),
            Zset::Tree(tree) => Zset::Tree(tree.clone()),
        })
    }

    /// Takes out some members, for a set that is given up piece by piece. False if it is empty.
    pub fn free_some(&mut self) -> bool {
        match self {
            Zset::Pack(_) => false,
            Zset::Tree(tree) => tree.members.take_some().is_some() || tree.ranks.free_some(),
        }
    }
}

impl Tree {
    /// Adds a member that is not there.
    fn insert(&mut self, name: Blob, score: f64, seed: &Seed) {
        let hash = hash_of(seed, &name);
        self.ranks.insert(Ranked { score, name: name.clone() });
        self.members.insert(Member { name, hash, score });
    }
}

fn ranked(item: &Ranked) -> (Stored<'_>, f64) {
    (Stored::Blob(&item.name), item.score)
}

fn order(score: f64, name: &[u8], other_score: f64, other_name: &[u8]) -> Ordering {
    score.partial_cmp(&other_score).unwrap_or(Ordering::Equal).then_with(|| name.cmp(other_name))
}

fn read_score(bytes: &[u8]) -> f64 {
    bytes.first_chunk().map_or(0.0, |bytes| f64::from_le_bytes(*bytes))
}

/// The members of a pack, each with its place and score.
fn pairs(pack: &Pack) -> impl Iterator<Item = (Place, &[u8], f64)> {
    pairs_from(pack, 0)
}

fn pairs_from(pack: &Pack, place: Place) -> impl Iterator<Item = (Place, &[u8], f64)> {
    let mut elements = pack.iter_from(place);
    std::iter::from_fn(move || {
        let (place, name) = elements.next()?;
        Some((place, name, read_score(elements.next()?.1)))
    })
}

fn find<'a>(pack: &'a Pack, name: &[u8]) -> Option<(Place, &'a [u8], f64)> {
    pairs(pack).find(|(_, found, _)| *found == name)
}

fn tree_of(pack: &Pack, (heap, seed): (&Heap, &Seed)) -> Result<Tree, Exhausted> {
    let mut tree = Tree::default();
    for (_, name, score) in pairs(pack) {
        tree.insert(Blob::copy(name, heap)?, score, seed);
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;
    use crate::resp::tests::heap;

    /// What to do, with which scores and members, and how often.
    type Op = (u8, Vec<(i8, u8)>, u8);

    quickcheck! {
        /// Against a sorted vector, across the change from one form to the other.
        fn behaves_as_a_sorted_vector(ops: Vec<Op>, seed: u64) -> bool {
            let (heap, seed) = (heap(), Seed::new(seed));
            let limits = PackLimits { entries: 16, value: 30 };
            let mut zset = Zset::new(true, &heap).unwrap();
            let mut model: Vec<(f64, Vec<u8>)> = Vec::new();
            let sort = |model: &mut Vec<(f64, Vec<u8>)>| model.sort_by(|a, b| order(a.0, &a.1, b.0, &b.1));
            for (op, pairs, at) in ops {
                let name = |number: u8| format!("{}{}", number % 40, if number == 250 { "x".repeat(40) } else { String::new() }).into_bytes();
                let pairs: Vec<(f64, Vec<u8>)> = pairs.iter().map(|(s, n)| (f64::from(*s) / 2.0, name(*n))).collect();
                match op % 4 {
                    0 | 1 => {
                        let names = pairs.iter().map(|(_, name)| name.as_slice());
                        let keep = |index: usize| Blob::copy(&pairs[index].1, &heap);
                        let kept = zset.prepare(names, keep, limits, (&heap, &seed)).unwrap();
                        for ((score, name), kept) in pairs.iter().zip(kept) {
                            zset.set(name, kept, *score, &seed);
                            model.retain(|(_, other)| other != name);
                            model.push((*score, name.clone()));
                        }
                        sort(&mut model);
                    }
                    2 => for (_, name) in &pairs {
                        let before = model.len();
                        model.retain(|(_, other)| other != name);
                        assert_eq!(zset.remove(name, (&heap, &seed)), model.len() < before);
                    },
                    _ => {
                        let start = usize::from(at) % (model.len() + 1);
                        let end = (start + pairs.len()).min(model.len());
                        zset.remove_ranks(start..end, (&heap, &seed));
                        model.drain(start..end);
                    }
                }
                let owned = |(name, score): (Stored<'_>, f64)| (score, name.with(<[u8]>::to_vec));
                let from = usize::from(at) % (model.len() + 1);
                assert!(zset.iter_from(from).map(owned).eq(model[from..].iter().cloned()));
                assert!(zset.iter_back_from(from).map(owned).eq(model.iter().take(from + 1).rev().filter(|_| from < model.len()).cloned()));
                for (rank, (score, name)) in model.iter().enumerate() {
                    assert_eq!((zset.rank(name, &seed), zset.score(name, &seed)), (Some(rank), Some(*score)));
                }
                let bound = f64::from(at as i8) / 2.0;
                assert_eq!(zset.partition_point(|_, s| s < bound), model.iter().filter(|(s, _)| *s < bound).count());
                assert!(zset.try_clone(&heap).unwrap().iter_from(0).map(owned).eq(model.iter().cloned()));
                let mut picked: Vec<_> = zset.all().into_iter().filter_map(|which| zset.at(which)).map(owned).collect();
                sort(&mut picked);
                assert_eq!((picked, zset.len()), (model.clone(), model.len()));
            }
            let items = model.iter().map(|(score, name)| Ranked { score: *score, name: Blob::copy(name, &heap).unwrap() });
            let rebuilt = Zset::of(items.rev().collect(), limits, (&heap, &seed)).unwrap();
            assert!(rebuilt.iter_from(0).map(|(name, _)| name.with(<[u8]>::to_vec)).eq(model.iter().map(|(_, n)| n.clone())));
            drop((rebuilt, zset));
            heap.stats().pinned == 0
        }
    }
}
