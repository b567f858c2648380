//! Sequence numbers: a circle of 2^32, compared by who is less than half of it ahead (RFC 9293 §3.4).
//!
//! Always: the numbers that are compared lie within 2^31 of each other. Windows see to that: they are below 2^30 (RFC 7323
//! §2.3). There is no `Ord`: it would not be transitive.

/// A place in the byte stream of one direction.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct SeqNumber(u32);

impl SeqNumber {
    /// As it stands in a header.
    #[inline]
    pub(crate) const fn new(number: u32) -> SeqNumber {
        SeqNumber(number)
    }

    /// As it is written into a header.
    #[inline]
    pub(crate) const fn get(self) -> u32 {
        self.0
    }

    /// Before `other`.
    #[inline]
    pub(crate) const fn lt(self, other: SeqNumber) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// Before `other`, or the same.
    #[inline]
    pub(crate) const fn le(self, other: SeqNumber) -> bool {
        !other.lt(self)
    }

    /// After `other`.
    #[inline]
    pub(crate) const fn gt(self, other: SeqNumber) -> bool {
        other.lt(self)
    }

    /// After `other`, or the same.
    #[inline]
    pub(crate) const fn ge(self, other: SeqNumber) -> bool {
        !self.lt(other)
    }

    /// `count` further on.
    #[inline]
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "methods only, and const")]
    pub(crate) const fn add(self, count: u32) -> SeqNumber {
        let skips = cfg!(margay_planted_bug = "wrap_off_by_one") && self.0.checked_add(count).is_none();
        SeqNumber(self.0.wrapping_add(count).wrapping_add(skips as u32))
    }

    /// `count` further back.
    #[inline]
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "methods only, and const")]
    pub(crate) const fn sub(self, count: u32) -> SeqNumber {
        SeqNumber(self.0.wrapping_sub(count))
    }

    /// How far it is from `earlier` to here.
    #[inline]
    pub(crate) const fn since(self, earlier: SeqNumber) -> u32 {
        debug_assert!(earlier.le(self), "a distance backwards");
        self.0.wrapping_sub(earlier.0)
    }

    /// The later one.
    #[inline]
    #[must_use]
    pub(crate) const fn max(self, other: SeqNumber) -> SeqNumber {
        if self.lt(other) { other } else { self }
    }

    /// The earlier one.
    #[inline]
    #[must_use]
    pub(crate) const fn min(self, other: SeqNumber) -> SeqNumber {
        if self.lt(other) { self } else { other }
    }

    /// One of the `len` numbers from `start` on. For any numbers, however far apart.
    #[inline]
    pub(crate) const fn within(self, start: SeqNumber, len: u32) -> bool {
        self.0.wrapping_sub(start.0) < len
    }
}

impl std::fmt::Debug for SeqNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    quickcheck! {
        /// Wherever on the circle two numbers lie, they compare as their distance from a common start does.
        fn order_is_that_of_distances(start: u32, a: u32, b: u32) -> bool {
            let (a, b) = (a >> 1, b >> 1);
            let (x, y) = (SeqNumber::new(start).add(a), SeqNumber::new(start).add(b));
            assert_eq!((x.lt(y), x.le(y), x.gt(y), x.ge(y)), (a < b, a <= b, a > b, a >= b));
            assert_eq!((x.max(y), x.min(y)), (SeqNumber::new(start).add(a.max(b)), SeqNumber::new(start).add(a.min(b))));
            x.since(SeqNumber::new(start)) == a && x.sub(a) == SeqNumber::new(start)
        }

        fn within_is_that_of_distances(start: u32, offset: u32, len: u32) -> bool {
            SeqNumber::new(start).add(offset).within(SeqNumber::new(start), len) == (offset < len)
        }
    }

    #[test]
    fn the_wrap_is_no_edge() {
        let (last, first) = (SeqNumber::new(u32::MAX), SeqNumber::new(0));
        assert!(last.lt(first) && first.gt(last) && last.le(last) && last.ge(last) && !last.lt(last));
        assert_eq!((last.add(1), first.since(last), last.max(first)), (first, 1, first));
        assert!(last.within(last, 1) && first.within(last, 2) && !first.within(last, 1) && !last.within(first, 100));
        assert!(!first.within(first, 0), "an empty window holds nothing");
    }
}
