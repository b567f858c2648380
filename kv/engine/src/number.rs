//! Redis's rules for numbers written as text, and how it writes them.
//!
//! Integers (`string2ll`): no sign but a minus, no leading zeros, no spaces. Doubles: what strtod takes, but no leading
//! space, no NaN and nothing out of range; written as `%.17g`. The sums of INCRBYFLOAT have 64 bits of mantissa and a
//! text of their own (`extended.rs`).
//!
//! Nothing here allocates but `extended.rs`, and that only for numbers of more digits than a person types.

mod extended;
mod float;

pub use extended::Extended;
pub use float::{DoubleText, parse_f64, parse_f64_bound};

/// The integer that `text` is, if it is one by Redis's strict rules.
#[inline]
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    let (digits, negative) = match text {
        [b'-', rest @ ..] => (rest, true),
        _ => (text, false),
    };
    let (&first, rest) = digits.split_first()?;
    let mut value = u64::from(first.wrapping_sub(b'0'));
    if value == 0 {
        return (text.len() == 1).then_some(0); // "0", but neither "00" nor "-0"
    }
    if value > 9 || rest.len() > 18 {
        return None; // nineteen digits are enough for any i64, and cannot overflow a u64
    }
    for &byte in rest {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + u64::from(digit);
    }
    if negative { (value <= 1 << 63).then(|| (value as i64).wrapping_neg()) } else { i64::try_from(value).ok() }
}

/// The digits of every number below a hundred.
pub(crate) const PAIRS: [[u8; 2]; 100] = {
    let mut pairs = [[0; 2]; 100];
    let mut i = 0;
    while i < 100 {
        pairs[i] = [b'0' + (i / 10) as u8, b'0' + (i % 10) as u8];
        i += 1;
    }
    pairs
};

/// Writes `value` in decimal so that its last digit stands before `end`, and says where the first stands.
#[inline]
pub fn write_u64_before(mut value: u64, into: &mut [u8; 32], end: usize) -> usize {
    let mut at = end.min(32);
    while value >= 100 && at >= 2 {
        at -= 2;
        into[at..at + 2].copy_from_slice(&PAIRS[(value % 100) as usize]);
        value /= 100;
    }
    if value >= 10 && at >= 2 {
        at -= 2;
        into[at..at + 2].copy_from_slice(&PAIRS[value as usize % 100]);
    } else if at >= 1 {
        at -= 1;
        into[at] = b'0' + value as u8;
    }
    at
}

/// An integer in decimal, without an allocation.
pub struct IntegerText {
    bytes: [u8; 32],
    start: u8,
}

impl IntegerText {
    /// The text of `value`.
    #[inline]
    pub fn new(value: i64) -> IntegerText {
        let mut bytes = [0; 32];
        let mut start = write_u64_before(value.unsigned_abs(), &mut bytes, 32);
        if value < 0 {
            start -= 1;
            bytes[start] = b'-';
        }
        IntegerText { bytes, start: start as u8 }
    }
}

impl std::ops::Deref for IntegerText {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes[usize::from(self.start & 31)..]
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    quickcheck! {
        fn integers_are_read_back(value: i64, shift: u8) -> bool {
            let value = value >> (shift % 64);
            let text = IntegerText::new(value);
            *text == *value.to_string().as_bytes() && parse_i64(&text) == Some(value)
        }

        /// Whatever is accepted is the text that the number would be written as.
        fn only_the_canonical_text_is_an_integer(text: Vec<u8>) -> bool {
            let text: Vec<u8> = text.into_iter().map(|b| b"0123456789-+ x"[b as usize % 14]).collect();
            let canonical = std::str::from_utf8(&text).unwrap().parse::<i64>().ok().filter(|n| n.to_string().as_bytes() == text);
            parse_i64(&text) == canonical
        }
    }

    #[test]
    fn the_edges_of_integers() {
        for value in [0, 1, -1, 9, 10, 99, 100, 101, i64::MAX, i64::MAX - 1, i64::MIN, i64::MIN + 1] {
            assert_eq!(parse_i64(value.to_string().as_bytes()), Some(value));
            assert_eq!(*IntegerText::new(value), *value.to_string().as_bytes());
        }
        for bad in ["", "-", "00", "01", "-0", "+1", " 1", "1 ", "9223372036854775808", "-9223372036854775809", "1e3"] {
            assert_eq!(parse_i64(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parse_i64(b"99999999999999999999"), None);
    }

    #[test]
    fn digits_are_written_before_a_place() {
        let mut bytes = [0; 32];
        assert_eq!(write_u64_before(u64::MAX, &mut bytes, 30), 10);
        assert_eq!(&bytes[10..30], u64::MAX.to_string().as_bytes());
    }
}
