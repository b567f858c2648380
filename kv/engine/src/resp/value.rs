//! Replies as a client reads them, both versions of the protocol, cut anywhere.
//!
//! An aggregate is put together on a stack of its own, element by element, so that nothing is read twice. Bounds:
//! [`DEPTH_MAX`] aggregates inside each other; a line of 64 KiB; strings of 4 GiB.

use pdpix::{Buf, Exhausted, Heap, Input};

use crate::number::{parse_f64, parse_i64};

/// How deep aggregates may lie in each other.
pub const DEPTH_MAX: usize = 64;

const LINE_LEN_MAX: usize = 64 * 1024;

/// A reply, or a part of one.
#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    /// `+`: a simple string.
    Simple(Buf),
    /// `-`: an error, code and text; `!`: one that may have line breaks.
    Error(Buf),
    /// `:`
    Integer(i64),
    /// `$`: a bulk string.
    Bulk(Buf),
    /// `$-1`, `*-1`, `_`
    Null,
    /// `*`
    Array(Vec<Value>),
    /// `%`
    Map(Vec<(Value, Value)>),
    /// `~`
    Set(Vec<Value>),
    /// `,`
    Double(f64),
    /// `#`
    Boolean(bool),
    /// `(`: an integer of any size, as text.
    BigNumber(Buf),
    /// `=`: three bytes that name the format, and the text.
    Verbatim([u8; 3], Buf),
    /// `>`: a message that answers nothing.
    Push(Vec<Value>),
}

impl Value {
    /// The bytes, if it is a string of some kind.
    pub fn as_bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Simple(buf) | Value::Bulk(buf) | Value::BigNumber(buf) | Value::Verbatim(_, buf) => Some(buf),
            _ => None,
        }
    }

    /// The elements, if it is an array, a set or a push.
    pub fn as_slice(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) | Value::Set(items) | Value::Push(items) => Some(items),
            _ => None,
        }
    }
}

/// Why there is no next reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ValueError {
    /// This is not RESP: the connection is of no use any more.
    Malformed,
    /// Aggregates inside each other, deeper than [`DEPTH_MAX`].
    TooDeep,
    /// No memory for a string that is in pieces. Nothing is lost: ask again when something was freed.
    Exhausted,
}

impl From<Exhausted> for ValueError {
    fn from(_: Exhausted) -> ValueError {
        ValueError::Exhausted
    }
}

/// Reads replies from an [`Input`], one at a time.
#[derive(Default, Debug)]
pub struct ValueParser {
    /// Aggregates that are not whole yet, the outermost first.
    open: Vec<Open>,
    /// Bytes at the front of the input that are known not to end a line.
    searched: usize,
}

#[derive(Debug)]
struct Open {
    kind: u8,
    left: usize,
    items: Vec<Value>,
}

impl ValueParser {
    /// At the beginning of a reply.
    pub fn new() -> ValueParser {
        ValueParser::default()
    }

    /// The next reply, or `None` if more must arrive first.
    ///
    /// # Errors
    /// [`ValueError`].
    pub fn next(&mut self, input: &mut Input, heap: &Heap) -> Result<Option<Value>, ValueError> {
        loop {
            let Some(element) = self.element(input, heap)? else { return Ok(None) };
            let Some(mut value) = element else { continue };
            // The element may be the last of its aggregate, and that one of the next.
            loop {
                let Some(open) = self.open.last_mut() else { return Ok(Some(value)) };
                open.items.push(value);
                open.left -= 1;
                if open.left > 0 {
                    break;
                }
                let Some(whole) = self.open.pop().and_then(Open::close) else { break };
                value = whole;
            }
        }
    }

    /// Reads one line, and the string that it announces. The inner `None`: an aggregate was opened, or an attribute
    /// skipped.
    fn element(&mut self, input: &mut Input, heap: &Heap) -> Result<Option<Option<Value>>, ValueError> {
        let Some(end) = input.find(b'\r', self.searched) else {
            self.searched = input.len();
            return if input.len() > LINE_LEN_MAX { Err(ValueError::Malformed) } else { Ok(None) };
        };
        self.searched = end;
        let line_len = end + 2;
        if input.len() < line_len {
            return Ok(None);
        }
        if end == 0 {
            return Err(ValueError::Malformed);
        }
        let kind = input.front()[0];
        let mut short = [0; 64];
        let text = &mut short[..(end - 1).min(64)];
        input.peek(1, text);
        let text = &*text;
        let value = match kind {
            b'$' | b'!' | b'=' => {
                let len = parse_i64(text).ok_or(ValueError::Malformed)?;
                if len < 0 {
                    Value::Null
                } else {
                    let len = u32::try_from(len).map_err(|_| ValueError::Malformed)? as usize;
                    return self.string(kind, line_len, len, input, heap);
                }
            }
            b'*' | b'~' | b'%' | b'>' | b'|' => {
                let len = parse_i64(text).ok_or(ValueError::Malformed)?;
                self.forget(input, line_len);
                return match u32::try_from(len) {
                    Ok(len) => self.open(kind, len as usize).map(Some),
                    Err(_) if len < 0 && kind == b'*' => Ok(Some(Some(Value::Null))),
                    Err(_) => Err(ValueError::Malformed),
                };
            }
            b':' => Value::Integer(parse_i64(text).ok_or(ValueError::Malformed)?),
            b',' if text == b"nan" => Value::Double(f64::NAN),
            b',' => Value::Double(parse_f64(text).ok_or(ValueError::Malformed)?),
            b'_' => Value::Null,
            b'#' if text == b"t" => Value::Boolean(true),
            b'#' if text == b"f" => Value::Boolean(false),
            b'+' | b'-' | b'(' => {
                let line = input.take(line_len, heap)?.slice(1..end);
                self.searched = 0;
                return Ok(Some(Some(match kind {
                    b'+' => Value::Simple(line),
                    b'-' => Value::Error(line),
                    _ => Value::BigNumber(line),
                })));
            }
            _ => return Err(ValueError::Malformed),
        };
        self.forget(input, line_len);
        Ok(Some(Some(value)))
    }

    fn string(
        &mut self,
        kind: u8,
        line_len: usize,
        len: usize,
        input: &mut Input,
        heap: &Heap,
    ) -> Result<Option<Option<Value>>, ValueError> {
        if input.len() < line_len + len + 2 {
            return Ok(None);
        }
        if kind == b'=' && len < 4 {
            return Err(ValueError::Malformed);
        }
        // The header is forgotten only when the string is ours: `take` may find no memory.
        let whole = if input.front().len() >= line_len + len {
            input.take(line_len + len, heap)?.slice(line_len..)
        } else {
            let mut into = heap.alloc(len)?;
            heap.count_copied(libos_mem::CopyPath::Coalesce, len);
            input.advance(line_len);
            input.move_to(&mut into, len);
            into.freeze()
        };
        self.forget(input, 2);
        Ok(Some(Some(match kind {
            b'$' => Value::Bulk(whole),
            b'!' => Value::Error(whole),
            _ => Value::Verbatim([whole[0], whole[1], whole[2]], whole.slice(4..)),
        })))
    }

    /// Opens an aggregate, or makes an empty one.
    fn open(&mut self, kind: u8, len: usize) -> Result<Option<Value>, ValueError> {
        let left = if matches!(kind, b'%' | b'|') { len * 2 } else { len };
        let open = Open { kind, left, items: Vec::with_capacity(left.min(64)) };
        if left == 0 {
            return Ok(open.close());
        }
        if self.open.len() == DEPTH_MAX {
            return Err(ValueError::TooDeep);
        }
        self.open.push(open);
        Ok(None)
    }

    fn forget(&mut self, input: &mut Input, count: usize) {
        input.advance(count);
        self.searched = 0;
    }
}

impl Open {
    /// The whole aggregate. `None` for an attribute, which is about the reply that follows, and skipped.
    fn close(self) -> Option<Value> {
        Some(match self.kind {
            b'*' => Value::Array(self.items),
            b'~' => Value::Set(self.items),
            b'>' => Value::Push(self.items),
            b'%' => {
                let mut items = self.items.into_iter();
                let mut pairs = Vec::with_capacity(items.len() / 2);
                while let (Some(key), Some(value)) = (items.next(), items.next()) {
                    pairs.push((key, value));
                }
                Value::Map(pairs)
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use pdpix::{Output, Sga};
    use quickcheck::{Arbitrary, Gen, quickcheck};

    use super::*;
    use crate::resp::tests::{cut, heap};
    use crate::resp::{Protocol, Reply};

    /// A value that can be written, in RESP3.
    #[derive(Clone, Debug)]
    enum Tree {
        Integer(i64),
        Bulk(Vec<u8>),
        Null,
        Double(i32),
        Boolean(bool),
        Array(Vec<Tree>),
        Set(Vec<Tree>),
        Map(Vec<(Tree, Tree)>),
    }

    impl Arbitrary for Tree {
        fn arbitrary(g: &mut Gen) -> Tree {
            tree(g, 4)
        }
    }

    fn tree(g: &mut Gen, depth: u8) -> Tree {
        let len = usize::arbitrary(g) % 4;
        match u8::arbitrary(g) % if depth == 0 { 5 } else { 8 } {
            0 => Tree::Integer(i64::arbitrary(g)),
            1 => Tree::Bulk(Vec::arbitrary(g)),
            2 => Tree::Null,
            3 => Tree::Double(i32::arbitrary(g)),
            4 => Tree::Boolean(bool::arbitrary(g)),
            5 => Tree::Array((0..len).map(|_| tree(g, depth - 1)).collect()),
            6 => Tree::Set((0..len).map(|_| tree(g, depth - 1)).collect()),
            _ => Tree::Map((0..len).map(|_| (tree(g, depth - 1), tree(g, depth - 1))).collect()),
        }
    }

    fn write(reply: &mut Reply<'_>, tree: &Tree) {
        match tree {
            Tree::Integer(value) => reply.integer(*value),
            Tree::Bulk(bytes) => reply.bulk(bytes),
            Tree::Null => reply.null(),
            Tree::Double(value) => reply.double(f64::from(*value) / 8.0),
            Tree::Boolean(value) => reply.boolean(*value),
            Tree::Array(items) => {
                reply.array(items.len());
                items.iter().for_each(|item| write(reply, item));
            }
            Tree::Set(items) => {
                reply.set(items.len());
                items.iter().for_each(|item| write(reply, item));
            }
            Tree::Map(pairs) => {
                reply.map(pairs.len());
                pairs.iter().for_each(|(key, value)| (write(reply, key), write(reply, value)).0);
            }
        }
    }

    fn same(value: &Value, tree: &Tree) -> bool {
        let all = |values: &[Value], trees: &[Tree]| {
            values.len() == trees.len() && values.iter().zip(trees).all(|(value, tree)| same(value, tree))
        };
        match (value, tree) {
            (Value::Integer(value), Tree::Integer(tree)) => value == tree,
            (Value::Bulk(value), Tree::Bulk(tree)) => **value == **tree,
            (Value::Null, Tree::Null) => true,
            (Value::Double(value), Tree::Double(tree)) => *value == f64::from(*tree) / 8.0,
            (Value::Boolean(value), Tree::Boolean(tree)) => value == tree,
            (Value::Array(values), Tree::Array(trees)) | (Value::Set(values), Tree::Set(trees)) => all(values, trees),
            (Value::Map(values), Tree::Map(trees)) => {
                let pair = |((a, b), (c, d)): (&(Value, Value), &(Tree, Tree))| same(a, c) && same(b, d);
                values.len() == trees.len() && values.iter().zip(trees).all(pair)
            }
            _ => false,
        }
    }

    quickcheck! {
        fn what_is_written_is_read_however_it_is_cut(trees: Vec<Tree>, cuts: Vec<u8>) -> bool {
            let heap = heap();
            let mut out = Output::new(heap.clone());
            trees.iter().for_each(|tree| write(&mut Reply::new(&mut out, Protocol::Resp3), tree));
            let bytes = out.take().unwrap().to_vec();
            let (mut input, mut parser, mut read) = (Input::new(), ValueParser::new(), Vec::new());
            for part in cut(&bytes, &cuts) {
                input.push(Sga::copy(&heap, part).unwrap());
                while let Some(value) = parser.next(&mut input, &heap).unwrap() {
                    read.push(value);
                }
            }
            input.is_empty() && read.len() == trees.len() && read.iter().zip(&trees).all(|(v, t)| same(v, t))
        }

        fn random_bytes_end(bytes: Vec<u8>, cuts: Vec<u8>) -> bool {
            let heap = heap();
            let bytes: Vec<u8> = bytes.iter().map(|b| b"*$:-+%~>|#,_(=!0123\r\n\r\n\r\n"[*b as usize % 25]).collect();
            let (mut input, mut parser) = (Input::new(), ValueParser::new());
            for part in cut(&bytes, &cuts) {
                input.push(Sga::copy(&heap, part).unwrap());
                loop {
                    let before = input.len();
                    match parser.next(&mut input, &heap) {
                        Ok(Some(_)) => assert!(input.len() < before),
                        Ok(None) => break,
                        Err(_) => return true,
                    }
                }
            }
            true
        }
    }

    #[test]
    fn types_that_redis_seldom_sends() {
        let heap = heap();
        let read = |text: &str| {
            let mut input = Input::new();
            input.push(Sga::copy(&heap, text.as_bytes()).unwrap());
            ValueParser::new().next(&mut input, &heap)
        };
        let bulk = |text: &str| heap.copy(text.as_bytes()).unwrap();
        assert_eq!(read("|1\r\n+a\r\n+b\r\n:1\r\n"), Ok(Some(Value::Integer(1))), "an attribute is skipped");
        assert_eq!(read("=7\r\ntxt:abc\r\n"), Ok(Some(Value::Verbatim(*b"txt", bulk("abc")))));
        assert_eq!(read("!5\r\nERR x\r\n"), Ok(Some(Value::Error(bulk("ERR x")))));
        assert_eq!(read("(123\r\n"), Ok(Some(Value::BigNumber(bulk("123")))));
        assert_eq!(read("*-1\r\n"), Ok(Some(Value::Null)));
        assert_eq!(read("%0\r\n"), Ok(Some(Value::Map(vec![]))));
        assert_eq!(read(",-inf\r\n"), Ok(Some(Value::Double(f64::NEG_INFINITY))));
        assert_eq!(read("*1\r\n".repeat(DEPTH_MAX + 1).as_str()), Err(ValueError::TooDeep));
        assert_eq!(read("?\r\n"), Err(ValueError::Malformed));
    }
}
