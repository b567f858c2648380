//! Doubles as text: what strtod reads, and what `%.17g` writes.

use std::fmt::Write;

use super::IntegerText;
use super::extended::{Format, read_hexadecimal, round};

/// The double that `text` is, if Redis takes it for one: what strtod reads to the end, but no leading space, no NaN, and
/// nothing so large or so small that it cannot be told from infinity or zero.
pub fn parse_f64(text: &[u8]) -> Option<f64> {
    let (digits, negative) = split_sign(text);
    let magnitude = if is_infinity(digits) {
        f64::INFINITY
    } else if let [b'0', b'x' | b'X', rest @ ..] = digits {
        let (mantissa, sticky, exponent) = read_hexadecimal(rest)?;
        let (mantissa, exponent) = round(mantissa, sticky, exponent, Format::DOUBLE)?;
        // Exact: 53 bits, then powers of two in steps that neither overflow nor lose a bit before the last.
        let half = exponent / 2;
        mantissa as f64 * 2f64.powi(half) * 2f64.powi(exponent - half)
    } else {
        if !is_decimal(digits) {
            return None;
        }
        let value: f64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
        if value.is_infinite() || value == 0.0 && has_nonzero_digit(digits) {
            return None; // ERANGE
        }
        value
    };
    Some(if negative { -magnitude } else { magnitude })
}

/// An end of a range of scores: Redis takes whatever strtod reads to the end there, spaces before it, what is out of range,
/// and nothing at all.
pub fn parse_f64_bound(text: &[u8]) -> Option<f64> {
    let spaces = text.iter().take_while(|byte| matches!(byte, b' ' | 0x09..=0x0D)).count();
    let number = &text[spaces..];
    if text.is_empty() {
        return Some(0.0);
    }
    parse_f64(number).or_else(|| {
        let (digits, _) = split_sign(number);
        let decimal = std::str::from_utf8(number).ok().filter(|_| is_decimal(digits))?;
        decimal.parse().ok() // infinity or zero
    })
}

/// The text without its sign, and whether that was a minus.
pub(super) fn split_sign(text: &[u8]) -> (&[u8], bool) {
    match text {
        [b'-', rest @ ..] => (rest, true),
        [b'+', rest @ ..] => (rest, false),
        _ => (text, false),
    }
}

pub(super) fn is_infinity(text: &[u8]) -> bool {
    text.eq_ignore_ascii_case(b"inf") || text.eq_ignore_ascii_case(b"infinity")
}

/// Whether `text` consists of what decimal numbers are made of. (Their order is the parser's to judge.)
pub(super) fn is_decimal(text: &[u8]) -> bool {
    text.first().is_some_and(|first| first.is_ascii_digit() || *first == b'.')
        && text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'))
}

fn has_nonzero_digit(text: &[u8]) -> bool {
    text.iter().take_while(|byte| !matches!(byte, b'e' | b'E')).any(|byte| matches!(byte, b'1'..=b'9'))
}

/// A double as `%.17g` writes it, without an allocation. The infinities are `inf` and `-inf`.
pub struct DoubleText {
    bytes: [u8; 32],
    len: u8,
}

impl DoubleText {
    /// The text of `value`.
    pub fn new(value: f64) -> DoubleText {
        let mut text = DoubleText { bytes: [0; 32], len: 0 };
        if value.is_nan() {
            text.put(if value.is_sign_negative() { b"-nan" } else { b"nan" });
        } else if value.is_infinite() {
            text.put(if value < 0.0 { b"-inf" } else { b"inf" });
        } else if value == 0.0 {
            text.put(if value.is_sign_negative() { b"-0" } else { b"0" });
        } else if value.abs() < 1e17 && value.trunc() == value {
            text.put(&IntegerText::new(value as i64)); // up to seventeen digits: all of them, exactly
        } else {
            text.put_general(value);
        }
        text
    }

    fn put(&mut self, bytes: &[u8]) {
        let len = usize::from(self.len);
        self.bytes[len..len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }

    /// C17 §7.21.6.1, `g` with a precision of 17: seventeen significant digits without their trailing zeros, with an
    /// exponent when that is below -4 or above 16.
    fn put_general(&mut self, value: f64) {
        let mut scientific = Digits { bytes: [0; 32], len: 0 };
        let _ = write!(scientific, "{:.16e}", value.abs());
        let written = &scientific.bytes[..scientific.len];
        let e = written.iter().position(|&byte| byte == b'e').unwrap_or(written.len());
        let exponent = std::str::from_utf8(&written[e + 1..]).ok().and_then(|e| e.parse::<i32>().ok()).unwrap_or(0);
        // "d.dddddddddddddddd": the digits without their point, and without the zeros at the end.
        let mut digits = [0; 17];
        digits[0] = written[0];
        digits[1..].copy_from_slice(&written[2..18]);
        let count = digits.iter().rposition(|&digit| digit != b'0').map_or(1, |last| last + 1);
        let digits = &digits[..count];

        if value < 0.0 {
            self.put(b"-");
        }
        if !(-4..17).contains(&exponent) {
            self.put(&digits[..1]);
            if count > 1 {
                self.put(b".");
                self.put(&digits[1..]);
            }
            self.put(if exponent < 0 { b"e-" } else { b"e+" });
            if exponent.abs() < 10 {
                self.put(b"0");
            }
            self.put(&IntegerText::new(i64::from(exponent.abs())));
        } else if exponent < 0 {
            self.put(&b"0.000"[..2 + (-exponent - 1) as usize]);
            self.put(digits);
        } else {
            let whole = exponent as usize + 1;
            self.put(&digits[..whole.min(count)]);
            self.put(&b"0000000000000000"[..whole.saturating_sub(count)]);
            if count > whole {
                self.put(b".");
                self.put(&digits[whole..]);
            }
        }
    }
}

impl std::ops::Deref for DoubleText {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// What `write!` writes into: seventeen digits, a point and an exponent fit.
struct Digits {
    bytes: [u8; 32],
    len: usize,
}

impl Write for Digits {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    fn text(value: f64) -> String {
        String::from_utf8(DoubleText::new(value).to_vec()).unwrap()
    }

    quickcheck! {
        /// Seventeen digits tell any two doubles apart.
        fn doubles_are_read_back(bits: u64) -> bool {
            let value = f64::from_bits(bits);
            value.is_nan() || parse_f64(text(value).as_bytes()).map(f64::to_bits) == Some(bits)
        }

        fn any_bytes_are_judged(text: Vec<u8>) -> bool {
            let text: Vec<u8> = text.into_iter().map(|b| b"0123456789.eE+-xXpPinfa "[b as usize % 24]).collect();
            parse_f64(&text).is_none_or(|value| !value.is_nan())
        }
    }

    #[test]
    fn doubles_are_written_as_printf_does() {
        // Expected: printf("%.17g") of glibc.
        for (value, expected) in [
            (3.3, "3.2999999999999998"),
            (0.1, "0.10000000000000001"),
            (1.5, "1.5"),
            (-0.0, "-0"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (-1e17, "-1e+17"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (0.0001, "0.0001"),
            (0.00001, "1.0000000000000001e-05"),
            (0.000012345, "1.2345e-05"),
            (1e300, "1.0000000000000001e+300"),
            (5e-324, "4.9406564584124654e-324"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (2.5e15 + 0.5, "2500000000000000.5"),
            // Eighteen digits that end in 5: a tie, which goes to the even digit.
            (562_949_953_421_312.1, "562949953421312.12"),
            (562_949_953_421_312.4, "562949953421312.38"),
        ] {
            assert_eq!(text(value), expected);
        }
    }

    #[test]
    fn doubles_are_read_as_strtod_does() {
        for (text, expected) in [
            ("1", 1.0),
            ("+1", 1.0),
            ("-.5", -0.5),
            ("5.", 5.0),
            ("1e3", 1000.0),
            ("1E-2", 0.01),
            ("inf", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("+inf", f64::INFINITY),
            ("0x10", 16.0),
            ("-0X1.8p1", -3.0),
            ("0x.8", 0.5),
            ("0x1p-1074", 5e-324),
            ("4.9406564584124654e-324", 5e-324),
            ("0x1.fffffffffffff8p0", 2.0),
            ("0e99999", 0.0),
            ("000012", 12.0),
        ] {
            assert_eq!(parse_f64(text.as_bytes()), Some(expected), "{text}");
        }
        for bad in
            ["", " 1", "1 ", "nan", "-nan", "1e", "e5", ".", "+", "--1", "1e400", "1e-400", "0x", "0xg", "in", "1_0"]
        {
            assert_eq!(parse_f64(bad.as_bytes()), None, "{bad}");
        }
    }
}
