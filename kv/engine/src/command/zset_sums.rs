//! Sums of sorted sets and sets: union, intersection, difference.

use pdpix::{Heap, Seed};
use smallvec::SmallVec;

use super::options::Options;
use super::row::{GROWS, READONLY};
use super::zset_ranges::store;
use super::zsets::{put_member, put_members};
use super::{Call, Command, Flags, Group, KeySpec, Result, Run};
use crate::blob::{Blob, Stored};
use crate::data::ranks::Ranked;
use crate::data::set::Set;
use crate::data::zset::Zset;
use crate::keyspace::{Entry, Key};
use crate::number::parse_f64;
use crate::object::{Object, Stores};
use crate::refusal::Refusal;
use crate::table::{Item, Table, hash_of};

const fn row(name: &'static str, arity: i16, flags: Flags, run: fn(&mut Call<'_>) -> Result) -> Command {
    Command::row(Group::SortedSet, name, arity, flags, Run::Shard(run))
}

pub(super) const ROWS: &[Command] = &[
    row("zunion", -3, READONLY, zunion)
        .doc("6.2.0", "O(N)", "Gets the members that any of the sets has")
        .keys(&[KeySpec::READ_COUNTED]),
    row("zinter", -3, READONLY, zinter)
        .doc("6.2.0", "O(N*K)", "Gets the members that all sets have")
        .keys(&[KeySpec::READ_COUNTED]),
    row("zdiff", -3, READONLY, zdiff)
        .doc("6.2.0", "O(L + (N-K)log(N))", "Gets the members of the first set that no other has")
        .keys(&[KeySpec::READ_COUNTED]),
    row("zunionstore", -4, GROWS, zunionstore)
        .doc("2.0.0", "O(N)", "Stores the members that any of the sets has")
        .keys(&[KeySpec::OVERWRITE, KeySpec::READ_COUNTED.second()]),
    row("zinterstore", -4, GROWS, zinterstore)
        .doc("2.0.0", "O(N*K)", "Stores the members that all sets have")
        .keys(&[KeySpec::OVERWRITE, KeySpec::READ_COUNTED.second()]),
    row("zdiffstore", -4, GROWS, zdiffstore)
        .doc("6.2.0", "O(L + (N-K)log(N))", "Stores the members of the first set that no other has")
        .keys(&[KeySpec::OVERWRITE, KeySpec::READ_COUNTED.second()]),
    row("zintercard", -3, READONLY, zintercard)
        .doc("7.0.0", "O(N*K)", "Counts the members that all sets have")
        .keys(&[KeySpec::READ_COUNTED]),
];

/// How the sets are put together.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sum {
    Union,
    Inter,
    Diff,
}

/// What becomes of the scores of one member.
#[derive(Clone, Copy)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn of(self, one: f64, other: f64) -> f64 {
        match self {
            // Of two infinities that differ Redis makes zero.
            Aggregate::Sum if (one + other).is_nan() => 0.0,
            Aggregate::Sum => one + other,
            Aggregate::Min => {
                if other < one {
                    other
                } else {
                    one
                }
            }
            Aggregate::Max => {
                if other > one {
                    other
                } else {
                    one
                }
            }
        }
    }
}

/// A set whose members have a score of one, or a sorted set.
#[derive(Clone, Copy)]
enum Source<'a> {
    Set(&'a Set),
    Zset(&'a Zset),
}

impl<'a> Source<'a> {
    fn of(object: &'a Object) -> Option<Source<'a>> {
        Set::view(object).map(Source::Set).or_else(|| Zset::view(object).map(Source::Zset))
    }

    fn len(self) -> usize {
        match self {
            Source::Set(set) => set.len(),
            Source::Zset(zset) => zset.len(),
        }
    }

    fn score(self, name: &[u8], seed: &Seed) -> Option<f64> {
        match self {
            Source::Set(set) => set.contains(name, seed).then_some(1.0),
            Source::Zset(zset) => zset.score(name, seed),
        }
    }

    fn iter(self) -> impl Iterator<Item = (Stored<'a>, f64)> {
        let (set, zset) = match self {
            Source::Set(set) => (Some(set), None),
            Source::Zset(zset) => (None, Some(zset)),
        };
        let of_set = set.into_iter().flat_map(|set| set.iter().map(|name| (name, 1.0)));
        of_set.chain(zset.into_iter().flat_map(|zset| zset.iter_from(0)))
    }
}

/// A member of a union that is being made.
struct Summed {
    name: Blob,
    hash: u64,
    score: f64,
}

impl Item for Summed {
    fn hash(&self) -> u64 {
        self.hash
    }

    fn key(&self) -> &[u8] {
        &self.name
    }
}

/// What to add up, and how.
struct Query<'a> {
    sum: Sum,
    keys: SmallVec<[Key<'a>; 4]>,
    weights: SmallVec<[f64; 4]>,
    aggregate: Aggregate,
    scores: bool,
    limit: usize,
}

impl<'a> Query<'a> {
    /// The number of keys in argument `index`, the keys, and the options behind them.
    fn parse(call: &mut Call<'a>, index: usize, sum: Sum, count_only: bool) -> Result<Query<'a>> {
        let count = call.integer(index)?;
        if count < 1 {
            return Err(Refusal::NeedsKey);
        }
        let first = index + 1;
        let count = usize::try_from(count).ok().filter(|&count| count <= call.request.len() - first);
        let count = count.ok_or(Refusal::Syntax)?;
        let mut keys = SmallVec::new();
        for index in first..first + count {
            let key = call.key(index);
            if call.engine.read(call.at, &key).is_some_and(|entry| Source::of(&entry.object).is_none()) {
                return Err(Refusal::WrongType);
            }
            keys.push(key);
        }
        let weights = SmallVec::from_elem(1.0, count);
        let mut query = Query { sum, keys, weights, aggregate: Aggregate::Sum, scores: false, limit: 0 };
        let stores = index == 2;
        call.options(first + count).each(|options| query.option(call, options, stores, count_only))?;
        Ok(query)
    }

    fn option(&mut self, call: &Call<'a>, options: &mut Options<'a>, stores: bool, count_only: bool) -> Result<bool> {
        let weighs = self.sum != Sum::Diff && !count_only;
        if weighs && options.take_with("weights", self.keys.len()) {
            for weight in &mut self.weights {
                *weight = parse_f64(call.arg(options.take_any())).ok_or(Refusal::Weight)?;
            }
        } else if weighs && options.take_with("aggregate", 1) {
            self.aggregate = if options.take("sum") {
                Aggregate::Sum
            } else if options.take("min") {
                Aggregate::Min
            } else if options.take("max") {
                Aggregate::Max
            } else {
                return Err(Refusal::Syntax);
            };
        } else if !stores && !count_only && options.take("withscores") {
            self.scores = true;
        } else if count_only && options.take_with("limit", 1) {
            self.limit = call.natural(options.take_any()).map_err(|_| Refusal::LimitNegative)?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// The members of the sum, in no order.
    fn members(&self, call: &Call<'_>) -> Result<Vec<Ranked>> {
        let (database, now) = (call.engine.database(call.at), call.at.now);
        let source = |key: &Key<'_>| {
            let entry =
                database.entries().find(key.hash, key.bytes).filter(|entry: &&Entry| !entry.has_expired(now))?;
            Source::of(&entry.object)
        };
        let mut sources: SmallVec<[(Option<Source<'_>>, f64); 4]> =
            self.keys.iter().map(source).zip(self.weights.iter().copied()).collect();
        let (heap, seed) = (&call.engine.tools.heap, &call.engine.tools.seed);
        if self.sum != Sum::Diff {
            // The order in which scores are added matters to their last bits: from the smallest set to the largest.
            sources.sort_by_key(|(source, _)| source.map_or(0, Source::len));
        }
        match self.sum {
            Sum::Union => self.union(&sources, (heap, seed)),
            Sum::Inter => self.inter(&sources, (heap, seed)),
            Sum::Diff => diff(&sources, (heap, seed)),
        }
    }

    fn union(&self, sources: &[(Option<Source<'_>>, f64)], (heap, seed): (&Heap, &Seed)) -> Result<Vec<Ranked>> {
        let mut summed: Table<Summed> = Table::default();
        for (source, weight) in sources.iter().filter_map(|(source, weight)| Some((source.as_ref()?, *weight))) {
            for (name, score) in source.iter() {
                let score = weighted(score, weight);
                let name = name.to_blob(heap)?;
                let hash = hash_of(seed, &name);
                match summed.locate(hash, &name) {
                    Some(place) => summed[place].score = self.aggregate.of(summed[place].score, score),
                    None => summed.insert(Summed { name, hash, score }),
                }
            }
        }
        Ok(summed.iter().map(|item| Ranked { score: item.score, name: item.name.clone() }).collect())
    }

    fn inter(&self, sources: &[(Option<Source<'_>>, f64)], (heap, seed): (&Heap, &Seed)) -> Result<Vec<Ranked>> {
        let Some(((Some(first), weight), others)) = sources.split_first() else { return Ok(Vec::new()) };
        let max = if self.limit == 0 { usize::MAX } else { self.limit };
        let mut found = Vec::new();
        for (name, score) in first.iter() {
            let mut sum = Some(weighted(score, *weight));
            for (source, weight) in others {
                let other = source.and_then(|source| name.with(|name| source.score(name, seed)));
                sum = sum.zip(other).map(|(sum, score)| self.aggregate.of(sum, score * weight));
            }
            if let Some(score) = sum {
                found.push(Ranked { score, name: name.to_blob(heap)? });
            }
            if found.len() == max {
                break;
            }
        }
        Ok(found)
    }
}

fn weighted(score: f64, weight: f64) -> f64 {
    let product = score * weight;
    if product.is_nan() { 0.0 } else { product }
}

fn diff(sources: &[(Option<Source<'_>>, f64)], (heap, seed): (&Heap, &Seed)) -> Result<Vec<Ranked>> {
    let Some(((Some(first), _), others)) = sources.split_first() else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for (name, score) in first.iter() {
        let in_other = |(source, _): &(Option<Source<'_>>, f64)| {
            source.is_some_and(|source| name.with(|name| source.score(name, seed)).is_some())
        };
        if !others.iter().any(in_other) {
            found.push(Ranked { score, name: name.to_blob(heap)? });
        }
    }
    Ok(found)
}

fn answer(call: &mut Call<'_>, sum: Sum) -> Result {
    let query = Query::parse(call, 1, sum, false)?;
    let mut members = query.members(call)?;
    members.sort_unstable_by(|one, other| one.cmp_to(other.score, &other.name));
    put_members(&mut call.reply, members.len(), query.scores);
    for Ranked { score, name } in &members {
        put_member(&mut call.reply, (Stored::Blob(name), *score), query.scores);
    }
    Ok(())
}

fn store_sum(call: &mut Call<'_>, sum: Sum) -> Result {
    let members = Query::parse(call, 2, sum, false)?.members(call)?;
    store(call, members)
}

fn zunion(call: &mut Call<'_>) -> Result {
    answer(call, Sum::Union)
}

fn zinter(call: &mut Call<'_>) -> Result {
    answer(call, Sum::Inter)
}

fn zdiff(call: &mut Call<'_>) -> Result {
    answer(call, Sum::Diff)
}

fn zunionstore(call: &mut Call<'_>) -> Result {
    store_sum(call, Sum::Union)
}

fn zinterstore(call: &mut Call<'_>) -> Result {
    store_sum(call, Sum::Inter)
}

fn zdiffstore(call: &mut Call<'_>) -> Result {
    store_sum(call, Sum::Diff)
}

fn zintercard(call: &mut Call<'_>) -> Result {
    let query = Query::parse(call, 1, Sum::Inter, true)?;
    let count = query.members(call)?.len();
    call.reply.count(count);
    Ok(())
}
