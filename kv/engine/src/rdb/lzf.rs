//! LZF, as Redis packs long strings: runs of bytes as they are, and references to what was there before.
//!
//! Source: liblzf's format. A control byte below 32 is followed by one more bytes than it says; any other holds three bits of
//! length (seven: a byte more follows) and the upper five bits of how far back, whose lower eight follow.

use smallvec::SmallVec;

/// Three bytes may stand for 264.
const GROWTH_MAX: usize = 88;

/// What `packed` unpacks to, if that is so many bytes.
pub fn unpack(packed: &[u8], len: usize) -> Option<SmallVec<[u8; 24]>> {
    if len / GROWTH_MAX > packed.len() {
        return None;
    }
    let mut out: SmallVec<[u8; 24]> = SmallVec::with_capacity(len);
    let mut rest = packed;
    while let Some((&control, after)) = rest.split_first() {
        rest = after;
        if control < 32 {
            let (run, after) = rest.split_at_checked(usize::from(control) + 1)?;
            if out.len() + run.len() > len {
                return None;
            }
            out.extend_from_slice(run);
            rest = after;
            continue;
        }
        let mut count = usize::from(control >> 5);
        if count == 7 {
            let (&more, after) = rest.split_first()?;
            count += usize::from(more);
            rest = after;
        }
        let (&low, after) = rest.split_first()?;
        rest = after;
        let back = (usize::from(control & 0x1F) << 8 | usize::from(low)) + 1;
        let from = out.len().checked_sub(back)?;
        count += 2;
        if out.len() + count > len {
            return None;
        }
        // They may overlap: what was just written is read.
        for at in from..from + count {
            let byte = out[at];
            out.push(byte);
        }
    }
    (out.len() == len).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_references() {
        let unpacked = |packed: &[u8], len| unpack(packed, len).map(|bytes| bytes.to_vec());
        assert_eq!(unpacked(b"\x02abc", 3).as_deref(), Some(&b"abc"[..]));
        // "ab", then four bytes from two back: they overlap.
        assert_eq!(unpacked(b"\x01ab\x40\x01", 6).as_deref(), Some(&b"ababab"[..]));
        // A long one: 7 + 1 + 2 bytes from one back.
        assert_eq!(unpacked(b"\x00a\xe0\x01\x00", 11).as_deref(), Some(&b"aaaaaaaaaaa"[..]));
        for (packed, len) in [
            (&b"\x02abc"[..], 4),
            (b"\x02abc", 2),
            (b"\x02ab", 3),
            (b"\x20\x00", 3),
            (b"\x00a\xe0", 11),
            (b"\x00a", usize::MAX),
        ] {
            assert_eq!(unpacked(packed, len), None);
        }
    }
}
