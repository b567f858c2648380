//! Names of queues and of pending operations.
//!
//! A `QToken` is core (8 bits), index (20) and generation (36), from the top. The generation makes a name that was used
//! up differ from the next operation in the same slot; it wraps after 2^36 uses of one slot, that is, as slots are
//! reused first-in first-out, after at least 2^36 times the free slots: days of doing nothing else, with one slot.

/// Names a queue of one core. Index (20 bits) and generation (11): a closed descriptor is not soon another queue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Qd(u32);

impl Qd {
    /// Bits of the index.
    pub const INDEX_BITS: u32 = 20;
    /// Bits of the generation. The sign bit stays clear, so that C has a positive `int`.
    pub const GENERATION_BITS: u32 = 11;

    /// From its parts; what does not fit is cut off.
    pub const fn new(index: u32, generation: u32) -> Qd {
        let index = index & ((1 << Qd::INDEX_BITS) - 1);
        Qd((generation & ((1 << Qd::GENERATION_BITS) - 1)) << Qd::INDEX_BITS | index)
    }

    /// From a number that came from outside.
    pub const fn from_raw(raw: u32) -> Qd {
        Qd(raw)
    }

    /// As a number.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Place in the queue table.
    pub const fn index(self) -> usize {
        (self.0 & ((1 << Qd::INDEX_BITS) - 1)) as usize
    }
}

impl std::fmt::Debug for Qd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "qd{}.{}", self.index(), self.0 >> Qd::INDEX_BITS)
    }
}

/// A ticket for one pending operation of one core. In memory it is its number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct QToken(u64);

/// The part of a token that differs from use to use of a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Generation(u64);

impl Generation {
    /// Bits in a token.
    pub const BITS: u32 = 36;

    /// The first.
    pub const ZERO: Generation = Generation(0);
}

impl QToken {
    /// Bits of the index.
    pub const INDEX_BITS: u32 = 20;

    /// From its parts. `index` is below 2^20.
    #[inline]
    pub const fn new(core: u8, index: u32, generation: Generation) -> QToken {
        debug_assert!(index < 1 << QToken::INDEX_BITS);
        QToken((core as u64) << 56 | (index as u64) << Generation::BITS | generation.0)
    }

    /// From a number that came from outside.
    pub const fn from_raw(raw: u64) -> QToken {
        QToken(raw)
    }

    /// As a number.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The core that issued it.
    #[inline]
    pub const fn core(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// Its slot.
    #[inline]
    pub const fn index(self) -> usize {
        (self.0 >> Generation::BITS) as usize & ((1 << QToken::INDEX_BITS) - 1)
    }

    /// The token of the next use of the same slot, in generations of `bits` bits (at most [`Generation::BITS`]; tests use
    /// few, to see them wrap).
    #[inline]
    pub const fn next_use(self, bits: u32) -> QToken {
        let mask = (1 << bits) - 1;
        QToken(self.0 & !mask | self.0.wrapping_add(1) & mask)
    }

    /// Which use of the slot.
    #[inline]
    pub const fn generation(self) -> Generation {
        Generation(self.0 & ((1 << Generation::BITS) - 1))
    }
}

impl std::fmt::Debug for QToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "qt{}:{}.{}", self.core(), self.index(), self.generation().0)
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    quickcheck! {
        fn a_token_gives_back_its_parts(core: u8, index: u32, generation: u64) -> bool {
            let (index, generation) = (index % (1 << 20), Generation(generation % (1 << 36)));
            let token = QToken::new(core, index, generation);
            (token.core(), token.index(), token.generation()) == (core, index as usize, generation)
                && QToken::from_raw(token.raw()) == token
        }

        fn a_descriptor_is_a_positive_int(index: u32, generation: u32) -> bool {
            let qd = Qd::new(index, generation);
            qd.raw() as i32 >= 0 && qd.index() == (index % (1 << 20)) as usize && Qd::from_raw(qd.raw()) == qd
        }
    }

    #[test]
    fn a_generation_wraps_and_leaves_core_and_index() {
        let mut token = QToken::new(7, 99, Generation::ZERO);
        let first = token;
        for use_count in 1..=8 {
            token = token.next_use(3);
            assert_eq!((token.core(), token.index()), (7, 99));
            assert_eq!(token == first, use_count == 8);
        }
        let last = QToken::new(255, (1 << 20) - 1, Generation((1 << 36) - 1));
        assert_eq!(last.next_use(Generation::BITS), QToken::new(255, (1 << 20) - 1, Generation::ZERO));
    }
}
