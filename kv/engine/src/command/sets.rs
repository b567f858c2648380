//! Commands on sets.

use pdpix::Exhausted;
use smallvec::SmallVec;

use super::row::{FAST, GROWS, READONLY, WRITE};
use super::scan::sscan;
use super::{Call, Command, Flags, Group, KeySpec, Result, Run, Spread};
use crate::blob::{Blob, Stored};
use crate::data::integers::Integers;
use crate::data::pick;
use crate::data::set::Set;
use crate::engine::Tools;
use crate::keyspace::{Entry, Key};
use crate::number::parse_i64;
use crate::object::Stores;
use crate::refusal::Refusal;

const fn row(name: &'static str, arity: i16, flags: Flags, run: fn(&mut Call<'_>) -> Result) -> Command {
    Command::row(Group::Set, name, arity, flags, Run::Shard(run))
}

pub(super) const ROWS: &[Command] = &[
    row("sadd", -3, GROWS.and(FAST), sadd).doc("1.0.0", "O(1)", "Adds members to a set").keys(&[KeySpec::INSERT]),
    row("srem", -3, WRITE.and(FAST), srem).doc("1.0.0", "O(N)", "Takes members out of a set").keys(&[KeySpec::DELETE]),
    row("scard", 2, READONLY.and(FAST), scard)
        .doc("1.0.0", "O(1)", "Counts the members of a set")
        .keys(&[KeySpec::PEEK]),
    row("sismember", 3, READONLY.and(FAST), sismember)
        .doc("1.0.0", "O(1)", "Tells whether a set has a member")
        .keys(&[KeySpec::PEEK]),
    row("smismember", -3, READONLY.and(FAST), smismember)
        .doc("6.2.0", "O(N)", "Tells which members a set has")
        .keys(&[KeySpec::READ]),
    row("smembers", 2, READONLY, smembers)
        .doc("1.0.0", "O(N)", "Gets all members of a set")
        .keys(&[KeySpec::READ])
        .tips(&["nondeterministic_output_order"]),
    row("spop", -2, WRITE.and(FAST), spop)
        .doc(
            "1.0.0",
            "Without the count argument O(1), otherwise O(N) where N is the value of the passed count",
            "Takes any members out of a set",
        )
        .keys(&[KeySpec::TAKE])
        .tips(&["nondeterministic_output"]),
    row("srandmember", -2, READONLY, srandmember)
        .doc(
            "1.0.0",
            "Without the count argument O(1), otherwise O(N) where N is the absolute value of the passed count",
            "Gets any members of a set",
        )
        .keys(&[KeySpec::READ])
        .tips(&["nondeterministic_output"]),
    row("smove", 4, WRITE.and(FAST), smove)
        .doc("1.0.0", "O(1)", "Moves a member from one set to another")
        .keys(&[KeySpec::TAKE, KeySpec::INSERT.second()])
        .spread(Spread::MoveMember),
    row("sinter", -2, READONLY, sinter)
        .doc("1.0.0", "O(N*M)", "Gets the members that all sets have")
        .keys(&[KeySpec::READ_ALL])
        .tips(&["nondeterministic_output_order"]),
    row("sunion", -2, READONLY, sunion)
        .doc("1.0.0", "O(N)", "Gets the members that any of the sets has")
        .keys(&[KeySpec::READ_ALL])
        .tips(&["nondeterministic_output_order"]),
    row("sdiff", -2, READONLY, sdiff)
        .doc("1.0.0", "O(N)", "Gets the members of the first set that no other has")
        .keys(&[KeySpec::READ_ALL])
        .tips(&["nondeterministic_output_order"]),
    row("sinterstore", -3, GROWS, sinterstore)
        .doc("1.0.0", "O(N*M)", "Stores the members that all sets have")
        .keys(&[KeySpec::UPDATE, KeySpec::READ_ALL.second()]),
    row("sunionstore", -3, GROWS, sunionstore)
        .doc("1.0.0", "O(N)", "Stores the members that any of the sets has")
        .keys(&[KeySpec::OVERWRITE, KeySpec::READ_ALL.second()]),
    row("sdiffstore", -3, GROWS, sdiffstore)
        .doc("1.0.0", "O(N)", "Stores the members of the first set that no other has")
        .keys(&[KeySpec::OVERWRITE, KeySpec::READ_ALL.second()]),
    row("sintercard", -3, READONLY, sintercard)
        .doc("7.0.0", "O(N*M)", "Counts the members that all sets have")
        .keys(&[KeySpec::READ_COUNTED]),
    row("sscan", -3, READONLY, sscan)
        .doc("2.8.0", "O(1)", "Walks over the members of a set")
        .keys(&[KeySpec::READ])
        .tips(&["nondeterministic_output"]),
];

fn sadd(call: &mut Call<'_>) -> Result {
    let (key, request) = (call.key(1), call.request);
    let add = |set: &mut Set, tools: &mut Tools| {
        let keep = |index: usize| request.blob(index + 2, &tools.heap);
        let max = tools.limits.set_integers;
        Ok(set.add_all(request.args_from(2), keep, max, (&tools.heap, &tools.seed))?)
    };
    let new = |tools: &Tools| Set::new_for(request.arg(2), &tools.heap);
    let added = call.engine.change(call.at, &key, |heap| request.blob(1, heap), new, add)?;
    call.changed(added);
    call.reply.count(added);
    Ok(())
}

fn srem(call: &mut Call<'_>) -> Result {
    let (key, request) = (call.key(1), call.request);
    let mut removed = 0;
    if let Some((set, tools)) = call.engine.find_as::<Set>(call.at, &key)? {
        removed = request.args_from(2).filter(|name| set.remove(name, &tools.seed)).count();
        delete_if_empty(call, &key)?;
    }
    call.changed(removed);
    call.reply.count(removed);
    Ok(())
}

/// A set that has lost its last member goes with its key.
fn delete_if_empty(call: &mut Call<'_>, key: &Key<'_>) -> Result {
    if call.engine.find_as::<Set>(call.at, key)?.is_some_and(|(set, _)| set.is_empty()) {
        call.engine.delete(call.at, key);
    }
    Ok(())
}

fn scard(call: &mut Call<'_>) -> Result {
    let key = call.key(1);
    let len = call.engine.read_as::<Set>(call.at, &key)?.map_or(0, |(set, _)| set.len());
    call.reply.count(len);
    Ok(())
}

fn sismember(call: &mut Call<'_>) -> Result {
    let (key, name) = (call.key(1), call.arg(2));
    let set = call.engine.read_as::<Set>(call.at, &key)?;
    let found = set.is_some_and(|(set, tools)| set.contains(name, &tools.seed));
    call.reply.integer(i64::from(found));
    Ok(())
}

fn smismember(call: &mut Call<'_>) -> Result {
    let (key, request) = (call.key(1), call.request);
    let set = call.engine.read_as::<Set>(call.at, &key)?;
    call.reply.array(request.len() - 2);
    for name in request.args_from(2) {
        let found = set.as_ref().is_some_and(|(set, tools)| set.contains(name, &tools.seed));
        call.reply.integer(i64::from(found));
    }
    Ok(())
}

fn smembers(call: &mut Call<'_>) -> Result {
    let key = call.key(1);
    let Some((set, _)) = call.engine.read_as::<Set>(call.at, &key)? else {
        call.reply.set(0);
        return Ok(());
    };
    call.reply.set(set.len());
    set.iter().for_each(|name| name.put(&mut call.reply));
    Ok(())
}

fn spop(call: &mut Call<'_>) -> Result {
    let key = call.key(1);
    let with_count = call.request.len() > 2;
    if call.request.len() > 3 {
        return Err(Refusal::Syntax);
    }
    let count = if with_count { call.natural(2)? } else { 1 };
    let Call { engine, reply, at, .. } = call;
    let Some((set, tools)) = engine.find_as::<Set>(*at, &key)? else {
        if with_count {
            reply.set(0)
        } else {
            reply.null()
        }
        return Ok(());
    };
    let taken = count.min(set.len());
    if taken == set.len() {
        if with_count {
            reply.set(taken);
        }
        set.iter().for_each(|name| name.put(reply));
        call.engine.delete(call.at, &key);
        call.engine.note_instead(&[b"DEL", key.bytes], &[], call.at);
    } else {
        // Copied before the first goes, as that may fail.
        let picked = pick(taken, set.len(), &mut tools.rng, |rng| set.random(rng), || set.all());
        let names = picked.iter().filter_map(|&which| set.get(which));
        let gone =
            names.map(|name| name.to_blob(&tools.heap)).collect::<std::result::Result<Vec<Blob>, Exhausted>>()?;
        if with_count {
            reply.set(taken);
        }
        for name in &gone {
            Stored::Blob(name).put(reply);
            set.remove(name, &tools.seed);
        }
        if taken > 0 {
            // A log is told what went, and not that it was left to chance.
            call.engine.note_instead(&[b"SREM", key.bytes], &gone, call.at);
        }
    }
    call.changed(taken);
    Ok(())
}

fn srandmember(call: &mut Call<'_>) -> Result {
    let (key, with_count) = (call.key(1), call.request.len() > 2);
    if call.request.len() > 3 {
        return Err(Refusal::Syntax);
    }
    let count = if with_count { count_arg(call)? } else { 1 };
    let Call { engine, reply, at, .. } = call;
    let Some((set, tools)) = engine.read_as::<Set>(*at, &key)? else {
        if with_count {
            reply.array(0)
        } else {
            reply.null()
        }
        return Ok(());
    };
    if !with_count {
        if let Some(name) = set.random(&mut tools.rng).and_then(|which| set.get(which)) {
            name.put(reply);
        }
    } else if count < 0 {
        reply.array(count.unsigned_abs() as usize);
        for _ in 0..count.unsigned_abs() {
            // It may be asked for more than there is memory for.
            if reply.out().has_failed() {
                break;
            }
            if let Some(name) = set.random(&mut tools.rng).and_then(|which| set.get(which)) {
                name.put(reply);
            }
        }
    } else {
        let picked = pick(count as usize, set.len(), &mut tools.rng, |rng| set.random(rng), || set.all());
        reply.array(picked.len());
        picked.iter().filter_map(|&which| set.get(which)).for_each(|name| name.put(reply));
    }
    Ok(())
}

/// How many, in argument 2: if negative, with repetitions.
pub(super) fn count_arg(call: &Call<'_>) -> Result<i64> {
    let count = call.integer(2)?;
    if count == i64::MIN { Err(Refusal::CountRange) } else { Ok(count) }
}

fn smove(call: &mut Call<'_>) -> Result {
    let (source, destination, request) = (call.key(1), call.key(2), call.request);
    let name = request.arg(3);
    // The source decides first: without it the type of the destination does not matter.
    let Some((set, tools)) = call.engine.find_as::<Set>(call.at, &source)? else {
        call.reply.integer(0);
        return Ok(());
    };
    let found = set.contains(name, &tools.seed);
    call.engine.find_as::<Set>(call.at, &destination)?;
    if found && source.bytes != destination.bytes {
        // Added first, as that may fail.
        let add = |set: &mut Set, tools: &mut Tools| {
            let keep = |_| request.blob(3, &tools.heap);
            let max = tools.limits.set_integers;
            Ok(set.add_all(std::iter::once(name), keep, max, (&tools.heap, &tools.seed))?)
        };
        let new = |tools: &Tools| Set::new_for(name, &tools.heap);
        call.engine.change(call.at, &destination, |heap| request.blob(2, heap), new, add)?;
        if let Some((set, tools)) = call.engine.find_as::<Set>(call.at, &source)? {
            set.remove(name, &tools.seed);
        }
        delete_if_empty(call, &source)?;
        call.changed(1);
    }
    call.reply.integer(i64::from(found));
    Ok(())
}

/// Which members of several sets are meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Combine {
    Inter,
    Union,
    Diff,
}

/// Those members of the sets of the keys in `args` that are meant, at most `max` of them.
fn combine(call: &mut Call<'_>, args: std::ops::Range<usize>, combine: Combine, max: usize) -> Result<Vec<Blob>> {
    // Each is looked up as a read, so that it is counted and its type checked, in order.
    let mut keys: SmallVec<[Key<'_>; 4]> = SmallVec::new();
    for index in args {
        let key = call.key(index);
        call.engine.read_as::<Set>(call.at, &key)?;
        keys.push(key);
    }
    let (database, now) = (call.engine.database(call.at), call.at.now);
    let (seed, heap) = (&call.engine.tools.seed, &call.engine.tools.heap);
    let set_of = |key: &Key<'_>| {
        let entry = database.entries().find(key.hash, key.bytes).filter(|entry: &&Entry| !entry.has_expired(now))?;
        Set::view(&entry.object)
    };
    let sets: SmallVec<[Option<&Set>; 4]> = keys.iter().map(set_of).collect();
    let has = |set: &Option<&Set>, name: Stored<'_>| set.is_some_and(|set| name.with(|name| set.contains(name, seed)));
    let mut found = Vec::new();
    match combine {
        Combine::Inter => {
            let smallest = sets.iter().copied().flatten().min_by_key(|set| set.len());
            let meant = smallest.filter(|_| sets.iter().all(Option::is_some));
            for name in meant.into_iter().flat_map(Set::iter) {
                let is_it = |set: &&Set| meant.is_some_and(|meant| std::ptr::eq(*set, meant));
                if found.len() == max {
                    break;
                }
                if sets.iter().all(|set| set.as_ref().is_some_and(is_it) || has(set, name)) {
                    found.push(name.to_blob(heap)?);
                }
            }
        }
        Combine::Diff => {
            for name in sets.first().copied().flatten().into_iter().flat_map(Set::iter) {
                if !sets[1..].iter().any(|set| has(set, name)) {
                    found.push(name.to_blob(heap)?);
                }
            }
        }
        Combine::Union => {
            // A member counts where it is met first.
            for (index, set) in sets.iter().enumerate() {
                for name in set.iter().flat_map(|set| set.iter()) {
                    if !sets[..index].iter().any(|before| has(before, name)) {
                        found.push(name.to_blob(heap)?);
                    }
                }
            }
        }
    }
    Ok(found)
}

fn answer(call: &mut Call<'_>, which: Combine) -> Result {
    let found = combine(call, 1..call.request.len(), which, usize::MAX)?;
    call.reply.set(found.len());
    found.iter().for_each(|name| call.reply.blob(name));
    Ok(())
}

fn store(call: &mut Call<'_>, which: Combine) -> Result {
    let found = combine(call, 2..call.request.len(), which, usize::MAX)?;
    let key = call.key(1);
    if found.is_empty() {
        let deleted = call.engine.delete(call.at, &key);
        call.changed(usize::from(deleted));
    } else {
        let tools = &call.engine.tools;
        let mut set = Set::Integers(Integers::new(&tools.heap)?);
        let keep = |index: usize| Ok(found[index].clone());
        let names = found.iter().map(|name| &**name);
        set.add_all(names, keep, tools.limits.set_integers, (&tools.heap, &tools.seed))?;
        let name = call.blob(1)?;
        call.engine.delete(call.at, &key);
        call.engine.add(call.at, name, key.hash, set.into_object());
        call.changed(1);
    }
    call.reply.count(found.len());
    Ok(())
}

fn sinter(call: &mut Call<'_>) -> Result {
    answer(call, Combine::Inter)
}

fn sunion(call: &mut Call<'_>) -> Result {
    answer(call, Combine::Union)
}

fn sdiff(call: &mut Call<'_>) -> Result {
    answer(call, Combine::Diff)
}

fn sinterstore(call: &mut Call<'_>) -> Result {
    store(call, Combine::Inter)
}

fn sunionstore(call: &mut Call<'_>) -> Result {
    store(call, Combine::Union)
}

fn sdiffstore(call: &mut Call<'_>) -> Result {
    store(call, Combine::Diff)
}

fn sintercard(call: &mut Call<'_>) -> Result {
    let count = parse_i64(call.arg(1)).and_then(|count| usize::try_from(count).ok()).filter(|&count| count > 0);
    let count = count.ok_or(Refusal::NumberOfKeys)?;
    if count > call.request.len() - 2 {
        return Err(Refusal::TooManyKeys);
    }
    let mut max = 0;
    call.options(2 + count).each(|options| {
        if !options.take_with("limit", 1) {
            return Ok(false);
        }
        max = call.natural(options.take_any()).map_err(|_| Refusal::LimitNegative)?;
        Ok(true)
    })?;
    let max = if max == 0 { usize::MAX } else { max };
    let found = combine(call, 2..2 + count, Combine::Inter, max)?;
    call.reply.count(found.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use pdpix::{Heap, Output, Rng, Seed, WallTime};

    use crate::command::find;
    use crate::engine::{Engine, Session};
    use crate::resp::Request;

    /// What it takes out it has to copy for the log, if it is long enough: there is no memory for that.
    #[test]
    fn spop_without_memory_takes_nothing_out() {
        let heap = Heap::alone(4 << 20).unwrap();
        let mut engine = Engine::new((0, 1), heap.clone(), Seed::new(1), Rng::new(1));
        engine.keep_log(1);
        let numbers: Vec<String> = (0..10).map(|n| (i64::MIN + n).to_string()).collect();
        let words: Vec<&[u8]> =
            [&b"SADD"[..], b"set"].into_iter().chain(numbers.iter().map(|n| n.as_bytes())).collect();
        let add = Request::of(words, &heap).unwrap();
        let pop = Request::of([&b"SPOP"[..], b"set", b"5"], &heap).unwrap();
        let count = Request::of([&b"SCARD"[..], b"set"], &heap).unwrap();
        let mut ask = |request: &Request| {
            let mut out = Output::new(heap.clone());
            let command = find(request).unwrap();
            engine.execute(command, request, Session::default(), WallTime::from_nanos(1), &mut out);
            out.take().map(|reply| reply.to_vec())
        };
        assert_eq!(ask(&add).unwrap(), b":10\r\n");
        let mut rest = Vec::new();
        for len in [65_536, 4096, 256, 64, 32, 20] {
            while let Ok(buf) = heap.copy(&vec![0; len]) {
                rest.push(buf);
            }
        }
        // For two of the five there is.
        rest.truncate(rest.len() - 2);
        let refused = ask(&pop);
        drop(rest);
        assert!(refused.is_err() || refused.is_ok_and(|reply| reply.starts_with(b"-OOM")));
        assert_eq!(ask(&count).unwrap(), b":10\r\n");
    }
}
