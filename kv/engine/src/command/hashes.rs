//! Commands on hashes.

use pdpix::Exhausted;

use super::row::{FAST, GROWS, READONLY, WRITE};
use super::scan::hscan;
use super::sets::count_arg;
use super::{Call, Command, Flags, Group, KeySpec, Result, Run};
use crate::blob::{Blob, Stored};
use crate::data::hash::{Hash, Pairs};
use crate::data::pick;
use crate::engine::Tools;
use crate::number::{Extended, IntegerText, parse_i64};
use crate::refusal::Refusal;
use crate::resp::{Protocol, Reply, Request};

const fn row(name: &'static str, arity: i16, flags: Flags, run: fn(&mut Call<'_>) -> Result) -> Command {
    Command::row(Group::Hash, name, arity, flags, Run::Shard(run))
}

pub(super) const ROWS: &[Command] = &[
    row("hset", -4, GROWS.and(FAST), hset).doc("2.0.0", "O(1)", "Sets fields of a hash").keys(&[KeySpec::UPDATE]),
    row("hmset", -4, GROWS.and(FAST), hmset)
        .doc("2.0.0", "O(N)", "Sets fields of a hash")
        .keys(&[KeySpec::UPDATE])
        .replaced("4.0.0", "`HSET` with multiple field-value pairs"),
    row("hsetnx", 4, GROWS.and(FAST), hsetnx)
        .doc("2.0.0", "O(1)", "Sets a field of a hash unless it is there")
        .keys(&[KeySpec::INSERT]),
    row("hget", 3, READONLY.and(FAST), hget).doc("2.0.0", "O(1)", "Gets a field of a hash").keys(&[KeySpec::READ]),
    row("hmget", -3, READONLY.and(FAST), hmget)
        .doc("2.0.0", "O(N)", "Gets several fields of a hash")
        .keys(&[KeySpec::READ]),
    row("hgetall", 2, READONLY, hgetall)
        .doc("2.0.0", "O(N)", "Gets all fields of a hash with their values")
        .keys(&[KeySpec::READ])
        .tips(&["nondeterministic_output_order"]),
    row("hdel", -3, WRITE.and(FAST), hdel).doc("2.0.0", "O(N)", "Takes fields out of a hash").keys(&[KeySpec::DELETE]),
    row("hlen", 2, READONLY.and(FAST), hlen).doc("2.0.0", "O(1)", "Counts the fields of a hash").keys(&[KeySpec::PEEK]),
    row("hexists", 3, READONLY.and(FAST), hexists)
        .doc("2.0.0", "O(1)", "Tells whether a hash has a field")
        .keys(&[KeySpec::PEEK]),
    row("hkeys", 2, READONLY, hkeys)
        .doc("2.0.0", "O(N)", "Gets the names of all fields of a hash")
        .keys(&[KeySpec::READ])
        .tips(&["nondeterministic_output_order"]),
    row("hvals", 2, READONLY, hvals)
        .doc("2.0.0", "O(N)", "Gets the values of all fields of a hash")
        .keys(&[KeySpec::READ])
        .tips(&["nondeterministic_output_order"]),
    row("hstrlen", 3, READONLY.and(FAST), hstrlen)
        .doc("3.2.0", "O(1)", "Gets the length of a field of a hash")
        .keys(&[KeySpec::PEEK]),
    row("hincrby", 4, GROWS.and(FAST), hincrby)
        .doc("2.0.0", "O(1)", "Adds to an integer in a hash")
        .keys(&[KeySpec::EXCHANGE]),
    row("hincrbyfloat", 4, GROWS.and(FAST), hincrbyfloat)
        .doc("2.6.0", "O(1)", "Adds to a number in a hash")
        .keys(&[KeySpec::EXCHANGE]),
    row("hrandfield", -2, READONLY, hrandfield)
        .doc("6.2.0", "O(N)", "Gets any fields of a hash")
        .keys(&[KeySpec::READ])
        .tips(&["nondeterministic_output"]),
    row("hscan", -3, READONLY, hscan)
        .doc("2.8.0", "O(1)", "Walks over the fields of a hash")
        .keys(&[KeySpec::READ])
        .tips(&["nondeterministic_output"]),
];

/// Fields and values among the arguments, one behind the other from the third on.
struct Args<'a> {
    request: &'a Request,
    heap: pdpix::Heap,
}

impl Pairs for Args<'_> {
    fn count(&self) -> usize {
        (self.request.len() - 2) / 2
    }

    fn name(&self, index: usize) -> &[u8] {
        self.request.arg(2 + index * 2)
    }

    fn value(&self, index: usize) -> &[u8] {
        self.request.arg(3 + index * 2)
    }

    fn keep_name(&self, index: usize) -> std::result::Result<Blob, Exhausted> {
        self.request.blob(2 + index * 2, &self.heap)
    }

    fn keep_value(&self, index: usize) -> std::result::Result<Blob, Exhausted> {
        self.request.blob(3 + index * 2, &self.heap)
    }
}

/// A field among the arguments, and a value that was computed.
struct Computed<'a> {
    request: &'a Request,
    heap: pdpix::Heap,
    value: &'a [u8],
}

impl Pairs for Computed<'_> {
    fn count(&self) -> usize {
        1
    }

    fn name(&self, _: usize) -> &[u8] {
        self.request.arg(2)
    }

    fn value(&self, _: usize) -> &[u8] {
        self.value
    }

    fn keep_name(&self, _: usize) -> std::result::Result<Blob, Exhausted> {
        self.request.blob(2, &self.heap)
    }

    fn keep_value(&self, _: usize) -> std::result::Result<Blob, Exhausted> {
        Blob::copy(self.value, &self.heap)
    }
}

/// Sets fields, and says how many of them were not there.
fn set_pairs(call: &mut Call<'_>, pairs: &impl Pairs) -> Result<usize> {
    let (key, request) = (call.key(1), call.request);
    let set =
        |hash: &mut Hash, tools: &mut Tools| Ok(hash.set_all(pairs, tools.limits.hash, (&tools.heap, &tools.seed))?);
    let new = |tools: &Tools| Hash::new(&tools.heap);
    let added = call.engine.change(call.at, &key, |heap| request.blob(1, heap), new, set)?;
    call.changed(pairs.count());
    Ok(added)
}

fn hset(call: &mut Call<'_>) -> Result {
    let added = set_args(call)?;
    call.reply.count(added);
    Ok(())
}

fn hmset(call: &mut Call<'_>) -> Result {
    set_args(call)?;
    call.reply.ok();
    Ok(())
}

fn set_args(call: &mut Call<'_>) -> Result<usize> {
    if call.request.len() % 2 == 1 {
        return Err(Refusal::Arity);
    }
    let pairs = Args { request: call.request, heap: call.engine.tools.heap.clone() };
    set_pairs(call, &pairs)
}

fn hsetnx(call: &mut Call<'_>) -> Result {
    let (key, name) = (call.key(1), call.arg(2));
    let hash = call.engine.find_as::<Hash>(call.at, &key)?;
    let absent = hash.is_none_or(|(hash, tools)| hash.get(name, &tools.seed).is_none());
    if absent {
        set_args(call)?;
    }
    call.reply.integer(i64::from(absent));
    Ok(())
}

fn put_or_null(reply: &mut Reply<'_>, value: Option<Stored<'_>>) {
    match value {
        Some(value) => value.put(reply),
        None => reply.null(),
    }
}

fn hget(call: &mut Call<'_>) -> Result {
    let (key, name) = (call.key(1), call.arg(2));
    let hash = call.engine.read_as::<Hash>(call.at, &key)?;
    put_or_null(&mut call.reply, hash.and_then(|(hash, tools)| hash.get(name, &tools.seed)));
    Ok(())
}

fn hmget(call: &mut Call<'_>) -> Result {
    let (key, request) = (call.key(1), call.request);
    let hash = call.engine.read_as::<Hash>(call.at, &key)?;
    call.reply.array(request.len() - 2);
    for name in request.args_from(2) {
        put_or_null(&mut call.reply, hash.as_ref().and_then(|(hash, tools)| hash.get(name, &tools.seed)));
    }
    Ok(())
}

fn hgetall(call: &mut Call<'_>) -> Result {
    let key = call.key(1);
    let Some((hash, _)) = call.engine.read_as::<Hash>(call.at, &key)? else {
        call.reply.map(0);
        return Ok(());
    };
    call.reply.map(hash.len());
    for (name, value) in hash.iter() {
        name.put(&mut call.reply);
        value.put(&mut call.reply);
    }
    Ok(())
}

fn hkeys(call: &mut Call<'_>) -> Result {
    tell_all(call, |(name, _)| name)
}

fn hvals(call: &mut Call<'_>) -> Result {
    tell_all(call, |(_, value)| value)
}

fn tell_all(call: &mut Call<'_>, tell: impl for<'s> Fn((Stored<'s>, Stored<'s>)) -> Stored<'s>) -> Result {
    let key = call.key(1);
    let Some((hash, _)) = call.engine.read_as::<Hash>(call.at, &key)? else {
        call.reply.array(0);
        return Ok(());
    };
    call.reply.array(hash.len());
    hash.iter().for_each(|pair| tell(pair).put(&mut call.reply));
    Ok(())
}

fn hdel(call: &mut Call<'_>) -> Result {
    let (key, request) = (call.key(1), call.request);
    let mut removed = 0;
    if let Some((hash, tools)) = call.engine.find_as::<Hash>(call.at, &key)? {
        removed = request.args_from(2).filter(|name| hash.remove(name, (&tools.heap, &tools.seed))).count();
        if hash.is_empty() {
            call.engine.delete(call.at, &key);
        }
    }
    call.changed(removed);
    call.reply.count(removed);
    Ok(())
}

fn hlen(call: &mut Call<'_>) -> Result {
    let key = call.key(1);
    let len = call.engine.read_as::<Hash>(call.at, &key)?.map_or(0, |(hash, _)| hash.len());
    call.reply.count(len);
    Ok(())
}

fn hexists(call: &mut Call<'_>) -> Result {
    let (key, name) = (call.key(1), call.arg(2));
    let hash = call.engine.read_as::<Hash>(call.at, &key)?;
    let found = hash.is_some_and(|(hash, tools)| hash.get(name, &tools.seed).is_some());
    call.reply.integer(i64::from(found));
    Ok(())
}

fn hstrlen(call: &mut Call<'_>) -> Result {
    let (key, name) = (call.key(1), call.arg(2));
    let hash = call.engine.read_as::<Hash>(call.at, &key)?;
    let value = hash.and_then(|(hash, tools)| hash.get(name, &tools.seed));
    call.reply.count(value.map_or(0, |value| value.with(<[u8]>::len)));
    Ok(())
}

/// What `read` makes of the value of the field in argument 2, if it is there.
fn read_field<R>(call: &mut Call<'_>, read: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
    let (key, name) = (call.key(1), call.arg(2));
    let hash = call.engine.find_as::<Hash>(call.at, &key)?;
    Ok(hash.and_then(|(hash, tools)| hash.get(name, &tools.seed)).map(|value| value.with(read)))
}

fn hincrby(call: &mut Call<'_>) -> Result {
    let by = call.integer(3)?;
    let old = read_field(call, parse_i64)?.unwrap_or(Some(0)).ok_or(Refusal::HashNotInteger)?;
    let value = old.checked_add(by).ok_or(Refusal::Overflow)?;
    let text = IntegerText::new(value);
    let pairs = Computed { request: call.request, heap: call.engine.tools.heap.clone(), value: &text };
    set_pairs(call, &pairs)?;
    call.reply.integer(value);
    Ok(())
}

fn hincrbyfloat(call: &mut Call<'_>) -> Result {
    let by = Extended::parse(call.arg(3)).ok_or(Refusal::NotFloat)?;
    if by.is_infinite() {
        return Err(Refusal::NotFinite);
    }
    let old = read_field(call, Extended::parse)?.unwrap_or(Some(Extended::ZERO)).ok_or(Refusal::HashNotFloat)?;
    let text = old.checked_add(by).ok_or(Refusal::SumNotFinite)?.to_text();
    let pairs = Computed { request: call.request, heap: call.engine.tools.heap.clone(), value: &text };
    set_pairs(call, &pairs)?;
    call.reply.bulk(&text);
    Ok(())
}

/// Whether argument 3 asks for values (or scores) too.
pub(super) fn asks_for(call: &Call<'_>, word: &str, count: i64) -> Result<bool> {
    match call.request.len() {
        ..4 => Ok(false),
        4 if call.is_word(3, word) => {
            if (-i64::MAX / 2..=i64::MAX / 2).contains(&count) {
                Ok(true)
            } else {
                Err(Refusal::OutOfRange)
            }
        }
        _ => Err(Refusal::Syntax),
    }
}

fn hrandfield(call: &mut Call<'_>) -> Result {
    let (key, with_count) = (call.key(1), call.request.len() > 2);
    let count = if with_count { count_arg(call)? } else { 1 };
    let values = asks_for(call, "withvalues", count)?;
    let Call { engine, reply, at, .. } = call;
    let Some((hash, tools)) = engine.read_as::<Hash>(*at, &key)? else {
        if with_count {
            reply.array(0)
        } else {
            reply.null()
        }
        return Ok(());
    };
    if !with_count {
        put_or_null(reply, hash.random(&mut tools.rng).and_then(|which| hash.at(which)).map(|(name, _)| name));
        return Ok(());
    }
    let put = |reply: &mut Reply<'_>, (name, value): (Stored<'_>, Stored<'_>)| {
        if values && reply.protocol() == Protocol::Resp3 {
            reply.array(2);
        }
        name.put(reply);
        if values {
            value.put(reply);
        }
    };
    let len_of = |reply: &Reply<'_>, count: usize| {
        if values && reply.protocol() == Protocol::Resp2 { count * 2 } else { count }
    };
    if count < 0 {
        reply.array(len_of(reply, count.unsigned_abs() as usize));
        for _ in 0..count.unsigned_abs() {
            if reply.out().has_failed() {
                break; // it was asked for more than there is memory for
            }
            if let Some(pair) = hash.random(&mut tools.rng).and_then(|which| hash.at(which)) {
                put(reply, pair);
            }
        }
    } else {
        let picked = pick(count as usize, hash.len(), &mut tools.rng, |rng| hash.random(rng), || hash.all());
        reply.array(len_of(reply, picked.len()));
        picked.iter().filter_map(|&which| hash.at(which)).for_each(|pair| put(reply, pair));
    }
    Ok(())
}
