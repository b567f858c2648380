//! Reserves: spans that are kept for one purpose, and what the application keeps of what it received.

use std::cell::Cell;
use std::ptr::NonNull;

use crate::Exhausted;
use crate::heap::{HeapState, KEPT, Purpose};
use crate::span::{SPAN_SIZE, Span};

/// Spans that only one purpose may take. At most a quarter of the heap each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reserves {
    /// For applications.
    pub app_spans: usize,
    /// For receive refill.
    pub receive_spans: usize,
    /// For headers and acknowledgements.
    pub header_spans: usize,
}

impl Reserves {
    /// None at all.
    pub const NONE: Reserves = Reserves { app_spans: 0, receive_spans: 0, header_spans: 0 };

    /// Of a heap of `heap_size` bytes a quarter for applications, an eighth for receiving, a sixteenth for headers.
    pub fn usual(heap_size: usize) -> Reserves {
        let spans = heap_size / SPAN_SIZE;
        Reserves { app_spans: spans / 4, receive_spans: spans / 8, header_spans: spans / 16 }
    }

    fn of(&self, purpose: Purpose) -> usize {
        match purpose {
            Purpose::App => self.app_spans,
            Purpose::Receive => self.receive_spans,
            Purpose::Header => self.header_spans,
        }
    }
}

impl HeapState {
    /// Takes `count` neighbouring spans, unless the reserves of the others need them.
    pub(super) fn acquire(&self, purpose: Purpose, count: usize) -> Result<usize, Exhausted> {
        let others: usize = Purpose::ALL.iter().filter(|&&other| other != purpose).map(|&p| self.unclaimed(p)).sum();
        if self.spans.free_count() < others + count {
            return Err(Exhausted);
        }
        let first = self.spans.take(count).ok_or(Exhausted)?;
        let held = &self.held[purpose as usize];
        held.set(held.get() + count);
        Ok(first)
    }

    /// Spans of the purpose's reserve that it has not claimed yet. What the application keeps is the application's
    /// claim, and not that of the purpose it was allocated for.
    fn unclaimed(&self, purpose: Purpose) -> usize {
        let held = self.held[purpose as usize].get();
        let claimed = match purpose {
            Purpose::App => held + self.kept.iter().map(Cell::get).sum::<usize>() / SPAN_SIZE,
            _ => held.saturating_sub(self.kept[purpose as usize].get().div_ceil(SPAN_SIZE)),
        };
        self.reservation.reserves().of(purpose).saturating_sub(claimed)
    }

    /// Charges a chunk in use to the application for as long as it lives. Refused when the reserves would suffer.
    pub(crate) fn charge_kept(&self, span: Span, counter: NonNull<u32>) -> Result<(), Exhausted> {
        let header = span.header();
        let purpose = header.purpose.get();
        // SAFETY: the word of a chunk in use of this heap, touched by this core only.
        let word = unsafe { counter.read() };
        if purpose == Purpose::App || word & KEPT != 0 {
            return Ok(());
        }
        let kept = &self.kept[purpose as usize];
        kept.set(kept.get() + header.chunk_size.get());
        let unclaimed: usize = Purpose::ALL.iter().map(|&p| self.unclaimed(p)).sum();
        if self.spans.free_count() < unclaimed {
            kept.set(kept.get() - header.chunk_size.get());
            return Err(Exhausted);
        }
        // SAFETY: as above.
        unsafe { counter.write(word | KEPT) };
        Ok(())
    }
}
