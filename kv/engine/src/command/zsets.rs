//! Commands on sorted sets: members, scores, ranks. Ranges are in `zset_ranges.rs`, sums of sets in `zset_sums.rs`.

use super::hashes::asks_for;
use super::row::{FAST, GROWS, READONLY, WRITE};
use super::scan::zscan;
use super::sets::count_arg;
use super::{Call, Command, Flags, Group, KeySpec, Result, Run};
use crate::blob::Stored;
use crate::data::pick;
use crate::data::zset::Zset;
use crate::engine::Tools;
use crate::keyspace::Key;
use crate::number::parse_f64;
use crate::refusal::Refusal;
use crate::resp::{Protocol, Reply};

const fn row(name: &'static str, arity: i16, flags: Flags, run: fn(&mut Call<'_>) -> Result) -> Command {
    Command::row(Group::SortedSet, name, arity, flags, Run::Shard(run))
}

pub(super) const ROWS: &[Command] = &[
    row("zadd", -4, GROWS.and(FAST), zadd)
        .doc("1.2.0", "O(log(N))", "Adds members to a sorted set, or changes their scores")
        .keys(&[KeySpec::UPDATE]),
    row("zrem", -3, WRITE.and(FAST), zrem)
        .doc("1.2.0", "O(M*log(N))", "Takes members out of a sorted set")
        .keys(&[KeySpec::DELETE]),
    row("zcard", 2, READONLY.and(FAST), zcard)
        .doc("1.2.0", "O(1)", "Counts the members of a sorted set")
        .keys(&[KeySpec::PEEK]),
    row("zscore", 3, READONLY.and(FAST), zscore)
        .doc("1.2.0", "O(1)", "Gets the score of a member")
        .keys(&[KeySpec::READ]),
    row("zmscore", -3, READONLY.and(FAST), zmscore)
        .doc("6.2.0", "O(N)", "Gets the scores of several members")
        .keys(&[KeySpec::READ]),
    row("zincrby", 4, GROWS.and(FAST), zincrby)
        .doc("1.2.0", "O(log(N))", "Adds to the score of a member")
        .keys(&[KeySpec::EXCHANGE]),
    row("zrank", 3, READONLY.and(FAST), zrank)
        .doc("2.0.0", "O(log(N))", "Gets the rank of a member")
        .keys(&[KeySpec::READ]),
    row("zrevrank", 3, READONLY.and(FAST), zrevrank)
        .doc("2.0.0", "O(log(N))", "Gets the rank of a member from the end")
        .keys(&[KeySpec::READ]),
    row("zpopmin", -2, WRITE.and(FAST), zpopmin)
        .doc("5.0.0", "O(log(N)*M)", "Takes out the members with the lowest scores")
        .keys(&[KeySpec::TAKE]),
    row("zpopmax", -2, WRITE.and(FAST), zpopmax)
        .doc("5.0.0", "O(log(N)*M)", "Takes out the members with the highest scores")
        .keys(&[KeySpec::TAKE]),
    row("zrandmember", -2, READONLY, zrandmember)
        .doc("6.2.0", "O(N)", "Gets any members of a sorted set")
        .keys(&[KeySpec::READ])
        .tips(&["nondeterministic_output"]),
    row("zscan", -3, READONLY, zscan)
        .doc("2.8.0", "O(1)", "Walks over the members of a sorted set")
        .keys(&[KeySpec::READ])
        .tips(&["nondeterministic_output"]),
];

/// The conditions of ZADD.
#[derive(Clone, Copy, Default)]
struct Conditions {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
    incr: bool,
}

/// What became of one member.
enum Outcome {
    Added(f64),
    Updated(f64),
    /// The score was that already.
    Same(f64),
    Refused,
}

impl Conditions {
    /// What becomes of a member with score `old`, if it is there, when `score` is asked for.
    fn judge(self, old: Option<f64>, score: f64) -> Result<Outcome> {
        let Some(old) = old else {
            return Ok(if self.xx { Outcome::Refused } else { Outcome::Added(score) });
        };
        if self.nx {
            return Ok(Outcome::Refused);
        }
        let score = if self.incr { old + score } else { score };
        if score.is_nan() {
            return Err(Refusal::ScoreNan);
        }
        if self.lt && score >= old || self.gt && score <= old {
            return Ok(Outcome::Refused);
        }
        Ok(if score == old { Outcome::Same(score) } else { Outcome::Updated(score) })
    }
}

fn zadd(call: &mut Call<'_>) -> Result {
    let (mut conditions, mut count_changed, mut first) = (Conditions::default(), false, 2);
    let mut options = call.options(2);
    while options.left() > 0 {
        let known = [
            ("nx", &mut conditions.nx),
            ("xx", &mut conditions.xx),
            ("ch", &mut count_changed),
            ("incr", &mut conditions.incr),
            ("gt", &mut conditions.gt),
            ("lt", &mut conditions.lt),
        ];
        let Some((_, option)) = known.into_iter().find(|(word, _)| options.take(word)) else { break };
        *option = true;
        first += 1;
    }
    add(call, first, conditions, count_changed)
}

fn zincrby(call: &mut Call<'_>) -> Result {
    add(call, 2, Conditions { incr: true, ..Conditions::default() }, false)
}

/// ZADD of the scores and members from argument `first` on.
fn add(call: &mut Call<'_>, first: usize, conditions: Conditions, count_changed: bool) -> Result {
    let Conditions { nx, xx, gt, lt, incr } = conditions;
    let count = (call.request.len() - first) / 2;
    if count == 0 || !(call.request.len() - first).is_multiple_of(2) {
        return Err(Refusal::Syntax);
    }
    if nx && xx {
        return Err(Refusal::ZaddNxXx);
    }
    if nx && (gt || lt) || gt && lt {
        return Err(Refusal::ZaddGtLtNx);
    }
    if incr && count > 1 {
        return Err(Refusal::ZaddIncrPairs);
    }
    let score = |index: usize| parse_f64(call.arg(first + index * 2)).ok_or(Refusal::NotFloat);
    let scores = (0..count).map(score).collect::<Result<Vec<f64>>>()?;
    let (key, request) = (call.key(1), call.request);
    let name_at = |index: usize| request.arg(first + 1 + index * 2);
    if xx && call.engine.find_as::<Zset>(call.at, &key)?.is_none() {
        if incr {
            call.reply.null()
        } else {
            call.reply.integer(0)
        }
        return Ok(());
    }
    let set_all = |zset: &mut Zset, tools: &mut Tools| {
        // All that may fail comes first; a member that is not there is not added with XX, and needs nothing then.
        let names = (0..if xx { 0 } else { count }).map(name_at);
        let keep = |index: usize| request.blob(first + 1 + index * 2, &tools.heap);
        if incr {
            conditions.judge(zset.score(name_at(0), &tools.seed), scores[0])?;
        }
        let mut kept = zset.prepare(names, keep, tools.limits.zset, (&tools.heap, &tools.seed))?;
        kept.resize(count, None);
        let (mut added, mut updated, mut last) = (0, 0, None);
        for (index, kept) in kept.into_iter().enumerate() {
            let outcome = conditions.judge(zset.score(name_at(index), &tools.seed), scores[index])?;
            match outcome {
                Outcome::Added(score) | Outcome::Updated(score) => {
                    zset.set(name_at(index), kept, score, &tools.seed);
                    added += usize::from(matches!(outcome, Outcome::Added(_)));
                    updated += usize::from(matches!(outcome, Outcome::Updated(_)));
                    last = Some(score);
                }
                Outcome::Same(score) => last = Some(score),
                Outcome::Refused => {}
            }
        }
        Ok((added, updated, last))
    };
    let new = |tools: &Tools| {
        let limits = tools.limits.zset;
        Zset::new(limits.entries > 0 && name_at(0).len() <= limits.value, &tools.heap)
    };
    let name = |heap: &pdpix::Heap| request.blob(1, heap);
    let (added, updated, last) = call.engine.change(call.at, &key, name, new, set_all)?;
    call.changed(added + updated);
    match last {
        Some(score) if incr => call.reply.double(score),
        None if incr => call.reply.null(),
        _ => call.reply.count(if count_changed { added + updated } else { added }),
    }
    Ok(())
}

fn zrem(call: &mut Call<'_>) -> Result {
    let (key, request) = (call.key(1), call.request);
    let mut removed = 0;
    if let Some((zset, tools)) = call.engine.find_as::<Zset>(call.at, &key)? {
        removed = request.args_from(2).filter(|name| zset.remove(name, (&tools.heap, &tools.seed))).count();
        delete_if_empty(call, &key)?;
    }
    call.changed(removed);
    call.reply.count(removed);
    Ok(())
}

/// A sorted set that has lost its last member goes with its key.
pub(super) fn delete_if_empty(call: &mut Call<'_>, key: &Key<'_>) -> Result {
    if call.engine.find_as::<Zset>(call.at, key)?.is_some_and(|(zset, _)| zset.is_empty()) {
        call.engine.delete(call.at, key);
    }
    Ok(())
}

fn zcard(call: &mut Call<'_>) -> Result {
    let key = call.key(1);
    let len = call.engine.read_as::<Zset>(call.at, &key)?.map_or(0, |(zset, _)| zset.len());
    call.reply.count(len);
    Ok(())
}

fn put_score(reply: &mut Reply<'_>, score: Option<f64>) {
    match score {
        Some(score) => reply.double(score),
        None => reply.null(),
    }
}

fn zscore(call: &mut Call<'_>) -> Result {
    let (key, name) = (call.key(1), call.arg(2));
    let zset = call.engine.read_as::<Zset>(call.at, &key)?;
    put_score(&mut call.reply, zset.and_then(|(zset, tools)| zset.score(name, &tools.seed)));
    Ok(())
}

fn zmscore(call: &mut Call<'_>) -> Result {
    let (key, request) = (call.key(1), call.request);
    let zset = call.engine.read_as::<Zset>(call.at, &key)?;
    call.reply.array(request.len() - 2);
    for name in request.args_from(2) {
        put_score(&mut call.reply, zset.as_ref().and_then(|(zset, tools)| zset.score(name, &tools.seed)));
    }
    Ok(())
}

fn zrank(call: &mut Call<'_>) -> Result {
    tell_rank(call, |rank, _| rank)
}

fn zrevrank(call: &mut Call<'_>) -> Result {
    tell_rank(call, |rank, len| len - 1 - rank)
}

fn tell_rank(call: &mut Call<'_>, tell: impl FnOnce(usize, usize) -> usize) -> Result {
    let (key, name) = (call.key(1), call.arg(2));
    let zset = call.engine.read_as::<Zset>(call.at, &key)?;
    match zset.and_then(|(zset, tools)| Some((zset.rank(name, &tools.seed)?, zset.len()))) {
        Some((rank, len)) => call.reply.count(tell(rank, len)),
        None => call.reply.null(),
    }
    Ok(())
}

/// Whether members and their scores stand in pairs: RESP3 says so, RESP2 has them one behind the other.
pub(super) fn in_pairs(reply: &Reply<'_>, scores: bool) -> bool {
    scores && reply.protocol() == Protocol::Resp3
}

/// The beginning of an array of `count` members, with their scores or without.
pub(super) fn put_members(reply: &mut Reply<'_>, count: usize, scores: bool) {
    let flat = scores && !in_pairs(reply, scores);
    reply.array(if flat { count * 2 } else { count });
}

/// One of them.
pub(super) fn put_member(reply: &mut Reply<'_>, (name, score): (Stored<'_>, f64), scores: bool) {
    if in_pairs(reply, scores) {
        reply.array(2);
    }
    name.put(reply);
    if scores {
        reply.double(score);
    }
}

fn zpopmin(call: &mut Call<'_>) -> Result {
    pop(call, false)
}

fn zpopmax(call: &mut Call<'_>) -> Result {
    pop(call, true)
}

fn pop(call: &mut Call<'_>, from_end: bool) -> Result {
    if call.request.len() > 3 {
        return Err(Refusal::Syntax);
    }
    let count = if call.request.len() == 3 { Some(call.natural(2)?) } else { None };
    let key = call.key(1);
    let Call { engine, reply, at, .. } = call;
    let Some((zset, tools)) = engine.find_as::<Zset>(*at, &key)? else {
        reply.array(0);
        return Ok(());
    };
    let len = zset.len();
    let taken = count.unwrap_or(1).min(len);
    // A single one is a flat pair in both versions.
    let in_pairs = in_pairs(reply, count.is_some());
    reply.array(if in_pairs { taken } else { taken * 2 });
    let mut put = |(name, score): (Stored<'_>, f64)| {
        if in_pairs {
            reply.array(2);
        }
        name.put(reply);
        reply.double(score);
    };
    if from_end {
        zset.iter_back_from(len - 1).take(taken).for_each(&mut put);
        zset.remove_ranks(len - taken..len, (&tools.heap, &tools.seed));
    } else {
        zset.iter_from(0).take(taken).for_each(&mut put);
        zset.remove_ranks(0..taken, (&tools.heap, &tools.seed));
    }
    delete_if_empty(call, &key)?;
    call.changed(taken);
    Ok(())
}

fn zrandmember(call: &mut Call<'_>) -> Result {
    let (key, with_count) = (call.key(1), call.request.len() > 2);
    let count = if with_count { count_arg(call)? } else { 1 };
    let scores = asks_for(call, "withscores", count)?;
    let Call { engine, reply, at, .. } = call;
    let Some((zset, tools)) = engine.read_as::<Zset>(*at, &key)? else {
        if with_count {
            reply.array(0)
        } else {
            reply.null()
        }
        return Ok(());
    };
    if !with_count {
        if let Some((name, _)) = zset.random(&mut tools.rng).and_then(|which| zset.at(which)) {
            name.put(reply);
        }
    } else if count < 0 {
        put_members(reply, count.unsigned_abs() as usize, scores);
        for _ in 0..count.unsigned_abs() {
            if reply.out().has_failed() {
                break; // it was asked for more than there is memory for
            }
            if let Some(member) = zset.random(&mut tools.rng).and_then(|which| zset.at(which)) {
                put_member(reply, member, scores);
            }
        }
    } else {
        let picked = pick(count as usize, zset.len(), &mut tools.rng, |rng| zset.random(rng), || zset.all());
        put_members(reply, picked.len(), scores);
        picked.iter().filter_map(|&which| zset.at(which)).for_each(|member| put_member(reply, member, scores));
    }
    Ok(())
}
