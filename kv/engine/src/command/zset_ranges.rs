//! Commands on ranges of sorted sets: by rank, by score, by name.

use std::ops::Range;

use super::row::{FAST, GROWS, READONLY, WRITE};
use super::zsets::{delete_if_empty, put_member, put_members};
use super::{Call, Command, Flags, Group, KeySpec, Result, Run, lists};
use crate::data::ranks::Ranked;
use crate::data::zset::Zset;
use crate::number::parse_f64_bound;
use crate::object::Stores;
use crate::refusal::{Refusal, c_text};

const fn row(name: &'static str, arity: i16, flags: Flags, run: fn(&mut Call<'_>) -> Result) -> Command {
    Command::row(Group::SortedSet, name, arity, flags, Run::Shard(run))
}

pub(super) const ROWS: &[Command] = &[
    row("zrange", -4, READONLY, zrange)
        .doc("1.2.0", "O(log(N)+M)", "Gets members by rank, score or name")
        .keys(&[KeySpec::READ]),
    row("zrevrange", -4, READONLY, zrevrange)
        .doc("1.2.0", "O(log(N)+M)", "Gets members by rank from the end")
        .keys(&[KeySpec::READ])
        .replaced("6.2.0", "`ZRANGE` with the `REV` argument"),
    row("zrangebyscore", -4, READONLY, zrangebyscore)
        .doc("1.0.5", "O(log(N)+M)", "Gets members by score")
        .keys(&[KeySpec::READ])
        .replaced("6.2.0", "`ZRANGE` with the `BYSCORE` argument"),
    row("zrevrangebyscore", -4, READONLY, zrevrangebyscore)
        .doc("2.2.0", "O(log(N)+M)", "Gets members by score from the end")
        .keys(&[KeySpec::READ])
        .replaced("6.2.0", "`ZRANGE` with the `REV` and `BYSCORE` arguments"),
    row("zrangebylex", -4, READONLY, zrangebylex)
        .doc("2.8.9", "O(log(N)+M)", "Gets members by name")
        .keys(&[KeySpec::READ])
        .replaced("6.2.0", "`ZRANGE` with the `BYLEX` argument"),
    row("zrevrangebylex", -4, READONLY, zrevrangebylex)
        .doc("2.8.9", "O(log(N)+M)", "Gets members by name from the end")
        .keys(&[KeySpec::READ])
        .replaced("6.2.0", "`ZRANGE` with the `REV` and `BYLEX` arguments"),
    row("zcount", 4, READONLY.and(FAST), zcount)
        .doc("2.0.0", "O(log(N))", "Counts members by score")
        .keys(&[KeySpec::READ]),
    row("zlexcount", 4, READONLY.and(FAST), zlexcount)
        .doc("2.8.9", "O(log(N))", "Counts members by name")
        .keys(&[KeySpec::READ]),
    row("zremrangebyrank", 4, WRITE, zremrangebyrank)
        .doc("2.0.0", "O(log(N)+M)", "Takes out members by rank")
        .keys(&[KeySpec::DELETE]),
    row("zremrangebyscore", 4, WRITE, zremrangebyscore)
        .doc("1.2.0", "O(log(N)+M)", "Takes out members by score")
        .keys(&[KeySpec::DELETE]),
    row("zremrangebylex", 4, WRITE, zremrangebylex)
        .doc("2.8.9", "O(log(N)+M)", "Takes out members by name")
        .keys(&[KeySpec::DELETE]),
    row("zrangestore", -5, GROWS, zrangestore)
        .doc("6.2.0", "O(log(N)+M)", "Stores members by rank, score or name")
        .keys(&[KeySpec::OVERWRITE, KeySpec::READ.second()]),
];

/// What a range is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Name,
}

/// The ends of a range.
#[derive(Clone, Copy)]
enum Ends<'a> {
    Rank(i64, i64),
    Score(Bound<f64>, Bound<f64>),
    Name(Bound<Text<'a>>, Bound<Text<'a>>),
}

/// An end, and whether it belongs to the range.
#[derive(Clone, Copy)]
struct Bound<T> {
    at: T,
    excluded: bool,
}

/// An end of a range of names: before all of them, at one, or behind all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Text<'a> {
    First,
    Name(&'a [u8]),
    Last,
}

impl Bound<f64> {
    fn parse(text: &[u8]) -> Result<Bound<f64>> {
        let (number, excluded) = match text {
            [b'(', number @ ..] => (number, true),
            number => (number, false),
        };
        parse_f64_bound(c_text(number)).map(|at| Bound { at, excluded }).ok_or(Refusal::ScoreRange)
    }
}

impl<'a> Bound<Text<'a>> {
    fn parse(text: &'a [u8]) -> Result<Bound<Text<'a>>> {
        match text {
            b"-" => Ok(Bound { at: Text::First, excluded: true }),
            b"+" => Ok(Bound { at: Text::Last, excluded: true }),
            [b'(', name @ ..] => Ok(Bound { at: Text::Name(name), excluded: true }),
            [b'[', name @ ..] => Ok(Bound { at: Text::Name(name), excluded: false }),
            _ => Err(Refusal::NameRange),
        }
    }
}

impl<'a> Ends<'a> {
    fn parse(by: By, low: &'a [u8], high: &'a [u8]) -> Result<Ends<'a>> {
        let rank = |text| crate::number::parse_i64(text).ok_or(Refusal::NotInteger);
        Ok(match by {
            By::Rank => Ends::Rank(rank(low)?, rank(high)?),
            By::Score => Ends::Score(Bound::<f64>::parse(low)?, Bound::<f64>::parse(high)?),
            By::Name => Ends::Name(Bound::<Text>::parse(low)?, Bound::<Text>::parse(high)?),
        })
    }

    /// The ranks of the members inside. Ranks themselves are counted from the end if `reverse`.
    fn ranks(self, zset: &Zset, reverse: bool) -> Range<usize> {
        let (first, end) = match self {
            Ends::Rank(low, high) => {
                let (first, count) = lists::range(low, high, zset.len());
                let first = if reverse { zset.len() - first - count } else { first };
                (first, first + count)
            }
            Ends::Score(low, high) => {
                let below = |score: f64| score < low.at || low.excluded && score <= low.at;
                let up_to = |score: f64| score < high.at || !high.excluded && score <= high.at;
                (zset.partition_point(|_, score| below(score)), zset.partition_point(|_, score| up_to(score)))
            }
            Ends::Name(low, high) => {
                let below = |name: Text<'_>| name < low.at || low.excluded && name <= low.at;
                let up_to = |name: Text<'_>| name < high.at || !high.excluded && name <= high.at;
                let first = zset.partition_point(|name, _| below(Text::Name(name)));
                (first, zset.partition_point(|name, _| up_to(Text::Name(name))))
            }
        };
        first..end.max(first)
    }
}

/// A whole request for a range: the ends, the direction, and what of it is wanted.
struct Query<'a> {
    ends: Ends<'a>,
    reverse: bool,
    scores: bool,
    offset: i64,
    limit: i64,
}

impl<'a> Query<'a> {
    /// The ends in the arguments behind `key`, and the options behind these. What is fixed by the command is no option.
    fn parse(call: &Call<'a>, key: usize, by: Option<By>, reverse: Option<bool>, store: bool) -> Result<Query<'a>> {
        let (mut by_option, mut reverse_option, mut scores, mut offset, mut limit) = (None, false, false, 0, -1);
        call.options(key + 3).each(|options| {
            if !store && options.take("withscores") {
                scores = true;
            } else if options.take_with("limit", 2) {
                offset = call.integer(options.take_any())?;
                limit = call.integer(options.take_any())?;
            } else if reverse.is_none() && !reverse_option && options.take("rev") {
                reverse_option = true;
            } else if by.is_none() && by_option.is_none() && options.take("bylex") {
                by_option = Some(By::Name);
            } else if by.is_none() && by_option.is_none() && options.take("byscore") {
                by_option = Some(By::Score);
            } else {
                return Ok(false);
            }
            Ok(true)
        })?;
        let by = by.or(by_option).unwrap_or(By::Rank);
        let reverse = reverse.unwrap_or(reverse_option);
        if by == By::Rank {
            // Redis knows a limit of -1 from none as little as we do; the offset beside it means nothing then.
            if limit != -1 {
                return Err(Refusal::LimitByRank);
            }
            offset = 0;
        }
        if scores && by == By::Name {
            return Err(Refusal::ScoresByName);
        }
        let (low, high) = if reverse && by != By::Rank { (key + 2, key + 1) } else { (key + 1, key + 2) };
        let ends = Ends::parse(by, call.arg(low), call.arg(high))?;
        Ok(Query { ends, reverse, scores, offset, limit })
    }

    /// The ranks that are wanted, in ascending order.
    fn ranks(&self, zset: &Zset) -> Range<usize> {
        let ranks = self.ends.ranks(zset, self.reverse);
        // A negative offset skips everything, a negative limit is none.
        let skip = usize::try_from(self.offset).unwrap_or(usize::MAX).min(ranks.len());
        let count = usize::try_from(self.limit).unwrap_or(usize::MAX).min(ranks.len() - skip);
        if self.reverse {
            let end = ranks.end - skip;
            end - count..end
        } else {
            let first = ranks.start + skip;
            first..first + count
        }
    }
}

fn zrange(call: &mut Call<'_>) -> Result {
    answer(call, None, None)
}

fn zrevrange(call: &mut Call<'_>) -> Result {
    answer(call, Some(By::Rank), Some(true))
}

fn zrangebyscore(call: &mut Call<'_>) -> Result {
    answer(call, Some(By::Score), Some(false))
}

fn zrevrangebyscore(call: &mut Call<'_>) -> Result {
    answer(call, Some(By::Score), Some(true))
}

fn zrangebylex(call: &mut Call<'_>) -> Result {
    answer(call, Some(By::Name), Some(false))
}

fn zrevrangebylex(call: &mut Call<'_>) -> Result {
    answer(call, Some(By::Name), Some(true))
}

fn answer(call: &mut Call<'_>, by: Option<By>, reverse: Option<bool>) -> Result {
    let query = Query::parse(call, 1, by, reverse, false)?;
    let key = call.key(1);
    let Call { engine, reply, at, .. } = call;
    let Some((zset, _)) = engine.read_as::<Zset>(*at, &key)? else {
        reply.array(0);
        return Ok(());
    };
    let ranks = query.ranks(zset);
    put_members(reply, ranks.len(), query.scores);
    let put = |member| put_member(reply, member, query.scores);
    if query.reverse && !ranks.is_empty() {
        zset.iter_back_from(ranks.end - 1).take(ranks.len()).for_each(put);
    } else {
        zset.iter_from(ranks.start).take(ranks.len()).for_each(put);
    }
    Ok(())
}

fn zrangestore(call: &mut Call<'_>) -> Result {
    let query = Query::parse(call, 2, None, None, true)?;
    let source = call.key(2);
    let heap = call.engine.tools.heap.clone();
    let members = match call.engine.read_as::<Zset>(call.at, &source)? {
        Some((zset, _)) => {
            let ranks = query.ranks(zset);
            let member =
                |(name, score): (crate::blob::Stored<'_>, f64)| Ok(Ranked { score, name: name.to_blob(&heap)? });
            zset.iter_from(ranks.start).take(ranks.len()).map(member).collect::<Result<Vec<Ranked>>>()?
        }
        None => Vec::new(),
    };
    store(call, members)
}

/// Makes `members`, whose names differ, the value of the key in argument 1, and answers how many there are. Without any,
/// the key is deleted.
pub(super) fn store(call: &mut Call<'_>, members: Vec<Ranked>) -> Result {
    let (key, count) = (call.key(1), members.len());
    if count == 0 {
        let deleted = call.engine.delete(call.at, &key);
        call.changed(usize::from(deleted));
    } else {
        let tools = &call.engine.tools;
        let zset = Zset::of(members, tools.limits.zset, (&tools.heap, &tools.seed))?;
        let name = call.blob(1)?;
        call.engine.delete(call.at, &key);
        call.engine.add(call.at, name, key.hash, zset.into_object());
        call.changed(1);
    }
    call.reply.count(count);
    Ok(())
}

fn zcount(call: &mut Call<'_>) -> Result {
    count(call, By::Score)
}

fn zlexcount(call: &mut Call<'_>) -> Result {
    count(call, By::Name)
}

fn count(call: &mut Call<'_>, by: By) -> Result {
    let (ends, key) = (Ends::parse(by, call.arg(2), call.arg(3))?, call.key(1));
    let zset = call.engine.read_as::<Zset>(call.at, &key)?;
    call.reply.count(zset.map_or(0, |(zset, _)| ends.ranks(zset, false).len()));
    Ok(())
}

fn zremrangebyrank(call: &mut Call<'_>) -> Result {
    remove(call, By::Rank)
}

fn zremrangebyscore(call: &mut Call<'_>) -> Result {
    remove(call, By::Score)
}

fn zremrangebylex(call: &mut Call<'_>) -> Result {
    remove(call, By::Name)
}

fn remove(call: &mut Call<'_>, by: By) -> Result {
    let (ends, key) = (Ends::parse(by, call.arg(2), call.arg(3))?, call.key(1));
    let mut removed = 0;
    if let Some((zset, tools)) = call.engine.find_as::<Zset>(call.at, &key)? {
        let ranks = ends.ranks(zset, false);
        removed = ranks.len();
        if removed > 0 {
            zset.remove_ranks(ranks, (&tools.heap, &tools.seed));
        }
        delete_if_empty(call, &key)?;
    }
    call.changed(removed);
    call.reply.count(removed);
    Ok(())
}
