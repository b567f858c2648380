//! The calls of `demi/wait.h`, and what a completion is in C.

use std::borrow::Cow;
use std::ffi::c_int;
use std::time::Duration;

use libc::timespec;
use libos_mem::{Reserves, SPAN_SIZE};
use pdpix::{Buf, Completion, Error, Outcome, Popped, QToken, Qd, Sga};

use crate::abi::{AcceptResult, NO_ADDRESS, Opcode, QResult, QValue, SgArray, SgaSeg};
use crate::address;
use crate::errno::Errno;
use crate::thread::{Thread, at_once, enter};

/// The most tokens of one wait: as many as can be in use.
const TOKENS_MAX: c_int = 1 << QToken::INDEX_BITS;

/// How long to wait; `None`: for ever.
///
/// # Errors
/// EINVAL: a negative time, or nanoseconds that are a second or more.
///
/// # Safety
/// `timeout` is null, or can be read.
#[inline]
unsafe fn duration(timeout: *const timespec) -> Result<Option<Duration>, Errno> {
    if timeout.is_null() {
        return Ok(None);
    }
    // SAFETY: not null, and so readable by the caller's promise.
    let timespec { tv_sec, tv_nsec, .. } = unsafe { timeout.read_unaligned() };
    if tv_sec < 0 || !(0..1_000_000_000).contains(&tv_nsec) {
        return Err(Errno::INVALID);
    }
    // Beyond that the clock has no numbers; it is for ever to anybody.
    const YEARS: i64 = 100 * 365 * 24 * 3600;
    Ok((tv_sec < YEARS).then(|| Duration::new(tv_sec as u64, tv_nsec as u32)))
}

/// `demi_wait(3)`.
///
/// # Safety
/// `qr_out` is null, or can be written to; `timeout` is null, or can be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_wait(qr_out: *mut QResult, qt: u64, timeout: *const timespec) -> c_int {
    // SAFETY: by the caller's promise.
    let is_good = !qr_out.is_null() && unsafe { duration(timeout) }.is_ok();
    // SAFETY: not null, and so writable by the caller's promise. (It is packed: any address is aligned.)
    if is_good && at_once(|thread| tell_push(thread, QToken::from_raw(qt), unsafe { &mut *qr_out })) {
        return 0;
    }
    // SAFETY: by the caller's promise.
    unsafe { wait_slowly(qr_out, qt, timeout) }
}

/// The same of all but a push that is over.
///
/// # Safety
/// As [`demi_wait`].
#[inline(never)]
unsafe fn wait_slowly(qr_out: *mut QResult, qt: u64, timeout: *const timespec) -> c_int {
    if qr_out.is_null() {
        return libc::EINVAL;
    }
    enter(|thread| {
        // SAFETY: by the caller's promise.
        let timeout = unsafe { duration(timeout)? };
        let qt = QToken::from_raw(qt);
        if thread.unfit.is_empty() {
            thread.libos.wait_until_complete(qt, timeout)?;
            // SAFETY: not null, and so writable by the caller's promise. (It is packed: any address is aligned.)
            if tell_in_place(thread, qt, unsafe { &mut *qr_out }) {
                return Ok(());
            }
        }
        // SAFETY: as above.
        unsafe { thread.wait_and_tell(qt, timeout, qr_out) }
    })
}

/// Tells that a push has ended, if it has and all is well: so little that it takes no frame. Does not panic.
#[inline(always)]
fn tell_push(thread: &mut Thread, qt: QToken, into: &mut QResult) -> bool {
    let Some(mut ended) = thread.libos.complete_in_place(qt) else { return false };
    let Some((qd, Ok(Outcome::Pushed))) = ended.result() else { return false };
    into.value = QValue::NONE;
    into.set(Opcode::Push, 0);
    (into.qd, into.qt) = (qd.raw() as i32, qt.raw());
    ended.redeem();
    true
}

/// Tells how an operation has ended, if it has, straight from where its result lies. Says whether it did: rarer things are
/// told by [`Thread::tell`]. Does not panic.
#[inline(always)]
fn tell_in_place(thread: &mut Thread, qt: QToken, into: &mut QResult) -> bool {
    let Thread { libos, held, .. } = thread;
    let Some(mut ended) = libos.complete_in_place(qt) else { return false };
    let Some((qd, result)) = ended.result() else { return false };
    match result {
        Ok(Outcome::Pushed) => {
            into.value = QValue::NONE;
            into.set(Opcode::Push, 0);
        }
        Ok(Outcome::Popped(popped)) if !popped.cut => {
            let addr = match popped.from {
                None => NO_ADDRESS,
                Some(from) if !from.is_ipv6() => address::to_v4(from),
                Some(_) => return false,
            };
            let Some(room) = held.room() else { return false };
            let Some(buf) = popped.sga.take_only() else { return false };
            let seg = SgaSeg { buf: buf.as_ptr().cast_mut().cast(), len: buf.len() as u32 };
            into.value = QValue { sga: SgArray { sga_buf: room.take(buf), numsegs: 1, segs: [seg], addr } };
            into.set(Opcode::Pop, 0);
        }
        _ => return false,
    }
    (into.qd, into.qt) = (qd.raw() as i32, qt.raw());
    ended.redeem(); // nothing is left that would have to be dropped
    true
}

/// `demi_wait_any(3)`.
///
/// # Safety
/// As [`demi_wait`]; `ready_offset` is null, or can be written to; `qts` is null, or `num_qts` tokens can be read there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_wait_any(
    qr_out: *mut QResult,
    ready_offset: *mut c_int,
    qts: *const u64,
    num_qts: c_int,
    timeout: *const timespec,
) -> c_int {
    if qr_out.is_null() || ready_offset.is_null() {
        return libc::EINVAL;
    }
    enter(|thread| {
        // SAFETY: by the caller's promise.
        let (timeout, tokens) = unsafe { (duration(timeout)?, tokens(qts, num_qts)?) };
        if thread.unfit.is_empty()
            && let Some(place) = thread.libos.first_complete(&tokens)?
            // SAFETY: not null, and so writable by the caller's promise.
            && unsafe { thread.tell_at_once(tokens[place], qr_out) }
        {
            // SAFETY: as above.
            unsafe { ready_offset.write_unaligned(place as c_int) };
            return Ok(());
        }
        // SAFETY: as above.
        let place = unsafe { thread.wait_any_and_tell(&tokens, timeout, qr_out)? };
        // SAFETY: as above.
        unsafe { ready_offset.write_unaligned(place as c_int) };
        Ok(())
    })
}

/// `demi_wait_next_n(3)`.
///
/// # Safety
/// `qr_out` is null, or `num_qrs` results can be written there; `num_qrs_out` is null, or can be written to; `timeout` is
/// null, or can be read.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_wait_next_n(
    qr_out: *mut QResult,
    num_qrs: c_int,
    num_qrs_out: *mut c_int,
    timeout: *const timespec,
) -> c_int {
    if num_qrs_out.is_null() {
        return libc::EINVAL;
    }
    let mut told = 0;
    let errno = enter(|thread| {
        if qr_out.is_null() || num_qrs < 1 {
            return Err(Errno::INVALID);
        }
        // SAFETY: by the caller's promise.
        let deadline = thread.libos.deadline_after(unsafe { duration(timeout)? });
        // Those that found no memory before, once each: they may go on to find none, and the others come all the same.
        for _ in 0..thread.unfit.len().min(num_qrs as usize) {
            let Some(completion) = thread.unfit.pop_front() else { break };
            // SAFETY: the place is one of those that can be written to.
            told += c_int::from(unsafe { thread.tell_or_park(completion, qr_out.add(told as usize)) }.is_ok());
        }
        while told < num_qrs {
            let completion = if thread.unfit.is_empty() {
                thread.libos.wait_next(deadline)?
            } else {
                // For memory nobody can wait.
                thread.libos.wait_next(Some(thread.libos.now())).map_err(or_no_memory)?
            };
            // SAFETY: as above.
            unsafe { thread.tell_or_park(completion, qr_out.add(told as usize))? };
            told += 1;
        }
        Ok(())
    });
    // SAFETY: not null, and so writable by the caller's promise.
    unsafe { num_qrs_out.write_unaligned(told) };
    errno
}

/// `demi_wait_all(3)`: waits for all of several operations.
///
/// # Safety
/// `qrs_out` is null, or `num_qts` results can be written there; else as [`demi_wait_any`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn demi_wait_all(
    qrs_out: *mut QResult,
    qts: *const u64,
    num_qts: c_int,
    timeout: *const timespec,
) -> c_int {
    if qrs_out.is_null() {
        return libc::EINVAL;
    }
    enter(|thread| {
        // SAFETY: by the caller's promise.
        let (timeout, tokens) = unsafe { (duration(timeout)?, tokens(qts, num_qts)?) };
        let is_unfit = |qt: &QToken| thread.unfit.iter().any(|completion| completion.qt == *qt);
        let others: Vec<QToken> = tokens.iter().copied().filter(|qt| !is_unfit(qt)).collect();
        let known = thread.unfit.iter().filter(|completion| tokens.contains(&completion.qt)).count();
        if known + others.len() != tokens.len() {
            return Err(Errno::new(libc::EBUSY)); // one of them twice
        }
        let mut completions = match others.as_slice() {
            [] => Vec::new(),
            others => thread.libos.wait_all(others, timeout)?,
        }
        .into_iter();
        let redeemed = tokens.iter().map_while(|qt| match thread.take_unfit(&[*qt]) {
            Some((_, completion)) => Some(completion),
            None => completions.next(),
        });
        let redeemed = redeemed.collect();
        // SAFETY: `num_qts` places can be written to.
        unsafe { thread.tell_all_or_park(redeemed, qrs_out) }
    })
}

/// What a wait that only looks has found, where the memory for another result is missing.
fn or_no_memory(error: Error) -> Errno {
    match error {
        Error::TimedOut => Error::NoBuffers.into(),
        other => other.into(),
    }
}

/// The tokens of a list, where they are; copied if they are not where a number may be.
///
/// # Safety
/// `qts` is null, or `num_qts` tokens can be read there, and nobody writes to them while the result is used.
unsafe fn tokens<'a>(qts: *const u64, num_qts: c_int) -> Result<Cow<'a, [QToken]>, Errno> {
    if qts.is_null() || !(1..=TOKENS_MAX).contains(&num_qts) {
        return Err(Errno::INVALID);
    }
    if qts.is_aligned() {
        // SAFETY: `num_qts` of them can be read, and a token is its number in memory.
        return Ok(Cow::Borrowed(unsafe { std::slice::from_raw_parts(qts.cast(), num_qts as usize) }));
    }
    // SAFETY: `num_qts` of them can be read, aligned or not.
    let raw = (0..num_qts as usize).map(|i| unsafe { qts.add(i).read_unaligned() });
    Ok(raw.map(QToken::from_raw).collect())
}

impl Thread {
    /// [`tell_in_place`], where a call to it is not too much.
    ///
    /// # Safety
    /// `into` can be written to.
    #[inline(never)]
    unsafe fn tell_at_once(&mut self, qt: QToken, into: *mut QResult) -> bool {
        // SAFETY: by the caller's promise. (It is packed: any address is aligned.)
        tell_in_place(self, qt, unsafe { &mut *into })
    }

    /// A completion that was redeemed before, when there was no room for what it brought.
    #[inline]
    fn take_unfit(&mut self, tokens: &[QToken]) -> Option<(usize, Completion)> {
        if self.unfit.is_empty() {
            return None;
        }
        let found = |completion: &Completion| tokens.iter().position(|&qt| qt == completion.qt);
        let (at, place) = self.unfit.iter().enumerate().find_map(|(at, c)| Some((at, found(c)?)))?;
        // What devices have to say may free the memory that it waits for.
        self.pass();
        Some((place, self.unfit.remove(at)?))
    }

    /// Waits for an operation, and tells it.
    ///
    /// # Errors
    /// Those of the wait, and as [`Thread::tell`].
    ///
    /// # Safety
    /// `into` can be written to.
    #[cold]
    unsafe fn wait_and_tell(&mut self, qt: QToken, timeout: Option<Duration>, into: *mut QResult) -> Result<(), Errno> {
        let completion = match self.take_unfit(&[qt]) {
            Some((_, completion)) => completion,
            None => self.libos.wait(qt, timeout)?,
        };
        // SAFETY: by the caller's promise.
        unsafe { self.tell_or_park(completion, into) }
    }

    /// Waits for one of several operations, tells it, and gives its place.
    ///
    /// # Errors
    /// Those of the wait, and as [`Thread::tell_or_park`].
    ///
    /// # Safety
    /// `into` can be written to.
    #[cold]
    unsafe fn wait_any_and_tell(
        &mut self,
        tokens: &[QToken],
        timeout: Option<Duration>,
        into: *mut QResult,
    ) -> Result<usize, Errno> {
        if self.unfit.is_empty() {
            let (place, completion) = self.libos.wait_any(tokens, timeout)?;
            // SAFETY: by the caller's promise.
            if unsafe { self.tell_or_park(completion, into) }.is_ok() {
                return Ok(place);
            }
        }
        // SAFETY: as above.
        unsafe { self.wait_any_in_shortage(tokens, timeout, into) }
    }

    /// The same while there are results without memory. One of the list is no reason to look at no other; but nobody waits
    /// for the others then, as nobody can wait for memory.
    ///
    /// # Errors
    /// As above.
    ///
    /// # Safety
    /// As above.
    unsafe fn wait_any_in_shortage(
        &mut self,
        tokens: &[QToken],
        mut timeout: Option<Duration>,
        into: *mut QResult,
    ) -> Result<usize, Errno> {
        let place_of = |qt| tokens.iter().position(|&other| other == qt).unwrap_or_default();
        let mut left = tokens.to_vec();
        // Those that found no memory before, once each.
        while let Some((place, completion)) = self.take_unfit(&left) {
            let qt = left[place];
            // SAFETY: by the caller's promise.
            if unsafe { self.tell_or_park(completion, into) }.is_ok() {
                return Ok(place_of(qt));
            }
            left.retain(|&other| other != qt);
            timeout = Some(Duration::ZERO);
        }
        while !left.is_empty() {
            let is_short = left.len() < tokens.len();
            let found = self.libos.wait_any(&left, timeout);
            let (place, completion) =
                found.map_err(|error| if is_short { or_no_memory(error) } else { error.into() })?;
            let qt = left.swap_remove(place);
            // SAFETY: as above.
            if unsafe { self.tell_or_park(completion, into) }.is_ok() {
                return Ok(place_of(qt));
            }
            timeout = Some(Duration::ZERO);
        }
        Err(Error::NoBuffers.into())
    }

    /// Tells a completion, or keeps it for who asks again.
    ///
    /// # Errors
    /// ENOBUFS: a pop brought what has to be laid into one piece, and there is no memory for it; its token stays valid.
    ///
    /// # Safety
    /// `into` can be written to.
    unsafe fn tell_or_park(&mut self, completion: Completion, into: *mut QResult) -> Result<(), Errno> {
        // SAFETY: by the caller's promise.
        unsafe { self.tell(completion, into) }.map_err(|unfit| {
            self.unfit.push_back(unfit);
            Error::NoBuffers.into()
        })
    }

    /// Writes a completion where the program wants it.
    ///
    /// # Errors
    /// Itself: a pop brought what has to be laid into one piece, and there is no memory for it.
    ///
    /// # Safety
    /// `into` can be written to.
    unsafe fn tell(&mut self, completion: Completion, into: *mut QResult) -> Result<(), Completion> {
        let Completion { qt, qd, result } = completion;
        // Field by field, to where they belong: a result is wide, and most of it is the same for most.
        // SAFETY: by the caller's promise. (It is packed: any address is aligned.)
        let into = unsafe { &mut *into };
        (into.qd, into.qt) = (qd.raw() as i32, qt.raw());
        match result {
            Ok(Outcome::Popped(popped)) => {
                let cut = if popped.cut { i64::from(libc::EMSGSIZE) } else { 0 };
                match self.hold(popped, &mut into.value) {
                    Ok(()) => into.set(Opcode::Pop, cut),
                    // There will never be so much.
                    Err(popped) if !self.could_lay_together(&popped.sga) => {
                        into.set(Opcode::Failed, i64::from(libc::EMSGSIZE));
                        into.value = QValue::NONE;
                    }
                    Err(popped) => return Err(Completion { qt, qd, result: Ok(Outcome::Popped(popped)) }),
                }
            }
            Ok(Outcome::Pushed) => {
                into.set(Opcode::Push, 0);
                into.value = QValue::NONE;
            }
            Ok(other) => self.tell_seldom(other, into),
            Err(error) => {
                into.set(Opcode::Failed, i64::from(error.errno()));
                into.value = QValue::NONE;
            }
        }
        Ok(())
    }

    /// Of operations of which a queue has one, or that wait for a disk.
    #[cold]
    fn tell_seldom(&mut self, outcome: Outcome<Qd>, into: &mut QResult) {
        into.value = QValue::NONE;
        match outcome {
            Outcome::Connected => into.set(Opcode::Connect, 0),
            Outcome::Accepted { queue, peer } => {
                // What a new queue cannot have is no reason to refuse the connection.
                let _ = self.stream_defaults.set(&self.libos, queue);
                into.set(Opcode::Accept, 0);
                into.value = QValue { ares: AcceptResult { qd: queue.raw() as i32, addr: address::to_v4(peer) } };
            }
            Outcome::Appended { sequence } => into.tell_sequence(Opcode::Push, sequence),
            Outcome::Sought { sequence } => into.tell_sequence(Opcode::Seek, sequence),
            Outcome::Truncated { sequence } => into.tell_sequence(Opcode::Truncate, sequence),
            _ => into.set(Opcode::Invalid, 0),
        }
    }

    /// Tells all of them, or keeps them all.
    ///
    /// # Errors
    /// As [`Thread::tell_or_park`].
    ///
    /// # Safety
    /// As many results can be written to `into`.
    unsafe fn tell_all_or_park(&mut self, mut completions: Vec<Completion>, into: *mut QResult) -> Result<(), Errno> {
        let has_room = self.held.has_room_for(completions.len());
        if !has_room || !completions.iter_mut().all(|completion| self.make_fit(completion)) {
            self.unfit.extend(completions);
            return Err(Error::NoBuffers.into());
        }
        for (place, completion) in completions.into_iter().enumerate() {
            // SAFETY: by the caller's promise.
            let told = unsafe { self.tell_or_park(completion, into.add(place)) };
            debug_assert!(told.is_ok(), "room was made for all");
        }
        Ok(())
    }

    /// Lays what a pop brought into one piece, if it is not. Whether it can be told now: as what it is, or as too long for
    /// ever.
    fn make_fit(&self, completion: &mut Completion) -> bool {
        let Ok(Outcome::Popped(popped)) = &mut completion.result else { return true };
        if popped.sga.segments().len() < 2 {
            return true;
        }
        match self.lay_together(std::mem::take(&mut popped.sga)) {
            Ok(whole) => {
                popped.sga = Sga::from(whole);
                true
            }
            Err(sga) => {
                popped.sga = sga;
                !self.could_lay_together(&popped.sga)
            }
        }
    }

    /// The program holds what a pop brought: one segment, as the arrays of C have. More are laid into one, by a counted
    /// copy.
    ///
    /// # Errors
    /// All of it back.
    #[inline(always)]
    fn hold(&mut self, popped: Popped, into: &mut QValue) -> Result<(), Popped> {
        let Popped { mut sga, from, cut } = popped;
        if sga.segments().len() > 1 {
            match self.lay_together(sga) {
                Ok(whole) => sga = Sga::from(whole),
                Err(sga) => return Err(Popped { sga, from, cut }),
            }
        }
        let Some(buf) = sga.pop_front() else {
            let mut empty = self.held.empty();
            if let Some(from) = from {
                empty.addr = address::to_v4(from);
            }
            *into = QValue { sga: empty };
            return Ok(());
        };
        let (at, len) = (buf.as_ptr().cast_mut().cast(), buf.len() as u32);
        let name = match self.held.take(buf) {
            Ok(name) => name,
            Err(buf) => return Err(Popped { sga: Sga::from(buf), from, cut }),
        };
        let array = SgArray { sga_buf: name, numsegs: 1, segs: [SgaSeg { buf: at, len }], addr: NO_ADDRESS };
        *into = QValue { sga: array };
        if let Some(from) = from {
            into.sga.addr = address::to_v4(from);
            if from.is_ipv6() {
                self.held.set_sender(name, from);
            }
        }
        Ok(())
    }

    #[cold]
    fn lay_together(&self, sga: Sga) -> Result<Buf, Sga> {
        let heap = self.libos.heap();
        let Ok(mut whole) = heap.alloc(sga.len()) else { return Err(sga) };
        heap.count_copied(pdpix::CopyPath::Coalesce, sga.len());
        for segment in sga.segments() {
            whole.put(segment);
        }
        Ok(whole.freeze())
    }

    /// Whether there could be memory to lay these buffers into one, if they and what is kept for other purposes were all that
    /// is in use. A long piece takes neighbouring spans, of which they keep those that they lie in.
    #[cold]
    fn could_lay_together(&self, sga: &Sga) -> bool {
        if sga.segments().len() < 2 || sga.len() <= SPAN_SIZE {
            return true;
        }
        let heap = self.libos.heap();
        let spans = heap.stats().spans;
        let size = spans * SPAN_SIZE;
        let base = heap.reservation().base().as_ptr() as usize + heap.index() * size;
        let mut is_kept = vec![false; spans];
        for segment in sga.segments().iter().filter(|segment| !segment.is_empty()) {
            let first = (segment.as_ptr() as usize).wrapping_sub(base);
            if first < size {
                let last = (first + segment.len() - 1).min(size - 1);
                is_kept[first / SPAN_SIZE..=last / SPAN_SIZE].fill(true);
            }
        }
        let Reserves { receive_spans, header_spans, .. } = Reserves::usual(size);
        let free = is_kept.iter().filter(|&&is_kept| !is_kept).count();
        let longest = is_kept.split(|&is_kept| is_kept).map(<[bool]>::len).max().unwrap_or_default();
        sga.len() <= longest.min(free.saturating_sub(receive_spans + header_spans)) * SPAN_SIZE
    }
}
