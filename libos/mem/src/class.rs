//! Size classes: 32, 64, 96, 128, then four to a doubling, up to 128 KiB. Waste inside a chunk is at most a quarter.

/// The largest chunk that shares a span with others. Longer ones take whole spans.
pub const CHUNK_SIZE_MAX: usize = 128 * 1024;

/// How many classes there are.
pub(crate) const CLASS_COUNT: usize = 44;

/// The smallest class whose chunks hold `len` bytes. `len` is at most [`CHUNK_SIZE_MAX`].
#[inline]
pub(crate) const fn class_of(len: usize) -> usize {
    debug_assert!(len <= CHUNK_SIZE_MAX);
    if len <= 128 {
        return len.saturating_sub(1) / 32;
    }
    let last = len - 1;
    let exponent = last.ilog2() as usize; // 7..=16
    let quarter = (last >> (exponent - 2)) & 3;
    4 + (exponent - 7) * 4 + quarter
}

/// Bytes in a chunk of `class`.
#[inline]
pub(crate) const fn size_of_class(class: usize) -> usize {
    if class < 4 {
        return (class + 1) * 32;
    }
    let exponent = 7 + (class - 4) / 4;
    let quarter = (class - 4) % 4;
    (5 + quarter) << (exponent - 2)
}

/// The smallest class that holds `len` bytes at an address that is a multiple of `align`, or `None` if no class does.
/// Chunk `i` lies at `span + i * size`, and spans are aligned beyond every class; so the size decides.
pub(crate) fn class_aligned(len: usize, align: usize) -> Option<usize> {
    if len > CHUNK_SIZE_MAX || align > CHUNK_SIZE_MAX {
        return None;
    }
    (class_of(len.max(align))..CLASS_COUNT).find(|&class| size_of_class(class).is_multiple_of(align))
}

const _: () = assert!(size_of_class(CLASS_COUNT - 1) == CHUNK_SIZE_MAX);

#[cfg(test)]
mod tests {
    use super::*;

    /// Every length; under Miri every one near a boundary.
    fn lengths() -> impl Iterator<Item = usize> {
        (0..=CHUNK_SIZE_MAX).filter(|len| !cfg!(miri) || (len + 1) % 1024 < 3)
    }

    #[test]
    fn every_length_has_the_smallest_class_that_holds_it() {
        for len in lengths() {
            let class = class_of(len);
            assert!(size_of_class(class) >= len, "{len}");
            assert!(class == 0 || size_of_class(class - 1) < len, "{len}");
        }
    }

    #[test]
    fn waste_is_at_most_a_quarter_above_128() {
        for len in lengths().filter(|&len| len > 128) {
            let size = size_of_class(class_of(len));
            assert!((size - len) * 4 <= size, "{len} in {size}");
        }
    }

    #[test]
    fn aligned_classes_are_multiples_of_the_alignment() {
        for align in [1usize, 8, 16, 32, 64, 128, 512, 4096, 65536] {
            for len in [1, 31, 64, 100, 1000, 5000, 70_000] {
                let class = class_aligned(len, align).expect("a class for every such pair");
                assert!(size_of_class(class) >= len && size_of_class(class).is_multiple_of(align), "{len} at {align}");
            }
        }
        assert_eq!(class_aligned(CHUNK_SIZE_MAX + 1, 1), None);
    }
}
