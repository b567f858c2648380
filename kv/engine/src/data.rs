//! The data types other than strings, each with its small form and its large one.

pub mod hash;
pub mod integers;
pub mod list;
pub mod ranks;
pub mod set;
pub mod zset;

use std::collections::BTreeSet;

use pdpix::Rng;

use crate::table::Place;

/// Which element of a collection, until it is changed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Which {
    /// The one of this number, in a small form.
    Index(usize),
    /// The one that lies there, in a table.
    At(Place),
}

/// Any `count` of `len` elements, all different, in no particular order. `random` gives any one of them, `all` all.
pub fn pick(
    count: usize,
    len: usize,
    rng: &mut Rng,
    mut random: impl FnMut(&mut Rng) -> Option<Which>,
    all: impl FnOnce() -> Vec<Which>,
) -> Vec<Which> {
    if count < len / 3 {
        let mut picked = BTreeSet::new();
        while picked.len() < count {
            picked.extend(random(rng));
        }
        return picked.into_iter().collect();
    }
    let mut all = all();
    for index in 0..count.min(len).min(all.len()) {
        let other = index as u64 + rng.below((all.len() - index) as u64);
        all.swap(index, other as usize);
    }
    all.truncate(count);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_picked_differs_and_every_element_is_as_likely() {
        let mut rng = Rng::new(1);
        for (count, len) in [(2, 10), (4, 10), (10, 10), (20, 10), (0, 5)] {
            let mut times = vec![0; len];
            for _ in 0..2000 {
                let all = || (0..len).map(Which::Index).collect();
                let random = |rng: &mut Rng| Some(Which::Index(rng.below(len as u64) as usize));
                let picked = pick(count, len, &mut rng, random, all);
                assert_eq!(picked.iter().collect::<BTreeSet<_>>().len(), count.min(len));
                for which in picked {
                    let Which::Index(index) = which else { unreachable!() };
                    times[index] += 1;
                }
            }
            let expected = 2000 * count.min(len) / len;
            assert!(
                times.iter().all(|&n| n as usize * 10 >= expected * 8 && n as usize * 10 <= expected * 12),
                "{times:?}"
            );
        }
    }
}
