//! The one map type: seeded, so that its order is a function of the seed and of nothing else, and no client can choose
//! keys that collide without knowing the seed.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;

use foldhash::fast::{FixedState, FoldHasher};

/// A hash map. Make it with [`Seed::map`].
pub type Map<K, V> = HashMap<K, V, Seed>;

/// A hash set. Make it with [`Seed::set`].
pub type Set<K> = HashSet<K, Seed>;

/// The seed of a core's maps: random in a real process, drawn from the world's seed in the simulator.
#[derive(Clone, Debug)]
pub struct Seed(FixedState);

impl Seed {
    /// A seed from a number.
    pub fn new(seed: u64) -> Seed {
        Seed(FixedState::with_seed(seed))
    }

    /// An empty map.
    pub fn map<K, V>(&self) -> Map<K, V> {
        HashMap::with_hasher(self.clone())
    }

    /// An empty set.
    pub fn set<K>(&self) -> Set<K> {
        HashSet::with_hasher(self.clone())
    }
}

impl BuildHasher for Seed {
    type Hasher = FoldHasher<'static>;

    #[inline]
    fn build_hasher(&self) -> FoldHasher<'static> {
        self.0.build_hasher()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_a_function_of_the_seed() {
        let order = |seed| {
            let mut map = Seed::new(seed).map();
            (0..100).for_each(|key| _ = map.insert(key, ()));
            map.into_keys().collect::<Vec<i32>>()
        };
        assert_eq!(order(7), order(7));
        assert_ne!(order(7), order(8));
    }
}
