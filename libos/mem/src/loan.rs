//! A `Buf` on its way to another core, and there.
//!
//! `lend` turns one of the owner's references into a record. The record is what travels: it belongs to one core at a
//! time, first to the lender, then to whoever holds the `Loan`, then to the borrower, whose own references are counted
//! *in the record*. At zero the record goes home, and the owner takes back its reference. So no core ever touches
//! another's count, and neither counts atomically.
//!
//! A borrowed `Buf` can be lent on: its record then holds a reference to the record it was borrowed by.

use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::ptr::{self, NonNull};

use crate::buf::{self, Buf, Holder};
use crate::heap::{COUNT_MASK, Heap, HeapState, Purpose};
use crate::sync::UnsafeCell;
use crate::{CopyPath, Exhausted};

/// What stands for one reference of the owner's while it is away. Lives in a chunk of the owner's heap.
#[repr(C)]
pub(crate) struct LoanRecord {
    /// The borrower's count of references. First, so that a pointer to it is a pointer to the record.
    pub(crate) count: u32,
    /// What kind of counter `held` is, on the owner's side.
    holder: Holder,
    /// The reference that the owner lent.
    held: NonNull<u32>,
    owner: *const HeapState,
    borrower: *const HeapState,
    /// The link of the chain home.
    pub(crate) next: *mut LoanRecord,
    /// Touched by each core in turn; loom reports it if two do at once.
    watched: UnsafeCell<()>,
}

/// Read-only bytes of another core's heap, on their way. `Send`; accept it on the core that wants to use it.
pub struct Loan {
    record: NonNull<LoanRecord>,
    start: NonNull<u8>,
    len: u32,
}

// SAFETY: a loan's record belongs to whoever holds the loan, and to nobody else (see the module's head). The bytes are
// immutable while any reference exists, and the record holds one.
unsafe impl Send for Loan {}

impl Buf {
    /// Gives this reference to another core. The chunk is charged to the application from now on, since this core no
    /// longer knows how long it will be away.
    ///
    /// # Errors
    /// [`Exhausted`]: no memory for the record, or keeping the chunk would eat into the reserves and there is no room
    /// for a copy either.
    pub fn lend(self) -> Result<Loan, Exhausted> {
        let buf = match self.charge() {
            Ok(()) => self,
            Err(Exhausted) => self.copied(CopyPath::Loan)?,
        };
        let heap = buf.heap();
        let counter = heap.state().take(Purpose::App, size_of::<LoanRecord>())?;
        let record = buf::chunk_of(counter).cast::<LoanRecord>();
        let buf = ManuallyDrop::new(buf);
        let (start, len, held, holder) = buf.parts();
        // SAFETY: a new chunk, large enough and aligned to 32.
        unsafe {
            record.write(LoanRecord {
                count: 0,
                holder,
                held,
                owner: heap.state().me(),
                borrower: ptr::null(),
                next: ptr::null_mut(),
                watched: UnsafeCell::new(()),
            });
        }
        Ok(Loan { record, start, len })
    }
}

impl Loan {
    /// A `Buf` of the core whose heap is `heap`.
    pub fn accept(self, heap: &Heap) -> Buf {
        let loan = ManuallyDrop::new(self);
        // SAFETY: the record is ours with the loan.
        let record = unsafe { &mut *loan.record.as_ptr() };
        record.watched.with_mut(|_| ());
        if ptr::eq(record.owner, heap.state()) {
            // It came back to its owner: the reference is an ordinary one again.
            let (held, holder) = (record.held, record.holder);
            // SAFETY: the record is a chunk of this core's heap that nothing refers to any more.
            unsafe { LoanRecord::discard(loan.record) };
            // SAFETY: the reference that was lent, which nobody else has.
            return unsafe { Buf::from_parts(loan.start, loan.len, held, holder) };
        }
        record.count = 1;
        record.borrower = heap.state().me();
        heap.state().borrowed.set(heap.state().borrowed.get() + 1);
        // SAFETY: the record's count is one, and this is it.
        unsafe { Buf::from_parts(loan.start, loan.len, loan.record.cast(), Holder::Record) }
    }
}

impl Deref for Loan {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: initialised bytes that are immutable while the record holds its reference.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len as usize) }
    }
}

impl Drop for Loan {
    /// Nobody accepted it. It goes home at once: which core this is, is not known here.
    fn drop(&mut self) {
        // SAFETY: the record is ours, and lent by its owner, which is alive while it has loans out.
        unsafe {
            let record = self.record.as_ref();
            record.watched.with_mut(|_| ());
            (*record.owner).returns.push_loans(self.record, self.record);
        }
    }
}

impl std::fmt::Debug for Loan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Loan({} B)", self.len)
    }
}

impl LoanRecord {
    /// The heap of the core that borrowed.
    ///
    /// # Safety
    /// `counter` is the count of a record that the calling core borrowed.
    pub(crate) unsafe fn borrower(counter: NonNull<u32>) -> *const HeapState {
        // SAFETY: the count is the record's first field, by the caller's promise.
        unsafe { counter.cast::<LoanRecord>().as_ref().borrower }
    }

    /// The reference that was lent: the counter it is counted in, and its kind.
    ///
    /// # Safety
    /// As for `borrower`.
    pub(crate) unsafe fn lent(counter: NonNull<u32>) -> (NonNull<u32>, Holder) {
        // SAFETY: as in `borrower`; neither field changes after the loan was made.
        let record = unsafe { counter.cast::<LoanRecord>().as_ref() };
        (record.held, record.holder)
    }

    /// The borrower's last reference is gone: the record goes home with the next chain.
    ///
    /// # Safety
    /// As for `borrower`; nothing refers to the record any more on this core.
    #[cold]
    pub(crate) unsafe fn give_back(counter: NonNull<u32>) {
        let record = counter.cast::<LoanRecord>();
        // SAFETY: the record is this core's until it is sent; the borrower's state lives while it has borrowed buffers;
        // the owner's while it has loans out.
        unsafe {
            let (owner, borrower) = (record.as_ref().owner, record.as_ref().borrower);
            record.as_ref().watched.with_mut(|_| ());
            (*record.as_ptr()).next = ptr::null_mut();
            (*borrower).outgoing.add(record, owner);
            (*borrower).borrowed.set((*borrower).borrowed.get() - 1);
            HeapState::retire(borrower);
        }
    }

    /// Home again: drops the reference that was lent, and the record.
    ///
    /// # Safety
    /// Called by the owner, with a record that nobody else uses.
    pub(crate) unsafe fn settle(record: NonNull<LoanRecord>) {
        // SAFETY: the record is the owner's again.
        let lent = unsafe { record.as_ref() };
        lent.watched.with_mut(|_| ());
        let (held, holder) = (lent.held, lent.holder);
        // SAFETY: the record is not used below; `held` is the owner's reference, dropped once.
        unsafe {
            LoanRecord::discard(record);
            buf::drop_reference(held, holder);
        }
    }

    /// # Safety
    /// Called by the owner; nothing refers to the record any more.
    unsafe fn discard(record: NonNull<LoanRecord>) {
        // SAFETY: a record is a chunk of its owner's heap with a count of one.
        unsafe {
            let owner = record.as_ref().owner;
            record.drop_in_place();
            let counter = (*owner).counter_of(record.cast());
            debug_assert_eq!(counter.read() & COUNT_MASK, 1);
            HeapState::free(counter);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
