//! Hashes: a few short fields packed side by side, each before its value, or a table of fields.

use std::collections::BTreeSet;

use pdpix::{Exhausted, Heap, Rng, Seed};

use super::Which;
use crate::blob::{Blob, Stored};
use crate::pack::{self, Pack};
use crate::table::{Item, Table, hash_of};

/// A map from strings to strings.
#[derive(Debug)]
pub enum Hash {
    /// `listpack`: in the order in which the fields came.
    Pack(Pack),
    /// `hashtable`.
    Fields(Table<Field>),
}

/// A field and its value.
#[derive(Clone, Debug)]
pub struct Field {
    name: Blob,
    value: Blob,
    hash: u64,
}

impl Item for Field {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn key(&self) -> &[u8] {
        &self.name
    }
}

/// How large the packed form may become.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackLimits {
    /// Entries.
    pub entries: usize,
    /// Bytes of an entry's name or value.
    pub value: usize,
}

/// Fields to be set, with their values, and how each is stored when it is not packed.
pub trait Pairs {
    /// How many.
    fn count(&self) -> usize;
    /// The name of field number `index`.
    fn name(&self, index: usize) -> &[u8];
    /// Its value.
    fn value(&self, index: usize) -> &[u8];
    /// Its name as it is stored.
    ///
    /// # Errors
    /// [`Exhausted`].
    fn keep_name(&self, index: usize) -> Result<Blob, Exhausted>;
    /// Its value as it is stored.
    ///
    /// # Errors
    /// [`Exhausted`].
    fn keep_value(&self, index: usize) -> Result<Blob, Exhausted>;
}

impl Hash {
    /// An empty hash.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn new(heap: &Heap) -> Result<Hash, Exhausted> {
        Ok(Hash::Pack(Pack::new(0, heap)?))
    }

    /// Fields in it.
    pub fn len(&self) -> usize {
        match self {
            Hash::Pack(pack) => pack.count() / 2,
            Hash::Fields(fields) => fields.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What OBJECT ENCODING calls it.
    pub fn encoding(&self) -> &'static str {
        match self {
            Hash::Pack(_) => "listpack",
            Hash::Fields(_) => "hashtable",
        }
    }

    /// The value of a field.
    pub fn get(&self, name: &[u8], seed: &Seed) -> Option<Stored<'_>> {
        match self {
            Hash::Pack(pack) => find(pack, name).map(|(_, value)| Stored::Packed(pack.get(value))),
            Hash::Fields(fields) => fields.find(hash_of(seed, name), name).map(|field| Stored::Blob(&field.value)),
        }
    }

    /// Sets fields, and says how many of them were not there.
    ///
    /// # Errors
    /// [`Exhausted`]; nothing has changed.
    pub fn set_all(
        &mut self,
        pairs: &impl Pairs,
        limits: PackLimits,
        (heap, seed): (&Heap, &Seed),
    ) -> Result<usize, Exhausted> {
        let mut converted = None;
        if let Hash::Pack(pack) = self {
            if suits(pack, pairs, limits) {
                let size = |i| Pack::size_of(pairs.name(i).len()) + Pack::size_of(pairs.value(i).len());
                pack.reserve((0..pairs.count()).map(size).sum(), heap)?;
                return Ok((0..pairs.count()).filter(|&i| set(pack, pairs.name(i), pairs.value(i))).count());
            }
            converted = Some(table_of(pack, (heap, seed))?);
        }
        let fields = match (&converted, &*self) {
            (Some(fields), _) | (None, Hash::Fields(fields)) => fields,
            (None, Hash::Pack(_)) => unreachable!("what is packed was converted"),
        };
        // All that may fail comes first.
        let mut new = Vec::with_capacity(pairs.count());
        for index in 0..pairs.count() {
            let hash = hash_of(seed, pairs.name(index));
            let known = fields.find(hash, pairs.name(index)).is_some();
            let name = if known { None } else { Some(pairs.keep_name(index)?) };
            new.push((hash, name, pairs.keep_value(index)?));
        }
        if let Some(converted) = converted {
            *self = Hash::Fields(converted);
        }
        let Hash::Fields(fields) = self else { unreachable!("what was packed is converted") };
        let before = fields.len();
        for (index, (hash, name, value)) in new.into_iter().enumerate() {
            match (fields.locate(hash, pairs.name(index)), name) {
                (Some(place), _) => fields[place].value = value,
                (None, Some(name)) => fields.insert(Field { name, value, hash }),
                (None, None) => unreachable!("a field went while others were set"),
            }
        }
        Ok(fields.len() - before)
    }

    /// Takes out a field. False if it was not there.
    pub fn remove(&mut self, name: &[u8], (heap, seed): (&Heap, &Seed)) -> bool {
        match self {
            Hash::Pack(pack) => {
                let Some((place, _)) = find(pack, name) else { return false };
                pack.remove_many(place, 2);
                pack.shrink(heap);
                true
            }
            Hash::Fields(fields) => fields.remove(hash_of(seed, name), name).is_some(),
        }
    }

    /// All fields with their values.
    pub fn iter(&self) -> impl Iterator<Item = (Stored<'_>, Stored<'_>)> {
        let (pack, fields) = match self {
            Hash::Pack(pack) => (Some(pack), None),
            Hash::Fields(fields) => (None, Some(fields)),
        };
        let packed = pack.into_iter().flat_map(packed_pairs);
        packed.chain(fields.into_iter().flat_map(|fields| fields.iter().map(pair_of)))
    }

    /// Any field, each as likely as any other.
    pub fn random(&self, rng: &mut Rng) -> Option<Which> {
        match self {
            Hash::Pack(_) if self.is_empty() => None,
            Hash::Pack(_) => Some(Which::Index(rng.below(self.len() as u64) as usize)),
            Hash::Fields(fields) => fields.random(rng).map(Which::At),
        }
    }

    /// Which fields there are.
    pub fn all(&self) -> Vec<Which> {
        match self {
            Hash::Pack(_) => (0..self.len()).map(Which::Index).collect(),
            Hash::Fields(fields) => fields.places().map(Which::At).collect(),
        }
    }

    /// The field meant, and its value.
    pub fn at(&self, which: Which) -> Option<(Stored<'_>, Stored<'_>)> {
        match (self, which) {
            (Hash::Pack(pack), Which::Index(index)) => {
                let name = pack.place_of(index * 2)?;
                Some((Stored::Packed(pack.get(name)), Stored::Packed(pack.get(pack.next(name)))))
            }
            (Hash::Fields(fields), Which::At(place)) => fields.at(place).map(pair_of),
            _ => None,
        }
    }

    /// Goes on with a walk, as [`Table::walk`] does. A packed hash is visited whole.
    pub fn walk<'a>(&'a self, from: u64, count: usize, mut visit: impl FnMut(Stored<'a>, Stored<'a>)) -> Option<u64> {
        match self {
            Hash::Pack(pack) => {
                packed_pairs(pack).for_each(|(name, value)| visit(name, value));
                None
            }
            Hash::Fields(fields) => fields.walk(from, count, |field| {
                visit(Stored::Blob(&field.name), Stored::Blob(&field.value));
            }),
        }
    }

    /// A copy of its own. Long strings are shared.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn try_clone(&self, heap: &Heap) -> Result<Hash, Exhausted> {
        Ok(match self {
            Hash::Pack(pack) => Hash::Pack(pack.try_clone(heap)?),
            Hash::Fields(fields) => Hash::Fields(fields.clone()),
        })
    }

    /// Takes out some fields, for a hash that is given up piece by piece. False if it is empty.
    pub fn free_some(&mut self) -> bool {
        match self {
            Hash::Pack(_) => false,
            Hash::Fields(fields) => fields.take_some().is_some(),
        }
    }
}

fn pair_of(field: &Field) -> (Stored<'_>, Stored<'_>) {
    (Stored::Blob(&field.name), Stored::Blob(&field.value))
}

fn packed_pairs(pack: &Pack) -> impl Iterator<Item = (Stored<'_>, Stored<'_>)> {
    let mut elements = pack.iter().map(Stored::Packed);
    std::iter::from_fn(move || Some((elements.next()?, elements.next()?)))
}

/// Where the field of this name and its value lie.
fn find(pack: &Pack, name: &[u8]) -> Option<(pack::Place, pack::Place)> {
    let mut elements = pack.iter_from(0);
    while let (Some((place, field)), Some((value, _))) = (elements.next(), elements.next()) {
        if field == name {
            return Some((place, value));
        }
    }
    None
}

/// Sets a field, for which there is room. True if it is new.
fn set(pack: &mut Pack, name: &[u8], value: &[u8]) -> bool {
    if let Some((_, place)) = find(pack, name) {
        pack.replace(place, value);
        return false;
    }
    pack.push(name);
    pack.push(value);
    true
}

/// Whether the hash may stay packed with these fields.
fn suits(pack: &Pack, pairs: &impl Pairs, limits: PackLimits) -> bool {
    let all = 0..pairs.count();
    if all.clone().any(|i| pairs.name(i).len() > limits.value || pairs.value(i).len() > limits.value) {
        return false;
    }
    let len = pack.count() / 2;
    if len + pairs.count() <= limits.entries {
        return true;
    }
    // Only if enough of them are there already, or named twice.
    let new: BTreeSet<&[u8]> = all.map(|i| pairs.name(i)).filter(|name| find(pack, name).is_none()).collect();
    len + new.len() <= limits.entries
}

fn table_of(pack: &Pack, (heap, seed): (&Heap, &Seed)) -> Result<Table<Field>, Exhausted> {
    let mut fields = Table::default();
    for (name, value) in packed_pairs(pack) {
        let (name, value) = (name.to_blob(heap)?, value.to_blob(heap)?);
        let hash = hash_of(seed, &name);
        fields.insert(Field { name, value, hash });
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use quickcheck::quickcheck;

    use super::*;
    use crate::resp::tests::heap;

    struct Texts<'a>(Vec<(String, String)>, &'a Heap);

    impl Pairs for Texts<'_> {
        fn count(&self) -> usize {
            self.0.len()
        }

        fn name(&self, index: usize) -> &[u8] {
            self.0[index].0.as_bytes()
        }

        fn value(&self, index: usize) -> &[u8] {
            self.0[index].1.as_bytes()
        }

        fn keep_name(&self, index: usize) -> Result<Blob, Exhausted> {
            Blob::copy(self.name(index), self.1)
        }

        fn keep_value(&self, index: usize) -> Result<Blob, Exhausted> {
            Blob::copy(self.value(index), self.1)
        }
    }

    quickcheck! {
        /// Against a map, across the change from one form to the other.
        fn behaves_as_a_map(ops: Vec<(bool, Vec<(u8, u8)>)>, seed: u64) -> bool {
            let (heap, seed) = (heap(), Seed::new(seed));
            let limits = PackLimits { entries: 20, value: 30 };
            let mut hash = Hash::new(&heap).unwrap();
            let mut model: BTreeMap<String, String> = BTreeMap::new();
            for (insert, pairs) in ops {
                let pairs: Vec<(String, String)> =
                    pairs.iter().map(|(k, v)| (format!("f{}", k % 50), "v".repeat(usize::from(v % 34)))).collect();
                if insert {
                    let new = pairs.iter().filter(|(k, v)| model.insert(k.clone(), v.clone()).is_none()).count();
                    assert_eq!(hash.set_all(&Texts(pairs, &heap), limits, (&heap, &seed)).unwrap(), new);
                } else {
                    for (name, _) in pairs {
                        assert_eq!(hash.remove(name.as_bytes(), (&heap, &seed)), model.remove(&name).is_some());
                    }
                }
                let text = |stored: Stored<'_>| stored.with(|bytes| String::from_utf8(bytes.to_vec()).unwrap());
                let found: BTreeMap<_, _> = hash.iter().map(|(name, value)| (text(name), text(value))).collect();
                assert_eq!((&found, hash.len()), (&model, model.len()));
                assert!(model.iter().all(|(k, v)| hash.get(k.as_bytes(), &seed).map(text).as_ref() == Some(v)));
                if matches!(hash, Hash::Pack(_)) {
                    assert!(model.len() <= 20 && model.values().all(|value| value.len() <= 30));
                }
                let picked = hash.all().into_iter().filter_map(|which| hash.at(which));
                assert_eq!(picked.map(|(name, value)| (text(name), text(value))).collect::<BTreeMap<_, _>>(), model);
            }
            drop(hash);
            heap.stats().pinned == 0
        }
    }
}
