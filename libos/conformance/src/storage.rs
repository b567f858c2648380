//! What a storage queue means, as cases that every storage passes: `storage_suite!(name, || subject())`.
//!
//! A subject is one core with one storage, and can be started again over the same device, as the next process is. What a
//! case calls are [`Logs`], which are plain data, so that the C interface can be a subject, too. The books are looked at
//! when a case has ended: no token, queue or zombie is left.

use pdpix::{Completion, Endpoint, Error, OpenMode, Outcome, QToken, Qd, Sga, storage::Damage};

use libos_runtime::{Begun, LibOs};

use crate::run::say;

/// What the cases run on.
pub trait LogSubject {
    /// The calls of the core's library OS, of the present process.
    fn logs(&self) -> Box<dyn Logs>;

    /// Lets it go on: one pass, and perhaps some time.
    fn turn(&mut self);

    /// The process ends, in order, and another one begins on the same device.
    fn restart(&mut self);
}

/// How an operation on a log ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogEnd {
    /// A push: the record's number.
    Appended(u64),
    /// A seek: where it went.
    Sought(u64),
    /// A truncation: the first record that is left.
    Truncated(u64),
    /// A pop: a record, or the beginning of a longer one, which is then said; nothing at the end of the log.
    Popped(Vec<u8>, bool),
}

/// A call of a network that a log has not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "they are called so")]
pub enum SocketCall {
    Bind(Endpoint),
    Listen,
    Accept,
    Connect(Endpoint),
    PushTo(Endpoint),
    Finish,
}

/// The calls of storage queues. Each returns at once, with the errors that the call of this name has in PDPIX.
#[allow(clippy::missing_errors_doc, reason = "each call's errors are those of the call of the same name in PDPIX")]
pub trait Logs {
    /// Opens a log, on the storage of this name or on the first one.
    fn open(&self, name: &str, mode: OpenMode, on: Option<&str>) -> Result<Qd, Error>;
    /// Makes a log.
    fn create(&self, name: &str) -> Result<Qd, Error>;
    /// A memory queue.
    fn queue(&self) -> Result<Qd, Error>;
    /// Appends a record that lies in these segments, each in a buffer of its own.
    fn push(&self, qd: Qd, segments: &[&[u8]]) -> Result<QToken, Error>;
    /// The same, without a token where it is over at once; that it is not.
    fn begin_push(&self, qd: Qd, bytes: &[u8]) -> Result<QToken, Error> {
        self.push(qd, &[bytes])
    }
    /// Reads at the cursor.
    fn pop(&self, qd: Qd, len_max: usize) -> Result<QToken, Error>;
    /// Puts the cursor somewhere.
    fn seek(&self, qd: Qd, sequence: u64) -> Result<QToken, Error>;
    /// Frees what is before a record.
    fn truncate(&self, qd: Qd, sequence: u64) -> Result<QToken, Error>;
    /// What damage there is.
    fn damage(&self, qd: Qd) -> Result<Option<Damage>, Error>;
    /// A call that a log has not.
    fn call(&self, qd: Qd, call: SocketCall) -> Result<(), Error>;
    /// Closes.
    fn close(&self, qd: Qd) -> Result<(), Error>;
    /// Redeems a token if its operation has ended.
    fn try_redeem(&self, qt: QToken) -> Result<Option<Result<LogEnd, Error>>, Error>;
    /// Asks for an end.
    fn cancel(&self, qt: QToken) -> Result<(), Error>;
    /// Gives a token up: drops its future.
    fn give_up(&self, qt: QToken);
    /// Whether that can be done, and storages have names (in C, neither).
    fn has_all(&self) -> bool {
        true
    }
    /// How many records each storage has appended, if it says so.
    fn records(&self) -> Vec<u64> {
        Vec::new()
    }
    /// Tokens, queues and zombies in use.
    fn books(&self) -> (usize, usize, usize);
}

impl Logs for LibOs {
    fn open(&self, name: &str, mode: OpenMode, on: Option<&str>) -> Result<Qd, Error> {
        LibOs::open(self, name, mode, on)
    }

    fn create(&self, name: &str) -> Result<Qd, Error> {
        LibOs::create(self, name, None)
    }

    fn queue(&self) -> Result<Qd, Error> {
        LibOs::queue(self)
    }

    fn push(&self, qd: Qd, segments: &[&[u8]]) -> Result<QToken, Error> {
        LibOs::push(self, qd, sga(self, segments))
    }

    fn begin_push(&self, qd: Qd, bytes: &[u8]) -> Result<QToken, Error> {
        match LibOs::begin_push(self, qd, sga(self, &[bytes]))? {
            Begun::Pending(qt) => Ok(qt),
            Begun::Done(end) => panic!("durable at once: {end:?}"),
        }
    }

    fn pop(&self, qd: Qd, len_max: usize) -> Result<QToken, Error> {
        LibOs::pop(self, qd, len_max)
    }

    fn seek(&self, qd: Qd, sequence: u64) -> Result<QToken, Error> {
        LibOs::seek(self, qd, sequence)
    }

    fn truncate(&self, qd: Qd, sequence: u64) -> Result<QToken, Error> {
        LibOs::truncate(self, qd, sequence)
    }

    fn damage(&self, qd: Qd) -> Result<Option<Damage>, Error> {
        LibOs::damage(self, qd)
    }

    fn call(&self, qd: Qd, call: SocketCall) -> Result<(), Error> {
        match call {
            SocketCall::Bind(at) => self.bind(qd, at).map(drop),
            SocketCall::Listen => self.listen(qd, 1),
            SocketCall::Accept => self.accept(qd).map(drop),
            SocketCall::Connect(to) => self.connect(qd, to).map(drop),
            SocketCall::PushTo(to) => self.push_to(qd, sga(self, &[b"x"]), to).map(drop),
            SocketCall::Finish => self.finish(qd),
        }
    }

    fn close(&self, qd: Qd) -> Result<(), Error> {
        LibOs::close(self, qd)
    }

    fn try_redeem(&self, qt: QToken) -> Result<Option<Result<LogEnd, Error>>, Error> {
        Ok(LibOs::try_redeem(self, qt)?.map(|Completion { result, .. }| match result? {
            Outcome::Appended { sequence } => Ok(LogEnd::Appended(sequence)),
            Outcome::Sought { sequence } => Ok(LogEnd::Sought(sequence)),
            Outcome::Truncated { sequence } => Ok(LogEnd::Truncated(sequence)),
            Outcome::Popped(popped) => Ok(LogEnd::Popped(popped.sga.to_vec(), popped.cut)),
            other => panic!("on a log: {other:?}"),
        }))
    }

    fn cancel(&self, qt: QToken) -> Result<(), Error> {
        LibOs::cancel(self, qt)
    }

    fn give_up(&self, qt: QToken) {
        drop(self.redeem(qt));
    }

    fn records(&self) -> Vec<u64> {
        let counters = self.storage_counters().into_iter().flat_map(|(_, counters)| counters);
        counters.filter(|(name, _)| *name == "records").map(|(_, records)| records).collect()
    }

    fn books(&self) -> (usize, usize, usize) {
        (self.tokens_in_use(), self.queues_in_use(), self.zombies())
    }
}

fn sga(libos: &LibOs, segments: &[&[u8]]) -> Sga {
    let mut sga = Sga::new();
    for segment in segments {
        sga.push(libos.heap().copy(segment).unwrap()).unwrap();
    }
    sga
}

/// A case of the suite.
pub type StorageCase = fn(&mut dyn LogSubject);

/// Runs a case, and looks at the books. A case about tokens that are given up says so in its name, and is skipped, and said,
/// where that cannot be done.
///
/// # Panics
/// If the fact does not hold, or something was not given back.
pub fn run_storage(subject: &mut dyn LogSubject, module: &str, name: &str, case: StorageCase) {
    if name.contains("given_up") && !subject.logs().has_all() {
        // The test program's own crate is not part of the name that it knows a test by.
        let module = module.split_once("::").map_or(module, |(_, module)| module);
        return say(&format!("SKIP {module}::{name}: a token cannot be given up here"));
    }
    case(subject);
    for _ in 0..TURNS_MAX {
        if subject.logs().books() == (0, 0, 0) {
            return;
        }
        subject.turn();
    }
    panic!("left: tokens, queues, zombies {:?}", subject.logs().books());
}

const TURNS_MAX: usize = 1_000_000;

/// A test of each case, in a module of this name.
#[macro_export]
macro_rules! storage_suite {
    ($name:ident, $make:expr) => {
        mod $name {
            #[allow(unused_imports, reason = "what `make` may name")]
            use super::*;
            $crate::with_storage_cases!($crate::storage_tests { $make });
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! with_storage_cases {
    ($then:path { $($args:tt)* }) => {
        $then! { { $($args)* }
            records_come_back_in_order_with_their_numbers
            the_end_is_a_pop_of_nothing_and_not_for_ever
            a_seek_says_where_it_went
            the_next_process_finds_what_was_acknowledged
            a_truncation_is_for_ever
            a_longer_record_is_cut_and_flagged
            many_pushes_at_once_end_in_their_order
            a_push_may_lie_in_many_segments
            empty_pushes_and_pops_are_refused
            a_log_is_no_socket_and_a_socket_no_log
            opening_says_what_is_wrong
            who_reads_only_changes_nothing
            each_descriptor_has_a_cursor_of_its_own
            a_pop_that_is_given_up_takes_nothing
            what_a_given_up_pop_had_goes_to_the_next_unless_the_cursor_went_elsewhere
            a_cancelled_pop_takes_nothing
            a_cancelled_push_ends_once
            close_lets_pushes_end_and_cancels_the_rest
            a_pop_behind_a_truncation_is_told
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! storage_tests {
    ({ $make:expr } $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                let mut subject = ($make)();
                $crate::storage::run_storage(&mut subject, module_path!(), stringify!($case), $crate::storage::$case);
            }
        )*
    };
}

// What cases do again and again.

fn end(s: &mut dyn LogSubject, qt: QToken) -> Result<LogEnd, Error> {
    let logs = s.logs();
    for _ in 0..TURNS_MAX {
        if let Some(end) = logs.try_redeem(qt).unwrap() {
            return end;
        }
        s.turn();
    }
    panic!("{qt:?} does not end");
}

fn sequence(end: Result<LogEnd, Error>) -> Result<u64, Error> {
    match end? {
        LogEnd::Appended(sequence) | LogEnd::Sought(sequence) | LogEnd::Truncated(sequence) => Ok(sequence),
        LogEnd::Popped(bytes, _) => panic!("a pop of {bytes:?}"),
    }
}

fn open(s: &dyn LogSubject, name: &str) -> Qd {
    s.logs().open(name, OpenMode::ExistingOrNew, None).unwrap()
}

fn push(s: &mut dyn LogSubject, qd: Qd, bytes: &[u8]) -> Result<u64, Error> {
    let qt = s.logs().push(qd, &[bytes])?;
    sequence(end(s, qt))
}

fn popped(s: &mut dyn LogSubject, qd: Qd, len_max: usize) -> Result<(Vec<u8>, bool), Error> {
    let qt = s.logs().pop(qd, len_max)?;
    bytes(end(s, qt))
}

fn bytes(end: Result<LogEnd, Error>) -> Result<(Vec<u8>, bool), Error> {
    match end? {
        LogEnd::Popped(bytes, cut) => Ok((bytes, cut)),
        other => panic!("no pop: {other:?}"),
    }
}

fn pop(s: &mut dyn LogSubject, qd: Qd) -> Vec<u8> {
    popped(s, qd, 1 << 20).unwrap().0
}

fn seek(s: &mut dyn LogSubject, qd: Qd, to: u64) -> Result<u64, Error> {
    let qt = s.logs().seek(qd, to)?;
    sequence(end(s, qt))
}

fn truncate(s: &mut dyn LogSubject, qd: Qd, to: u64) -> Result<u64, Error> {
    let qt = s.logs().truncate(qd, to)?;
    sequence(end(s, qt))
}

fn close(s: &dyn LogSubject, qd: Qd) {
    s.logs().close(qd).unwrap();
}

/// A record of a length and with bytes of its own.
fn record(number: u64) -> Vec<u8> {
    let len = 1 + (number * 7919 % 900) as usize;
    (0..len).map(|i| (number as usize * 13 + i) as u8).collect()
}

// The cases.

pub fn records_come_back_in_order_with_their_numbers(s: &mut dyn LogSubject) {
    let qd = open(s, "log");
    for number in 1..=100 {
        assert_eq!(push(s, qd, &record(number)), Ok(number));
    }
    for number in 1..=100 {
        assert_eq!(pop(s, qd), record(number));
    }
    assert!(s.logs().records().iter().all(|&records| records == 100), "{:?}", s.logs().records());
    close(s, qd);
}

pub fn the_end_is_a_pop_of_nothing_and_not_for_ever(s: &mut dyn LogSubject) {
    let qd = open(s, "log");
    assert_eq!(pop(s, qd), b"");
    assert_eq!(pop(s, qd), b"", "told again");
    push(s, qd, b"one").unwrap();
    assert_eq!((pop(s, qd), pop(s, qd)), (b"one".to_vec(), Vec::new()));
    push(s, qd, b"two").unwrap();
    assert_eq!(pop(s, qd), b"two");
    close(s, qd);
}

pub fn a_seek_says_where_it_went(s: &mut dyn LogSubject) {
    let qd = open(s, "log");
    assert_eq!((seek(s, qd, 0), seek(s, qd, u64::MAX)), (Ok(1), Ok(1)), "an empty log");
    (1..=200).for_each(|number| assert_eq!(push(s, qd, &record(number)), Ok(number)));
    for to in [150, 3, 77, 76, 200, 1] {
        assert_eq!(seek(s, qd, to), Ok(to));
        assert_eq!(pop(s, qd), record(to));
    }
    assert_eq!((seek(s, qd, 0), seek(s, qd, u64::MAX), seek(s, qd, 201)), (Ok(1), Ok(201), Ok(201)));
    assert_eq!(pop(s, qd), b"");
    close(s, qd);
}

pub fn the_next_process_finds_what_was_acknowledged(s: &mut dyn LogSubject) {
    for round in 0..4 {
        let qd = open(s, "log");
        assert_eq!(seek(s, qd, u64::MAX), Ok(round * 50 + 1));
        assert_eq!(seek(s, qd, 0), Ok(1));
        (1..=round * 50).for_each(|number| assert_eq!(pop(s, qd), record(number)));
        for number in round * 50 + 1..=(round + 1) * 50 {
            assert_eq!(push(s, qd, &record(number)), Ok(number));
        }
        close(s, qd);
        s.restart();
    }
}

pub fn a_truncation_is_for_ever(s: &mut dyn LogSubject) {
    let qd = open(s, "log");
    (1..=60).for_each(|number| assert_eq!(push(s, qd, &record(number)), Ok(number)));
    assert_eq!(truncate(s, qd, 41), Ok(41));
    assert_eq!(truncate(s, qd, 10), Ok(41), "it was done before");
    assert_eq!(truncate(s, qd, 62), Err(Error::InvalidArgument), "beyond the end");
    assert_eq!(seek(s, qd, 5), Ok(41));
    assert_eq!(pop(s, qd), record(41));
    close(s, qd);
    s.restart();
    let qd = open(s, "log");
    assert_eq!(pop(s, qd), record(41), "a cursor begins at the first that is left");
    assert_eq!(truncate(s, qd, 61), Ok(61), "everything");
    assert_eq!(push(s, qd, b"next"), Ok(61));
    assert_eq!(seek(s, qd, 0), Ok(61));
    assert_eq!(pop(s, qd), b"next");
    close(s, qd);
}

pub fn a_longer_record_is_cut_and_flagged(s: &mut dyn LogSubject) {
    let qd = open(s, "log");
    push(s, qd, b"a long record").unwrap();
    push(s, qd, b"next").unwrap();
    let cut = popped(s, qd, 6).unwrap();
    assert_eq!(cut, (b"a long".to_vec(), true));
    assert_eq!(popped(s, qd, 4), Ok((b"next".to_vec(), false)));
    close(s, qd);
}

pub fn many_pushes_at_once_end_in_their_order(s: &mut dyn LogSubject) {
    let (logs, qd) = (s.logs(), open(s, "log"));
    let tokens: Vec<QToken> = (1..=500).map(|number| logs.push(qd, &[&record(number)]).unwrap()).collect();
    let pops: Vec<QToken> = (0..3).map(|_| logs.pop(qd, 1000).unwrap()).collect();
    for (i, qt) in tokens.into_iter().enumerate() {
        assert_eq!(end(s, qt), Ok(LogEnd::Appended(i as u64 + 1)));
    }
    pops.into_iter().for_each(|qt| _ = bytes(end(s, qt)).unwrap());
    seek(s, qd, 0).unwrap();
    (1..=500).for_each(|number| assert_eq!(pop(s, qd), record(number)));
    close(s, qd);
}

pub fn a_push_may_lie_in_many_segments(s: &mut dyn LogSubject) {
    let (logs, qd) = (s.logs(), open(s, "log"));
    for (pieces, len) in [(3, 10), (40, 100), (5, 3000), (1, 40_000)] {
        let many: Vec<Vec<u8>> = (0..pieces).map(|i| vec![i as u8; len + i]).collect();
        let segments: Vec<&[u8]> = many.iter().map(|piece| &piece[..]).collect();
        let qt = logs.push(qd, &segments).unwrap();
        end(s, qt).unwrap();
        assert_eq!(pop(s, qd), many.concat(), "{pieces} of {len}");
    }
    close(s, qd);
}

pub fn empty_pushes_and_pops_are_refused(s: &mut dyn LogSubject) {
    let (logs, qd) = (s.logs(), open(s, "log"));
    assert_eq!(logs.push(qd, &[]).unwrap_err(), Error::InvalidArgument);
    assert_eq!(logs.pop(qd, 0).unwrap_err(), Error::InvalidArgument);
    close(s, qd);
    assert_eq!(logs.push(qd, &[b"x"]).unwrap_err(), Error::BadDescriptor);
    assert_eq!(logs.seek(qd, 1).unwrap_err(), Error::BadDescriptor);
}

pub fn a_log_is_no_socket_and_a_socket_no_log(s: &mut dyn LogSubject) {
    let (logs, qd) = (s.logs(), open(s, "log"));
    let anywhere = "127.0.0.1:1".parse().unwrap();
    use SocketCall::{Accept, Bind, Connect, Finish, Listen, PushTo};
    for call in [Bind(anywhere), Listen, Accept, Connect(anywhere), PushTo(anywhere), Finish] {
        assert_eq!(logs.call(qd, call), Err(Error::NotSupported), "{call:?}");
    }
    let queue = logs.queue().unwrap();
    assert_eq!(logs.seek(queue, 1).unwrap_err(), Error::NotSupported);
    assert_eq!(logs.truncate(queue, 1).unwrap_err(), Error::NotSupported);
    assert_eq!(logs.damage(queue).unwrap_err(), Error::NotSupported);
    assert_eq!(logs.damage(qd), Ok(None));
    let begun = logs.begin_push(qd, b"x").unwrap();
    assert_eq!(end(s, begun), Ok(LogEnd::Appended(1)));
    close(s, queue);
    close(s, qd);
}

pub fn opening_says_what_is_wrong(s: &mut dyn LogSubject) {
    let logs = s.logs();
    let qd = open(s, "log");
    seek(s, qd, 0).unwrap();
    assert_eq!(logs.open("none", OpenMode::Existing, None).unwrap_err(), Error::NotFound);
    assert_eq!(logs.create("log").unwrap_err(), Error::AlreadyExists);
    if logs.has_all() {
        assert_eq!(logs.open("log", OpenMode::Existing, Some("no such storage")).unwrap_err(), Error::NotFound);
    }
    assert_eq!(logs.open("", OpenMode::ExistingOrNew, None).unwrap_err(), Error::InvalidArgument);
    let other = logs.create("other").unwrap();
    assert_eq!(push(s, other, b"x"), Ok(1), "logs are apart");
    assert_eq!(pop(s, qd), b"");
    [qd, other].into_iter().for_each(|qd| close(s, qd));
}

pub fn who_reads_only_changes_nothing(s: &mut dyn LogSubject) {
    let qd = open(s, "log");
    push(s, qd, b"one").unwrap();
    close(s, qd);
    s.restart();
    let logs = s.logs();
    let reader = logs.open("log", OpenMode::ReadOnly, None).unwrap();
    assert_eq!(pop(s, reader), b"one");
    assert_eq!(logs.push(reader, &[b"x"]).unwrap_err(), Error::ReadOnly);
    assert_eq!(logs.truncate(reader, 1).unwrap_err(), Error::ReadOnly);
    let writer = open(s, "log");
    assert_eq!(push(s, writer, b"two"), Ok(2));
    assert_eq!(pop(s, reader), b"two", "it sees what others append");
    [reader, writer].into_iter().for_each(|qd| close(s, qd));
}

pub fn each_descriptor_has_a_cursor_of_its_own(s: &mut dyn LogSubject) {
    let (a, b) = (open(s, "log"), open(s, "log"));
    (1..=10).for_each(|number| assert_eq!(push(s, if number % 2 == 0 { a } else { b }, &record(number)), Ok(number)));
    seek(s, b, 6).unwrap();
    assert_eq!((pop(s, a), pop(s, b)), (record(1), record(6)));
    assert_eq!((pop(s, b), pop(s, a)), (record(7), record(2)));
    [a, b].into_iter().for_each(|qd| close(s, qd));
}

pub fn a_pop_that_is_given_up_takes_nothing(s: &mut dyn LogSubject) {
    let qd = open(s, "log");
    (1..=5).for_each(|number| assert_eq!(push(s, qd, &record(number)), Ok(number)));
    close(s, qd);
    s.restart();
    let (logs, qd) = (s.logs(), open(s, "log"));
    // Not yet recovered: all wait.
    for _ in 0..3 {
        logs.give_up(logs.pop(qd, 1000).unwrap());
    }
    (1..=5).for_each(|number| assert_eq!(pop(s, qd), record(number)));
    close(s, qd);
}

pub fn what_a_given_up_pop_had_goes_to_the_next_unless_the_cursor_went_elsewhere(s: &mut dyn LogSubject) {
    let (logs, qd) = (s.logs(), open(s, "log"));
    (1..=9).for_each(|number| assert_eq!(push(s, qd, &record(number)), Ok(number)));
    let give_up_one = |s: &mut dyn LogSubject| {
        let qt = logs.pop(qd, 1000).unwrap();
        (0..100).for_each(|_| s.turn());
        logs.give_up(qt);
    };
    give_up_one(s);
    assert_eq!(pop(s, qd), record(1));
    assert_eq!(pop(s, qd), record(2));
    give_up_one(s);
    assert_eq!(seek(s, qd, 7), Ok(7));
    assert_eq!(pop(s, qd), record(7), "not the third");
    assert_eq!(pop(s, qd), record(8));
    close(s, qd);
}

pub fn a_cancelled_pop_takes_nothing(s: &mut dyn LogSubject) {
    let qd = open(s, "log");
    (1..=3).for_each(|number| assert_eq!(push(s, qd, &record(number)), Ok(number)));
    close(s, qd);
    s.restart();
    let (logs, qd) = (s.logs(), open(s, "log"));
    let tokens: Vec<QToken> = (0..3).map(|_| logs.pop(qd, 1000).unwrap()).collect();
    logs.cancel(tokens[0]).unwrap();
    logs.cancel(tokens[2]).unwrap();
    assert_eq!(end(s, tokens[0]), Err(Error::Canceled));
    assert_eq!(end(s, tokens[1]), Ok(LogEnd::Popped(record(1), false)));
    assert_eq!(end(s, tokens[2]), Err(Error::Canceled));
    assert_eq!(pop(s, qd), record(2));
    close(s, qd);
}

pub fn a_cancelled_push_ends_once(s: &mut dyn LogSubject) {
    let (logs, qd) = (s.logs(), open(s, "log"));
    let tokens: Vec<QToken> = (1..=20).map(|number| logs.push(qd, &[&record(number)]).unwrap()).collect();
    tokens.iter().for_each(|&qt| logs.cancel(qt).unwrap());
    let mut next = 1;
    for qt in tokens {
        match sequence(end(s, qt)) {
            Ok(number) => {
                assert_eq!(number, next, "those that were on their way have ended in order");
                next += 1;
            }
            Err(error) => assert_eq!(error, Error::Canceled),
        }
    }
    assert_eq!(push(s, qd, b"after"), Ok(next));
    close(s, qd);
}

pub fn close_lets_pushes_end_and_cancels_the_rest(s: &mut dyn LogSubject) {
    let (logs, qd) = (s.logs(), open(s, "log"));
    let pushes: Vec<QToken> = (1..=20).map(|number| logs.push(qd, &[&record(number)]).unwrap()).collect();
    let pops = [logs.seek(qd, 0).unwrap(), logs.pop(qd, 1000).unwrap()];
    close(s, qd);
    for qt in pops {
        let ended = end(s, qt);
        assert!(matches!(ended, Err(Error::Canceled) | Ok(LogEnd::Sought(_) | LogEnd::Popped(..))), "{ended:?}");
    }
    for (i, qt) in pushes.into_iter().enumerate() {
        assert_eq!(end(s, qt), Ok(LogEnd::Appended(i as u64 + 1)));
    }
    let qd = open(s, "log");
    (1..=20).for_each(|number| assert_eq!(pop(s, qd), record(number)));
    close(s, qd);
}

pub fn a_pop_behind_a_truncation_is_told(s: &mut dyn LogSubject) {
    let qd = open(s, "log");
    (1..=10).for_each(|number| assert_eq!(push(s, qd, &record(number)), Ok(number)));
    assert_eq!(pop(s, qd), record(1));
    assert_eq!(truncate(s, qd, 6), Ok(6));
    assert_eq!(popped(s, qd, 1000).unwrap_err(), Error::NotFound);
    assert_eq!(seek(s, qd, 0), Ok(6));
    assert_eq!(pop(s, qd), record(6));
    close(s, qd);
}
