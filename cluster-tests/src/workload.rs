//! What clients ask of the cache: reads and writes of a few hot keys.
//!
//! Every value that is written is written once, so a read says which write it has seen. Keys called `n` hold numbers and are
//! counted up, keys called `t` hold texts and are appended to: no call is refused for the type of what is there. Some reads and
//! writes are of two keys: on several cores they hold both shards, and the others wait. They are one operation on each.

use kv_client::Value;
use pdpix::Rng;

use crate::history::{Datum, Kind};

/// One call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The command, in small letters.
    pub f: &'static str,
    /// On which key.
    pub key: String,
    /// With what.
    pub argument: Datum,
    /// The other key of `mget` and `mset`.
    pub beside: Option<String>,
}

impl Request {
    /// A read.
    pub fn get(key: &str) -> Request {
        Request { f: "get", key: key.to_string(), argument: Datum::Nil, beside: None }
    }

    /// As it is sent.
    pub fn words(&self) -> Vec<&[u8]> {
        let argument = match &self.argument {
            Datum::Text(text) => Some(text.as_bytes()),
            _ => None,
        };
        let once = [self.f.as_bytes(), self.key.as_bytes()].into_iter().chain(argument);
        once.chain(self.beside.iter().flat_map(|key| [key.as_bytes()].into_iter().chain(argument))).collect()
    }

    /// The keys that it is about.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        [&self.key].into_iter().chain(&self.beside)
    }

    /// What a reply says of it, and of the key with this place among its keys: how it ended, and with what. A reply of a kind
    /// that this call never has is kept as a text, which no model explains.
    pub fn outcome(&self, reply: &Value, place: usize) -> (Kind, Datum) {
        let text = |bytes: &[u8]| Datum::Text(String::from_utf8_lossy(bytes).into_owned());
        match reply {
            Value::Error(why) => (Kind::Fail, text(why)),
            Value::Simple(ok) if matches!(self.f, "set" | "mset") && **ok == *b"OK" => (Kind::Ok, Datum::Nil),
            Value::Array(values) if self.f == "mget" && values.len() == 2 => self.outcome(&values[place], place),
            Value::Integer(number) => (Kind::Ok, Datum::Integer(*number)),
            Value::Bulk(value) => (Kind::Ok, text(value)),
            Value::Null => (Kind::Ok, Datum::Nil),
            strange => (Kind::Ok, Datum::Text(format!("{strange:?}"))),
        }
    }
}

/// The keys: as many of each kind.
pub fn keys(of_each: usize) -> Vec<String> {
    (0..of_each).flat_map(|i| [format!("n{i}"), format!("t{i}")]).collect()
}

/// What one client asks.
#[derive(Debug)]
pub struct Workload {
    rng: Rng,
    keys: Vec<String>,
    /// Which of all clients that there are and were: what it writes nobody else does.
    writer: u64,
    written: u64,
    /// Values are only learnt from what writes answer.
    writes_only: bool,
}

impl Workload {
    /// The calls of a client.
    pub fn new(rng: Rng, keys: Vec<String>, writer: u64) -> Workload {
        Workload { rng, keys, writer, written: 0, writes_only: false }
    }

    /// The same calls, but for those that only read.
    #[must_use]
    pub fn of_writes(self) -> Workload {
        Workload { writes_only: true, ..self }
    }

    /// The next call.
    pub fn next_request(&mut self) -> Request {
        let key = self.keys[self.rng.below(self.keys.len() as u64) as usize].clone();
        let counts = key.starts_with('n');
        let first = if self.writes_only { 35 } else { 0 };
        let f = match self.rng.range(first..=99) {
            0..28 => "get",
            28..35 => "mget",
            35..48 => "set",
            48..55 => "mset",
            55..75 if counts => "incr",
            55..75 => "append",
            75..83 => "getset",
            83..92 => "setnx",
            _ => "del",
        };
        let beside = f.starts_with('m').then(|| {
            let others: Vec<&String> = self.keys.iter().filter(|other| **other != key).collect();
            others[self.rng.below(others.len() as u64) as usize].clone()
        });
        let argument = match f {
            "get" | "mget" | "incr" | "del" => Datum::Nil,
            // A text may be a number, too.
            _ => Datum::Text(self.new_value(counts || beside.iter().any(|key| key.starts_with('n')))),
        };
        Request { f, key, argument, beside }
    }

    fn new_value(&mut self, counts: bool) -> String {
        self.written += 1;
        let Workload { writer, written, .. } = self;
        // Numbers lie apart, so that counting up from one does not come to the next.
        if counts { format!("{}", (*writer * 100_000 + *written) * 1_000) } else { format!("{writer}.{written};") }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_value_is_written_twice() {
        let mut values = BTreeSet::new();
        let mut commands = BTreeSet::new();
        for writer in 0..3 {
            let mut workload = Workload::new(Rng::new(5), keys(2), writer);
            for request in (0..1000).map(|_| workload.next_request()) {
                commands.insert(request.f);
                if let Datum::Text(value) = request.argument {
                    assert!(values.insert(value.clone()), "{value} was written before");
                }
            }
        }
        assert_eq!(commands.len(), 9, "{commands:?}");
        let mut writes = Workload::new(Rng::new(5), keys(2), 0).of_writes();
        assert!((0..1000).all(|_| !["get", "mget"].contains(&writes.next_request().f)));
    }

    #[test]
    fn the_keys_lie_on_both_shards_of_two() {
        let shard_of = |key: &String| kv_engine::shard::shard_of(key.as_bytes(), 2);
        assert_eq!(keys(2).iter().map(shard_of).collect::<BTreeSet<_>>().len(), 2);
        let mut workload = Workload::new(Rng::new(1), keys(2), 0);
        let pairs = (0..1000).map(|_| workload.next_request());
        let mut pairs = pairs.filter_map(|request| Some((shard_of(&request.key), shard_of(&request.beside?))));
        assert!(pairs.any(|(key, beside)| key != beside), "some calls concern both");
    }

    #[test]
    fn replies_become_results() {
        let get = Request::get("n0");
        assert_eq!(get.words(), [&b"get"[..], b"n0"]);
        assert_eq!(get.outcome(&Value::Null, 0), (Kind::Ok, Datum::Nil));
        assert_eq!(get.outcome(&Value::Integer(3), 0), (Kind::Ok, Datum::Integer(3)));
        let beside = Some("t1".to_string());
        let both = |f, argument| Request { f, key: "n0".into(), argument, beside: beside.clone() };
        assert_eq!(both("mset", "7".into()).words(), [&b"mset"[..], b"n0", b"7", b"t1", b"7"]);
        let mget = both("mget", Datum::Nil);
        assert_eq!(mget.words(), [&b"mget"[..], b"n0", b"t1"]);
        let both = Value::Array(vec![Value::Integer(1), Value::Null]);
        assert_eq!([0, 1].map(|place| mget.outcome(&both, place)), [(Kind::Ok, 1.into()), (Kind::Ok, Datum::Nil)]);
        assert_eq!(mget.keys().collect::<Vec<_>>(), ["n0", "t1"]);
        let (kind, strange) = get.outcome(&Value::Boolean(true), 0);
        assert!(kind == Kind::Ok && matches!(strange, Datum::Text(_)), "no model explains a boolean");
    }
}
