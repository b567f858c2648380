//! One request, as it lies in the buffers that it arrived in, and the errors of those that are none.

use std::ops::Range;

use pdpix::{Buf, Exhausted, Heap, Output};

use crate::blob::Blob;

/// One command with its arguments. `B` is what it lies in: a [`Buf`] of this core, or whatever carries one to another.
///
/// Empty until a parser has filled it. It is meant to be used again and again; what leaves it with `mem::take` is whole.
#[derive(Clone, Debug)]
pub struct Request<B = Buf> {
    /// What the arguments lie in: in the ordinary case this one buffer, a slice of what was received.
    pub(super) front: Option<B>,
    pub(super) rest: Vec<B>,
    pub(super) count: usize,
    pub(super) first: [Span; FIRST],
    /// The arguments behind the first few.
    pub(super) more: Vec<Span>,
    /// Where all of it lies in the front, as it came: from its count to the end of its last argument. Empty: it did not come
    /// like that, or not in one buffer.
    pub(super) whole: Range<u32>,
}

/// How many arguments need no memory of their own.
pub(super) const FIRST: usize = 6;

/// Where an argument lies.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    /// 0 is the front, 1 the first of the rest.
    pub(super) buf: u32,
    pub(super) start: u32,
    pub(super) len: u32,
}

impl<B> Default for Request<B> {
    fn default() -> Request<B> {
        Request {
            front: None,
            rest: Vec::new(),
            count: 0,
            first: [Span::default(); FIRST],
            more: Vec::new(),
            whole: 0..0,
        }
    }
}

impl<B: std::ops::Deref<Target = [u8]>> Request<B> {
    /// How many arguments, the command's name included.
    #[inline]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Bytes of all arguments, about: with what is around them, if it came in one buffer.
    #[inline]
    pub fn bytes(&self) -> usize {
        if self.whole.is_empty() { self.args_from(0).map(<[u8]>::len).sum() } else { self.whole.len() }
    }

    /// Whether there is not even a name.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Argument `index`; the name of the command is number 0.
    ///
    /// # Panics
    /// If there are not as many.
    #[inline]
    pub fn arg(&self, index: usize) -> &[u8] {
        let Span { buf, start, len } = self.span(index);
        &self.lies_in(buf)[start as usize..][..len as usize]
    }

    #[inline]
    fn span(&self, index: usize) -> Span {
        assert!(index < self.count, "argument {index} of {}", self.count);
        if index < FIRST { self.first[index] } else { self.more[index - FIRST] }
    }

    #[inline]
    fn lies_in(&self, buf: u32) -> &B {
        match (buf, &self.front) {
            (0, Some(front)) => front,
            _ => &self.rest[buf as usize - 1],
        }
    }

    /// The arguments from `first` on.
    pub fn args_from(&self, first: usize) -> impl DoubleEndedIterator<Item = &[u8]> + ExactSizeIterator + Clone {
        (first.min(self.count)..self.count).map(|index| self.arg(index))
    }

    /// The same request in other buffers, for its way to another core. What was mapped already is dropped on an error.
    ///
    /// # Errors
    /// The first that `map` gives.
    pub fn try_map_bufs<C, E>(self, mut map: impl FnMut(B) -> Result<C, E>) -> Result<Request<C>, E> {
        let front = self.front.map(&mut map).transpose()?;
        let rest = self.rest.into_iter().map(map).collect::<Result<_, E>>()?;
        Ok(Request { front, rest, count: self.count, first: self.first, more: self.more, whole: self.whole })
    }
}

impl Request {
    /// A request of these arguments, in one new buffer.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn of<'a>(
        args: impl IntoIterator<Item = &'a [u8], IntoIter: Clone>,
        heap: &Heap,
    ) -> Result<Request, Exhausted> {
        let args = args.into_iter();
        let mut buf = heap.alloc(args.clone().map(<[u8]>::len).sum())?;
        let mut request = Request::default();
        for arg in args {
            request.push(Span { buf: 0, start: buf.len() as u32, len: arg.len() as u32 });
            buf.put(arg);
        }
        request.front = Some(buf.freeze());
        Ok(request)
    }

    /// It as it came, as a client wrote it: the buffer that it lies in, and where. `None`: it did not come in one.
    #[inline]
    pub(crate) fn as_it_came(&self) -> Option<(&Buf, Range<usize>)> {
        let buf = self.front.as_ref().filter(|_| !self.whole.is_empty())?;
        Some((buf, self.whole.start as usize..self.whole.end as usize))
    }

    /// Forgets all arguments.
    pub fn clear(&mut self) {
        self.forget_args();
        self.front = None;
    }

    /// Forgets all arguments, but not yet the buffer that they lie in.
    #[inline(always)]
    pub(super) fn forget_args(&mut self) {
        self.count = 0;
        self.whole = 0..0;
        if self.more.len() | self.rest.len() != 0 {
            self.more.clear();
            self.rest.clear();
        }
    }

    #[inline(always)]
    pub(super) fn push(&mut self, span: Span) {
        match self.first.get_mut(self.count) {
            Some(place) => *place = span,
            None => self.more.push(span),
        }
        self.count += 1;
    }

    /// The number that the next buffer will have, which is the first of all or goes to the rest.
    pub(super) fn next_buf(&self) -> u32 {
        if self.front.is_none() { 0 } else { self.rest.len() as u32 + 1 }
    }

    pub(super) fn add_buf(&mut self, buf: Buf) {
        if self.front.is_none() {
            self.front = Some(buf);
        } else {
            self.rest.push(buf);
        }
    }

    /// The words of an inline command: their places in `line`.
    pub(super) fn fill(&mut self, line: Buf, words: impl Iterator<Item = Range<usize>>) {
        words.for_each(|word| self.push(Span { buf: 0, start: word.start as u32, len: word.len() as u32 }));
        self.front = Some(line);
    }

    /// Argument `index` as a buffer that shares what it lies in.
    pub fn buf(&self, index: usize) -> Buf {
        let Span { buf, start, len } = self.span(index);
        self.lies_in(buf).slice(start as usize..start as usize + len as usize)
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
        self.front.iter().chain(&self.rest).map(Buf::pinned).sum()
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
    /// No memory for an argument that is in pieces: this one request was skipped. To be answered like the others; what
    /// follows is read as ever.
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
