//! The trace ring: the last few thousand events of a core, always on, in a ring of fixed size.
//!
//! An event is 32 bytes: when (of the pass, so it costs no clock reading), what, and two numbers that join it to others
//! (a token, a queue, a length). The ring lies in memory, or in a file that is mapped, so that `margay trace FILE` reads
//! it while the process runs, and after it was killed. Every event says which lap of the ring it belongs to, so a reader
//! needs no lock: it takes the laps that fit together.

use std::cell::Cell;
use std::io;
use std::path::Path;

use pdpix::Instant;

/// What happened. The two numbers of each are given behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub enum Event {
    /// Nothing yet.
    Empty = 0,
    /// A push was submitted: token, bytes.
    Push,
    /// A pop was submitted: token, most bytes.
    Pop,
    /// An accept was submitted: token, queue.
    Accept,
    /// A connect was submitted: token, queue.
    Connect,
    /// An operation ended: token, errno or 0.
    Done,
    /// A queue was made: queue, kind.
    Open,
    /// A queue was closed: queue, 0.
    Close,
    /// An operation was cancelled, or its token given up: token, 0.
    Cancel,
    /// A result came back to its queue: queue, bytes.
    Returned,
    /// A coroutine began: place, 0.
    Spawn,
    /// Messages came from another core: core, how many.
    CoreReceive,
    /// A message went to another core: core, 0.
    CoreSend,
    /// The core went to sleep: nanoseconds until its deadline or 0, 0.
    Sleep,
    /// The core woke up: nanoseconds slept, 0.
    WakeUp,
    /// A pass polled its devices: operations ended, coroutines run.
    Pass,
    /// A mark of the application's: two numbers of its own.
    Mark,
    /// A push was over at once, without a token: queue, bytes.
    PushAtOnce,
    /// A pop was over at once, without a token: queue, most bytes.
    PopAtOnce,
    /// A seek was submitted: token, sequence number.
    Seek,
    /// A truncation was submitted: token, sequence number.
    Truncate,
    /// A log was opened: queue, storage.
    OpenLog,
    /// A chase was submitted: token, the record that it begins with.
    Chase,
}

impl Event {
    const ALL: [Event; 23] = [
        Event::Empty,
        Event::Push,
        Event::Pop,
        Event::Accept,
        Event::Connect,
        Event::Done,
        Event::Open,
        Event::Close,
        Event::Cancel,
        Event::Returned,
        Event::Spawn,
        Event::CoreReceive,
        Event::CoreSend,
        Event::Sleep,
        Event::WakeUp,
        Event::Pass,
        Event::Mark,
        Event::PushAtOnce,
        Event::PopAtOnce,
        Event::Seek,
        Event::Truncate,
        Event::OpenLog,
        Event::Chase,
    ];

    fn from_number(number: u16) -> Option<Event> {
        Event::ALL.get(number as usize).copied()
    }
}

/// One entry of the ring, as it lies in memory and file: little-endian words.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Entry {
    nanos: u64,
    /// Number of the entry since the start (low 48 bits), kind of event above.
    lap_and_kind: u64,
    first: u64,
    second: u64,
}

const _: () = assert!(size_of::<Entry>() == 32);
const LAP_BITS: u32 = 48;

/// First entry of a file: says what it is.
const MAGIC: u64 = u64::from_le_bytes(*b"MARGAYT1");

/// A core's trace ring.
pub struct Trace {
    memory: Memory,
    mask: u64,
    next: Cell<u64>,
}

enum Memory {
    Off,
    Own(Box<[Cell<Entry>]>),
    Mapped(Mapped),
}

/// An event read back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceEvent {
    /// When.
    pub at: Instant,
    /// Its number since the start.
    pub number: u64,
    /// What.
    pub event: Event,
    /// Its numbers.
    pub first: u64,
    /// The other one.
    pub second: u64,
}

impl Trace {
    /// Notes nothing.
    pub fn off() -> Trace {
        Trace { memory: Memory::Off, mask: 0, next: Cell::new(0) }
    }

    /// The last `entries` events (rounded up to a power of two), in memory.
    pub fn in_memory(entries: usize) -> Trace {
        let entries = entries.next_power_of_two();
        let memory = (0..entries).map(|_| Cell::default()).collect();
        Trace { memory: Memory::Own(memory), mask: entries as u64 - 1, next: Cell::new(0) }
    }

    /// The same in a file, which is made or overwritten.
    ///
    /// # Errors
    /// The system's.
    pub fn in_file(path: &Path, core: u8, entries: usize) -> io::Result<Trace> {
        let entries = entries.next_power_of_two();
        let mapped = Mapped::create(path, (entries + 1) * size_of::<Entry>())?;
        mapped.write(0, Entry { nanos: MAGIC, lap_and_kind: entries as u64, first: core as u64, second: 0 });
        Ok(Trace { memory: Memory::Mapped(mapped), mask: entries as u64 - 1, next: Cell::new(0) })
    }

    /// Whether it notes anything.
    #[inline(always)]
    pub(crate) fn is_on(&self) -> bool {
        !matches!(self.memory, Memory::Off)
    }

    /// Notes an event.
    #[inline(always)]
    pub(crate) fn note(&self, at: Instant, event: Event, first: u64, second: u64) {
        if self.is_on() {
            self.write(at, event, first, second);
        }
    }

    #[inline]
    fn write(&self, at: Instant, event: Event, first: u64, second: u64) {
        let number = self.next.get();
        let index = (number & self.mask) as usize;
        let lap_and_kind = (event as u64) << LAP_BITS | (number & ((1 << LAP_BITS) - 1));
        let entry = Entry { nanos: at.as_nanos(), lap_and_kind, first, second };
        match &self.memory {
            Memory::Off => {}
            Memory::Own(entries) => entries[index].set(entry),
            Memory::Mapped(mapped) => mapped.write(index + 1, entry),
        }
        self.next.set(number + 1);
    }

    /// How many events were noted since the start.
    pub fn noted(&self) -> u64 {
        self.next.get()
    }

    /// The events that are still there, oldest first.
    pub fn events(&self) -> Vec<TraceEvent> {
        let entries: Vec<Entry> = match &self.memory {
            Memory::Off => return Vec::new(),
            Memory::Own(entries) => entries.iter().map(Cell::get).collect(),
            Memory::Mapped(mapped) => (0..=self.mask as usize).map(|i| mapped.read(i + 1)).collect(),
        };
        in_order(&entries)
    }
}

/// Reads a trace file: the core, and its events, oldest first.
///
/// # Errors
/// `InvalidData`: not a trace file.
pub fn read_trace(bytes: &[u8]) -> io::Result<(u8, Vec<TraceEvent>)> {
    let mut entries = bytes.chunks_exact(size_of::<Entry>()).map(|chunk| {
        let word = |i: usize| u64::from_le_bytes(chunk[i * 8..][..8].try_into().expect("eight bytes"));
        Entry { nanos: word(0), lap_and_kind: word(1), first: word(2), second: word(3) }
    });
    let head = entries.next().filter(|head| head.nanos == MAGIC);
    let entries: Vec<Entry> = entries.collect();
    match head {
        Some(head) if head.lap_and_kind == entries.len() as u64 => Ok((head.first as u8, in_order(&entries))),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not a margay trace file")),
    }
}

fn in_order(entries: &[Entry]) -> Vec<TraceEvent> {
    let mut events: Vec<TraceEvent> = entries
        .iter()
        .filter_map(|entry| {
            let event = Event::from_number((entry.lap_and_kind >> LAP_BITS) as u16)?;
            let number = entry.lap_and_kind & ((1 << LAP_BITS) - 1);
            let at = Instant::from_nanos(entry.nanos);
            (event != Event::Empty).then_some(TraceEvent {
                at,
                number,
                event,
                first: entry.first,
                second: entry.second,
            })
        })
        .collect();
    events.sort_unstable_by_key(|event| event.number);
    // What was being overwritten while it was read may be of another lap.
    let newest = events.last().map_or(0, |event| event.number);
    events.retain(|event| event.number + entries.len() as u64 > newest);
    events
}

/// A file of entries, mapped and shared with whoever reads it.
struct Mapped {
    start: *mut u64,
    len: usize,
}

impl Mapped {
    fn create(path: &Path, len: usize) -> io::Result<Mapped> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        file.set_len(len as u64)?;
        // SAFETY: a new mapping at an address of the kernel's choice. The file is ours; if somebody cuts it short, a
        // write raises SIGBUS, which ends the process and corrupts nothing.
        let start =
            unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)? };
        Ok(Mapped { start: start.cast(), len })
    }

    #[inline(always)]
    fn write(&self, index: usize, entry: Entry) {
        let words = [entry.nanos, entry.lap_and_kind, entry.first, entry.second];
        assert!((index + 1) * size_of::<Entry>() <= self.len);
        for (i, word) in words.into_iter().enumerate() {
            // SAFETY: inside the mapping (asserted), aligned as a page is. Volatile: another process reads it.
            unsafe { self.start.add(index * 4 + i).write_volatile(word.to_le()) };
        }
    }

    fn read(&self, index: usize) -> Entry {
        assert!((index + 1) * size_of::<Entry>() <= self.len);
        // SAFETY: as in `write`.
        let word = |i: usize| u64::from_le(unsafe { self.start.add(index * 4 + i).read_volatile() });
        Entry { nanos: word(0), lap_and_kind: word(1), first: word(2), second: word(3) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped in `create`, once; nothing refers to it but this.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.len) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn fill(trace: &Trace, count: u64) {
        for i in 0..count {
            trace.note(Instant::from_nanos(i * 10), Event::Mark, i, 7);
        }
    }

    #[test]
    fn the_last_events_are_there_in_order() {
        let trace = Trace::in_memory(8);
        fill(&trace, 21);
        let events = trace.events();
        assert_eq!(events.iter().map(|e| e.first).collect::<Vec<_>>(), (13..21).collect::<Vec<_>>());
        assert_eq!(
            events[0],
            TraceEvent { at: Instant::from_nanos(130), number: 13, event: Event::Mark, first: 13, second: 7 }
        );
        let off = Trace::off();
        fill(&off, 3);
        assert!(off.events().is_empty());
    }

    #[test]
    #[cfg(not(miri))]
    fn a_file_is_read_by_another_and_foreign_files_are_refused() {
        let path = std::env::temp_dir().join(format!("margay-trace-{}", std::process::id()));
        let trace = Trace::in_file(&path, 3, 16).unwrap();
        fill(&trace, 40);
        let (core, events) = read_trace(&std::fs::read(&path).unwrap()).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((core, events), (3, trace.events()));
        for bad in [&b""[..], b"MARGAYT1", &[0; 64]] {
            assert!(read_trace(bad).is_err());
        }
    }
}
