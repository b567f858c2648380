//! Sets: a few integers sorted side by side, or a table of strings.

use pdpix::{Exhausted, Heap, Rng, Seed};
use smallvec::SmallVec;

use super::Which;
use super::integers::Integers;
use crate::blob::{Blob, Stored};
use crate::number::parse_i64;
use crate::table::{Item, Table, hash_of};

/// A set of strings.
#[derive(Debug)]
pub enum Set {
    /// `intset`: nothing but integers, and few of them.
    Integers(Integers),
    /// `hashtable`.
    Members(Table<Member>),
}

/// A string in a set.
#[derive(Clone, Debug)]
pub struct Member {
    name: Blob,
    hash: u64,
}

impl Member {
    fn new(name: Blob, seed: &Seed) -> Member {
        let hash = hash_of(seed, &name);
        Member { name, hash }
    }
}

impl Item for Member {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn key(&self) -> &[u8] {
        &self.name
    }
}

impl Set {
    /// An empty set, in the form that suits `first`.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn new_for(first: &[u8], heap: &Heap) -> Result<Set, Exhausted> {
        Ok(if parse_i64(first).is_some() {
            Set::Integers(Integers::new(heap)?)
        } else {
            Set::Members(Table::default())
        })
    }

    /// Members in it.
    pub fn len(&self) -> usize {
        match self {
            Set::Integers(integers) => integers.len(),
            Set::Members(members) => members.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What OBJECT ENCODING calls it.
    pub fn encoding(&self) -> &'static str {
        match self {
            Set::Integers(_) => "intset",
            Set::Members(_) => "hashtable",
        }
    }

    /// Whether `name` is a member.
    pub fn contains(&self, name: &[u8], seed: &Seed) -> bool {
        match self {
            Set::Integers(integers) => parse_i64(name).is_some_and(|value| integers.contains(value)),
            Set::Members(members) => members.find(hash_of(seed, name), name).is_some(),
        }
    }

    /// Adds all of `names`, and says how many were not there. `keep` gives number so many of them in the form in which it
    /// is stored. A set of more than `integers_max` integers becomes a table.
    ///
    /// # Errors
    /// [`Exhausted`]; nothing has changed.
    pub fn add_all<'a>(
        &mut self,
        names: impl Iterator<Item = &'a [u8]> + Clone,
        mut keep: impl FnMut(usize) -> Result<Blob, Exhausted>,
        integers_max: usize,
        (heap, seed): (&Heap, &Seed),
    ) -> Result<usize, Exhausted> {
        if let Set::Integers(integers) = self
            && let Some(mut values) = names.clone().map(parse_i64).collect::<Option<SmallVec<[i64; 8]>>>()
        {
            values.retain(|value| !integers.contains(*value));
            values.sort_unstable();
            values.dedup();
            if integers.len() + values.len() <= integers_max {
                integers.reserve(values.len(), values.iter().copied(), heap)?;
                values.iter().for_each(|&value| _ = integers.insert(value));
                return Ok(values.len());
            }
        }
        let before = self.len();
        let converted = match self {
            Set::Integers(integers) => Some(table_of(integers, (heap, seed))?),
            Set::Members(_) => None,
        };
        let members = match (&converted, &*self) {
            (Some(members), _) | (None, Set::Members(members)) => members,
            (None, Set::Integers(_)) => unreachable!("integers were converted"),
        };
        let mut new = Vec::new();
        for (index, name) in names.enumerate() {
            let hash = hash_of(seed, name);
            if members.find(hash, name).is_none() {
                new.push(Member { name: keep(index)?, hash });
            }
        }
        if let Some(converted) = converted {
            *self = Set::Members(converted);
        }
        if let Set::Members(members) = self {
            for member in new {
                if members.find(member.hash, &member.name).is_none() {
                    members.insert(member);
                }
            }
        }
        Ok(self.len() - before)
    }

    /// Takes out `name`. False if it was not there.
    pub fn remove(&mut self, name: &[u8], seed: &Seed) -> bool {
        match self {
            Set::Integers(integers) => parse_i64(name).is_some_and(|value| integers.remove(value)),
            Set::Members(members) => members.remove(hash_of(seed, name), name).is_some(),
        }
    }

    /// All members.
    pub fn iter(&self) -> impl Iterator<Item = Stored<'_>> {
        let (integers, members) = match self {
            Set::Integers(integers) => (Some(integers), None),
            Set::Members(members) => (None, Some(members)),
        };
        let integers = integers.into_iter().flat_map(|integers| integers.iter().map(Stored::Integer));
        integers.chain(members.into_iter().flat_map(|members| members.iter().map(|member| Stored::Blob(&member.name))))
    }

    /// Any member, each as likely as any other.
    pub fn random(&self, rng: &mut Rng) -> Option<Which> {
        match self {
            Set::Integers(integers) if integers.is_empty() => None,
            Set::Integers(integers) => Some(Which::Index(rng.below(integers.len() as u64) as usize)),
            Set::Members(members) => members.random(rng).map(Which::At),
        }
    }

    /// Which members there are.
    pub fn all(&self) -> Vec<Which> {
        match self {
            Set::Integers(integers) => (0..integers.len()).map(Which::Index).collect(),
            Set::Members(members) => members.places().map(Which::At).collect(),
        }
    }

    /// The member meant.
    pub fn get(&self, which: Which) -> Option<Stored<'_>> {
        match (self, which) {
            (Set::Integers(integers), Which::Index(index)) => integers.get(index).map(Stored::Integer),
            (Set::Members(members), Which::At(place)) => members.at(place).map(|member| Stored::Blob(&member.name)),
            _ => None,
        }
    }

    /// Takes out the member meant.
    pub fn remove_at(&mut self, which: Which) {
        match (self, which) {
            (Set::Integers(integers), Which::Index(index)) => {
                integers.get(index).map(|value| integers.remove(value));
            }
            (Set::Members(members), Which::At(place)) => {
                members.remove_at(place);
            }
            _ => {}
        }
    }

    /// Goes on with a walk, as [`Table::walk`] does. A small set is visited whole.
    pub fn walk<'a>(&'a self, from: u64, count: usize, mut visit: impl FnMut(Stored<'a>)) -> Option<u64> {
        match self {
            Set::Integers(integers) => {
                integers.iter().for_each(|value| visit(Stored::Integer(value)));
                None
            }
            Set::Members(members) => members.walk(from, count, |member| visit(Stored::Blob(&member.name))),
        }
    }

    /// A copy of its own. Long members are shared.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn try_clone(&self, heap: &Heap) -> Result<Set, Exhausted> {
        Ok(match self {
            Set::Integers(integers) => Set::Integers(integers.try_clone(heap)?),
            Set::Members(members) => Set::Members(members.clone()),
        })
    }

    /// Takes out some members, for a set that is given up piece by piece. False if it is empty.
    pub fn free_some(&mut self) -> bool {
        match self {
            Set::Integers(_) => false,
            Set::Members(members) => members.take_some().is_some(),
        }
    }
}

fn table_of(integers: &Integers, (heap, seed): (&Heap, &Seed)) -> Result<Table<Member>, Exhausted> {
    let mut members = Table::default();
    for value in integers.iter() {
        members.insert(Member::new(Stored::Integer(value).to_blob(heap)?, seed));
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use quickcheck::quickcheck;

    use super::*;
    use crate::resp::tests::heap;

    fn names(set: &Set) -> BTreeSet<Vec<u8>> {
        set.iter().map(|name| name.with(<[u8]>::to_vec)).collect()
    }

    quickcheck! {
        /// Against a model, across the change from one form to the other.
        fn behaves_as_a_set(ops: Vec<(u8, Vec<i32>, bool)>, seed: u64) -> bool {
            let (heap, seed) = (heap(), Seed::new(seed));
            let mut set = Set::new_for(b"1", &heap).unwrap();
            let mut model = BTreeSet::new();
            for (op, values, text) in ops {
                let text_of = |value: &i32| if text && value % 7 == 0 { format!("{value}{}", "x".repeat(30)) } else { value.to_string() };
                let names_of: Vec<Vec<u8>> = values.iter().map(|value| text_of(value).into_bytes()).collect();
                if op % 3 > 0 {
                    let keep = |index: usize| Blob::copy(&names_of[index], &heap);
                    let added = set.add_all(names_of.iter().map(Vec::as_slice), keep, 16, (&heap, &seed)).unwrap();
                    assert_eq!(added, names_of.iter().filter(|name| model.insert((*name).clone())).count());
                } else {
                    names_of.iter().for_each(|name| assert_eq!(set.remove(name, &seed), model.remove(name)));
                }
                assert!(names_of.iter().all(|name| set.contains(name, &seed) == model.contains(name)));
                assert_eq!((names(&set), set.len()), (model.clone(), model.len()));
                if matches!(set, Set::Integers(_)) {
                    assert!(set.len() <= 16 && model.iter().all(|name| parse_i64(name).is_some()));
                }
                assert_eq!(names(&set.try_clone(&heap).unwrap()), model);
            }
            let mut rng = Rng::new(1);
            while let Some(which) = set.random(&mut rng) {
                let name = set.get(which).unwrap().with(<[u8]>::to_vec);
                set.remove_at(which);
                assert!(model.remove(&name));
            }
            drop(set);
            model.is_empty() && heap.stats().pinned == 0
        }
    }
}
