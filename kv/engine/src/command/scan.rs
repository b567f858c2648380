//! SCAN, HSCAN, SSCAN, ZSCAN: a walk in as many steps as the client likes.
//!
//! A cursor is a position in the order of hashes, so it stays good however the table changes (`table.rs`). That of SCAN
//! has the number of the shard in its last byte: the shards are walked over one after the other.

use super::{Call, Result};
use crate::data::hash::Hash;
use crate::data::set::Set;
use crate::data::zset::Zset;
use crate::glob::Glob;
use crate::keyspace::Entry;
use crate::number::{DoubleText, IntegerText};
use crate::object::Stores;
use crate::refusal::{Refusal, c_text};
use crate::resp::{Reply, Request};
use crate::table::Item;

/// Bits of SCAN's cursor that say which shard.
const SHARD_BITS: u32 = 8;

/// What a step is to visit, and how much.
struct Scan<'a> {
    cursor: u64,
    count: usize,
    glob: Option<Glob<'a>>,
    type_name: Option<&'a [u8]>,
}

/// The shard that a SCAN with this request goes to.
pub(crate) fn shard_of_scan(request: &Request) -> usize {
    cursor(request.arg(1)).map_or(0, |cursor| (cursor & ((1 << SHARD_BITS) - 1)) as usize)
}

/// A cursor, as strtoul reads it.
fn cursor(text: &[u8]) -> Option<u64> {
    let (digits, negative) = match c_text(text) {
        [b'-', digits @ ..] => (digits, true),
        [b'+', digits @ ..] => (digits, false),
        digits => (digits, false),
    };
    if digits.is_empty() {
        return c_text(text).is_empty().then_some(0);
    }
    let value = digits.iter().try_fold(0u64, |value, &byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 { None } else { value.checked_mul(10)?.checked_add(u64::from(digit)) }
    })?;
    Some(if negative { value.wrapping_neg() } else { value })
}

impl<'a> Scan<'a> {
    /// The options from argument `first` on.
    fn options(call: &Call<'a>, first: usize, with_type: bool) -> Result<Scan<'a>> {
        let cursor = cursor(call.arg(first - 1)).ok_or(Refusal::Cursor)?;
        let mut scan = Scan { cursor, count: 10, glob: None, type_name: None };
        call.options(first).each(|options| {
            if options.take_with("count", 1) {
                let count = call.integer(options.take_any())?;
                scan.count = usize::try_from(count).ok().filter(|&count| count > 0).ok_or(Refusal::Syntax)?;
            } else if options.take_with("match", 1) {
                scan.glob = Some(Glob::new(call.arg(options.take_any()))).filter(|glob| !glob.is_everything());
            } else if with_type && options.take_with("type", 1) {
                scan.type_name = Some(call.arg(options.take_any()));
            } else {
                return Ok(false);
            }
            Ok(true)
        })?;
        Ok(scan)
    }

    fn wants(&self, name: &[u8]) -> bool {
        self.glob.is_none_or(|glob| glob.matches(name))
    }
}

fn begin(reply: &mut Reply<'_>, cursor: u64, elements: usize) {
    reply.array(2);
    let text = IntegerText::new(cursor as i64); // below 2^53
    reply.bulk(&text);
    reply.array(elements);
}

pub(super) fn scan(call: &mut Call<'_>) -> Result {
    let scan = Scan::options(call, 2, true)?;
    let (shard, shards) = call.engine.shard;
    let mut found: Vec<&Entry> = Vec::new();
    let mut next = None;
    if shard_of_scan(call.request) == shard {
        let entries = call.engine.database(call.at).entries();
        next = entries.walk(scan.cursor >> SHARD_BITS, scan.count, |entry| {
            let of_type = |name: &[u8]| entry.object.type_name().as_bytes().eq_ignore_ascii_case(name);
            if !entry.has_expired(call.at.now) && scan.wants(entry.key()) && scan.type_name.is_none_or(of_type) {
                found.push(entry);
            }
        });
        next = match next {
            Some(position) => Some(position << SHARD_BITS | shard as u64),
            None if shard + 1 < shards => Some(shard as u64 + 1),
            None => None,
        };
    }
    begin(&mut call.reply, next.unwrap_or(0), found.len());
    found.iter().for_each(|entry| call.reply.blob(entry.name()));
    Ok(())
}

/// The collection to walk over, and how. `None`: there is none, and that was answered, whatever the options.
fn collection<'c, 'a, T: Stores>(call: &'c mut Call<'a>) -> Result<Option<(&'c T, Scan<'a>, &'c mut Reply<'a>)>> {
    cursor(call.arg(2)).ok_or(Refusal::Cursor)?;
    let key = call.key(1);
    if call.engine.read_as::<T>(call.at, &key)?.is_none() {
        begin(&mut call.reply, 0, 0);
        return Ok(None);
    }
    let scan = Scan::options(call, 3, false)?;
    let Call { engine, at, reply, .. } = call;
    Ok(engine.find_as::<T>(*at, &key)?.map(|(collection, _)| (&*collection, scan, reply)))
}

pub(super) fn sscan(call: &mut Call<'_>) -> Result {
    let Some((set, scan, reply)) = collection::<Set>(call)? else { return Ok(()) };
    let mut found = Vec::new();
    let next = set.walk(scan.cursor, scan.count, |name| {
        if name.with(|name| scan.wants(name)) {
            found.push(name);
        }
    });
    begin(reply, next.unwrap_or(0), found.len());
    found.iter().for_each(|name| name.put(reply));
    Ok(())
}

pub(super) fn hscan(call: &mut Call<'_>) -> Result {
    let Some((hash, scan, reply)) = collection::<Hash>(call)? else { return Ok(()) };
    let mut found = Vec::new();
    let next = hash.walk(scan.cursor, scan.count, |name, value| {
        if name.with(|name| scan.wants(name)) {
            found.push((name, value));
        }
    });
    begin(reply, next.unwrap_or(0), found.len() * 2);
    for (name, value) in found {
        name.put(reply);
        value.put(reply);
    }
    Ok(())
}

pub(super) fn zscan(call: &mut Call<'_>) -> Result {
    let Some((zset, scan, reply)) = collection::<Zset>(call)? else { return Ok(()) };
    let mut found = Vec::new();
    let next = zset.walk(scan.cursor, scan.count, |name, score| {
        if name.with(|name| scan.wants(name)) {
            found.push((name, score));
        }
    });
    // Redis packs a score as an integer where it can be one, and tells it here as it is kept.
    let packed = matches!(zset, Zset::Pack(_));
    begin(reply, next.unwrap_or(0), found.len() * 2);
    for (name, score) in found {
        name.put(reply);
        if packed && score.abs() < (1u64 << 62) as f64 && score.trunc() == score {
            reply.bulk_integer(score as i64);
        } else {
            reply.bulk(&DoubleText::new(score));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_as_strtoul_does() {
        for (text, expected) in [
            ("0", Some(0)),
            ("", Some(0)),
            ("+17", Some(17)),
            ("-1", Some(u64::MAX)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("-", None),
            ("1x", None),
            (" 1", None),
        ] {
            assert_eq!(cursor(text.as_bytes()), expected, "{text}");
        }
    }
}
