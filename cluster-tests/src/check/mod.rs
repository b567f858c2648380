//! Judges: whether a correct service could have shown its clients this history.
//!
//! [`linearizable`] is the search, over any [`Model`](linearizable::Model) of one object; [`strings`] is the model of a key
//! of the cache. [`cache`] puts them together: a history of many keys is linearizable if and only if that of each key is
//! (Herlihy and Wing, 1990, §3.3), so each is searched for itself.

pub mod linearizable;
pub mod strings;

use std::collections::BTreeMap;
use std::fmt;

use crate::history::{Datum, FormError, History, Kind, Operation};
use linearizable::{Budget, Entry, Outcome, search};
use strings::{Call, Reply, StringKey};

/// What a checker says of a history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// A correct service could have done this.
    Valid,
    /// No correct service does this.
    Invalid(Box<Violation>),
    /// It was not found out, for this reason. Neither a pass nor a failure of the service.
    Unknown(String),
}

/// Where a history goes wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The key.
    pub key: String,
    /// The operation whose end cannot be explained.
    pub operation: Operation,
    /// The history is wrong up to this index, which is the end of the operation.
    pub prefix: u64,
    /// And no shorter prefix is. (Else the budget did not allow to find that out.)
    pub is_smallest: bool,
    /// What the key could have been just before it: the values that do not explain it. None, if what was seen before could
    /// be explained only by another result of this operation.
    pub states: Vec<String>,
    /// Who wrote what it has as its result, if that was written as it is.
    pub writer: Option<Operation>,
    /// The operations on the key around it, in the order of their beginnings.
    pub around: Vec<Operation>,
}

/// Judges a history of the cache: are its operations, key by key, linearizable? Reads whose end is unknown say nothing, and
/// operations that failed did not happen.
pub fn cache(history: &History, budget: Budget) -> Verdict {
    if let Err(FormError { index, process, what }) = history.check() {
        return Verdict::Unknown(format!("the history is not well formed: event {index} of process {process}: {what}"));
    }
    let mut keys: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
    for operation in history.operations() {
        if operation.end != Kind::Fail {
            keys.entry(operation.key.clone()).or_default().push(operation);
        }
    }
    let mut unknown = None;
    for (key, operations) in keys {
        match check_key(&key, &operations, budget) {
            Verdict::Valid => {}
            Verdict::Unknown(why) => _ = unknown.get_or_insert(why),
            invalid => return invalid,
        }
    }
    unknown.map_or(Verdict::Valid, Verdict::Unknown)
}

fn check_key(key: &str, operations: &[Operation], budget: Budget) -> Verdict {
    let mut entries = Vec::with_capacity(operations.len());
    for operation in operations {
        let (Some(call), reply) = (Call::of(operation), Reply::of(operation)) else {
            return Verdict::Unknown(format!("the model does not know this operation: {operation}"));
        };
        let returned = match operation.end {
            Kind::Ok => operation.ended.map(|(index, _)| (index, reply)),
            _ => None,
        };
        entries.push(Entry { call, called: operation.invoked.0, returned });
    }
    match search(&StringKey, &entries, budget) {
        Outcome::Linearizable => Verdict::Valid,
        Outcome::Exhausted(what) => Verdict::Unknown(format!("key {key}: {what}")),
        Outcome::Stuck { at, states, is_smallest } => {
            let operation = operations[at].clone();
            let prefix = operation.ended.map_or(operation.invoked.0, |(index, _)| index);
            let mut states: Vec<String> = states.iter().map(|state| strings::describe(state.as_deref())).collect();
            states.sort();
            let around = around(operations, at, prefix);
            let writes_it = |other: &&Operation| other.argument == operation.result && operation.result != Datum::Nil;
            let writer = operations.iter().find(writes_it).cloned();
            Verdict::Invalid(Box::new(Violation {
                key: key.to_string(),
                operation,
                prefix,
                is_smallest,
                states,
                writer,
                around,
            }))
        }
    }
}

/// How many operations that had ended before are shown.
const SHOWN_BEFORE: usize = 6;

/// What helps to understand why an operation cannot be: those that ended last before it, and all that were open with it.
fn around(operations: &[Operation], at: usize, prefix: u64) -> Vec<Operation> {
    let stuck = &operations[at];
    let ended = |operation: &Operation| operation.ended.filter(|_| operation.end == Kind::Ok).map(|(index, _)| index);
    let mut before: Vec<u64> = operations.iter().filter_map(ended).filter(|&end| end < stuck.invoked.0).collect();
    before.sort_unstable();
    let since = before.len().checked_sub(SHOWN_BEFORE).map_or(0, |first| before[first]);
    // A read whose end is unknown explains nothing.
    let explains = |operation: &Operation| operation.end == Kind::Ok || !matches!(operation.f.as_str(), "get" | "mget");
    let is_open =
        |operation: &Operation| operation.invoked.0 <= prefix && ended(operation).is_none_or(|end| end >= since);
    let is_near = |operation: &&Operation| explains(operation) && is_open(operation);
    operations.iter().filter(is_near).cloned().collect()
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Valid => f.write_str("valid"),
            Verdict::Unknown(why) => write!(f, "unknown: {why}"),
            Verdict::Invalid(violation) => violation.fmt(f),
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { key, operation, prefix, is_smallest, states, writer, around } = self;
        let before = if *is_smallest { "before that event it is" } else { "perhaps an earlier event is wrong already" };
        writeln!(f, "INVALID: key {key} is not linearizable up to event {prefix}; {before}")?;
        writeln!(f, "this cannot be explained: {operation}")?;
        if let Some(writer) = writer {
            writeln!(f, "what it has seen was written by: {writer}")?;
        }
        match states.is_empty() {
            true => writeln!(f, "and without it nor can what was seen before")?,
            false => writeln!(f, "the key could only have been: {}", states.join(", "))?,
        }
        write!(f, "around it:")?;
        for near in around {
            let mark = if near == operation { "->" } else { "  " };
            write!(f, "\n{mark} {near}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
