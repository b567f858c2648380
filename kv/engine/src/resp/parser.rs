//! Requests as they arrive: multibulk and inline commands, any number of them, cut anywhere.
//!
//! A command that lies whole in the first buffer of the input, as nearly all do, becomes a slice of that buffer and the
//! places of its arguments in it: nothing is copied, and one reference is counted, however many arguments there are.
//! Otherwise the arguments are taken as they become whole. One that straddles buffers is put together (a counted copy); a
//! long one that is still arriving, or one that arrives drop by drop, fills a buffer of its own, so that what is pinned
//! is little more than what has arrived. Nothing is read twice.
//!
//! Bounds, as in Redis 7.0: `bulk_len_max` bytes an argument, 64 KiB an inline command or the line of a length, and
//! before authentication ten arguments of 16 KiB. The number of arguments is bounded by the bytes that arrive.
//! Source: the RESP specification; texts and limits as redis-server 7.0 has them.

use libos_mem::CopyPath;
use pdpix::{Buf, BufMut, Exhausted, Heap, Input, Sga};

use super::request::{FIRST, Request, RequestError, Span};
use super::{inline, length};
use crate::number::parse_i64;

/// The longest inline command, and the longest line that says a length.
pub(super) const LINE_LEN_MAX: usize = 64 * 1024;
/// From this length on an argument that has not arrived whole gets a buffer of its own at once.
const BULK_LONG: usize = 32 * 1024;
/// How often a shorter argument is waited for before it gets one too.
const WAITS_MAX: u8 = 4;
/// How often is waited for anything else before the buffers that hold its beginning are put together.
const WAITS_PER_COPY: u32 = 64;
/// Redis's default of `proto-max-bulk-len`.
pub const BULK_LEN_MAX: usize = 512 << 20;

const COUNT_MAX: usize = i32::MAX as usize;
const ARGS_MAX_BEFORE_AUTH: usize = 10;
const BULK_LEN_MAX_BEFORE_AUTH: usize = 16 * 1024;

/// Reads requests from an [`Input`], one at a time.
///
/// What it takes from the input and has not read yet it keeps: [`RequestParser::len`] says how much.
#[derive(Debug)]
pub struct RequestParser {
    bulk_len_max: usize,
    authenticated: bool,
    /// What follows from these two: how many arguments, and how long, are taken without a second look.
    count_max: usize,
    len_max: usize,
    /// The buffer being read, and how far.
    chunk: Option<Buf>,
    at: usize,
    /// What follows the chunk and was taken from the input because a command straddles buffers.
    backlog: Input,
    /// A command has begun that is not whole, or whose beginning is not: the chunk is empty.
    waiting: bool,
    /// A multibulk command of which a part was taken.
    begun: Option<Box<Begun>>,
    /// Bytes at the front of the backlog that are known not to end a line.
    searched: usize,
    /// How often it was waited since something was taken.
    waits: u32,
}

#[derive(Debug)]
struct Begun {
    request: Request,
    /// Arguments still to come, the current one included.
    left: usize,
    current: Current,
    /// How many of the request's buffers are fit to be held.
    kept: u32,
    /// There was no memory for it: what is still to come of it is skipped.
    lost: bool,
}

/// The argument that is to come next.
#[derive(Debug)]
enum Current {
    /// Its length is not known yet.
    Length,
    /// It is this long, and was waited for so many times.
    Body { len: usize, waits: u8 },
    /// It is this long and arrives in a buffer of its own.
    Filling { len: usize, into: BufMut },
    /// So much is still to be skipped.
    Skipping { left: usize },
}

/// What the front of the input holds of a multibulk command.
enum Front {
    /// A whole command, up to here.
    Whole(usize),
    /// Nothing that can be judged here: it goes on in the next buffer, or it is wrong.
    Unclear,
    /// A part, up to here, with so many arguments still to come.
    Part { end: usize, left: usize },
}

impl Default for RequestParser {
    fn default() -> RequestParser {
        RequestParser {
            bulk_len_max: BULK_LEN_MAX,
            authenticated: true,
            count_max: COUNT_MAX,
            len_max: BULK_LEN_MAX,
            chunk: None,
            at: 0,
            backlog: Input::new(),
            waiting: false,
            begun: None,
            searched: 0,
            waits: 0,
        }
    }
}

impl RequestParser {
    /// For a connection that needs no authentication, with Redis's limit of an argument's length.
    pub fn new() -> RequestParser {
        RequestParser::default()
    }

    /// Sets the longest argument (`proto-max-bulk-len`): from 16 KiB to 2 GiB, so that a place in a buffer has 32 bits.
    pub fn set_bulk_len_max(&mut self, len: usize) {
        self.bulk_len_max = len.clamp(BULK_LEN_MAX_BEFORE_AUTH, 2 << 30);
        self.set_authenticated(self.authenticated);
    }

    /// Says whether the client has authenticated itself, if it must; before that it may send little.
    pub fn set_authenticated(&mut self, authenticated: bool) {
        self.authenticated = authenticated;
        (self.count_max, self.len_max) = if authenticated {
            (COUNT_MAX, self.bulk_len_max)
        } else {
            (ARGS_MAX_BEFORE_AUTH, self.bulk_len_max.min(BULK_LEN_MAX_BEFORE_AUTH))
        };
    }

    /// Bytes that were taken from the input and are not part of a finished request.
    pub fn len(&self) -> usize {
        let begun = self.begun.as_ref().map_or(0, |begun| begun.request.args_from(0).map(<[u8]>::len).sum());
        self.chunk.as_ref().map_or(0, Buf::len) - self.at + self.backlog.len() + begun
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there are some that it has not looked at: they may hold the next request, though the input is empty.
    #[inline]
    pub fn has_unread(&self) -> bool {
        self.chunk.is_some() || !(self.waiting || self.backlog.is_empty())
    }

    /// Fills `request` with the next command. False: more must arrive first, and `request` is empty.
    ///
    /// # Errors
    /// [`RequestError`]. After any but `Exhausted`, which stands for one request that was skipped, nothing that follows
    /// can be understood: the connection ends.
    pub fn next(&mut self, input: &mut Input, heap: &Heap, request: &mut Request) -> Result<bool, RequestError> {
        request.forget_args();
        if self.chunk.is_none() && !self.waiting && self.backlog.is_empty() {
            let len = input.front().len();
            if len == 0 {
                return Ok(false);
            }
            (self.chunk, self.at) = (Some(input.take(len, heap)?), 0); // whole: never a copy, so never refused
        }
        if let Some(chunk) = &self.chunk
            && let Some((count, end)) = read_short(chunk, self.at, &mut request.first)
        {
            request.count = count;
            request.whole = self.at as u32..end as u32;
            if end == chunk.len() {
                // The last one takes the buffer along.
                (request.front, self.at) = (self.chunk.take(), 0);
                return Ok(true);
            }
            self.at = end;
            // Most requests lie in the same buffer as the one before.
            if request.front.as_ref().is_none_or(|front| !same_place(front, chunk)) {
                request.front = Some(chunk.clone());
            }
            return Ok(true);
        }
        self.next_not_short(input, heap, request)
    }

    /// The same for a command that is not so short, or lies in the next buffer.
    #[inline(never)]
    fn next_not_short(&mut self, input: &mut Input, heap: &Heap, request: &mut Request) -> Result<bool, RequestError> {
        let Some(chunk) = self.chunk.as_ref().filter(|chunk| self.at < chunk.len()) else {
            return self.next_in_new_chunk(input, heap, request);
        };
        match self.read_front(chunk, self.at, request) {
            Front::Whole(end) => {
                request.front = Some(chunk.clone());
                request.whole = self.at as u32..end as u32;
                self.at = end;
                if end == chunk.len() {
                    (self.chunk, self.at) = (None, 0);
                }
                return Ok(true);
            }
            Front::Part { end, left } => self.begin(end, left, request),
            Front::Unclear => {}
        }
        self.next_slowly(input, heap, request)
    }

    /// Goes on with the next buffer of what has arrived.
    fn next_in_new_chunk(
        &mut self,
        input: &mut Input,
        heap: &Heap,
        request: &mut Request,
    ) -> Result<bool, RequestError> {
        (self.chunk, self.at) = (None, 0);
        if self.waiting {
            return self.next_slowly(input, heap, request);
        }
        let source = if self.backlog.is_empty() { &mut *input } else { &mut self.backlog };
        let len = source.front().len();
        if len == 0 {
            request.front = None;
            return Ok(false);
        }
        self.chunk = Some(source.take(len, heap)?); // whole: never a copy, so never refused
        self.next(input, heap, request)
    }

    /// Reads as much of a multibulk command as lies whole in `chunk` from `at` on.
    fn read_front(&self, chunk: &[u8], at: usize, request: &mut Request) -> Front {
        let Some((count, args)) = length::read(chunk.get(at..).unwrap_or(&[]), b'*') else { return Front::Unclear };
        if count == 0 || count > self.count_max {
            return Front::Unclear;
        }
        let (taken, end) = self.read_args(chunk, args, count, 0, request);
        if taken == count {
            Front::Whole(end)
        } else if taken > 0 {
            Front::Part { end, left: count - taken }
        } else {
            Front::Unclear
        }
    }

    /// Reads up to `count` arguments that lie whole in `rest`, the end of `whole`, and says how many, and where they end.
    /// `whole` is to become the request's buffer number `buf`.
    fn read_args(
        &self,
        whole: &[u8],
        mut rest: &[u8],
        count: usize,
        buf: u32,
        request: &mut Request,
    ) -> (usize, usize) {
        for index in 0..count {
            if let Some((len, body)) = length::read(rest, b'$')
                && len <= self.len_max
                && let Some(behind) = body.get(len + 2..)
            {
                let start = (whole.len() - body.len()) as u32;
                request.push(Span { buf, start, len: len as u32 });
                rest = behind;
            } else {
                return (index, whole.len() - rest.len());
            }
        }
        (count, whole.len() - rest.len())
    }

    /// Takes the chunk up to `end`, in which the arguments of `request` lie, as the beginning of a command.
    #[cold]
    fn begin(&mut self, end: usize, left: usize, request: &mut Request) {
        let mut begun = std::mem::take(request);
        begun.front = self.chunk.as_ref().map(|chunk| chunk.slice(self.at..end));
        begun
            .first
            .iter_mut()
            .chain(&mut begun.more)
            .for_each(|span| span.start = span.start.wrapping_sub(self.at as u32));
        self.at = end;
        self.begun = Some(Box::new(Begun { request: begun, left, current: Current::Length, kept: 0, lost: false }));
    }

    /// Gathers all that has arrived, and reads it across buffers.
    #[cold]
    fn next_slowly(&mut self, input: &mut Input, heap: &Heap, request: &mut Request) -> Result<bool, RequestError> {
        request.clear();
        if let Some(chunk) = self.chunk.take() {
            let behind = std::mem::replace(&mut self.backlog, Input::new());
            if self.at < chunk.len() {
                self.backlog.push(Sga::from(chunk.slice(self.at..)));
            }
            self.at = 0;
            self.gather(behind, heap)?;
        }
        while !input.is_empty() {
            let len = input.front().len();
            self.backlog.push(Sga::from(input.take(len, heap)?));
        }
        let mut backlog = std::mem::replace(&mut self.backlog, Input::new());
        let step = self.read_across(&mut backlog, heap, request);
        self.backlog = backlog;
        self.waiting = step == Ok(false) && (self.begun.is_some() || !self.backlog.is_empty());
        if self.waiting {
            self.wait(heap);
        } else {
            self.waits = 0;
        }
        step
    }

    fn gather(&mut self, mut behind: Input, heap: &Heap) -> Result<(), Exhausted> {
        while !behind.is_empty() {
            let len = behind.front().len();
            self.backlog.push(Sga::from(behind.take(len, heap)?));
        }
        Ok(())
    }

    /// What is waited for may arrive drop by drop, each in a buffer that pins much more: puts them together at times.
    fn wait(&mut self, heap: &Heap) {
        self.waits = self.waits.wrapping_add(1);
        if self.waits.is_multiple_of(WAITS_PER_COPY) && self.backlog.front().len() < self.backlog.len() {
            let len = self.backlog.len();
            if let Ok(whole) = self.backlog.take(len, heap) {
                self.backlog.push(Sga::from(whole));
            }
        }
    }

    /// The next command, wherever the buffers end.
    fn read_across(&mut self, input: &mut Input, heap: &Heap, request: &mut Request) -> Result<bool, RequestError> {
        while self.begun.is_none() {
            let Some(&first) = input.front().first() else { return Ok(false) };
            if first != b'*' {
                if !self.next_inline(input, heap, request)? {
                    return Ok(false);
                }
                if request.is_empty() {
                    continue; // an empty line
                }
                return Ok(true);
            }
            let Some((count, line)) = self.read_line(input, RequestError::TooBigMultibulkCount)? else {
                return Ok(false);
            };
            let count = count.filter(|&count| count <= COUNT_MAX as i64);
            let count = count.ok_or(RequestError::InvalidMultibulkLength)?;
            if count > self.count_max as i64 {
                return Err(RequestError::UnauthenticatedMultibulkLength);
            }
            self.forget_line(input, line);
            if count > 0 {
                let (request, left) = (Request::default(), count as usize);
                self.begun = Some(Box::new(Begun { request, left, current: Current::Length, kept: 0, lost: false }));
            }
        }
        self.go_on(input, heap, request)
    }

    /// Takes arguments as they become whole.
    fn go_on(&mut self, input: &mut Input, heap: &Heap, request: &mut Request) -> Result<bool, RequestError> {
        while let Some(mut begun) = self.begun.take() {
            let step = match self.take_front(&mut begun, input, heap) {
                Ok(()) if begun.left == 0 => Ok(true),
                Ok(()) => self.take_arg(&mut begun, input, heap),
                Err(Exhausted) => Err(RequestError::Exhausted),
            };
            let step = if step == Err(RequestError::Exhausted) { begun.lose() } else { step };
            if begun.left == 0 && begun.lost {
                return Err(RequestError::Exhausted);
            }
            if begun.left == 0 {
                *request = begun.request;
                return Ok(true);
            }
            if !matches!(step, Ok(true)) {
                begun.keep();
            }
            self.begun = Some(begun);
            if !step? {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// Takes the arguments that lie whole in the first buffer, as one slice of it.
    fn take_front(&mut self, begun: &mut Begun, input: &mut Input, heap: &Heap) -> Result<(), Exhausted> {
        if let Current::Length = begun.current {
            let (front, request) = (input.front(), &mut begun.request);
            let (taken, end) = self.read_args(front, front, begun.left, request.next_buf(), request);
            if taken > 0 {
                let buf = input.take(end, heap)?; // in one buffer: never a copy, so never refused
                if begun.lost {
                    request.clear();
                } else {
                    request.add_buf(buf);
                }
                begun.left -= taken;
                self.searched = 0;
            }
        }
        Ok(())
    }

    /// Takes one argument, or goes as far with it as it has arrived. False if more must arrive first.
    fn take_arg(&mut self, begun: &mut Begun, input: &mut Input, heap: &Heap) -> Result<bool, RequestError> {
        if let Current::Length = begun.current {
            let Some((len, line)) = self.read_line(input, RequestError::TooBigBulkCount)? else { return Ok(false) };
            if input.front().first() != Some(&b'$') {
                return Err(RequestError::ExpectedBulk(input.front()[0]));
            }
            let len = len.and_then(|len| usize::try_from(len).ok()).filter(|&len| len <= self.bulk_len_max);
            let len = len.ok_or(RequestError::InvalidBulkLength)?;
            if len > self.len_max {
                return Err(RequestError::UnauthenticatedBulkLength);
            }
            self.forget_line(input, line);
            begun.current =
                if begun.lost { Current::Skipping { left: len + 2 } } else { Current::Body { len, waits: 0 } };
            if begun.lost {
                return self.take_arg(begun, input, heap);
            }
        }
        if let Current::Skipping { left } = &mut begun.current {
            let skipped = input.len().min(*left);
            input.advance(skipped);
            *left -= skipped;
            if *left > 0 {
                return Ok(false);
            }
            (begun.current, begun.left) = (Current::Length, begun.left - 1);
            return Ok(true);
        }
        if let Current::Body { len, waits } = &mut begun.current {
            let len = *len;
            if input.len() >= len + 2 {
                let arg = input.take(len, heap)?;
                begun.take(arg, input);
                return Ok(true);
            }
            if len < BULK_LONG && *waits < WAITS_MAX {
                *waits += 1;
                return Ok(false);
            }
            begun.current = Current::Filling { len, into: heap.alloc(len)? };
        }
        let Current::Filling { len, into } = &mut begun.current else { unreachable!("the states above lead here") };
        let moved = input.move_to(into, *len - into.len());
        heap.count_copied(CopyPath::Coalesce, moved);
        if into.len() < *len || input.len() < 2 {
            return Ok(false);
        }
        let Current::Filling { into, .. } = std::mem::replace(&mut begun.current, Current::Length) else {
            unreachable!("it was filling above")
        };
        begun.take(into.freeze(), input);
        Ok(true)
    }

    /// Fills `request` with the words of a line, of which there may be none. False if the line has not ended.
    fn next_inline(&mut self, input: &mut Input, heap: &Heap, request: &mut Request) -> Result<bool, RequestError> {
        let Some(end) = self.line_end(input, b'\n') else {
            return if input.len() > LINE_LEN_MAX { Err(RequestError::TooBigInline) } else { Ok(false) };
        };
        self.searched = 0;
        let line = match input.take(end + 1, heap) {
            Ok(line) => line,
            Err(Exhausted) => {
                input.advance(end + 1);
                return Err(RequestError::Exhausted);
            }
        };
        let line = &line[..end];
        inline::split(line.strip_suffix(b"\r").unwrap_or(line), heap, request)?;
        Ok(true)
    }

    /// The number in the line at the front, behind its first byte, and the length of the line with its end.
    fn read_line(
        &mut self,
        input: &Input,
        too_long: RequestError,
    ) -> Result<Option<(Option<i64>, usize)>, RequestError> {
        let Some(end) = self.line_end(input, b'\r') else {
            return if input.len() > LINE_LEN_MAX { Err(too_long) } else { Ok(None) };
        };
        if input.len() < end + 2 {
            return Ok(None);
        }
        let mut text = [0; 24]; // longer than any number
        let text = match end.checked_sub(1) {
            Some(len) if len < text.len() => {
                input.peek(1, &mut text[..len]);
                &text[..len]
            }
            _ => &[],
        };
        Ok(Some((parse_i64(text), end + 2)))
    }

    /// Where the first line ends. In Redis, which looks for it with strchr, one with a zero byte never does.
    fn line_end(&mut self, input: &Input, end: u8) -> Option<usize> {
        let found = input.find(end, self.searched);
        let zero = zero_in(input, self.searched, found.unwrap_or(input.len()));
        self.searched = zero.or(found).unwrap_or(input.len());
        found.filter(|_| zero.is_none())
    }

    fn forget_line(&mut self, input: &mut Input, line: usize) {
        input.advance(line);
        self.searched = 0;
    }
}

impl Begun {
    /// Adds an argument, behind which stand two more bytes.
    fn take(&mut self, arg: Buf, input: &mut Input) {
        let span = Span { buf: self.request.next_buf(), start: 0, len: arg.len() as u32 };
        self.request.push(span);
        self.request.add_buf(arg);
        self.left -= 1;
        self.current = Current::Length;
        input.advance(2);
    }

    /// There is no memory for it: gives back what it has, and skips the rest.
    fn lose(&mut self) -> Result<bool, RequestError> {
        (self.lost, self.kept) = (true, 0);
        self.request.clear();
        if let Current::Body { len, .. } = self.current {
            self.current = Current::Skipping { left: len + 2 };
        }
        Ok(true)
    }

    /// It may be long until the rest arrives: what is here should not pin more than it is. (If there is no room for the
    /// copies, it pins what it pins.)
    fn keep(&mut self) {
        let end = self.request.next_buf();
        let new = self.request.front.iter_mut().chain(&mut self.request.rest).skip(self.kept as usize);
        new.for_each(|buf| *buf = buf.clone().keep().unwrap_or_else(|Exhausted| buf.clone()));
        self.kept = end;
    }
}

/// Reads a command of few arguments, none longer than 99,999 bytes, that lies whole in `bytes` from `at` on: where they
/// lie, how many, and where it ends. No limit is below these, so none is looked at.
#[inline(always)]
fn read_short(bytes: &[u8], mut at: usize, spans: &mut [Span; FIRST]) -> Option<(usize, usize)> {
    let (count, line_len) = length::in_word(*bytes.get(at..)?.first_chunk()?, b'*')?;
    at += line_len;
    if count == 0 {
        return None;
    }
    for span in spans.get_mut(..count)? {
        let (len, line_len) = length::in_word(*bytes.get(at..)?.first_chunk()?, b'$')?;
        at += line_len;
        *span = Span { buf: 0, start: at as u32, len: len as u32 };
        at += len + 2;
    }
    (at <= bytes.len()).then_some((count, at))
}

/// Where the first zero byte is between two places.
fn zero_in(input: &Input, mut from: usize, to: usize) -> Option<usize> {
    let mut bytes = [0; 64];
    while from < to {
        let part = &mut bytes[..(to - from).min(64)];
        input.peek(from, part);
        if let Some(zero) = part.iter().position(|&byte| byte == 0) {
            return Some(from + zero);
        }
        from += part.len();
    }
    None
}

/// Whether two buffers are the same bytes of memory. (Both are alive, so then they are the same buffer.)
#[inline(always)]
pub(crate) fn same_place(one: &Buf, other: &Buf) -> bool {
    one.as_ptr() == other.as_ptr() && one.len() == other.len()
}

#[cfg(test)]
mod tests;
