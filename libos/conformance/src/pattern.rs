//! Bytes that are a function of a stream's number and of the place in it: a lost, doubled, swapped or reused byte is seen
//! where it is, whatever the cuts.

/// The bytes of one stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pattern(u64);

impl Pattern {
    /// Of the stream of this number. Different streams have different bytes everywhere.
    pub const fn of(stream: u64) -> Pattern {
        Pattern(stream.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Eight bytes (the finaliser of SplitMix64).
    #[inline]
    const fn word(self, index: u64) -> u64 {
        let mut z = self.0.wrapping_add(index.wrapping_mul(0xd134_2543_de82_ef95)).wrapping_add(0x2545_f491_4f6c_dd1d);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Writes the bytes from `offset` on.
    pub fn fill(self, offset: u64, into: &mut [u8]) {
        let mut at = offset;
        let mut rest = into;
        while !rest.is_empty() {
            let word = self.word(at / 8).to_le_bytes();
            let from = (at % 8) as usize;
            let count = (8 - from).min(rest.len());
            rest[..count].copy_from_slice(&word[from..from + count]);
            rest = &mut rest[count..];
            at += count as u64;
        }
    }

    /// The bytes from `offset` on.
    pub fn bytes(self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.fill(offset, &mut bytes);
        bytes
    }

    /// Compares with the bytes from `offset` on.
    ///
    /// # Errors
    /// The place in the stream of the first byte that is another.
    pub fn check(self, offset: u64, bytes: &[u8]) -> Result<(), u64> {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let word = self.word(at / 8).to_le_bytes();
            let from = (at % 8) as usize;
            let count = (8 - from).min(rest.len());
            if rest[..count] != word[from..from + count] {
                let wrong = (0..count).find(|&i| rest[i] != word[from + i]).unwrap_or(0);
                return Err(at + wrong as u64);
            }
            rest = &rest[count..];
            at += count as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_does_not_depend_on_the_cut() {
        let pattern = Pattern::of(3);
        let whole = pattern.bytes(0, 100);
        for from in 0..50 {
            for len in 0..50 {
                assert_eq!(pattern.bytes(from as u64, len), whole[from..from + len]);
                assert_eq!(pattern.check(from as u64, &whole[from..from + len]), Ok(()));
            }
        }
    }

    #[test]
    fn the_first_wrong_byte_is_found() {
        let pattern = Pattern::of(4);
        for wrong in 0..40usize {
            let mut bytes = pattern.bytes(7, 40);
            bytes[wrong] ^= 1;
            assert_eq!(pattern.check(7, &bytes), Err(7 + wrong as u64));
        }
        // A lost byte, a doubled one, and another stream.
        assert!(pattern.check(0, &pattern.bytes(1, 40)).is_err());
        assert!(pattern.check(1, &pattern.bytes(0, 40)).is_err());
        assert!(pattern.check(0, &Pattern::of(5).bytes(0, 40)).is_err());
    }
}
