//! Numbers with a mantissa of 64 bits: the `long double` that INCRBYFLOAT adds in, so that 0.1 + 0.2 is 0.3.
//!
//! Reading, adding and writing are exact and rounded once, to the nearest, ties to even. Source: x87 double extended
//! (Intel SDM vol. 1 §4.2.2). Not here: NaN, which Redis refuses wherever it could arise.

use super::float::{is_decimal, is_infinity, split_sign};

/// A number `mantissa * 2^exponent` of the x87's extended format, or an infinity.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Extended {
    negative: bool,
    /// The top bit is set, unless the number is zero, subnormal, or infinite (then the exponent is `INFINITE`).
    mantissa: u64,
    exponent: i32,
}

const INFINITE: i32 = i32::MAX;

/// What strings Redis reads at most for a long double (MAX_LONG_DOUBLE_CHARS).
const TEXT_LEN_MAX: usize = 5 * 1024 - 1;

/// The decimals that `%.17Lf` writes, as a factor.
const TEN_TO_17: u128 = 100_000_000_000_000_000;

impl Extended {
    /// Zero.
    pub const ZERO: Extended = Extended { negative: false, mantissa: 0, exponent: 0 };

    /// Whether it is an infinity.
    pub fn is_infinite(self) -> bool {
        self.exponent == INFINITE
    }

    /// The number that `text` is, if Redis takes it for one: what strtold reads to the end, but no leading space, no NaN,
    /// and nothing that rounds to infinity or, without being zero, to zero.
    pub fn parse(text: &[u8]) -> Option<Extended> {
        if text.len() > TEXT_LEN_MAX {
            return None;
        }
        let (digits, negative) = split_sign(text);
        if is_infinity(digits) {
            return Some(Extended { negative, mantissa: 0, exponent: INFINITE });
        }
        let (mantissa, sticky, exponent) = match digits {
            [b'0', b'x' | b'X', rest @ ..] => read_hexadecimal(rest)?,
            _ => read_decimal(digits)?,
        };
        let (mantissa, exponent) = round(mantissa, sticky, exponent, Format::EXTENDED)?;
        Some(Extended { negative, mantissa: mantissa as u64, exponent })
    }

    /// The sum, unless it is infinite or not a number.
    pub fn checked_add(self, other: Extended) -> Option<Extended> {
        if self.is_infinite() || other.is_infinite() {
            return None;
        }
        if self.mantissa == 0 || other.mantissa == 0 {
            let zero = Extended { negative: self.negative && other.negative, ..Extended::ZERO };
            return Some(if self.mantissa != 0 {
                self
            } else if other.mantissa != 0 {
                other
            } else {
                zero
            });
        }
        let (large, small) = if self.exponent >= other.exponent { (self, other) } else { (other, self) };
        // Sixty-three bits below the larger one's last: more than rounding looks at, so what is shifted out of the
        // smaller one matters only by being there.
        let distance = (large.exponent - small.exponent) as u32;
        let wide = u128::from(small.mantissa) << 63;
        let (b, lost) = match distance {
            0 => (wide, false),
            1..128 => (wide >> distance, wide << (128 - distance) != 0),
            _ => (0, true),
        };
        let a = u128::from(large.mantissa) << 63;
        let (sum, negative) = if large.negative == small.negative {
            (a + b, large.negative)
        } else if a >= b + u128::from(lost) {
            (a - b - u128::from(lost), large.negative)
        } else {
            (b - a, small.negative) // `b` is the larger only when nothing was lost
        };
        if sum == 0 && !lost {
            return Some(Extended::ZERO);
        }
        let (mantissa, exponent) = round(sum, lost, large.exponent - 63, Format::EXTENDED)?;
        Some(Extended { negative, mantissa: mantissa as u64, exponent })
    }

    /// As `%.17Lf`, without the zeros at the end of the decimals, and never "-0": Redis's human-friendly form.
    pub fn to_text(self) -> Vec<u8> {
        let sign = if self.negative { "-" } else { "" };
        if self.is_infinite() {
            return format!("{sign}inf").into_bytes();
        }
        if self.exponent >= 0 {
            let mut whole = Natural::new(self.mantissa);
            whole.shift_left(self.exponent as u32);
            return whole_text(sign, whole.into_decimal());
        }
        // Less than 2^121: it fits, and shifted by more than 127 nothing is left of it.
        let scaled = u128::from(self.mantissa) * TEN_TO_17;
        let rounded = shift_right_to_even(scaled, false, self.exponent.unsigned_abs());
        let (whole, decimals) = (rounded / TEN_TO_17, rounded % TEN_TO_17);
        if decimals == 0 {
            return whole_text(sign, whole.to_string());
        }
        let mut text = format!("{sign}{whole}.{decimals:017}").into_bytes();
        let end = text.iter().rposition(|&byte| byte != b'0').map_or(0, |last| last + 1);
        text.truncate(end);
        text
    }
}

fn whole_text(sign: &str, digits: String) -> Vec<u8> {
    if digits == "0" { b"0".to_vec() } else { format!("{sign}{digits}").into_bytes() }
}

/// A binary floating-point format.
#[derive(Clone, Copy)]
pub(super) struct Format {
    bits: u32,
    /// Exponent of the last bit of the smallest number, and of the last bit of the largest.
    exponent_min: i32,
    exponent_max: i32,
}

impl Format {
    pub(super) const DOUBLE: Format = Format { bits: 53, exponent_min: -1074, exponent_max: 1023 - 52 };
    const EXTENDED: Format = Format { bits: 64, exponent_min: -16445, exponent_max: 16383 - 63 };
}

/// `mantissa * 2^exponent`, and a little more if `sticky`, rounded to what `format` can hold. `None`: it rounds to
/// infinity, or to zero without being zero (strtod's ERANGE).
pub(super) fn round(mantissa: u128, sticky: bool, exponent: i32, format: Format) -> Option<(u128, i32)> {
    if mantissa == 0 {
        return (!sticky).then_some((0, 0));
    }
    let width = 128 - mantissa.leading_zeros();
    let mut last = (exponent + width as i32 - format.bits as i32).max(format.exponent_min);
    let mut rounded = if last > exponent {
        shift_right_to_even(mantissa, sticky, (last - exponent) as u32)
    } else {
        debug_assert!(!sticky, "more bits than the format has, or nothing below them");
        mantissa << (exponent - last) as u32
    };
    if rounded >> format.bits != 0 {
        rounded >>= 1; // it was all ones and went up to a power of two
        last += 1;
    }
    (rounded != 0 && last <= format.exponent_max).then_some((rounded, last))
}

fn shift_right_to_even(value: u128, sticky: bool, count: u32) -> u128 {
    if count == 0 {
        return value;
    }
    if count > 128 {
        return 0;
    }
    let (kept, lost) = if count == 128 { (0, value) } else { (value >> count, value << (128 - count)) };
    const HALF: u128 = 1 << 127;
    let up = lost > HALF || lost == HALF && (sticky || kept & 1 == 1);
    kept + u128::from(up)
}

/// What follows "0x": digits, a point somewhere, perhaps a binary exponent. As mantissa, whether there is more of it, and
/// exponent.
pub(super) fn read_hexadecimal(text: &[u8]) -> Option<(u128, bool, i32)> {
    let split = text.iter().position(|byte| matches!(byte, b'p' | b'P'));
    let (digits, written) = match split {
        Some(at) => (&text[..at], read_exponent(&text[at + 1..])?),
        None => (text, 0),
    };
    let (mut mantissa, mut sticky, mut exponent, mut count, mut point) = (0u128, false, 0i64, 0, false);
    for &byte in digits {
        if byte == b'.' && !point {
            point = true;
            continue;
        }
        let digit = (byte as char).to_digit(16)?;
        count += 1;
        if mantissa >> 120 == 0 {
            mantissa = mantissa << 4 | u128::from(digit);
        } else {
            sticky |= digit != 0;
            exponent += 4;
        }
        if point {
            exponent -= 4;
        }
    }
    if count == 0 {
        return None;
    }
    Some((mantissa, sticky, (exponent + written).clamp(-100_000, 100_000) as i32))
}

/// Digits, a point somewhere, perhaps a decimal exponent. As for `read_hexadecimal`.
fn read_decimal(text: &[u8]) -> Option<(u128, bool, i32)> {
    if !is_decimal(text) {
        return None;
    }
    let split = text.iter().position(|byte| matches!(byte, b'e' | b'E'));
    let (digits, mut exponent) = match split {
        Some(at) => (&text[..at], read_exponent(&text[at + 1..])?),
        None => (text, 0),
    };
    let (mut number, mut count, mut point) = (Natural::new(0), 0, false);
    for &byte in digits {
        match byte {
            b'.' if !point => point = true,
            b'0'..=b'9' => {
                number.multiply_add(10, u32::from(byte - b'0'));
                count += 1;
                exponent -= i64::from(point);
            }
            _ => return None,
        }
    }
    if count == 0 {
        return None;
    }
    if number.is_zero() {
        return Some((0, false, 0));
    }
    // The largest has 4,933 digits before the point, the smallest its first non-zero one as place 4,951 behind it.
    if exponent > 5_000 || exponent < -(TEXT_LEN_MAX as i64) - 5_000 {
        return None;
    }
    let mut divisor = Natural::new(1);
    let scaled = if exponent < 0 { &mut divisor } else { &mut number };
    (0..exponent.unsigned_abs()).for_each(|_| scaled.multiply_add(10, 0));
    Some(divide(number, divisor))
}

fn read_exponent(text: &[u8]) -> Option<i64> {
    let (digits, negative) = split_sign(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // Larger ones are out of range however long the digits before them.
    let value = digits.iter().fold(0, |value: i64, &digit| (value * 10 + i64::from(digit - b'0')).min(1_000_000));
    Some(if negative { -value } else { value })
}

/// `number / divisor` as at least 66 bits, whether there is a remainder, and the exponent of the last bit.
fn divide(mut number: Natural, mut divisor: Natural) -> (u128, bool, i32) {
    const BITS: u32 = 67;
    // Line them up so that the quotient's first bit is its first or second digit.
    let shift = divisor.width() as i32 - number.width() as i32;
    if shift > 0 {
        number.shift_left(shift as u32);
    } else {
        divisor.shift_left(shift.unsigned_abs());
    }
    let mut quotient = 0;
    for _ in 0..BITS {
        quotient <<= 1;
        if number.at_least(&divisor) {
            number.subtract(&divisor);
            quotient |= 1;
        }
        number.shift_left(1);
    }
    (quotient, !number.is_zero(), -shift - (BITS as i32 - 1))
}

/// A natural number of any size, in limbs of 32 bits, the lowest first, the last not zero.
struct Natural(Vec<u32>);

impl Natural {
    fn new(value: u64) -> Natural {
        let mut number = Natural(vec![value as u32, (value >> 32) as u32]);
        number.trim();
        number
    }

    fn is_zero(&self) -> bool {
        self.0.is_empty()
    }

    fn width(&self) -> u32 {
        self.0.last().map_or(0, |last| self.0.len() as u32 * 32 - last.leading_zeros())
    }

    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }

    fn multiply_add(&mut self, factor: u32, addend: u32) {
        let mut carry = u64::from(addend);
        for limb in &mut self.0 {
            carry += u64::from(*limb) * u64::from(factor);
            *limb = carry as u32;
            carry >>= 32;
        }
        if carry != 0 {
            self.0.push(carry as u32);
        }
    }

    fn shift_left(&mut self, count: u32) {
        if self.is_zero() || count == 0 {
            return;
        }
        let bits = count % 32;
        if bits != 0 {
            let mut carry = 0;
            for limb in &mut self.0 {
                let wide = u64::from(*limb) << bits | carry;
                *limb = wide as u32;
                carry = wide >> 32;
            }
            self.0.push(carry as u32);
            self.trim();
        }
        self.0.splice(0..0, std::iter::repeat_n(0, count as usize / 32));
    }

    fn at_least(&self, other: &Natural) -> bool {
        let order = self.0.len().cmp(&other.0.len()).then_with(|| self.0.iter().rev().cmp(other.0.iter().rev()));
        order.is_ge()
    }

    /// Subtracts `other`, which is not larger.
    fn subtract(&mut self, other: &Natural) {
        let mut borrow = false;
        for (i, limb) in self.0.iter_mut().enumerate() {
            let (less, first) = limb.overflowing_sub(other.0.get(i).copied().unwrap_or(0));
            let (less, second) = less.overflowing_sub(u32::from(borrow));
            (*limb, borrow) = (less, first || second);
        }
        debug_assert!(!borrow, "subtracted more than there was");
        self.trim();
    }

    fn into_decimal(mut self) -> String {
        let mut groups = Vec::new();
        while !self.is_zero() {
            let mut rest = 0;
            for limb in self.0.iter_mut().rev() {
                let wide = rest << 32 | u64::from(*limb);
                *limb = (wide / 1_000_000_000) as u32;
                rest = wide % 1_000_000_000;
            }
            self.trim();
            groups.push(rest);
        }
        let mut text = groups.pop().unwrap_or(0).to_string();
        groups.iter().rev().for_each(|group| text.push_str(&format!("{group:09}")));
        text
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    fn text(number: Extended) -> String {
        String::from_utf8(number.to_text()).unwrap()
    }

    fn sum(a: &str, b: &str) -> String {
        text(Extended::parse(a.as_bytes()).unwrap().checked_add(Extended::parse(b.as_bytes()).unwrap()).unwrap())
    }

    quickcheck! {
        /// Where doubles are exact, so are we: twenty bits over a power of two up to 2^8.
        fn sums_agree_with_exact_ones(a: i32, b: i32, shift: u8) -> bool {
            let scale = f64::from(1 << (shift % 9));
            let (x, y) = (f64::from(a >> 12) / scale, f64::from(b >> 12) / scale);
            sum(&x.to_string(), &y.to_string()) == (x + y + 0.0).to_string()
        }

        fn integers_of_64_bits_are_exact(a: u64, b: u64) -> bool {
            let (a, b) = (a >> 1, b >> 1);
            sum(&a.to_string(), &b.to_string()) == (u128::from(a) + u128::from(b)).to_string()
        }

        fn any_bytes_are_judged(bytes: Vec<u8>) -> bool {
            let bytes: Vec<u8> = bytes.into_iter().map(|b| b"0123456789.eE+-xXpPinfa "[b as usize % 24]).collect();
            Extended::parse(&bytes).is_none_or(|number| !number.to_text().is_empty())
        }
    }

    #[test]
    fn sums_are_those_of_a_long_double() {
        // Expected: INCRBYFLOAT of redis-server 7.0.15 on x86-64.
        for (a, b, expected) in [
            ("0.1", "0.2", "0.3"),
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("1", "-1", "0"),
            ("-0", "-0", "0"),
            ("3", "-0.00000000000000000001", "3"),
            ("0", "-0.00000000000000000001", "0"),
            ("0", "0.000000000000000005", "0"),
            ("0", "0.0000000000000000051", "0.00000000000000001"),
            ("0x10", "0.5", "16.5"),
            ("1e20", "1", "100000000000000000000"),
            ("18446744073709551615", "1", "18446744073709551616"),
            ("1e25", "0", "10000000000000000000000000"),
            ("1e40", "0", "9999999999999999999783686092270256259072"),
            ("123456789.123456789012345", "0", "123456789.12345678901328938"),
            ("15e-18", "0", "0.00000000000000002"),
            ("25e-18", "0", "0.00000000000000002"),
        ] {
            assert_eq!(sum(a, b), expected, "{a} + {b}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_refused() {
        for bad in ["", ".", "1e5000", "1e-5000", "nan", " 1", "1 ", "1e", "0x", "--1", "1.2.3"] {
            assert_eq!(Extended::parse(bad.as_bytes()), None, "{bad}");
        }
        assert!(Extended::parse(b"1e4932").is_some(), "a long double goes further than a double");
        assert!(Extended::parse(b"1.2e4932").is_none());
        assert!(Extended::parse(b"3.6e-4951").is_some(), "the smallest subnormal");
        let largest = Extended::parse(b"1.18e4932").unwrap();
        assert_eq!(largest.checked_add(largest), None);
        assert_eq!(Extended::parse(b"inf").unwrap().checked_add(largest), None);
        assert_eq!(Extended::parse(&[b'1'; TEXT_LEN_MAX + 1]), None, "longer than Redis's buffer");
    }
}
