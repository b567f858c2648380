//! Replies as they are sent, in the version of the protocol that the connection speaks.

use std::ops::Range;

use pdpix::{Buf, Heap, Output};

use crate::blob::Blob;
use crate::number::{DoubleText, Extended, IntegerText, PAIRS, write_u64_before};

/// The version of RESP that a connection speaks. Each begins with 2, until HELLO.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    /// RESP2: strings, integers, arrays.
    #[default]
    Resp2,
    /// RESP3: maps, sets, doubles and more.
    Resp3,
}

/// Writes replies into an [`Output`].
pub struct Reply<'a> {
    out: &'a mut Output,
    protocol: Protocol,
}

impl<'a> Reply<'a> {
    /// A writer to `out`.
    #[inline]
    pub fn new(out: &'a mut Output, protocol: Protocol) -> Reply<'a> {
        Reply { out, protocol }
    }

    /// The version that it writes.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Changes the version.
    pub fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
    }

    /// The heap that it writes to.
    pub fn heap(&self) -> &Heap {
        self.out.heap()
    }

    /// What it writes to.
    pub fn out(&mut self) -> &mut Output {
        self.out
    }

    /// `+OK`.
    #[inline]
    pub fn ok(&mut self) {
        self.out.put(b"+OK\r\n");
    }

    /// A simple string. It has no line breaks.
    pub fn simple(&mut self, text: &str) {
        debug_assert!(!text.contains(['\r', '\n']), "a line break ends a simple string");
        self.line(b'+', text.as_bytes());
    }

    /// An error: a code in capitals, and a text. Line breaks become spaces.
    pub fn error(&mut self, text: &[u8]) {
        self.out.put(b"-");
        for (index, line) in text.split(|byte| matches!(byte, b'\r' | b'\n')).enumerate() {
            if index > 0 {
                self.out.put(b" ");
            }
            self.out.put(line);
        }
        self.out.put(b"\r\n");
    }

    /// An integer.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        match value {
            0 => self.out.put(b":0\r\n"),
            1 => self.out.put(b":1\r\n"),
            _ => self.line(b':', &IntegerText::new(value)),
        }
    }

    /// How many there are, as an integer.
    #[inline]
    pub fn count(&mut self, count: usize) {
        self.integer(count as i64);
    }

    /// A bulk string.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.header(b'$', bytes.len());
        self.out.put(bytes);
        self.out.put(b"\r\n");
    }

    /// A stored string as a bulk string, from where it lies.
    #[inline]
    pub fn blob(&mut self, blob: &Blob) {
        self.header(b'$', blob.len());
        blob.put(self.out);
        self.out.put(b"\r\n");
    }

    /// A part of a stored string as a bulk string, from where it lies.
    pub fn blob_part(&mut self, blob: &Blob, range: Range<usize>) {
        self.header(b'$', range.len());
        blob.put_part(self.out, range);
        self.out.put(b"\r\n");
    }

    /// A buffer as a bulk string, from where it lies.
    pub fn buf(&mut self, buf: Buf) {
        self.header(b'$', buf.len());
        self.out.put_buf(buf);
        self.out.put(b"\r\n");
    }

    /// An integer as a bulk string.
    pub fn bulk_integer(&mut self, value: i64) {
        self.bulk(&IntegerText::new(value));
    }

    /// Nothing, where there could have been a string.
    #[inline]
    pub fn null(&mut self) {
        self.out.put(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// Nothing, where there could have been an array.
    pub fn null_array(&mut self) {
        self.out.put(match self.protocol {
            Protocol::Resp2 => b"*-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// The beginning of an array; `len` elements follow.
    #[inline]
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len);
    }

    /// The beginning of a map; `len` keys follow, and behind each its value.
    pub fn map(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', len * 2),
            Protocol::Resp3 => self.header(b'%', len),
        }
    }

    /// The beginning of a set; `len` elements follow.
    pub fn set(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', len),
            Protocol::Resp3 => self.header(b'~', len),
        }
    }

    /// The beginning of a message that answers nothing; `len` elements follow.
    pub fn push(&mut self, len: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', len),
            Protocol::Resp3 => self.header(b'>', len),
        }
    }

    /// A double.
    pub fn double(&mut self, value: f64) {
        self.decimal(&DoubleText::new(value));
    }

    /// A number with 64 bits of mantissa, for a person to read.
    pub fn extended(&mut self, value: Extended) {
        self.decimal(&value.to_text());
    }

    fn decimal(&mut self, text: &[u8]) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text),
            Protocol::Resp3 => self.line(b',', text),
        }
    }

    /// A boolean.
    pub fn boolean(&mut self, value: bool) {
        match (self.protocol, value) {
            (Protocol::Resp2, _) => self.integer(i64::from(value)),
            (Protocol::Resp3, true) => self.out.put(b"#t\r\n"),
            (Protocol::Resp3, false) => self.out.put(b"#f\r\n"),
        }
    }

    /// A text that clients show as it is. `format` has three bytes, such as `txt`.
    pub fn verbatim(&mut self, format: &str, text: &[u8]) {
        debug_assert_eq!(format.len(), 3);
        if self.protocol == Protocol::Resp2 {
            return self.bulk(text);
        }
        self.header(b'=', text.len() + 4);
        self.out.put(format.as_bytes());
        self.out.put(b":");
        self.out.put(text);
        self.out.put(b"\r\n");
    }

    /// What a container of subcommands answers to HELP: each with its arguments, and what it does.
    pub fn help(&mut self, container: &str, subcommands: &[(&str, &str)]) {
        self.array(subcommands.len() * 2 + 3);
        self.simple(&format!("{container} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
        for (usage, meaning) in subcommands.iter().chain(&[("HELP", "Prints this help.")]) {
            self.simple(usage);
            self.simple(&format!("    {meaning}"));
        }
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.put(&[kind]);
        self.out.put(text);
        self.out.put(b"\r\n");
    }

    /// A kind and a length, in one write.
    #[inline(always)]
    fn header(&mut self, kind: u8, len: usize) {
        // Of lengths below a hundred, which nearly all are, the digits need not be counted.
        if len < 10 {
            return self.out.put(&[kind, b'0' + len as u8, b'\r', b'\n']);
        }
        if let Some([tens, ones]) = PAIRS.get(len) {
            return self.out.put(&[kind, *tens, *ones, b'\r', b'\n']);
        }
        self.long_header(kind, len);
    }

    #[cold]
    fn long_header(&mut self, kind: u8, len: usize) {
        let mut bytes = [0; 32];
        bytes[30] = b'\r';
        bytes[31] = b'\n';
        let start = write_u64_before(len as u64, &mut bytes, 30).clamp(1, 31) - 1;
        bytes[start] = kind;
        self.out.put(&bytes[start..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::tests::heap;

    fn written(protocol: Protocol, write: impl FnOnce(&mut Reply<'_>)) -> String {
        let mut out = Output::new(heap());
        write(&mut Reply::new(&mut out, protocol));
        String::from_utf8(out.take().unwrap().to_vec()).unwrap()
    }

    #[test]
    fn each_type_in_both_versions() {
        type Write = fn(&mut Reply<'_>);
        let table: [(Write, &str, &str); 19] = [
            (|r| r.ok(), "+OK\r\n", "+OK\r\n"),
            (|r| r.simple("PONG"), "+PONG\r\n", "+PONG\r\n"),
            (|r| r.error(b"ERR a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n"),
            (|r| r.integer(-7), ":-7\r\n", ":-7\r\n"),
            (|r| r.integer(i64::MIN), ":-9223372036854775808\r\n", ":-9223372036854775808\r\n"),
            (|r| r.count(1), ":1\r\n", ":1\r\n"),
            (|r| r.bulk(b"ab"), "$2\r\nab\r\n", "$2\r\nab\r\n"),
            (|r| r.blob(&Blob::short(b"x").unwrap()), "$1\r\nx\r\n", "$1\r\nx\r\n"),
            (|r| r.bulk_integer(100), "$3\r\n100\r\n", "$3\r\n100\r\n"),
            (|r| r.null(), "$-1\r\n", "_\r\n"),
            (|r| r.null_array(), "*-1\r\n", "_\r\n"),
            (|r| r.array(0), "*0\r\n", "*0\r\n"),
            (|r| r.map(2), "*4\r\n", "%2\r\n"),
            (|r| r.set(12345), "*12345\r\n", "~12345\r\n"),
            (|r| r.push(3), "*3\r\n", ">3\r\n"),
            (|r| r.double(1.5), "$3\r\n1.5\r\n", ",1.5\r\n"),
            (|r| r.boolean(true), ":1\r\n", "#t\r\n"),
            (|r| r.verbatim("txt", b"hi"), "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"),
            (|r| r.extended(Extended::parse(b"0.10").unwrap()), "$3\r\n0.1\r\n", ",0.1\r\n"),
        ];
        for (write, resp2, resp3) in table {
            assert_eq!(written(Protocol::Resp2, write), resp2);
            assert_eq!(written(Protocol::Resp3, write), resp3);
        }
    }

    #[test]
    fn a_long_buffer_is_sent_from_where_it_lies() {
        let heap = heap();
        let stored = heap.copy(&[7; 5000]).unwrap();
        let mut out = Output::new(heap);
        Reply::new(&mut out, Protocol::Resp2).buf(stored.clone());
        assert!(out.take().unwrap().segments().iter().any(|buf| buf.as_ptr() == stored.as_ptr()));
    }
}
