//! Commands on strings.

use pdpix::{BufMut, Exhausted, Heap};
use smallvec::SmallVec;

use super::options::Options;
use super::row::{FAST, GROWS, READONLY, WRITE};
use super::{Call, Command, Flags, Group, KeySpec, Result, Run, Spread};
use crate::blob::{Blob, SHORT_MAX};
use crate::keyspace::{Entry, Key, NEVER, access_time};
use crate::number::{IntegerText, parse_i64};
use crate::object::Object;
use crate::refusal::Refusal;
use crate::resp::Request;

const fn row(name: &'static str, arity: i16, flags: Flags, run: fn(&mut Call<'_>) -> Result) -> Command {
    Command::row(Group::String, name, arity, flags, Run::Shard(run))
}

pub(super) const ROWS: &[Command] = &[
    row("set", -3, GROWS, set).doc("1.0.0", "O(1)", "Sets a string").keys(&[KeySpec::SET]),
    row("get", 2, READONLY.and(FAST), get).doc("1.0.0", "O(1)", "Gets a string").keys(&[KeySpec::READ]),
    row("getdel", 2, WRITE.and(FAST), getdel)
        .doc("6.2.0", "O(1)", "Gets a string and deletes its key")
        .keys(&[KeySpec::TAKE]),
    row("getex", -2, WRITE.and(FAST), getex)
        .doc("6.2.0", "O(1)", "Gets a string and changes its expiry")
        .keys(&[KeySpec::EXCHANGE]),
    row("getset", 3, GROWS.and(FAST), getset)
        .doc("1.0.0", "O(1)", "Sets a string and gets the one before")
        .keys(&[KeySpec::EXCHANGE])
        .replaced("6.2.0", "`SET` with the `!GET` argument"),
    row("setnx", 3, GROWS.and(FAST), setnx)
        .doc("1.0.0", "O(1)", "Sets a string unless the key is there")
        .keys(&[KeySpec::CREATE]),
    row("setex", 4, GROWS, setex)
        .doc("2.0.0", "O(1)", "Sets a string that expires after some seconds")
        .keys(&[KeySpec::OVERWRITE]),
    row("psetex", 4, GROWS, psetex)
        .doc("2.6.0", "O(1)", "Sets a string that expires after some milliseconds")
        .keys(&[KeySpec::OVERWRITE]),
    row("append", 3, GROWS.and(FAST), append).doc("2.0.0", "O(1)", "Appends to a string").keys(&[KeySpec::INSERT]),
    row("strlen", 2, READONLY.and(FAST), strlen)
        .doc("2.2.0", "O(1)", "Gets the length of a string")
        .keys(&[KeySpec::PEEK]),
    row("getrange", 4, READONLY, getrange).doc("2.4.0", "O(N)", "Gets a part of a string").keys(&[KeySpec::READ]),
    row("substr", 4, READONLY, substr)
        .doc("1.0.0", "O(N)", "Gets a part of a string")
        .keys(&[KeySpec::READ])
        .replaced("2.0.0", "`GETRANGE`"),
    row("setrange", 4, GROWS, setrange).doc("2.2.0", "O(1)", "Overwrites a part of a string").keys(&[KeySpec::UPDATE]),
    row("mget", -2, READONLY.and(FAST), mget)
        .doc("1.0.0", "O(N)", "Gets several strings")
        .keys(&[KeySpec::READ_ALL])
        .tips(&["request_policy:multi_shard"])
        .spread(Spread::Strings),
    row("mset", -3, GROWS, mset)
        .doc("1.0.1", "O(N)", "Sets several strings")
        .keys(&[KeySpec::OVERWRITE_PAIRS])
        .tips(&["request_policy:multi_shard", "response_policy:all_succeeded"])
        .spread(Spread::Store),
    row("msetnx", -3, GROWS, msetnx)
        .doc("1.0.1", "O(N)", "Sets several strings unless one of the keys is there")
        .keys(&[KeySpec::CREATE_PAIRS])
        .tips(&["request_policy:multi_shard", "response_policy:agg_min"])
        .spread(Spread::StoreNew),
];

/// What becomes of a key's expiry when its value is set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Expiry {
    Keep,
    Clear,
    At(u64),
}

/// A string in the form in which it is stored.
#[inline]
pub(super) fn string(request: &Request, index: usize, heap: &Heap) -> std::result::Result<Object, Exhausted> {
    let arg = request.arg(index);
    if arg.len() <= 20
        && let Some(value) = parse_i64(arg)
    {
        return Ok(Object::Integer(value));
    }
    Ok(Object::Text(request.blob(index, heap)?))
}

/// Sets the value of a key; `name` is what it is called if it is new.
#[inline]
pub(super) fn put(
    call: &mut Call<'_>,
    key: &Key<'_>,
    name: impl FnOnce(&Call<'_>) -> Result<Blob>,
    object: Object,
    expiry: Expiry,
) -> Result {
    let at = call.at;
    let place = match call.engine.locate(at, key) {
        Some(place) => {
            let database = call.engine.database_mut(at);
            let entry = database.at_mut(place);
            let old = std::mem::replace(&mut entry.object, object);
            entry.built = false;
            entry.accessed.set(access_time(at.now));
            if expiry == Expiry::Clear && entry.expires().is_some() {
                database.set_expiry(place, NEVER);
            }
            if !matches!(old, Object::Integer(_) | Object::Text(_)) {
                call.engine.garbage.take(old);
            }
            Some(place)
        }
        None => {
            let name = name(call)?;
            call.engine.add(at, name, key.hash, object);
            None
        }
    };
    if let Expiry::At(expires) = expiry
        && let Some(place) = place.or_else(|| call.engine.database(at).locate(key))
    {
        call.engine.database_mut(at).set_expiry(place, expires);
    }
    call.changed(1);
    Ok(())
}

/// Writes a string as a bulk string. The object is known to be one.
#[inline(always)]
fn reply_with(call: &mut Call<'_>, key: &Key<'_>) -> Result<bool> {
    match call.engine.read(call.at, key).map(|entry| &entry.object) {
        Some(Object::Text(text)) => call.reply.blob(text),
        Some(Object::Integer(value)) => call.reply.bulk_integer(*value),
        Some(_) => return Err(Refusal::WrongType),
        None => {
            call.reply.null();
            return Ok(false);
        }
    }
    Ok(true)
}

fn get(call: &mut Call<'_>) -> Result {
    let key = call.key(1);
    reply_with(call, &key).map(drop)
}

fn set(call: &mut Call<'_>) -> Result {
    if call.request.len() > 3 {
        return set_with_options(call);
    }
    let key = call.key(1);
    let object = string(call.request, 2, &call.engine.tools.heap)?;
    put(call, &key, |call| call.blob(1), object, Expiry::Clear)?;
    call.reply.ok();
    Ok(())
}

/// The time at which a key is to expire: an argument, its unit in milliseconds, and what it is counted from.
#[derive(Clone, Copy)]
struct ExpiryArg {
    index: usize,
    unit: i64,
    relative: bool,
}

impl ExpiryArg {
    /// Takes one of EX, PX, EXAT, PXAT with its argument.
    fn take(options: &mut Options<'_>) -> Option<ExpiryArg> {
        for (word, unit, relative) in [("ex", 1000, true), ("px", 1, true), ("exat", 1000, false), ("pxat", 1, false)] {
            if options.take_with(word, 1) {
                return Some(ExpiryArg { index: options.take_any(), unit, relative });
            }
        }
        None
    }

    /// Takes the place of the one before it. Redis lets an expiry be given twice in the same unit, and the last one counts;
    /// false: it was in another.
    fn follow(self, before: &mut Option<ExpiryArg>) -> bool {
        let fine = before.is_none_or(|before| (before.unit, before.relative) == (self.unit, self.relative));
        if fine {
            *before = Some(self);
        }
        fine
    }

    /// Milliseconds since 1970.
    fn resolve(self, call: &Call<'_>) -> Result<u64> {
        let value = call.integer(self.index)?;
        let base = if self.relative { call.at.now as i64 } else { 0 };
        let expires = value.checked_mul(self.unit).filter(|_| value > 0).and_then(|value| value.checked_add(base));
        expires.map(|expires| expires as u64).ok_or(Refusal::ExpireTime)
    }
}

fn set_with_options(call: &mut Call<'_>) -> Result {
    let (mut nx, mut xx, mut get, mut keep, mut expiry) = (false, false, false, false, None::<ExpiryArg>);
    call.options(3).each(|options| {
        if !xx && options.take("nx") {
            nx = true;
        } else if !nx && options.take("xx") {
            xx = true;
        } else if options.take("get") {
            get = true;
        } else if expiry.is_none() && options.take("keepttl") {
            keep = true;
        } else if let Some(arg) = ExpiryArg::take(options).filter(|_| !keep) {
            return Ok(arg.follow(&mut expiry));
        } else {
            return Err(Refusal::Syntax);
        }
        Ok(true)
    })?;
    let expiry = match expiry {
        Some(arg) => Expiry::At(arg.resolve(call)?),
        None if keep => Expiry::Keep,
        None => Expiry::Clear,
    };
    let key = call.key(1);
    let object = string(call.request, 2, &call.engine.tools.heap)?;
    let found =
        call.engine.find(call.at, &key).map(|entry| matches!(entry.object, Object::Integer(_) | Object::Text(_)));
    if get && found == Some(false) {
        return Err(Refusal::WrongType);
    }
    let refused = nx && found.is_some() || xx && found.is_none();
    let name = if found.is_none() && !refused { Some(call.blob(1)?) } else { None };
    if get {
        reply_with(call, &key)?;
    } else if refused {
        call.reply.null();
    } else {
        call.reply.ok();
    }
    if refused {
        return Ok(());
    }
    put(call, &key, |_| name.ok_or(Refusal::OutOfMemory), object, expiry)
}

fn setnx(call: &mut Call<'_>) -> Result {
    let key = call.key(1);
    let absent = call.engine.locate(call.at, &key).is_none();
    if absent {
        let object = string(call.request, 2, &call.engine.tools.heap)?;
        put(call, &key, |call| call.blob(1), object, Expiry::Clear)?;
    }
    call.reply.integer(i64::from(absent));
    Ok(())
}

fn setex(call: &mut Call<'_>) -> Result {
    set_expiring(call, 1000)
}

fn psetex(call: &mut Call<'_>) -> Result {
    set_expiring(call, 1)
}

fn set_expiring(call: &mut Call<'_>, unit: i64) -> Result {
    let expires = ExpiryArg { index: 2, unit, relative: true }.resolve(call)?;
    let key = call.key(1);
    let object = string(call.request, 3, &call.engine.tools.heap)?;
    put(call, &key, |call| call.blob(1), object, Expiry::At(expires))?;
    call.reply.ok();
    Ok(())
}

fn getset(call: &mut Call<'_>) -> Result {
    let key = call.key(1);
    let object = string(call.request, 2, &call.engine.tools.heap)?;
    let name = call.blob(1)?;
    reply_with(call, &key)?;
    put(call, &key, |_| Ok(name), object, Expiry::Clear)
}

fn getdel(call: &mut Call<'_>) -> Result {
    let key = call.key(1);
    if reply_with(call, &key)? {
        call.engine.delete(call.at, &key);
        call.changed(1);
    }
    Ok(())
}

fn getex(call: &mut Call<'_>) -> Result {
    let (mut persist, mut expiry) = (false, None::<ExpiryArg>);
    call.options(2).each(|options| {
        if expiry.is_none() && options.take("persist") {
            persist = true;
        } else if let Some(arg) = ExpiryArg::take(options).filter(|_| !persist) {
            return Ok(arg.follow(&mut expiry));
        } else {
            return Err(Refusal::Syntax);
        }
        Ok(true)
    })?;
    let key = call.key(1);
    // Redis looks at the time only if there is a string.
    let is_string =
        call.engine.find(call.at, &key).is_some_and(|e| matches!(e.object, Object::Integer(_) | Object::Text(_)));
    let expires = expiry.filter(|_| is_string).map(|arg| arg.resolve(call)).transpose()?;
    if !reply_with(call, &key)? {
        return Ok(());
    }
    let relative = expiry.is_none_or(|arg| arg.relative);
    match (expires, call.engine.locate(call.at, &key)) {
        (Some(expires), _) if !relative && expires <= call.at.now => _ = call.engine.delete(call.at, &key),
        (Some(expires), Some(place)) => call.engine.database_mut(call.at).set_expiry(place, expires),
        (None, Some(place)) if persist => call.engine.database_mut(call.at).set_expiry(place, NEVER),
        _ => return Ok(()),
    }
    call.changed(1);
    Ok(())
}

fn mget(call: &mut Call<'_>) -> Result {
    call.reply.array(call.request.len() - 1);
    for index in 1..call.request.len() {
        let key = call.key(index);
        match call.engine.read(call.at, &key).map(|entry| &entry.object) {
            Some(Object::Text(text)) => call.reply.blob(text),
            Some(Object::Integer(value)) => call.reply.bulk_integer(*value),
            _ => call.reply.null(),
        }
    }
    Ok(())
}

fn mset(call: &mut Call<'_>) -> Result {
    set_pairs(call)?;
    call.reply.ok();
    Ok(())
}

fn msetnx(call: &mut Call<'_>) -> Result {
    if call.request.len().is_multiple_of(2) {
        return Err(Refusal::Arity);
    }
    for index in (1..call.request.len()).step_by(2) {
        let key = call.key(index);
        if call.engine.locate(call.at, &key).is_some() {
            call.reply.integer(0);
            return Ok(());
        }
    }
    set_pairs(call)?;
    call.reply.integer(1);
    Ok(())
}

fn set_pairs(call: &mut Call<'_>) -> Result {
    if call.request.len().is_multiple_of(2) {
        return Err(Refusal::Arity);
    }
    // All that may fail comes first.
    let mut pairs: SmallVec<[(Key<'_>, Blob, Object); 8]> = SmallVec::new();
    for index in (1..call.request.len()).step_by(2) {
        pairs.push((call.key(index), call.blob(index)?, string(call.request, index + 1, &call.engine.tools.heap)?));
    }
    for (key, name, object) in pairs {
        put(call, &key, |_| Ok(name), object, Expiry::Clear)?;
    }
    Ok(())
}

fn strlen(call: &mut Call<'_>) -> Result {
    let key = call.key(1);
    let len = match call.engine.read(call.at, &key).map(|entry| &entry.object) {
        Some(Object::Text(text)) => text.len(),
        Some(Object::Integer(value)) => IntegerText::new(*value).len(),
        Some(_) => return Err(Refusal::WrongType),
        None => 0,
    };
    call.reply.count(len);
    Ok(())
}

fn substr(call: &mut Call<'_>) -> Result {
    getrange(call)
}

fn getrange(call: &mut Call<'_>) -> Result {
    let (start, end) = (call.integer(2)?, call.integer(3)?);
    let key = call.key(1);
    match call.engine.read(call.at, &key).map(|entry| &entry.object) {
        Some(Object::Text(text)) => match part(start, end, text.len()) {
            Some(range) => call.reply.blob_part(text, range),
            None => call.reply.bulk(b""),
        },
        Some(Object::Integer(value)) => {
            let text = IntegerText::new(*value);
            call.reply.bulk(part(start, end, text.len()).map_or(&[], |range| &text[range]));
        }
        Some(_) => return Err(Refusal::WrongType),
        None => call.reply.bulk(b""),
    }
    Ok(())
}

/// The bytes from `start` to `end`, both counted from the end if negative, of a string of `len`.
fn part(start: i64, end: i64, len: usize) -> Option<std::ops::Range<usize>> {
    if start < 0 && end < 0 && start > end {
        return None;
    }
    let from_end = |index: i64| if index < 0 { index.saturating_add(len as i64).max(0) } else { index };
    let (start, end) = (from_end(start), from_end(end).min(len as i64 - 1));
    (start <= end).then(|| start as usize..end as usize + 1)
}

/// A string under construction: what the key held, in memory that can be written to, with room for `len` bytes in all.
fn writable(entry: &mut Entry, len: usize, heap: &Heap) -> std::result::Result<BufMut, Exhausted> {
    // Built once, it is likely to be built on.
    let roomy = || heap.alloc(len.saturating_add(len.min(1 << 20)));
    let copied = |bytes: &[u8]| {
        let mut copy = roomy().or_else(|_| heap.alloc(len))?;
        copy.put(bytes);
        Ok(copy)
    };
    match std::mem::replace(&mut entry.object, Object::Integer(0)) {
        Object::Text(text) => match text.into_buf() {
            Err(short) => {
                let copy = copied(&short);
                entry.object = Object::Text(short);
                copy
            }
            Ok(buf) => match buf.try_mut() {
                Ok(ours) if ours.capacity() >= len => Ok(ours),
                Ok(ours) => {
                    let copy = copied(&ours);
                    entry.object = Object::Text(Blob::from_buf(ours.freeze()));
                    copy
                }
                Err(shared) => {
                    let copy = copied(&shared);
                    entry.object = Object::Text(Blob::from_buf(shared));
                    copy
                }
            },
        },
        Object::Integer(value) => {
            entry.object = Object::Integer(value);
            copied(&IntegerText::new(value))
        }
        other => {
            entry.object = other;
            Err(Exhausted)
        }
    }
}

/// Changes a string in place: `write` gets its bytes, at least `len` of them, new ones being zero.
fn build(entry: &mut Entry, len: usize, heap: &Heap, write: impl FnOnce(&mut [u8])) -> Result {
    let len = len.max(len_of(entry)?);
    if len <= SHORT_MAX {
        let mut bytes = [0; SHORT_MAX];
        match &entry.object {
            Object::Text(text) => bytes[..text.len()].copy_from_slice(text),
            Object::Integer(value) => {
                let text = IntegerText::new(*value);
                bytes[..text.len()].copy_from_slice(&text);
            }
            _ => return Err(Refusal::WrongType),
        }
        write(&mut bytes[..len]);
        entry.object = Object::Text(Blob::copy(&bytes[..len], heap)?);
    } else {
        let mut bytes = writable(entry, len, heap)?;
        bytes.resize(len, 0);
        write(&mut bytes);
        entry.object = Object::Text(Blob::from_buf(bytes.freeze()));
    }
    entry.built = true;
    Ok(())
}

/// How long the string in `entry` is.
fn len_of(entry: &Entry) -> Result<usize> {
    match &entry.object {
        Object::Text(text) => Ok(text.len()),
        Object::Integer(value) => Ok(IntegerText::new(*value).len()),
        _ => Err(Refusal::WrongType),
    }
}

fn append(call: &mut Call<'_>) -> Result {
    let (key, more) = (call.key(1), call.arg(2));
    let (max, heap) = (call.engine.tools.limits.bulk_len, call.engine.tools.heap.clone());
    let len = match call.engine.find(call.at, &key) {
        Some(entry) => {
            let old_len = len_of(entry)?;
            let len = old_len + more.len();
            if len > max {
                return Err(Refusal::StringTooLong);
            }
            build(entry, len, &heap, |bytes| bytes[old_len..].copy_from_slice(more))?;
            len
        }
        None => {
            let object = string(call.request, 2, &heap)?;
            let name = call.blob(1)?;
            call.engine.add(call.at, name, key.hash, object);
            more.len()
        }
    };
    call.changed(1);
    call.reply.count(len);
    Ok(())
}

fn setrange(call: &mut Call<'_>) -> Result {
    let offset = usize::try_from(call.integer(2)?).map_err(|_| Refusal::OffsetOutOfRange)?;
    let (key, value) = (call.key(1), call.arg(3));
    let (max, heap) = (call.engine.tools.limits.bulk_len, call.engine.tools.heap.clone());
    let end = offset.checked_add(value.len()).filter(|&end| end <= max).ok_or(Refusal::StringTooLong);
    let len = match call.engine.find(call.at, &key) {
        Some(entry) => {
            let old_len = len_of(entry)?;
            if value.is_empty() {
                call.reply.count(old_len);
                return Ok(());
            }
            let end = end?;
            build(entry, end, &heap, |bytes| bytes[offset..end].copy_from_slice(value))?;
            old_len.max(end)
        }
        None if value.is_empty() => {
            call.reply.integer(0);
            return Ok(());
        }
        None => {
            let end = end?;
            let mut bytes = heap.alloc(end)?;
            bytes.resize(offset, 0);
            bytes.put(value);
            let name = call.blob(1)?;
            let mut entry = Entry::new(name, key.hash, Object::Text(Blob::from_buf(bytes.freeze())), call.at.now);
            entry.built = true;
            call.engine.database_mut(call.at).insert(entry);
            end
        }
    };
    call.changed(1);
    call.reply.count(len);
    Ok(())
}
