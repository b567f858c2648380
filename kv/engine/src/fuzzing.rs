//! What fuzzers run, and `cargo test` over the corpus (`kv/engine/fuzz`): one function a target. Bytes go in, and nothing is
//! believed; a panic says that something does not hold.
//!
//! The first byte says how many cuts there are, and how the parser is set; each of the next says how long a part is; they
//! begin anew when all were used. What follows arrives in these parts.

use std::collections::BTreeMap;
use std::fmt::Debug;

use pdpix::{Heap, Input, Rng, Seed, Sga, WallTime};

use crate::blob::Stored;
use crate::engine::Engine;
use crate::glob::Glob;
use crate::object::Object;
use crate::rdb::Reader;
use crate::resp::{Request, RequestParser, ValueParser};
use crate::table::Item;

/// A name, and what runs an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 5] =
    [("resp_request", requests), ("resp_value", values), ("glob", glob), ("rdb", rdb), ("log_record", record)];

/// Runs one input of a target.
///
/// # Panics
/// If something does not hold; or there is no such target.
pub fn run(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(other, _)| *other == name);
    target.unwrap_or_else(|| panic!("there is no target {name}")).1(bytes);
}

/// How, the lengths of the parts, and what is cut.
fn read(bytes: &[u8]) -> (u8, &[u8], &[u8]) {
    let Some((&how, rest)) = bytes.split_first() else { return (0, &[], &[]) };
    let (cuts, rest) = rest.split_at(usize::from(how & 7).min(rest.len()));
    (how, cuts, rest)
}

/// Gives `next` the bytes as they are cut until it has had enough, and lists what it found: however they are cut, the same.
fn compare<T: PartialEq + Debug>(cuts: &[u8], bytes: &[u8], read: impl Fn(&[&[u8]], &Heap) -> T) {
    let heap = Heap::alone(8 << 20).expect("memory for a small heap");
    let (mut parts, mut rest) = (Vec::new(), bytes);
    for len in cuts.iter().cycle().map(|&len| usize::from(len) + 1) {
        if rest.is_empty() {
            break;
        }
        let (part, behind) = rest.split_at(len.min(rest.len()));
        parts.push(part);
        rest = behind;
    }
    parts.extend((!rest.is_empty()).then_some(rest));
    let whole: &[&[u8]] = if bytes.is_empty() { &[] } else { &[bytes] };
    assert_eq!(read(&parts, &heap), read(whole, &heap), "the cut makes a difference");
    assert_eq!(heap.stats().pinned, 0, "bytes pinned when everything is over");
}

/// Requests, as a server reads them.
fn requests(bytes: &[u8]) {
    let (how, cuts, bytes) = read(bytes);
    compare(cuts, bytes, |parts, heap| {
        let (mut parser, mut input, mut request) = (RequestParser::new(), Input::new(), Request::default());
        parser.set_bulk_len_max(64 << 10);
        parser.set_authenticated(how & 8 == 0);
        let mut found: Vec<Vec<Vec<u8>>> = Vec::new();
        for part in parts {
            input.push(Sga::copy(heap, part).expect("memory for a short input"));
            loop {
                match parser.next(&mut input, heap, &mut request) {
                    Ok(true) => found.push(request.args_from(0).map(<[u8]>::to_vec).collect()),
                    Ok(false) => break,
                    Err(error) => return (found, Some(error)),
                }
            }
        }
        (found, None)
    });
}

/// Replies, as a client reads them.
fn values(bytes: &[u8]) {
    let (_, cuts, bytes) = read(bytes);
    compare(cuts, bytes, |parts, heap| {
        let (mut parser, mut input, mut found) = (ValueParser::new(), Input::new(), Vec::new());
        for part in parts {
            input.push(Sga::copy(heap, part).expect("memory for a short input"));
            loop {
                match parser.next(&mut input, heap) {
                    // As text: what is no number equals nothing.
                    Ok(Some(value)) => found.push(format!("{value:?}")),
                    Ok(None) => break,
                    Err(error) => return (found, Some(error)),
                }
            }
        }
        (found, None)
    });
}

/// A pattern, a line break, and what it is tried on.
fn glob(bytes: &[u8]) {
    let at = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (pattern, text) = (&bytes[..at], bytes.get(at + 1..).unwrap_or_default());
    let (exact, any_case) = (Glob::new(pattern), Glob::any_case(pattern));
    let matched = exact.matches(text);
    // As in Redis: nothing but an empty pattern matches an empty text.
    assert!(!exact.is_everything() || matched || text.is_empty(), "what matches everything matches this");
    assert!(!pattern.iter().all(u8::is_ascii_alphanumeric) || matched == (pattern == text), "a word matches itself");
    any_case.matches(text);
}

/// An RDB file. What was understood of it is written and read again.
fn rdb(bytes: &[u8]) {
    let (_, cuts, bytes) = read(bytes);
    compare(cuts, bytes, |parts, heap| {
        let mut engine = Engine::new((0, 1), heap.clone(), Seed::new(1), Rng::new(1));
        let (mut reader, mut error) = (Reader::new(), None);
        for part in parts {
            reader.feed(part);
            if let Err(found) = engine.load(&mut reader, |_| true, None, usize::MAX) {
                error = Some(found);
                break;
            }
        }
        reader.finish();
        error = error.or_else(|| engine.load(&mut reader, |_| true, None, usize::MAX).err());
        let found = contents(&engine, WallTime::from_nanos(0));
        if let Ok(saved) = engine.save() {
            let (mut again, mut reader) = (Engine::new((0, 1), heap.clone(), Seed::new(2), Rng::new(2)), Reader::new());
            saved.segments().iter().for_each(|buf| reader.feed(buf));
            reader.finish();
            again.load(&mut reader, |_| true, None, usize::MAX).expect("what was written is read");
            assert!(reader.is_over());
            assert_eq!(contents(&again, WallTime::from_nanos(0)), found, "what is written is what was read");
        }
        (found, error)
    });
}

/// A record of the log, on some data.
fn record(bytes: &[u8]) {
    let heap = Heap::alone(8 << 20).expect("memory for a small heap");
    let mut engine = Engine::new((0, 1), heap.clone(), Seed::new(1), Rng::new(1));
    let last = crate::log::head_of(bytes).map_or(0, |head| head.number.wrapping_sub(1));
    if last < u64::MAX {
        let _ = engine.replay(bytes, last);
    }
    drop(engine);
    assert_eq!(heap.stats().pinned, 0, "bytes pinned when everything is over");
}

/// All keys of an engine that have not expired, by database and name, each with its type, its value and when it expires:
/// the same text for the same data, however it is kept.
pub fn contents(engine: &Engine, now: WallTime) -> BTreeMap<(usize, Vec<u8>), String> {
    let mut all = BTreeMap::new();
    for (database, keys) in engine.databases.iter().enumerate() {
        let live = keys.entries().iter().filter(|entry| !entry.has_expired(now.as_millis()));
        all.extend(live.map(|entry| {
            let says = format!("{} {:?} {:?}", entry.object.type_name(), elements(&entry.object), entry.expires());
            ((database, entry.key().to_vec()), says)
        }));
    }
    all
}

fn elements(object: &Object) -> Vec<String> {
    let text = |stored: Stored<'_>| stored.with(|bytes| bytes.escape_ascii().to_string());
    let mut elements: Vec<String> = match object {
        Object::Integer(value) => return vec![value.to_string()],
        Object::Text(value) => return vec![text(Stored::Blob(value))],
        Object::List(list) => return list.iter_from(0).map(text).collect(),
        Object::Zset(zset) => {
            return zset.iter_from(0).map(|(name, score)| format!("{} {:x}", text(name), score.to_bits())).collect();
        }
        Object::Set(set) => set.iter().map(text).collect(),
        Object::Hash(hash) => hash.iter().map(|(name, value)| format!("{}={}", text(name), text(value))).collect(),
    };
    elements.sort_unstable();
    elements
}
