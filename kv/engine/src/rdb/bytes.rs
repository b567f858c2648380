//! Numbers, lengths and strings as they stand in a file.

use std::ops::Deref;

use smallvec::SmallVec;

use super::lzf;
use crate::number::IntegerText;

/// Why reading stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    /// At least so many bytes, counted from the first one given, are needed to go on.
    Short(usize),
    /// This cannot be.
    Bad(&'static str),
    /// There is no memory.
    Exhausted,
}

impl From<pdpix::Exhausted> for Stop {
    fn from(_: pdpix::Exhausted) -> Stop {
        Stop::Exhausted
    }
}

pub(crate) type Read<T> = Result<T, Stop>;

/// A string: where it stands, or what was made of it.
#[derive(Debug)]
pub(crate) enum Text<'a> {
    Slice(&'a [u8]),
    Own(SmallVec<[u8; 24]>),
}

impl Text<'_> {
    pub fn integer(value: i64) -> Text<'static> {
        Text::Own(SmallVec::from_slice(&IntegerText::new(value)))
    }
}

impl Deref for Text<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Text::Slice(bytes) => bytes,
            Text::Own(bytes) => bytes,
        }
    }
}

/// What stands where a length may stand.
enum Length {
    Bytes(u64),
    /// A string in a form of its own.
    Special(u8),
}

/// Bytes that are read from the front.
#[derive(Clone, Debug)]
pub(crate) struct Bytes<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Bytes<'a> {
    pub fn new(all: &'a [u8]) -> Bytes<'a> {
        Bytes { all, at: 0 }
    }

    /// How many were read.
    pub fn at(&self) -> usize {
        self.at
    }

    pub fn is_at_end(&self) -> bool {
        self.at == self.all.len()
    }

    pub fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let end = self.at.checked_add(count).ok_or(Stop::Bad("a length that nothing has"))?;
        let taken = self.all.get(self.at..end).ok_or(Stop::Short(end))?;
        self.at = end;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub fn byte(&mut self) -> Read<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn length_or_special(&mut self) -> Read<Length> {
        let first = self.byte()?;
        Ok(Length::Bytes(match first >> 6 {
            0 => u64::from(first),
            1 => u64::from(first & 0x3F) << 8 | u64::from(self.byte()?),
            3 => return Ok(Length::Special(first & 0x3F)),
            _ => match first {
                0x80 => u64::from(u32::from_be_bytes(self.array()?)),
                0x81 => u64::from_be_bytes(self.array()?),
                _ => return Err(Stop::Bad("a length of no known form")),
            },
        }))
    }

    /// A number of things.
    pub fn length(&mut self) -> Read<u64> {
        match self.length_or_special()? {
            Length::Bytes(length) => Ok(length),
            Length::Special(_) => Err(Stop::Bad("a string where a length should stand")),
        }
    }

    /// The same, of things that take at least a byte each.
    pub fn count(&mut self) -> Read<usize> {
        usize::try_from(self.length()?).map_err(|_| Stop::Bad("a length that nothing has"))
    }

    /// A string.
    pub fn text(&mut self) -> Read<Text<'a>> {
        Ok(match self.length_or_special()? {
            Length::Bytes(length) => {
                let length = usize::try_from(length).map_err(|_| Stop::Bad("a length that nothing has"))?;
                Text::Slice(self.take(length)?)
            }
            Length::Special(0) => Text::integer(i64::from(i8::from_le_bytes(self.array()?))),
            Length::Special(1) => Text::integer(i64::from(i16::from_le_bytes(self.array()?))),
            Length::Special(2) => Text::integer(i64::from(i32::from_le_bytes(self.array()?))),
            Length::Special(3) => {
                let (packed, unpacked) = (self.count()?, self.count()?);
                let packed = self.take(packed)?;
                Text::Own(lzf::unpack(packed, unpacked).ok_or(Stop::Bad("compressed bytes that do not unpack"))?)
            }
            Length::Special(_) => return Err(Stop::Bad("a string of no known form")),
        })
    }

    /// A string that nobody wants.
    pub fn skip_text(&mut self) -> Read<()> {
        let count = match self.length_or_special()? {
            Length::Bytes(length) => usize::try_from(length).map_err(|_| Stop::Bad("a length that nothing has"))?,
            Length::Special(form @ 0..=2) => 1 << form,
            Length::Special(3) => {
                let packed = self.count()?;
                self.length()?;
                packed
            }
            Length::Special(_) => return Err(Stop::Bad("a string of no known form")),
        };
        self.take(count).map(drop)
    }
}
