//! Long transfers, a piece at a time: a [`Writer`] at one end, a [`Reader`] at the other, pumped in turn.

use std::collections::VecDeque;

use pdpix::Error;

use crate::pattern::Pattern;
use crate::subject::{Arrival, End, Ended, Queue, Subject, Token};

/// Something that goes on when it can.
pub trait Flow {
    /// Does what can be done now. Whether anything was.
    fn pump(&mut self, s: &mut dyn Subject) -> bool;
    /// Whether it is over.
    fn is_done(&self) -> bool;
    /// How far it is, for whoever reads why it is stuck.
    fn progress(&self) -> String;
}

/// Pushes the bytes of a pattern, several pushes at a time.
pub struct Writer {
    q: Queue,
    pattern: Pattern,
    pushed: u64,
    total: u64,
    /// Bytes of a push, and in how many segments they lie.
    size: usize,
    segments: usize,
    /// The most pushes under way.
    depth: usize,
    under_way: VecDeque<Token>,
    finish: bool,
    finished: bool,
    buffer: Vec<u8>,
}

impl Writer {
    /// Pushes `total` bytes in pushes of `size`, `depth` at a time.
    pub fn new(q: Queue, pattern: Pattern, total: u64, size: usize, depth: usize) -> Writer {
        Writer {
            q,
            pattern,
            pushed: 0,
            total,
            size,
            segments: 1,
            depth,
            under_way: VecDeque::new(),
            finish: false,
            finished: false,
            buffer: Vec::new(),
        }
    }

    /// Each push lies in so many segments.
    pub fn in_segments(self, segments: usize) -> Writer {
        Writer { segments, ..self }
    }

    /// Finishes the queue after the last push.
    pub fn then_finish(self) -> Writer {
        Writer { finish: true, ..self }
    }

    /// Bytes handed over so far.
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Pushes that are pending.
    pub fn pending(&self) -> usize {
        self.under_way.len()
    }

    /// Goes on to `total` bytes.
    pub fn extend(&mut self, total: u64) {
        self.total = total;
    }

    fn push(&mut self, s: &mut dyn Subject) -> bool {
        let len = (self.total - self.pushed).min(self.size as u64) as usize;
        self.buffer.resize(len, 0);
        self.pattern.fill(self.pushed, &mut self.buffer);
        let segments: Vec<&[u8]> = self.buffer.chunks(len.div_ceil(self.segments)).collect();
        match s.push(self.q, &segments, None) {
            Ok(token) => {
                self.under_way.push_back(token);
                self.pushed += len as u64;
                true
            }
            Err(Error::NoBuffers) => false,
            Err(error) => panic!("a push of {len} bytes after {} was refused: {error}", self.pushed),
        }
    }
}

impl Flow for Writer {
    fn pump(&mut self, s: &mut dyn Subject) -> bool {
        let mut moved = false;
        while let Some(&token) = self.under_way.front() {
            let Some(end) = s.poll(token).expect("a token that is held") else { break };
            assert_eq!(end, End { qd: self.q.qd, result: Ok(Ended::Pushed) }, "after {} bytes", self.pushed);
            self.under_way.pop_front();
            moved = true;
        }
        while self.under_way.len() < self.depth && self.pushed < self.total && self.push(s) {
            moved = true;
        }
        if self.finish && !self.finished && self.pushed == self.total && self.under_way.is_empty() {
            s.finish(self.q).expect("it is connected");
            self.finished = true;
            moved = true;
        }
        moved
    }

    fn is_done(&self) -> bool {
        self.pushed == self.total && self.under_way.is_empty() && (self.finished || !self.finish)
    }

    fn progress(&self) -> String {
        format!("{:?} has pushed {} of {}, {} pending", self.q, self.pushed, self.total, self.under_way.len())
    }
}

/// Pops, several pops at a time, and compares with a pattern.
pub struct Reader {
    q: Queue,
    pattern: Pattern,
    popped: u64,
    total: Option<u64>,
    len_max: usize,
    depth: usize,
    waiting: VecDeque<Token>,
    ended: bool,
}

impl Reader {
    /// Pops up to `len_max` bytes, `depth` pops at a time, until the stream ends.
    pub fn to_end(q: Queue, pattern: Pattern, len_max: usize, depth: usize) -> Reader {
        Reader { q, pattern, popped: 0, total: None, len_max, depth, waiting: VecDeque::new(), ended: false }
    }

    /// Until so many bytes came, which are the last for now.
    pub fn of(q: Queue, pattern: Pattern, total: u64, len_max: usize, depth: usize) -> Reader {
        Reader { total: Some(total), ..Reader::to_end(q, pattern, len_max, depth) }
    }

    /// Bytes that came.
    pub fn popped(&self) -> u64 {
        self.popped
    }

    fn take(&mut self, end: End) {
        assert_eq!(end.qd, self.q.qd);
        match end.result {
            Ok(Ended::Popped(Arrival { bytes, from, cut })) if !self.ended => {
                assert!(from.is_none() && !cut, "bytes of a stream have no sender and are not cut");
                assert!(bytes.len() <= self.len_max, "{} bytes for a pop of {}", bytes.len(), self.len_max);
                if let Err(at) = self.pattern.check(self.popped, &bytes) {
                    let byte = bytes[(at - self.popped) as usize];
                    panic!("byte {at} of the stream is {byte:#04x}, and was pushed as {:?}", self.pattern.bytes(at, 1));
                }
                self.popped += bytes.len() as u64;
                self.ended = bytes.is_empty();
                if let Some(total) = self.total {
                    assert!(!self.ended && self.popped <= total, "{} of {total} bytes, then the end", self.popped);
                }
            }
            Err(Error::EndOfStream) if self.ended => {}
            other => panic!("a pop after {} bytes (ended: {}) gave {other:?}", self.popped, self.ended),
        }
    }

    /// Takes back the pops that wait for more than will come.
    pub fn stop(&mut self, s: &mut dyn Subject) {
        for token in std::mem::take(&mut self.waiting) {
            s.cancel(token).expect("a token that is held");
            let end = s.wait(token, Some(crate::scene::LIMIT)).expect("a cancelled pop ends");
            assert_eq!(end.result, Err(Error::Canceled), "after {} bytes", self.popped);
        }
    }
}

impl Flow for Reader {
    fn pump(&mut self, s: &mut dyn Subject) -> bool {
        let mut moved = false;
        while let Some(&token) = self.waiting.front() {
            let Some(end) = s.poll(token).expect("a token that is held") else { break };
            self.waiting.pop_front();
            self.take(end);
            moved = true;
        }
        while !self.ended && self.waiting.len() < self.depth && self.total.is_none_or(|total| self.popped < total) {
            match s.pop(self.q, self.len_max) {
                Ok(token) => self.waiting.push_back(token),
                // The end is on its way to a pop that waits.
                Err(Error::EndOfStream) if !self.waiting.is_empty() => break,
                Err(error) => panic!("a pop after {} bytes was refused: {error}", self.popped),
            }
            moved = true;
        }
        if self.total == Some(self.popped) && !self.waiting.is_empty() {
            self.stop(s);
        }
        moved
    }

    fn is_done(&self) -> bool {
        self.waiting.is_empty() && (self.ended || self.total == Some(self.popped))
    }

    fn progress(&self) -> String {
        format!("{:?} has popped {} of {:?}, {} pending", self.q, self.popped, self.total, self.waiting.len())
    }
}
