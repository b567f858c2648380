//! What clients ask of the cache: reads and writes of a few hot keys.
//!
//! Every value that is written is written once, so a read says which write it has seen. Keys called `n` hold numbers and are
//! counted up, keys called `t` hold texts and are appended to: no call is refused for the type of what is there.

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
}

impl Request {
    /// A read.
    pub fn get(key: &str) -> Request {
        Request { f: "get", key: key.to_string(), argument: Datum::Nil }
    }

    /// As it is sent.
    pub fn words(&self) -> Vec<&[u8]> {
        let argument = match &self.argument {
            Datum::Text(text) => Some(text.as_bytes()),
            _ => None,
        };
        [self.f.as_bytes(), self.key.as_bytes()].into_iter().chain(argument).collect()
    }

    /// What a reply says of it: how it ended, and with what. A reply of a kind that this call never has is kept as a text,
    /// which no model explains.
    pub fn outcome(&self, reply: &Value) -> (Kind, Datum) {
        let text = |bytes: &[u8]| Datum::Text(String::from_utf8_lossy(bytes).into_owned());
        match reply {
            Value::Error(why) => (Kind::Fail, text(why)),
            Value::Simple(ok) if self.f == "set" && **ok == *b"OK" => (Kind::Ok, Datum::Nil),
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
}

impl Workload {
    /// The calls of a client.
    pub fn new(rng: Rng, keys: Vec<String>, writer: u64) -> Workload {
        Workload { rng, keys, writer, written: 0 }
    }

    /// The next call.
    pub fn next_request(&mut self) -> Request {
        let key = self.keys[self.rng.below(self.keys.len() as u64) as usize].clone();
        let counts = key.starts_with('n');
        let f = match self.rng.below(100) {
            0..35 => "get",
            35..55 => "set",
            55..75 if counts => "incr",
            55..75 => "append",
            75..83 => "getset",
            83..92 => "setnx",
            _ => "del",
        };
        let argument = match f {
            "get" | "incr" | "del" => Datum::Nil,
            _ => Datum::Text(self.new_value(counts)),
        };
        Request { f, key, argument }
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
        assert_eq!(commands.len(), 7, "{commands:?}");
    }

    #[test]
    fn the_keys_lie_on_both_shards_of_two() {
        let shards: BTreeSet<usize> = keys(2).iter().map(|key| kv_engine::shard::shard_of(key.as_bytes(), 2)).collect();
        assert_eq!(shards.len(), 2);
    }

    #[test]
    fn replies_become_results() {
        let get = Request::get("n0");
        assert_eq!(get.words(), [&b"get"[..], b"n0"]);
        assert_eq!(get.outcome(&Value::Null), (Kind::Ok, Datum::Nil));
        assert_eq!(get.outcome(&Value::Integer(3)), (Kind::Ok, Datum::Integer(3)));
        let (kind, strange) = get.outcome(&Value::Boolean(true));
        assert!(kind == Kind::Ok && matches!(strange, Datum::Text(_)), "no model explains a boolean");
    }
}
