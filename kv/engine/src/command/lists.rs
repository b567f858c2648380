//! Commands on lists.

use super::row::{FAST, GROWS, READONLY, WRITE};
use super::{Call, Command, Flags, Group, KeySpec, Result, Run, Spread};
use crate::data::list::{End, List, Piece};
use crate::keyspace::Key;
use crate::refusal::Refusal;

const fn row(name: &'static str, arity: i16, flags: Flags, run: fn(&mut Call<'_>) -> Result) -> Command {
    Command::row(Group::List, name, arity, flags, Run::Shard(run))
}

pub(super) const ROWS: &[Command] = &[
    row("lpush", -3, GROWS.and(FAST), lpush)
        .doc("1.0.0", "O(1)", "Adds elements at the head of a list")
        .keys(&[KeySpec::INSERT]),
    row("rpush", -3, GROWS.and(FAST), rpush)
        .doc("1.0.0", "O(1)", "Adds elements at the tail of a list")
        .keys(&[KeySpec::INSERT]),
    row("lpushx", -3, GROWS.and(FAST), lpushx)
        .doc("2.2.0", "O(1)", "Adds elements at the head of a list that is there")
        .keys(&[KeySpec::INSERT]),
    row("rpushx", -3, GROWS.and(FAST), rpushx)
        .doc("2.2.0", "O(1)", "Adds elements at the tail of a list that is there")
        .keys(&[KeySpec::INSERT]),
    row("lpop", -2, WRITE.and(FAST), lpop)
        .doc("1.0.0", "O(N)", "Takes elements from the head of a list")
        .keys(&[KeySpec::TAKE]),
    row("rpop", -2, WRITE.and(FAST), rpop)
        .doc("1.0.0", "O(N)", "Takes elements from the tail of a list")
        .keys(&[KeySpec::TAKE]),
    row("llen", 2, READONLY.and(FAST), llen)
        .doc("1.0.0", "O(1)", "Counts the elements of a list")
        .keys(&[KeySpec::PEEK]),
    row("lrange", 4, READONLY, lrange).doc("1.0.0", "O(S+N)", "Gets a part of a list").keys(&[KeySpec::READ]),
    row("lindex", 3, READONLY, lindex).doc("1.0.0", "O(N)", "Gets an element of a list").keys(&[KeySpec::READ]),
    row("lset", 4, GROWS, lset).doc("1.0.0", "O(N)", "Replaces an element of a list").keys(&[KeySpec::UPDATE]),
    row("lrem", 4, WRITE, lrem)
        .doc("1.0.0", "O(N+M)", "Takes out elements that are equal to one")
        .keys(&[KeySpec::DELETE]),
    row("ltrim", 4, WRITE, ltrim).doc("1.0.0", "O(N)", "Takes out all but a part of a list").keys(&[KeySpec::DELETE]),
    row("linsert", 5, GROWS, linsert)
        .doc("2.2.0", "O(N)", "Inserts an element before or behind another")
        .keys(&[KeySpec::INSERT]),
    row("lpos", -3, READONLY, lpos)
        .doc("6.0.6", "O(N)", "Finds where elements are that are equal to one")
        .keys(&[KeySpec::READ]),
    row("lmove", 5, GROWS, lmove)
        .doc("6.2.0", "O(1)", "Moves an element from an end of a list to an end of another")
        .keys(&[KeySpec::TAKE, KeySpec::INSERT.second()])
        .spread(Spread::MoveElement),
    row("rpoplpush", 3, GROWS, rpoplpush)
        .doc("1.2.0", "O(1)", "Moves an element from the tail of a list to the head of another")
        .keys(&[KeySpec::TAKE, KeySpec::INSERT.second()])
        .replaced("6.2.0", "`LMOVE` with the `RIGHT` and `LEFT` arguments")
        .spread(Spread::MoveElement),
];

fn lpush(call: &mut Call<'_>) -> Result {
    push(call, End::Left, false)
}

fn rpush(call: &mut Call<'_>) -> Result {
    push(call, End::Right, false)
}

fn lpushx(call: &mut Call<'_>) -> Result {
    push(call, End::Left, true)
}

fn rpushx(call: &mut Call<'_>) -> Result {
    push(call, End::Right, true)
}

fn push(call: &mut Call<'_>, end: End, only_if_there: bool) -> Result {
    let (key, request, count) = (call.key(1), call.request, call.request.len() - 2);
    if only_if_there && call.engine.find_as::<List>(call.at, &key)?.is_none() {
        call.reply.integer(0);
        return Ok(());
    }
    let push_all = |list: &mut List, tools: &mut crate::engine::Tools| {
        for done in 0..count {
            let pushed = Piece::of_arg(request, done + 2).and_then(|piece| list.push(end, piece, &tools.heap));
            if pushed.is_err() {
                list.drop_some(end, done, &tools.heap);
                return Err(Refusal::OutOfMemory);
            }
        }
        Ok(list.len())
    };
    let len = call.engine.change(call.at, &key, |heap| request.blob(1, heap), |_| Ok(List::default()), push_all)?;
    call.changed(count);
    call.reply.count(len);
    Ok(())
}

fn lpop(call: &mut Call<'_>) -> Result {
    pop(call, End::Left)
}

fn rpop(call: &mut Call<'_>) -> Result {
    pop(call, End::Right)
}

fn pop(call: &mut Call<'_>, end: End) -> Result {
    if call.request.len() > 3 {
        return Err(Refusal::Arity);
    }
    let count = if call.request.len() == 3 { Some(call.natural(2)?) } else { None };
    let key = call.key(1);
    let Call { engine, reply, at, .. } = call;
    let Some((list, tools)) = engine.find_as::<List>(*at, &key)? else {
        if count.is_some() {
            reply.null_array()
        } else {
            reply.null()
        }
        return Ok(());
    };
    let taken = count.unwrap_or(1).min(list.len());
    if count.is_some() {
        reply.array(taken);
    }
    match end {
        End::Left => list.iter_from(0).take(taken).for_each(|element| element.put(reply)),
        End::Right => list.iter_back_from(list.len()).take(taken).for_each(|element| element.put(reply)),
    }
    list.drop_some(end, taken, &tools.heap);
    delete_if_empty(call, &key)?;
    call.changed(taken);
    Ok(())
}

/// A list that has lost its last element goes with its key.
fn delete_if_empty(call: &mut Call<'_>, key: &Key<'_>) -> Result {
    if call.engine.find_as::<List>(call.at, key)?.is_some_and(|(list, _)| list.is_empty()) {
        call.engine.delete(call.at, key);
    }
    Ok(())
}

fn llen(call: &mut Call<'_>) -> Result {
    let key = call.key(1);
    let len = call.engine.read_as::<List>(call.at, &key)?.map_or(0, |(list, _)| list.len());
    call.reply.count(len);
    Ok(())
}

/// The elements from `start` to `end`, both counted from the end if negative, of `len`: where they begin, and how many.
pub(super) fn range(start: i64, end: i64, len: usize) -> (usize, usize) {
    let from_end = |index: i64| if index < 0 { index.saturating_add(len as i64) } else { index };
    let (start, end) = (from_end(start).max(0), from_end(end).min(len as i64 - 1));
    if start > end { (0, 0) } else { (start as usize, (end - start) as usize + 1) }
}

fn lrange(call: &mut Call<'_>) -> Result {
    let (start, end, key) = (call.integer(2)?, call.integer(3)?, call.key(1));
    let Some((list, _)) = call.engine.read_as::<List>(call.at, &key)? else {
        call.reply.array(0);
        return Ok(());
    };
    let (first, count) = range(start, end, list.len());
    call.reply.array(count);
    list.iter_from(first).take(count).for_each(|element| element.put(&mut call.reply));
    Ok(())
}

/// Element number `index`, counted from the end if negative.
fn position(index: i64, len: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add(len as i64)? } else { index };
    usize::try_from(index).ok().filter(|&index| index < len)
}

fn lindex(call: &mut Call<'_>) -> Result {
    let key = call.key(1);
    // Redis looks for the list before it looks at the number.
    let Some((list, _)) = call.engine.read_as::<List>(call.at, &key)? else {
        call.reply.null();
        return Ok(());
    };
    let index = crate::number::parse_i64(call.request.arg(2)).ok_or(Refusal::NotInteger)?;
    match position(index, list.len()).and_then(|index| list.get(index)) {
        Some(element) => element.put(&mut call.reply),
        None => call.reply.null(),
    }
    Ok(())
}

fn lset(call: &mut Call<'_>) -> Result {
    let (key, request) = (call.key(1), call.request);
    let (list, tools) = call.engine.find_as::<List>(call.at, &key)?.ok_or(Refusal::NoSuchKey)?;
    let index = crate::number::parse_i64(request.arg(2)).ok_or(Refusal::NotInteger)?;
    let index = position(index, list.len()).ok_or(Refusal::IndexOutOfRange)?;
    list.set(index, Piece::of_arg(request, 3)?, &tools.heap)?;
    call.changed(1);
    call.reply.ok();
    Ok(())
}

fn lrem(call: &mut Call<'_>) -> Result {
    let (count, key, request) = (call.integer(2)?, call.key(1), call.request);
    let Some((list, tools)) = call.engine.find_as::<List>(call.at, &key)? else {
        call.reply.integer(0);
        return Ok(());
    };
    let from = if count < 0 { End::Right } else { End::Left };
    let max = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
    let removed = list.remove_equal(request.arg(3), max, from, &tools.heap);
    delete_if_empty(call, &key)?;
    call.changed(removed);
    call.reply.count(removed);
    Ok(())
}

fn ltrim(call: &mut Call<'_>) -> Result {
    let (start, end, key) = (call.integer(2)?, call.integer(3)?, call.key(1));
    if let Some((list, tools)) = call.engine.find_as::<List>(call.at, &key)? {
        let len = list.len();
        let (first, count) = range(start, end, len);
        list.remove(first + count..len, &tools.heap);
        list.remove(0..first, &tools.heap);
        delete_if_empty(call, &key)?;
        call.changed(len - count);
    }
    call.reply.ok();
    Ok(())
}

fn linsert(call: &mut Call<'_>) -> Result {
    let behind = call.is_word(2, "after");
    if !behind && !call.is_word(2, "before") {
        return Err(Refusal::Syntax);
    }
    let (key, request) = (call.key(1), call.request);
    let Some((list, tools)) = call.engine.find_as::<List>(call.at, &key)? else {
        call.reply.integer(0);
        return Ok(());
    };
    let pivot = request.arg(3);
    let Some(index) = list.iter_from(0).position(|element| element.with(|bytes| bytes == pivot)) else {
        call.reply.integer(-1);
        return Ok(());
    };
    list.insert(index + usize::from(behind), Piece::of_arg(request, 4)?, &tools.heap)?;
    let len = list.len();
    call.changed(1);
    call.reply.count(len);
    Ok(())
}

fn lpos(call: &mut Call<'_>) -> Result {
    let (mut rank, mut count, mut len_max) = (1i64, None, 0);
    call.options(3).each(|options| {
        if options.take_with("rank", 1) {
            rank = call.integer(options.take_any())?;
            if rank == 0 {
                return Err(Refusal::RankZero);
            }
        } else if options.take_with("count", 1) {
            count = Some(call.natural(options.take_any()).map_err(|_| Refusal::CountNegative)?);
        } else if options.take_with("maxlen", 1) {
            len_max = call.natural(options.take_any()).map_err(|_| Refusal::MaxLenNegative)?;
        } else {
            return Ok(false);
        }
        Ok(true)
    })?;
    let (key, wanted) = (call.key(1), call.arg(2));
    let Some((list, _)) = call.engine.read_as::<List>(call.at, &key)? else {
        if count.is_some() {
            call.reply.array(0)
        } else {
            call.reply.null()
        }
        return Ok(());
    };
    let (len, skipped) = (list.len(), (rank.unsigned_abs() - 1) as usize);
    let looked_at = if len_max == 0 { len } else { len_max.min(len) };
    let is_wanted = |element: crate::blob::Stored<'_>| element.with(|bytes| bytes == wanted);
    let wanted_count = count.map_or(1, |count| if count == 0 { usize::MAX } else { count });
    let found: Vec<usize> = if rank > 0 {
        let all = list.iter_from(0).take(looked_at).enumerate();
        all.filter(|(_, element)| is_wanted(*element))
            .map(|(index, _)| index)
            .skip(skipped)
            .take(wanted_count)
            .collect()
    } else {
        let all = list.iter_back_from(len).take(looked_at).enumerate();
        let matching = all.filter(|(_, element)| is_wanted(*element)).map(|(index, _)| len - 1 - index);
        matching.skip(skipped).take(wanted_count).collect()
    };
    match (count, found.first()) {
        (Some(_), _) => {
            call.reply.array(found.len());
            found.iter().for_each(|&index| call.reply.count(index));
        }
        (None, Some(&index)) => call.reply.count(index),
        (None, None) => call.reply.null(),
    }
    Ok(())
}

/// LEFT or RIGHT.
pub(crate) fn end_of(word: &[u8]) -> Result<End> {
    if word.eq_ignore_ascii_case(b"left") {
        Ok(End::Left)
    } else if word.eq_ignore_ascii_case(b"right") {
        Ok(End::Right)
    } else {
        Err(Refusal::Syntax)
    }
}

fn lmove(call: &mut Call<'_>) -> Result {
    let (from, to) = (end_of(call.arg(3))?, end_of(call.arg(4))?);
    move_element(call, from, to)
}

fn rpoplpush(call: &mut Call<'_>) -> Result {
    move_element(call, End::Right, End::Left)
}

fn move_element(call: &mut Call<'_>, from: End, to: End) -> Result {
    let (source, destination, request) = (call.key(1), call.key(2), call.request);
    let Some((list, tools)) = call.engine.find_as::<List>(call.at, &source)? else {
        call.reply.null();
        return Ok(());
    };
    // On its own, as both lists may be the same one.
    let element = list.peek(from).map(|element| element.to_buf(&tools.heap)).transpose()?;
    let Some(element) = element else { return Ok(()) };
    call.engine.find_as::<List>(call.at, &destination)?;
    if source.bytes == destination.bytes {
        if let Some((list, tools)) = call.engine.find_as::<List>(call.at, &source)? {
            // Pushed first, as that may fail; then what was at the other end is still there, but for a list of one.
            list.push(to, Piece::of_buf(&element)?, &tools.heap)?;
            let len = list.len();
            match from {
                End::Left if to == End::Left => list.remove(1..2, &tools.heap),
                End::Left => list.remove(0..1, &tools.heap),
                End::Right if to == End::Right => list.remove(len - 2..len - 1, &tools.heap),
                End::Right => list.remove(len - 1..len, &tools.heap),
            }
        }
    } else {
        let push = |list: &mut List, tools: &mut crate::engine::Tools| {
            Ok(list.push(to, Piece::of_buf(&element)?, &tools.heap)?)
        };
        let name = |heap: &pdpix::Heap| request.blob(2, heap);
        call.engine.change(call.at, &destination, name, |_| Ok(List::default()), push)?;
        if let Some((list, tools)) = call.engine.find_as::<List>(call.at, &source)? {
            list.drop_some(from, 1, &tools.heap);
        }
        delete_if_empty(call, &source)?;
    }
    call.changed(1);
    call.reply.buf(element);
    Ok(())
}
