//! Commands on strings that are numbers.

use super::row::{FAST, GROWS};
use super::strings::{Expiry, put};
use super::{Call, Command, Flags, Group, KeySpec, Result, Run};
use crate::blob::Blob;
use crate::number::{Extended, IntegerText, parse_i64};
use crate::object::Object;
use crate::refusal::Refusal;

const fn row(name: &'static str, arity: i16, flags: Flags, run: fn(&mut Call<'_>) -> Result) -> Command {
    Command::row(Group::String, name, arity, flags, Run::Shard(run))
}

pub(super) const ROWS: &[Command] = &[
    row("incr", 2, GROWS.and(FAST), incr).doc("1.0.0", "O(1)", "Adds one to an integer").keys(&[KeySpec::EXCHANGE]),
    row("decr", 2, GROWS.and(FAST), decr).doc("1.0.0", "O(1)", "Takes one from an integer").keys(&[KeySpec::EXCHANGE]),
    row("incrby", 3, GROWS.and(FAST), incrby).doc("1.0.0", "O(1)", "Adds to an integer").keys(&[KeySpec::EXCHANGE]),
    row("decrby", 3, GROWS.and(FAST), decrby).doc("1.0.0", "O(1)", "Takes from an integer").keys(&[KeySpec::EXCHANGE]),
    row("incrbyfloat", 3, GROWS.and(FAST), incrbyfloat)
        .doc("2.6.0", "O(1)", "Adds to a number")
        .keys(&[KeySpec::EXCHANGE]),
];

fn incr(call: &mut Call<'_>) -> Result {
    increment(call, 1)
}

fn decr(call: &mut Call<'_>) -> Result {
    increment(call, -1)
}

fn incrby(call: &mut Call<'_>) -> Result {
    let by = call.integer(2)?;
    increment(call, by)
}

fn decrby(call: &mut Call<'_>) -> Result {
    let by = call.integer(2)?.checked_neg().ok_or(Refusal::DecrementOverflow)?;
    increment(call, by)
}

fn increment(call: &mut Call<'_>, by: i64) -> Result {
    let key = call.key(1);
    #[cfg(margay_planted_bug = "lost_update")]
    let counted = call.engine.counted;
    let value = match call.engine.find(call.at, &key) {
        Some(entry) => {
            let old = match &entry.object {
                Object::Integer(value) => *value,
                Object::Text(text) => parse_i64(text).ok_or(Refusal::NotInteger)?,
                _ => return Err(Refusal::WrongType),
            };
            // A planted bug: who counts within the millisecond of another starts from the same number.
            #[cfg(margay_planted_bug = "lost_update")]
            let old = if (counted.0, counted.1) == (key.hash, call.at.now) { counted.2 } else { old };
            let value = old.checked_add(by).ok_or(Refusal::Overflow)?;
            entry.object = Object::Integer(value);
            entry.built = false;
            value
        }
        None => {
            let name = call.blob(1)?;
            call.engine.add(call.at, name, key.hash, Object::Integer(by));
            by
        }
    };
    #[cfg(margay_planted_bug = "lost_update")]
    (call.engine.counted = (key.hash, call.at.now, value - by));
    call.changed(1);
    call.reply.integer(value);
    Ok(())
}

fn incrbyfloat(call: &mut Call<'_>) -> Result {
    let key = call.key(1);
    let old = match call.engine.find(call.at, &key).map(|entry| &entry.object) {
        Some(Object::Integer(value)) => Extended::parse(&IntegerText::new(*value)),
        Some(Object::Text(text)) => Extended::parse(text),
        Some(_) => return Err(Refusal::WrongType),
        None => Some(Extended::ZERO),
    };
    let by = old.and_then(|old| Some((old, Extended::parse(call.arg(2))?)));
    let (old, by) = by.ok_or(Refusal::NotFloat)?;
    let text = old.checked_add(by).ok_or(Refusal::SumNotFinite)?.to_text();
    let object = Object::Text(Blob::copy(&text, &call.engine.tools.heap)?);
    put(call, &key, |call| call.blob(1), object, Expiry::Keep)?;
    call.reply.bulk(&text);
    Ok(())
}
