//! What goes over a connection of the generator: requests, and replies as far as they matter to it.

use framework::pdpix::{Buf, Heap, Input, Output};
use framework::{Codec, CodecError};
use kv_engine::resp::value::{Value, ValueError, ValueParser};

/// What the service speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Protocol {
    /// GET and SET, as Redis and `margay kv` speak it.
    Resp,
    /// Bytes that come back, as `margay echo` gives them.
    Echo,
}

/// A request.
#[derive(Debug)]
pub enum Request {
    /// GET of the key with this number.
    Get(u64),
    /// SET of the key with this number; `None`: to nothing.
    Set(u64, Option<Buf>),
    /// Bytes to be echoed: a number, cut to the message if that is shorter, and a filler behind it.
    Echo {
        /// The number.
        number: u64,
        /// How long the message is.
        size: usize,
        /// All of the message but the number, if there is more.
        filler: Option<Buf>,
    },
}

/// A reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// A GET found its key.
    Found,
    /// It did not.
    Missing,
    /// A SET was done.
    Done,
    /// An echo: the number that it began with.
    Echoed(u64),
    /// The service refused, and said why.
    Refused(String),
    /// Something that answers neither GET nor SET.
    Strange,
}

/// The codec of one connection. Each reply comes with the connection's place.
pub struct Wire {
    place: u32,
    kind: Kind,
}

enum Kind {
    Resp(ValueParser),
    Echo { size: usize },
}

/// Bytes of the number in an echo.
pub const NUMBER_LEN: usize = 8;

impl Wire {
    /// A codec for the connection at `place`; an echo's messages have `size` bytes.
    pub fn new(place: u32, protocol: Protocol, size: usize) -> Wire {
        let kind = match protocol {
            Protocol::Resp => Kind::Resp(ValueParser::new()),
            Protocol::Echo => Kind::Echo { size },
        };
        Wire { place, kind }
    }
}

impl Codec for Wire {
    type In = (u32, Reply);
    type Out = Request;

    fn decode(&mut self, input: &mut Input, heap: &Heap) -> Result<Option<(u32, Reply)>, CodecError> {
        let reply = match &mut self.kind {
            Kind::Echo { size } if input.len() < *size => None,
            Kind::Echo { size } => {
                let mut number = [0; NUMBER_LEN];
                input.peek(0, &mut number[..(*size).min(NUMBER_LEN)]);
                input.advance(*size);
                Some(Reply::Echoed(u64::from_le_bytes(number)))
            }
            Kind::Resp(parser) => match parser.next(input, heap) {
                Ok(value) => value.map(reply_of),
                Err(ValueError::Exhausted) => return Err(CodecError::NoMemory),
                Err(ValueError::Malformed) => return Err(CodecError::Malformed("not a reply in RESP")),
                Err(ValueError::TooDeep) => {
                    return Err(CodecError::Malformed("a reply deeper than any of GET and SET"));
                }
            },
        };
        Ok(reply.map(|reply| (self.place, reply)))
    }

    fn encode(request: Request, output: &mut Output) {
        match request {
            Request::Get(key) => {
                output.put(b"*2\r\n$3\r\nGET\r\n");
                put_key(key, output);
            }
            Request::Set(key, value) => {
                output.put(b"*3\r\n$3\r\nSET\r\n");
                put_key(key, output);
                output.put(format!("${}\r\n", value.as_ref().map_or(0, |value| value.len())).as_bytes());
                value.into_iter().for_each(|value| output.put_buf(value));
                output.put(b"\r\n");
            }
            Request::Echo { number, size, filler } => {
                output.put(&number.to_le_bytes()[..size.min(NUMBER_LEN)]);
                filler.into_iter().for_each(|filler| output.put_buf(filler));
            }
        }
    }
}

/// `key:` and twelve digits, as redis-benchmark names its keys.
fn put_key(key: u64, output: &mut Output) {
    let mut bulk = *b"$16\r\nkey:000000000000\r\n";
    let mut rest = key;
    for digit in bulk[9..21].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    output.put(&bulk);
}

fn reply_of(value: Value) -> Reply {
    match value {
        Value::Bulk(_) => Reply::Found,
        Value::Null => Reply::Missing,
        Value::Simple(text) if &*text == b"OK" => Reply::Done,
        Value::Error(text) => Reply::Refused(String::from_utf8_lossy(&text[..text.len().min(60)]).into_owned()),
        _ => Reply::Strange,
    }
}

#[cfg(test)]
mod tests {
    use framework::pdpix::Sga;
    use framework::{Actor, Event, Harness, Outbox, carry_nowhere};

    use super::*;

    /// Something that has a heap.
    struct Nobody;
    struct Nothing;
    carry_nowhere!(Nothing);
    impl Actor for Nobody {
        type Message = Nothing;
        fn handle(&mut self, _: Event<Nothing>, _: &mut Outbox<'_, Self>) {}
    }

    fn heap() -> Heap {
        Harness::new(Nobody, 1).heap().clone()
    }

    fn written(request: Request, heap: &Heap) -> Vec<u8> {
        let mut output = Output::new(heap.clone());
        Wire::encode(request, &mut output);
        output.take().unwrap().to_vec()
    }

    #[test]
    fn requests_are_what_redis_reads() {
        let heap = heap();
        assert_eq!(written(Request::Get(42), &heap), b"*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000042\r\n");
        let value = Some(heap.copy(b"abc").unwrap());
        assert_eq!(
            written(Request::Set(123_456_789_012, value), &heap),
            b"*3\r\n$3\r\nSET\r\n$16\r\nkey:123456789012\r\n$3\r\nabc\r\n"
        );
        let echo = Request::Echo { number: 0x0201, size: 2, filler: None };
        assert_eq!(written(echo, &heap), [1, 2]);
    }

    #[test]
    fn replies_cut_anywhere_are_read_in_order() {
        let heap = heap();
        let bytes = b"$3\r\nabc\r\n+OK\r\n$-1\r\n-ERR no\r\n:5\r\n";
        let (mut wire, mut input, mut replies) = (Wire::new(7, Protocol::Resp, 3), Input::new(), Vec::new());
        for byte in bytes {
            input.push(Sga::copy(&heap, &[*byte]).unwrap());
            replies.extend(wire.decode(&mut input, &heap).unwrap());
        }
        let expected = [Reply::Found, Reply::Done, Reply::Missing, Reply::Refused("ERR no".into()), Reply::Strange]
            .map(|r| (7, r));
        assert_eq!(replies, expected);
        input.push(Sga::copy(&heap, b"what?\r\n").unwrap());
        assert!(matches!(wire.decode(&mut input, &heap), Err(CodecError::Malformed(_))));
    }

    #[test]
    fn an_echo_is_known_by_its_number() {
        let heap = heap();
        for size in [1, 8, 20] {
            let (mut wire, mut input) = (Wire::new(0, Protocol::Echo, size), Input::new());
            let filler = (size > NUMBER_LEN).then(|| heap.copy(&vec![9; size - NUMBER_LEN]).unwrap());
            let bytes = written(Request::Echo { number: 5, size, filler }, &heap);
            assert_eq!(bytes.len(), size);
            if size > 1 {
                input.push(Sga::copy(&heap, &bytes[..size - 1]).unwrap());
                assert_eq!(wire.decode(&mut input, &heap), Ok(None));
            }
            input.push(Sga::copy(&heap, &bytes[size - 1..]).unwrap());
            assert_eq!(wire.decode(&mut input, &heap), Ok(Some((0, Reply::Echoed(5)))));
            assert!(input.is_empty());
        }
    }
}
