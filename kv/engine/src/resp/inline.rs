//! Commands as a person types them: words between spaces, with quotes around what contains spaces.
//!
//! Redis's rules: in double quotes `\xHH`, `\n \r \t \b \a` and `\` before any other byte; in single quotes only `\'`. A
//! quote may open inside a word, but must close at its end.

use pdpix::{BufMut, Heap};

use super::request::{Request, RequestError};

/// Fills `request`, which is empty, with the words of `line`.
pub(super) fn split(line: &[u8], heap: &Heap, request: &mut Request) -> Result<(), RequestError> {
    let mut words = Words { rest: line };
    words.skip_spaces();
    if words.rest.is_empty() {
        return Ok(());
    }
    // What is unquoted is never longer than what was quoted.
    let (mut unquoted, mut places) = (heap.alloc(words.rest.len())?, Vec::new());
    while !words.rest.is_empty() {
        let start = unquoted.len();
        words.next(&mut unquoted).ok_or(RequestError::UnbalancedQuotes)?;
        places.push(start..unquoted.len());
        words.skip_spaces();
    }
    request.fill(unquoted.freeze(), places.into_iter());
    Ok(())
}

struct Words<'a> {
    rest: &'a [u8],
}

impl<'a> Words<'a> {
    fn skip_spaces(&mut self) {
        while let [first, rest @ ..] = self.rest
            && is_space(*first)
        {
            self.rest = rest;
        }
    }

    /// Appends the next word. `None` if its quotes are unbalanced.
    fn next(&mut self, word: &mut BufMut) -> Option<()> {
        while let [first, rest @ ..] = self.rest {
            self.rest = rest;
            match first {
                b' ' | b'\n' | b'\r' | b'\t' => break,
                b'"' => return self.double_quoted(word),
                b'\'' => return self.single_quoted(word),
                byte => word.put(&[*byte]),
            };
        }
        Some(())
    }

    fn double_quoted(&mut self, word: &mut BufMut) -> Option<()> {
        loop {
            let (byte, rest) = match self.rest {
                [b'\\', b'x', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    (hex(*high) << 4 | hex(*low), rest)
                }
                [b'\\', escaped, rest @ ..] => (unescape(*escaped), rest),
                [b'"', rest @ ..] => return self.close(rest),
                [byte, rest @ ..] => (*byte, rest),
                [] => return None,
            };
            word.put(&[byte]);
            self.rest = rest;
        }
    }

    fn single_quoted(&mut self, word: &mut BufMut) -> Option<()> {
        loop {
            let (byte, rest) = match self.rest {
                [b'\\', b'\'', rest @ ..] => (b'\'', rest),
                [b'\'', rest @ ..] => return self.close(rest),
                [byte, rest @ ..] => (*byte, rest),
                [] => return None,
            };
            word.put(&[byte]);
            self.rest = rest;
        }
    }

    /// A quote has closed: the word must end with it.
    fn close(&mut self, rest: &'a [u8]) -> Option<()> {
        self.rest = rest;
        rest.first().is_none_or(|&byte| is_space(byte)).then_some(())
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0B | 0x0C | b'\r')
}

fn hex(digit: u8) -> u8 {
    (digit as char).to_digit(16).unwrap_or(0) as u8
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}
