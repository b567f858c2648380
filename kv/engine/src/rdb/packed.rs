//! What Redis packs into one string: listpacks, ziplists, zipmaps and sets of integers.
//!
//! Each is given back as the list of its elements, and is whole or an error: lengths must agree with the bytes, and the end
//! must stand where it should.

use super::bytes::{Bytes, Read, Stop, Text};

const END: u8 = 0xFF;

/// The string itself is all there is: if it is short, that is damage and not a reason to wait for more.
fn whole<T>(read: Read<T>) -> Read<T> {
    read.map_err(|stop| match stop {
        Stop::Short(_) => Stop::Bad("a packed value that ends too early"),
        other => other,
    })
}

/// The elements of a listpack.
pub fn listpack(packed: &[u8]) -> Read<Vec<Text<'_>>> {
    whole(read_listpack(packed))
}

fn read_listpack(packed: &[u8]) -> Read<Vec<Text<'_>>> {
    let mut bytes = Bytes::new(packed);
    let (size, count) = (u32::from_le_bytes(bytes.array()?), u16::from_le_bytes(bytes.array()?));
    if size as usize != packed.len() {
        return Err(Stop::Bad("a listpack of another length than it says"));
    }
    let mut elements = Vec::new();
    loop {
        let start = bytes.at();
        let first = bytes.byte()?;
        let element = match first {
            END => break,
            0..0x80 => Text::integer(i64::from(first)),
            0x80..0xC0 => Text::Slice(bytes.take(usize::from(first & 0x3F))?),
            0xC0..0xE0 => {
                let value = i64::from(first & 0x1F) << 8 | i64::from(bytes.byte()?);
                Text::integer(if value >= 1 << 12 { value - (1 << 13) } else { value })
            }
            0xE0..0xF0 => {
                let len = usize::from(first & 0x0F) << 8 | usize::from(bytes.byte()?);
                Text::Slice(bytes.take(len)?)
            }
            0xF0 => {
                let len = u32::from_le_bytes(bytes.array()?);
                Text::Slice(bytes.take(len as usize)?)
            }
            0xF1 => Text::integer(i64::from(i16::from_le_bytes(bytes.array()?))),
            0xF2 => Text::integer(i64::from(three(bytes.array()?))),
            0xF3 => Text::integer(i64::from(i32::from_le_bytes(bytes.array()?))),
            0xF4 => Text::integer(i64::from_le_bytes(bytes.array()?)),
            _ => return Err(Stop::Bad("an element of a listpack of no known form")),
        };
        // Behind an element stands its length, to walk back by.
        let size = bytes.at() - start;
        bytes.take(match size {
            0..=127 => 1,
            128..=16_383 => 2,
            16_384..=2_097_151 => 3,
            2_097_152..=268_435_455 => 4,
            _ => 5,
        })?;
        elements.push(element);
    }
    let counted = count == u16::MAX || elements.len() == usize::from(count);
    if !bytes.is_at_end() || !counted {
        return Err(Stop::Bad("a listpack of another length than it says"));
    }
    Ok(elements)
}

/// Three bytes, the lowest first, as a number with a sign.
fn three(bytes: [u8; 3]) -> i32 {
    i32::from_le_bytes([0, bytes[0], bytes[1], bytes[2]]) >> 8
}

/// The elements of a ziplist.
pub fn ziplist(packed: &[u8]) -> Read<Vec<Text<'_>>> {
    whole(read_ziplist(packed))
}

fn read_ziplist(packed: &[u8]) -> Read<Vec<Text<'_>>> {
    let mut bytes = Bytes::new(packed);
    let size = u32::from_le_bytes(bytes.array()?);
    let _last = u32::from_le_bytes(bytes.array()?);
    let count = u16::from_le_bytes(bytes.array()?);
    if size as usize != packed.len() {
        return Err(Stop::Bad("a ziplist of another length than it says"));
    }
    let mut elements = Vec::new();
    loop {
        // The length of the element before, to walk back by; or the end.
        match bytes.byte()? {
            END => break,
            0xFE => drop(bytes.array::<4>()?),
            _ => {}
        }
        let first = bytes.byte()?;
        elements.push(match first {
            0..0x40 => Text::Slice(bytes.take(usize::from(first))?),
            0x40..0x80 => {
                let len = usize::from(first & 0x3F) << 8 | usize::from(bytes.byte()?);
                Text::Slice(bytes.take(len)?)
            }
            0x80 => {
                let len = u32::from_be_bytes(bytes.array()?);
                Text::Slice(bytes.take(len as usize)?)
            }
            0xC0 => Text::integer(i64::from(i16::from_le_bytes(bytes.array()?))),
            0xD0 => Text::integer(i64::from(i32::from_le_bytes(bytes.array()?))),
            0xE0 => Text::integer(i64::from_le_bytes(bytes.array()?)),
            0xF0 => Text::integer(i64::from(three(bytes.array()?))),
            0xFE => Text::integer(i64::from(i8::from_le_bytes(bytes.array()?))),
            0xF1..=0xFD => Text::integer(i64::from(first & 0x0F) - 1),
            _ => return Err(Stop::Bad("an element of a ziplist of no known form")),
        });
    }
    let counted = count == u16::MAX || elements.len() == usize::from(count);
    if !bytes.is_at_end() || !counted {
        return Err(Stop::Bad("a ziplist of another length than it says"));
    }
    Ok(elements)
}

/// The fields and values of a zipmap, in turn.
pub fn zipmap(packed: &[u8]) -> Read<Vec<Text<'_>>> {
    whole(read_zipmap(packed))
}

fn read_zipmap(packed: &[u8]) -> Read<Vec<Text<'_>>> {
    let mut bytes = Bytes::new(packed);
    let _count = bytes.byte()?;
    let mut elements = Vec::new();
    let len = |bytes: &mut Bytes<'_>, first: u8| match first {
        0..0xFE => Ok(usize::from(first)),
        0xFE => Ok(u32::from_le_bytes(bytes.array()?) as usize),
        END => Err(Stop::Bad("a zipmap that ends before a value")),
    };
    loop {
        let first = bytes.byte()?;
        if first == END {
            break;
        }
        let name = len(&mut bytes, first)?;
        elements.push(Text::Slice(bytes.take(name)?));
        let first = bytes.byte()?;
        let value = len(&mut bytes, first)?;
        let free = bytes.byte()?;
        elements.push(Text::Slice(bytes.take(value)?));
        bytes.take(usize::from(free))?;
    }
    if !bytes.is_at_end() { Err(Stop::Bad("a zipmap of another length than it says")) } else { Ok(elements) }
}

/// The members of a set of integers.
pub fn intset(packed: &[u8]) -> Read<Vec<i64>> {
    whole(read_intset(packed))
}

fn read_intset(packed: &[u8]) -> Read<Vec<i64>> {
    let mut bytes = Bytes::new(packed);
    let (width, count) = (u32::from_le_bytes(bytes.array()?), u32::from_le_bytes(bytes.array()?));
    let mut members = Vec::new();
    for _ in 0..count {
        members.push(match width {
            2 => i64::from(i16::from_le_bytes(bytes.array()?)),
            4 => i64::from(i32::from_le_bytes(bytes.array()?)),
            8 => i64::from_le_bytes(bytes.array()?),
            _ => return Err(Stop::Bad("a set of integers of no known width")),
        });
    }
    let ascending = members.is_sorted_by(|one, other| one < other);
    if !bytes.is_at_end() || !ascending {
        return Err(Stop::Bad("a set of integers that is none"));
    }
    Ok(members)
}
