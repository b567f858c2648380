//! The lines that say how many arguments, or how many bytes, follow: `*3` or `$64`, from one word of memory.

use crate::number::parse_i64;

/// The length that a line beginning with `kind` says, and how long the line is with its end. `word` holds the next eight
/// bytes. `None`: it is not a plain number of up to five digits.
#[inline(always)]
pub(super) fn in_word(word: [u8; 8], kind: u8) -> Option<(usize, usize)> {
    // All but the low half of a digit is known.
    const ONE: u64 = u64::from_le_bytes([0xFF, 0xF0, 0xFF, 0xFF, 0, 0, 0, 0]);
    const TWO: u64 = u64::from_le_bytes([0xFF, 0xF0, 0xF0, 0xFF, 0xFF, 0, 0, 0]);
    let word = u64::from_le_bytes(word);
    let (first, second) = (word as usize >> 8 & 15, word as usize >> 16 & 15);
    if word & ONE == u64::from_le_bytes([kind, b'0', b'\r', b'\n', 0, 0, 0, 0]) {
        return (first <= 9).then_some((first, 4));
    }
    if word & TWO == u64::from_le_bytes([kind, b'0', b'0', b'\r', b'\n', 0, 0, 0]) {
        return (first.wrapping_sub(1) < 9 && second <= 9).then_some((first * 10 + second, 5));
    }
    more_digits(word, kind)
}

/// Three to five digits: where the line ends is found, and the digits are added up, all at once.
#[inline]
fn more_digits(word: u64, kind: u8) -> Option<(usize, usize)> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let differs = word ^ (ONES * b'\r' as u64);
    let end = (differs.wrapping_sub(ONES) & !differs & ONES << 7).trailing_zeros() / 8; // the first byte that does not
    if !(4..=6).contains(&end) || word as u8 != kind || (word >> (8 * end + 8)) as u8 != b'\n' {
        return None;
    }
    let unused = 72 - 8 * end;
    let digits = ((word >> 8) << unused).wrapping_sub((ONES * b'0' as u64) >> unused << unused);
    let leading_zero = word >> 8 & 0xFF == b'0' as u64;
    if leading_zero || (digits | digits.wrapping_add(ONES * 0x76)) & ONES << 7 != 0 {
        return None;
    }
    // Pairs, then fours, then eights: each step adds ten, a hundred, ten thousand times the left one to the right one.
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8) & 0x00FF_00FF_00FF_00FF;
    let fours = pairs.wrapping_mul(100).wrapping_add(pairs >> 16) & 0x0000_FFFF_0000_FFFF;
    let value = fours.wrapping_mul(10_000).wrapping_add(fours >> 32) & 0xFFFF_FFFF;
    Some((value as usize, end as usize + 2))
}

/// The length written in the first line, which begins with `kind`, and what follows that line. `None` if it is anything
/// but a plain number whose line is whole.
#[inline]
pub(super) fn read(bytes: &[u8], kind: u8) -> Option<(usize, &[u8])> {
    if let Some(word) = bytes.first_chunk::<8>()
        && let Some((length, line_len)) = in_word(*word, kind)
    {
        return Some((length, &bytes[line_len..]));
    }
    let end = bytes.iter().take(16).position(|&byte| byte == b'\r')?;
    if bytes[0] != kind {
        return None;
    }
    let length = parse_i64(bytes.get(1..end)?)?;
    Some((usize::try_from(length).ok()?, bytes.get(end + 2..)?))
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    #[test]
    fn every_length_is_read_from_its_word() {
        for length in 0..100_000usize {
            let text = format!("${length}\r\n*1234567");
            let word = *text.as_bytes().first_chunk().unwrap();
            assert_eq!(in_word(word, b'$'), Some((length, text.len() - 8)), "{text}");
            assert_eq!(in_word(word, b'*'), None);
        }
    }

    quickcheck! {
        /// A word is read as a line of its bytes is, or not at all.
        fn nothing_else_is_a_length(bytes: Vec<u8>) -> bool {
            let mut word = *b"$1234567";
            word.iter_mut().zip(&bytes).for_each(|(to, from)| *to = b"$0123459\r\n\r\n-/:*"[*from as usize % 16]);
            in_word(word, b'$').is_none_or(|(length, line_len)| {
                word[..line_len] == *format!("${length}\r\n").as_bytes() && parse_i64(&word[1..line_len - 2]).is_some()
            })
        }
    }
}
