//! The model of one key of the cache that holds a string, or nothing. Numbers are strings of digits, as in Redis.
//!
//! get, set, mget, mset (each of one key that is looked at), del, incr, append, getset, setnx. Calls that the cache would refuse (incr of what is no number) are not
//! modelled: a refused operation is recorded as failed, and did not happen.

use crate::history::{Datum, Kind, Operation};

use super::linearizable::Model;

/// A key that holds a string or nothing.
#[derive(Clone, Copy, Debug)]
pub struct StringKey;

/// What a key is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Call {
    /// Its value?
    Get,
    /// To be this.
    Set(String),
    /// To be gone.
    Del,
    /// To be one more.
    Incr,
    /// To be longer.
    Append(String),
    /// To be this, and what was it?
    GetSet(String),
    /// To be this, if it is nothing.
    SetNx(String),
}

/// What it answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply(pub Datum);

impl Call {
    /// What an operation of a history asks, if the model knows it.
    pub fn of(operation: &Operation) -> Option<Call> {
        Some(match (operation.f.as_str(), &operation.argument) {
            ("get" | "mget", Datum::Nil) => Call::Get,
            ("set" | "mset", Datum::Text(value)) => Call::Set(value.clone()),
            ("del", Datum::Nil) => Call::Del,
            ("incr", Datum::Nil) => Call::Incr,
            ("append", Datum::Text(value)) => Call::Append(value.clone()),
            ("getset", Datum::Text(value)) => Call::GetSet(value.clone()),
            ("setnx", Datum::Text(value)) => Call::SetNx(value.clone()),
            _ => return None,
        })
    }
}

impl Reply {
    /// What it was answered; meaningful if it ended well.
    pub fn of(operation: &Operation) -> Reply {
        debug_assert!(operation.end != Kind::Fail, "what failed has no place in a model");
        Reply(operation.result.clone())
    }
}

/// A state in words.
pub fn describe(state: Option<&str>) -> String {
    state.map_or_else(|| "nothing".to_string(), |value| format!("{value:?}"))
}

impl Model for StringKey {
    type State = Option<String>;
    type Call = Call;
    type Reply = Reply;

    fn start(&self) -> Option<String> {
        None
    }

    fn step(&self, state: &Option<String>, call: &Call, reply: Option<&Reply>) -> Option<Option<String>> {
        let (next, answer) = carry_out(state.as_deref(), call)?;
        reply.is_none_or(|reply| reply.0 == answer).then_some(next)
    }
}

/// The state after a call, and the answer; `None` if it is refused.
fn carry_out(state: Option<&str>, call: &Call) -> Option<(Option<String>, Datum)> {
    let is = state.map(str::to_string);
    let was = is.clone().map_or(Datum::Nil, Datum::Text);
    Some(match call {
        Call::Get => (is, was),
        Call::Set(value) => (Some(value.clone()), Datum::Nil),
        Call::Del => (None, Datum::Integer(i64::from(is.is_some()))),
        Call::Incr => {
            let number = state.map_or(Some(0), number_of)?.checked_add(1)?;
            (Some(number.to_string()), Datum::Integer(number))
        }
        Call::Append(more) => {
            let longer = is.unwrap_or_default() + more;
            let len = longer.len() as i64;
            (Some(longer), Datum::Integer(len))
        }
        Call::GetSet(value) => (Some(value.clone()), was),
        Call::SetNx(_) if is.is_some() => (is, Datum::Integer(0)),
        Call::SetNx(value) => (Some(value.clone()), Datum::Integer(1)),
    })
}

/// Digits as Redis takes them: no plus, no leading zeros, no blanks.
fn number_of(text: &str) -> Option<i64> {
    text.parse().ok().filter(|number: &i64| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_does_what_redis_documents() {
        let after = |calls: &[Call]| {
            calls
                .iter()
                .try_fold((None, Datum::Nil), |(state, _): (Option<String>, _), call| carry_out(state.as_deref(), call))
        };
        let is = |state: &str, answer: Datum| Some((Some(state.to_string()), answer));
        let set = |value: &str| Call::Set(value.into());
        assert_eq!(after(&[Call::Get]), Some((None, Datum::Nil)));
        assert_eq!(after(&[set("a"), Call::Get]), is("a", "a".into()));
        assert_eq!(after(&[Call::Incr, Call::Incr]), is("2", 2.into()));
        assert_eq!(after(&[set("-1"), Call::Incr]), is("0", 0.into()));
        assert_eq!(after(&[set("007"), Call::Incr]), None, "no number");
        assert_eq!(after(&[set(&i64::MAX.to_string()), Call::Incr]), None, "it does not fit");
        assert_eq!(after(&[Call::Append("ab".into()), Call::Append("c".into())]), is("abc", 3.into()));
        assert_eq!(after(&[set("a"), Call::GetSet("b".into())]), is("b", "a".into()));
        assert_eq!(after(&[Call::SetNx("a".into()), Call::SetNx("b".into())]), is("a", 0.into()));
        assert_eq!(after(&[set("a"), Call::Del]), Some((None, 1.into())));
        assert_eq!(after(&[Call::Del]), Some((None, 0.into())));
    }
}
