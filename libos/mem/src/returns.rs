//! What goes home to its owner: loans that were given back, and chunks that another thread freed.
//!
//! A core collects what it has to return in a chain per owner (`Outgoing`) and pushes each chain with one atomic
//! exchange a burst. The owner takes everything at once (`Returns::collect`). A lock-free stack with push and take-all
//! has no ABA problem, as nobody pops a single node.

use std::cell::Cell;
use std::ptr::{self, NonNull};

use crate::buf;
use crate::heap::HeapState;
use crate::loan::LoanRecord;
use crate::sync::{AtomicPtr, Ordering};

/// After this many records for one owner the chain is sent, without waiting for the end of the burst.
const CHAIN_MAX: usize = 64;

/// The owner's end: lists that any core may push to.
pub(crate) struct Returns {
    loans: AtomicPtr<LoanRecord>,
    /// Dead chunks, linked through their first word.
    chunks: AtomicPtr<DeadChunk>,
}

/// A chunk that a foreign thread freed. Nothing refers to it, so its memory carries the link.
pub(crate) struct DeadChunk {
    next: *mut DeadChunk,
}

impl Returns {
    pub(crate) fn new() -> Returns {
        Returns { loans: AtomicPtr::new(ptr::null_mut()), chunks: AtomicPtr::new(ptr::null_mut()) }
    }

    #[inline(always)]
    pub(crate) fn is_empty(&self) -> bool {
        self.loans.load(Ordering::Relaxed).is_null() && self.chunks.load(Ordering::Relaxed).is_null()
    }

    /// Gives home the chain of records from `first` to `last`.
    ///
    /// # Safety
    /// The records were lent by the heap that this belongs to, are linked by `next`, and nobody uses them any more.
    pub(crate) unsafe fn push_loans(&self, first: NonNull<LoanRecord>, last: NonNull<LoanRecord>) {
        let mut head = self.loans.load(Ordering::Relaxed);
        loop {
            // SAFETY: the record is ours until the exchange below succeeds.
            unsafe { (*last.as_ptr()).next = head };
            // Release: whoever takes the chain sees the links, and all that was done with the borrowed memory.
            match self.loans.compare_exchange_weak(head, first.as_ptr(), Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Gives home a chunk that this thread, which does not own it, was the last to use.
    ///
    /// # Safety
    /// `chunk` is the start of a chunk of the heap that this belongs to; it has a count of one, and nobody uses it.
    pub(crate) unsafe fn push_chunk(&self, chunk: NonNull<u8>) {
        let dead = chunk.cast::<DeadChunk>();
        let mut head = self.chunks.load(Ordering::Relaxed);
        loop {
            // SAFETY: the chunk is ours until the exchange succeeds; chunks are at least 32 bytes, aligned to 32.
            unsafe { dead.write(DeadChunk { next: head }) };
            match self.chunks.compare_exchange_weak(head, dead.as_ptr(), Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes in everything. Called by the owner only, with itself.
    #[cold]
    pub(crate) fn collect(&self, owner: &HeapState) {
        // Acquire: pairs with the Release of the pushes.
        let mut record = self.loans.swap(ptr::null_mut(), Ordering::Acquire);
        while let Some(lent) = NonNull::new(record) {
            // SAFETY: pushed by `push_loans`, so it is a record of this heap that nobody else uses; its link was
            // written before the push.
            unsafe {
                record = lent.as_ref().next;
                LoanRecord::settle(lent);
            }
        }
        let mut dead = self.chunks.swap(ptr::null_mut(), Ordering::Acquire);
        while let Some(chunk) = NonNull::new(dead) {
            // SAFETY: pushed by `push_chunk`: a chunk of this heap with a count of one that nobody uses.
            unsafe {
                dead = chunk.read().next;
                buf::free_allocation(owner, chunk.cast());
            }
        }
    }
}

/// The borrower's end: a chain per owner, kept until the end of the burst.
pub(crate) struct Outgoing {
    chains: Box<[Cell<Option<Chain>>]>,
    waiting: Cell<usize>,
}

#[derive(Clone, Copy)]
struct Chain {
    first: NonNull<LoanRecord>,
    last: NonNull<LoanRecord>,
    owner: *const HeapState,
    len: usize,
}

impl Outgoing {
    pub(crate) fn new(heap_count: usize) -> Outgoing {
        Outgoing { chains: (0..heap_count).map(|_| Cell::new(None)).collect(), waiting: Cell::new(0) }
    }

    /// Puts `record`, whose owner is `owner`, onto its chain.
    ///
    /// # Safety
    /// This core is done with `record`; `owner` lent it and is alive, as it is while it has loans out.
    pub(crate) unsafe fn add(&self, record: NonNull<LoanRecord>, owner: *const HeapState) {
        // SAFETY: alive by the caller's promise; the index does not change.
        let slot = &self.chains[unsafe { (*owner).index }];
        let chain = match slot.get() {
            // Heaps of another reservation may have the same number: one chain has one owner.
            Some(chain) if chain.owner != owner => {
                self.send(slot, chain);
                Chain { first: record, last: record, owner, len: 1 }
            }
            Some(chain) => {
                // SAFETY: records on the chain are ours until it is sent.
                unsafe { (*record.as_ptr()).next = chain.first.as_ptr() };
                Chain { first: record, len: chain.len + 1, ..chain }
            }
            None => Chain { first: record, last: record, owner, len: 1 },
        };
        self.waiting.set(self.waiting.get() + 1);
        slot.set(Some(chain));
        if chain.len == CHAIN_MAX {
            self.send(slot, chain);
        }
    }

    /// Sends every chain home.
    #[inline]
    pub(crate) fn flush(&self) {
        if self.waiting.get() > 0 {
            for slot in &self.chains {
                if let Some(chain) = slot.get() {
                    self.send(slot, chain);
                }
            }
        }
    }

    fn send(&self, slot: &Cell<Option<Chain>>, chain: Chain) {
        slot.set(None);
        self.waiting.set(self.waiting.get() - chain.len);
        // SAFETY: the chain is linked, of this owner, and this core is done with it; the owner is alive while it has
        // loans out, and these are.
        unsafe { (*chain.owner).returns.push_loans(chain.first, chain.last) };
    }
}
