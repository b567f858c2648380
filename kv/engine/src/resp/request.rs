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
use pdpix::{Buf, BufMut, Exhausted, Heap, Input, Output};
use smallvec::{SmallVec, smallvec};

use super::inline;
use crate::blob::Blob;
use crate::number::parse_i64;

/// The longest inline command, and the longest line that says a length.
pub(super) const LINE_LEN_MAX: usize = 64 * 1024;
/// From this length on an argument that has not arrived whole gets a buffer of its own at once.
const BULK_LONG: usize = 32 * 1024;
/// How often a shorter argument is waited for before it gets one too.
const WAITS_MAX: u8 = 4;
/// Redis's default of `proto-max-bulk-len`.
pub const BULK_LEN_MAX: usize = 512 << 20;

const ARGS_MAX_BEFORE_AUTH: usize = 10;
const BULK_LEN_MAX_BEFORE_AUTH: usize = 16 * 1024;

/// One command with its arguments. `B` is what it lies in: a [`Buf`] of this core, or whatever carries one to another.
#[derive(Debug)]
pub struct Request<B = Buf> {
    bufs: SmallVec<[B; 1]>,
    args: SmallVec<[Span; 6]>,
}

/// Where an argument lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    buf: u32,
    start: u32,
    len: u32,
}

impl<B: std::ops::Deref<Target = [u8]>> Request<B> {
    /// How many arguments, the command's name included.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "a request has a name at least")]
    pub fn len(&self) -> usize {
        self.args.len()
    }

    /// Argument `index`; the name of the command is number 0.
    ///
    /// # Panics
    /// If there are not as many.
    #[inline]
    pub fn arg(&self, index: usize) -> &[u8] {
        let Span { buf, start, len } = self.args[index];
        &self.bufs[buf as usize][start as usize..][..len as usize]
    }

    /// The arguments from `first` on.
    pub fn args_from(&self, first: usize) -> impl DoubleEndedIterator<Item = &[u8]> + ExactSizeIterator {
        (first.min(self.len())..self.len()).map(|index| self.arg(index))
    }

    /// The same request in other buffers, for its way to another core. What was mapped already is dropped on an error.
    ///
    /// # Errors
    /// The first that `map` gives.
    pub fn try_map_bufs<C, E>(self, map: impl FnMut(B) -> Result<C, E>) -> Result<Request<C>, E> {
        let bufs = self.bufs.into_iter().map(map).collect::<Result<_, E>>()?;
        Ok(Request { bufs, args: self.args })
    }
}

impl Request {
    /// A request of these arguments, in one new buffer.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn new<'a>(
        args: impl IntoIterator<Item = &'a [u8], IntoIter: Clone>,
        heap: &Heap,
    ) -> Result<Request, Exhausted> {
        let args = args.into_iter();
        let mut buf = heap.alloc(args.clone().map(<[u8]>::len).sum())?;
        let mut spans = SmallVec::new();
        for arg in args {
            spans.push(Span { buf: 0, start: buf.len() as u32, len: arg.len() as u32 });
            buf.put(arg);
        }
        Ok(Request { bufs: smallvec![buf.freeze()], args: spans })
    }

    /// Without arguments: a line with nothing in it, or a command of which none was taken yet.
    pub(super) fn empty() -> Request {
        Request { bufs: SmallVec::new(), args: SmallVec::new() }
    }

    pub(super) fn of_line(buf: Buf, args: SmallVec<[Span; 6]>) -> Request {
        Request { bufs: smallvec![buf], args }
    }

    /// Argument `index` as a buffer that shares what it lies in.
    pub fn buf(&self, index: usize) -> Buf {
        let Span { buf, start, len } = self.args[index];
        self.bufs[buf as usize].slice(start as usize..(start + len) as usize)
    }

    /// Argument `index` in the form in which it is stored.
    ///
    /// # Errors
    /// [`Exhausted`].
    #[inline]
    pub fn blob(&self, index: usize, heap: &Heap) -> Result<Blob, Exhausted> {
        Blob::keep(self.arg(index), || self.buf(index), heap)
    }

    /// Bytes that it keeps from being reused.
    pub fn pinned(&self) -> usize {
        self.bufs.iter().map(Buf::pinned).sum()
    }
}

impl Span {
    pub(super) fn in_line(start: usize, len: usize) -> Span {
        Span { buf: 0, start: start as u32, len: len as u32 }
    }
}

/// Why there is no next request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestError {
    /// This is not RESP. To be answered with [`RequestError::put`]; then the connection is to be closed.
    InvalidMultibulkLength,
    /// The line of the count does not end.
    TooBigMultibulkCount,
    /// More arguments than a client may send before it is authenticated.
    UnauthenticatedMultibulkLength,
    /// This byte stands where an argument should begin.
    ExpectedBulk(u8),
    /// Not a length, or above the limit.
    InvalidBulkLength,
    /// The line of the length does not end.
    TooBigBulkCount,
    /// A longer argument than a client may send before it is authenticated.
    UnauthenticatedBulkLength,
    /// An inline command that does not end.
    TooBigInline,
    /// An inline command whose quotes do not end, or not before a space.
    UnbalancedQuotes,
    /// No memory for an argument that is in pieces. Nothing is lost: ask again when something was freed, or close.
    Exhausted,
}

impl RequestError {
    /// Writes what Redis answers.
    pub fn put(self, out: &mut Output) {
        let text = match self {
            RequestError::InvalidMultibulkLength => "invalid multibulk length",
            RequestError::TooBigMultibulkCount => "too big mbulk count string",
            RequestError::UnauthenticatedMultibulkLength => "unauthenticated multibulk length",
            RequestError::ExpectedBulk(got) => {
                out.put(b"-ERR Protocol error: expected '$', got '");
                // As Redis does with all that it quotes: a line break would end the reply.
                out.put(if matches!(got, b'\r' | b'\n') { b" " } else { std::slice::from_ref(&got) });
                return out.put(b"'\r\n");
            }
            RequestError::InvalidBulkLength => "invalid bulk length",
            RequestError::TooBigBulkCount => "too big bulk count string",
            RequestError::UnauthenticatedBulkLength => "unauthenticated bulk length",
            RequestError::TooBigInline => "too big inline request",
            RequestError::UnbalancedQuotes => "unbalanced quotes in request",
            RequestError::Exhausted => return out.put(b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"),
        };
        out.put(b"-ERR Protocol error: ");
        out.put(text.as_bytes());
        out.put(b"\r\n");
    }
}

impl From<Exhausted> for RequestError {
    fn from(_: Exhausted) -> RequestError {
        RequestError::Exhausted
    }
}

/// Reads requests from an [`Input`], one at a time.
#[derive(Debug)]
pub struct RequestParser {
    bulk_len_max: usize,
    authenticated: bool,
    /// A multibulk command of which a part was taken.
    begun: Option<Box<Begun>>,
    /// Bytes at the front of the input that are known not to end a line.
    searched: usize,
}

#[derive(Debug)]
struct Begun {
    request: Request,
    /// Arguments still to come, the current one included.
    left: usize,
    current: Current,
    /// How many of the request's buffers are fit to be held.
    kept: usize,
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
}

/// What the front of the input holds of a multibulk command.
enum Front {
    /// A whole command, of so many bytes.
    Whole(usize),
    /// Nothing that can be judged here: it goes on in the next buffer, or it is wrong.
    Unclear,
    /// So many bytes, with so many arguments still to come.
    Part { taken: usize, left: usize },
}

impl Default for RequestParser {
    fn default() -> RequestParser {
        RequestParser { bulk_len_max: BULK_LEN_MAX, authenticated: true, begun: None, searched: 0 }
    }
}

impl RequestParser {
    /// For a connection that needs no authentication, with Redis's limit of an argument's length.
    pub fn new() -> RequestParser {
        RequestParser::default()
    }

    /// Sets the longest argument (`proto-max-bulk-len`). A request is at most 4 GiB, so this is at most half of that.
    pub fn set_bulk_len_max(&mut self, len: usize) {
        self.bulk_len_max = len.min(2 << 30);
    }

    /// Says whether the client has authenticated itself, if it must; before that it may send little.
    pub fn set_authenticated(&mut self, authenticated: bool) {
        self.authenticated = authenticated;
    }

    /// The next command, or `None` if more must arrive first.
    ///
    /// # Errors
    /// [`RequestError`]. After any but `Exhausted` nothing that follows can be understood: the connection ends.
    #[inline]
    pub fn next(&mut self, input: &mut Input, heap: &Heap) -> Result<Option<Request>, RequestError> {
        if self.begun.is_none() && input.front().first() == Some(&b'*') {
            let mut args = SmallVec::new();
            match self.read_front(input.front(), &mut args) {
                Front::Whole(len) => {
                    let whole = input.take(len, heap)?;
                    return Ok(Some(Request { bufs: smallvec![whole], args }));
                }
                Front::Part { taken, left } => self.begin(input, taken, left, args, heap)?,
                Front::Unclear => {}
            }
        }
        self.next_slowly(input, heap)
    }

    /// Reads as much of a multibulk command as lies whole in `front`.
    #[inline]
    fn read_front(&self, front: &[u8], args: &mut SmallVec<[Span; 6]>) -> Front {
        let Some((count, mut at)) = read_length(front, 1) else { return Front::Unclear };
        if count == 0 || count > ARGS_MAX_BEFORE_AUTH && !self.authenticated {
            return Front::Unclear;
        }
        let first = at;
        let taken = self.read_args(front, &mut at, count, 0, args);
        if taken == count {
            Front::Whole(at)
        } else if at > first {
            Front::Part { taken: at, left: count - taken }
        } else {
            Front::Unclear
        }
    }

    /// Reads up to `count` arguments that lie whole in `front` from `at` on, and says how many. `front` is to become the
    /// request's buffer number `buf`.
    #[inline(always)]
    fn read_args(
        &self,
        front: &[u8],
        at: &mut usize,
        count: usize,
        buf: usize,
        args: &mut SmallVec<[Span; 6]>,
    ) -> usize {
        let len_max = self.len_max();
        for index in 0..count {
            if let Some(&b'$') = front.get(*at)
                && let Some((len, start)) = read_length(front, *at + 1)
                && len <= len_max
                && start + len + 2 <= front.len()
            {
                args.push(Span { buf: buf as u32, start: start as u32, len: len as u32 });
                *at = start + len + 2;
            } else {
                return index;
            }
        }
        count
    }

    fn len_max(&self) -> usize {
        if self.authenticated { self.bulk_len_max } else { self.bulk_len_max.min(BULK_LEN_MAX_BEFORE_AUTH) }
    }

    /// Takes the first `taken` bytes, in which `args` lie, as the beginning of a command.
    #[cold]
    fn begin(
        &mut self,
        input: &mut Input,
        taken: usize,
        left: usize,
        args: SmallVec<[Span; 6]>,
        heap: &Heap,
    ) -> Result<(), Exhausted> {
        let front = input.take(taken, heap)?;
        let request = Request { bufs: smallvec![front], args };
        self.begun = Some(Box::new(Begun { request, left, current: Current::Length, kept: 0 }));
        Ok(())
    }

    #[cold]
    fn next_slowly(&mut self, input: &mut Input, heap: &Heap) -> Result<Option<Request>, RequestError> {
        while self.begun.is_none() {
            let Some(&first) = input.front().first() else { return Ok(None) };
            if first != b'*' {
                match self.next_inline(input, heap)? {
                    Some(request) if request.len() > 0 => return Ok(Some(request)),
                    Some(_) => continue, // an empty line
                    None => return Ok(None),
                }
            }
            let Some((count, line)) = self.read_line(input, RequestError::TooBigMultibulkCount)? else {
                return Ok(None);
            };
            let count = count.filter(|&count| count <= i64::from(i32::MAX));
            let count = count.ok_or(RequestError::InvalidMultibulkLength)?;
            if count > ARGS_MAX_BEFORE_AUTH as i64 && !self.authenticated {
                return Err(RequestError::UnauthenticatedMultibulkLength);
            }
            self.forget_line(input, line);
            if count > 0 {
                let (request, left) = (Request::empty(), count as usize);
                self.begun = Some(Box::new(Begun { request, left, current: Current::Length, kept: 0 }));
            }
        }
        self.go_on(input, heap)
    }

    /// Takes arguments as they become whole.
    fn go_on(&mut self, input: &mut Input, heap: &Heap) -> Result<Option<Request>, RequestError> {
        while let Some(mut begun) = self.begun.take() {
            let step = match self.take_front(&mut begun, input, heap) {
                Ok(()) if begun.left == 0 => Ok(true),
                Ok(()) => self.take_arg(&mut begun, input, heap),
                Err(Exhausted) => Err(RequestError::Exhausted),
            };
            if begun.left == 0 {
                return Ok(Some(begun.request));
            }
            if !matches!(step, Ok(true)) {
                // It may be long until the rest arrives: what is here should not pin more than it is. If there is no
                // room for the copies, it pins what it pins.
                for buf in &mut begun.request.bufs[begun.kept..] {
                    *buf = buf.clone().keep().unwrap_or_else(|Exhausted| buf.clone());
                }
                begun.kept = begun.request.bufs.len();
            }
            self.begun = Some(begun);
            if !step? {
                return Ok(None);
            }
        }
        Ok(None)
    }

    /// Takes the arguments that lie whole in the first buffer, as one slice of it.
    fn take_front(&mut self, begun: &mut Begun, input: &mut Input, heap: &Heap) -> Result<(), Exhausted> {
        if let Current::Length = begun.current {
            let (mut at, request) = (0, &mut begun.request);
            let taken = self.read_args(input.front(), &mut at, begun.left, request.bufs.len(), &mut request.args);
            if taken > 0 {
                request.bufs.push(input.take(at, heap)?);
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
            if len > self.len_max() {
                return Err(RequestError::UnauthenticatedBulkLength);
            }
            self.forget_line(input, line);
            begun.current = Current::Body { len, waits: 0 };
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

    fn next_inline(&mut self, input: &mut Input, heap: &Heap) -> Result<Option<Request>, RequestError> {
        let Some(end) = input.find(b'\n', self.searched) else {
            self.searched = input.len();
            return if input.len() > LINE_LEN_MAX { Err(RequestError::TooBigInline) } else { Ok(None) };
        };
        let line = input.take(end + 1, heap)?;
        self.searched = 0;
        let line = &line[..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        inline::split(line, heap).map(Some)
    }

    /// The number in the line at the front, behind its first byte, and the length of the line with its end.
    fn read_line(
        &mut self,
        input: &Input,
        too_long: RequestError,
    ) -> Result<Option<(Option<i64>, usize)>, RequestError> {
        let Some(end) = input.find(b'\r', self.searched) else {
            self.searched = input.len();
            return if input.len() > LINE_LEN_MAX { Err(too_long) } else { Ok(None) };
        };
        self.searched = end;
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

    fn forget_line(&mut self, input: &mut Input, line: usize) {
        input.advance(line);
        self.searched = 0;
    }
}

impl Begun {
    /// Adds an argument, behind which stand two more bytes.
    fn take(&mut self, arg: Buf, input: &mut Input) {
        let span = Span { buf: self.request.bufs.len() as u32, start: 0, len: arg.len() as u32 };
        self.request.args.push(span);
        self.request.bufs.push(arg);
        self.left -= 1;
        self.current = Current::Length;
        input.advance(2);
    }
}

/// The length written at `at`, and where the next line begins. `None` if it is anything but a plain number whose line
/// lies whole in `bytes`.
#[inline(always)]
fn read_length(bytes: &[u8], mut at: usize) -> Option<(usize, usize)> {
    let first = bytes.get(at)?.wrapping_sub(b'0');
    let mut length = usize::from(first);
    if first > 9 {
        return None;
    }
    loop {
        at += 1;
        let &byte = bytes.get(at)?;
        if byte == b'\r' {
            return (at + 2 <= bytes.len()).then_some((length, at + 2));
        }
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 || length == 0 || length >= 1 << 32 {
            return None;
        }
        length = length * 10 + usize::from(digit);
    }
}

#[cfg(test)]
mod tests;
