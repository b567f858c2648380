//! What a storage queue means, as cases that every storage passes: `storage_suite!(name, || subject())`.
//!
//! A subject is one core with one storage, and can be started again over the same device, as the next process is. The books
//! are looked at when a case has ended: no token, queue or zombie is left.

use pdpix::{Completion, Error, OpenMode, Outcome, Popped, QToken, Qd, Sga};

use libos_runtime::{Begun, LibOs};

/// What the cases run on.
pub trait LogSubject {
    /// The core's library OS, of the present process.
    fn libos(&self) -> LibOs;

    /// Lets it go on: one pass, and perhaps some time.
    fn turn(&mut self);

    /// The process ends, in order, and another one begins on the same device.
    fn restart(&mut self);
}

/// A case of the suite.
pub type StorageCase = fn(&mut dyn LogSubject);

/// Runs a case, and looks at the books.
pub fn run_storage(subject: &mut dyn LogSubject, case: StorageCase) {
    case(subject);
    let libos = subject.libos();
    for _ in 0..TURNS_MAX {
        if (libos.tokens_in_use(), libos.queues_in_use(), libos.zombies()) == (0, 0, 0) {
            return;
        }
        subject.turn();
    }
    panic!("left: {libos:?}, {} zombies", libos.zombies());
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
                $crate::storage::run_storage(&mut subject, $crate::storage::$case);
            }
        )*
    };
}

// What cases do again and again.

fn end(s: &mut dyn LogSubject, qt: QToken) -> Completion {
    let libos = s.libos();
    for _ in 0..TURNS_MAX {
        if let Some(completion) = libos.try_redeem(qt).unwrap() {
            return completion;
        }
        s.turn();
    }
    panic!("{qt:?} does not end");
}

fn open(s: &dyn LogSubject, name: &str) -> Qd {
    s.libos().open(name, OpenMode::ExistingOrNew, None).unwrap()
}

fn sga(s: &dyn LogSubject, bytes: &[u8]) -> Sga {
    Sga::copy(s.libos().heap(), bytes).unwrap()
}

fn push(s: &mut dyn LogSubject, qd: Qd, bytes: &[u8]) -> Result<u64, Error> {
    let qt = s.libos().push(qd, sga(s, bytes))?;
    end(s, qt).sequence()
}

fn popped(s: &mut dyn LogSubject, qd: Qd, len_max: usize) -> Result<Popped, Error> {
    let qt = s.libos().pop(qd, len_max)?;
    end(s, qt).popped()
}

fn pop(s: &mut dyn LogSubject, qd: Qd) -> Vec<u8> {
    popped(s, qd, 1 << 20).unwrap().sga.to_vec()
}

fn seek(s: &mut dyn LogSubject, qd: Qd, sequence: u64) -> Result<u64, Error> {
    let qt = s.libos().seek(qd, sequence)?;
    end(s, qt).sequence()
}

fn truncate(s: &mut dyn LogSubject, qd: Qd, sequence: u64) -> Result<u64, Error> {
    let qt = s.libos().truncate(qd, sequence)?;
    end(s, qt).sequence()
}

fn close(s: &dyn LogSubject, qd: Qd) {
    s.libos().close(qd).unwrap();
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
    for (name, counters) in s.libos().storage_counters() {
        let records = counters.iter().find(|(counter, _)| *counter == "records");
        assert!(records.is_none_or(|&(_, records)| records == 100), "{name}: {counters:?}");
    }
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
    assert_eq!((cut.sga.to_vec(), cut.cut), (b"a long".to_vec(), true));
    let whole = popped(s, qd, 4).unwrap();
    assert_eq!((whole.sga.to_vec(), whole.cut), (b"next".to_vec(), false));
    drop((cut, whole));
    close(s, qd);
}

pub fn many_pushes_at_once_end_in_their_order(s: &mut dyn LogSubject) {
    let (libos, qd) = (s.libos(), open(s, "log"));
    let tokens: Vec<QToken> = (1..=500).map(|number| libos.push(qd, sga(s, &record(number))).unwrap()).collect();
    let pops: Vec<QToken> = (0..3).map(|_| libos.pop(qd, 1000).unwrap()).collect();
    for (i, qt) in tokens.into_iter().enumerate() {
        assert_eq!(end(s, qt).sequence(), Ok(i as u64 + 1));
    }
    pops.into_iter().for_each(|qt| _ = end(s, qt).popped().unwrap());
    seek(s, qd, 0).unwrap();
    (1..=500).for_each(|number| assert_eq!(pop(s, qd), record(number)));
    close(s, qd);
}

pub fn a_push_may_lie_in_many_segments(s: &mut dyn LogSubject) {
    let (libos, qd) = (s.libos(), open(s, "log"));
    for (pieces, len) in [(3, 10), (40, 100), (5, 3000), (1, 40_000)] {
        let mut many = Sga::new();
        let mut whole = Vec::new();
        for i in 0..pieces {
            let piece = vec![i as u8; len + i];
            many.push(libos.heap().copy(&piece).unwrap()).unwrap();
            whole.extend(piece);
        }
        let qt = libos.push(qd, many).unwrap();
        end(s, qt).done().unwrap();
        assert_eq!(pop(s, qd), whole, "{pieces} of {len}");
    }
    close(s, qd);
}

pub fn empty_pushes_and_pops_are_refused(s: &mut dyn LogSubject) {
    let (libos, qd) = (s.libos(), open(s, "log"));
    assert_eq!(libos.push(qd, Sga::new()).unwrap_err(), Error::InvalidArgument);
    assert_eq!(libos.pop(qd, 0).unwrap_err(), Error::InvalidArgument);
    close(s, qd);
    assert_eq!(libos.push(qd, sga(s, b"x")).unwrap_err(), Error::BadDescriptor);
    assert_eq!(libos.seek(qd, 1).unwrap_err(), Error::BadDescriptor);
}

pub fn a_log_is_no_socket_and_a_socket_no_log(s: &mut dyn LogSubject) {
    let (libos, qd) = (s.libos(), open(s, "log"));
    let anywhere = "127.0.0.1:1".parse().unwrap();
    assert_eq!(libos.bind(qd, anywhere).unwrap_err(), Error::NotSupported);
    assert_eq!(libos.listen(qd, 1).unwrap_err(), Error::NotSupported);
    assert_eq!(libos.accept(qd).unwrap_err(), Error::NotSupported);
    assert_eq!(libos.connect(qd, anywhere).unwrap_err(), Error::NotSupported);
    assert_eq!(libos.push_to(qd, sga(s, b"x"), anywhere).unwrap_err(), Error::NotSupported);
    assert_eq!(libos.finish(qd).unwrap_err(), Error::NotSupported);
    let queue = libos.queue().unwrap();
    assert_eq!(libos.seek(queue, 1).unwrap_err(), Error::NotSupported);
    assert_eq!(libos.truncate(queue, 1).unwrap_err(), Error::NotSupported);
    assert_eq!(libos.damage(queue).unwrap_err(), Error::NotSupported);
    assert_eq!(libos.damage(qd), Ok(None));
    assert!(
        matches!(libos.begin_push(qd, sga(s, b"x")).unwrap(), Begun::Pending(qt) if end(s, qt).sequence() == Ok(1))
    );
    close(s, queue);
    close(s, qd);
}

pub fn opening_says_what_is_wrong(s: &mut dyn LogSubject) {
    let libos = s.libos();
    let qd = open(s, "log");
    seek(s, qd, 0).unwrap();
    assert_eq!(libos.open("none", OpenMode::Existing, None).unwrap_err(), Error::NotFound);
    assert_eq!(libos.create("log", None).unwrap_err(), Error::AlreadyExists);
    assert_eq!(libos.open("log", OpenMode::Existing, Some("no such storage")).unwrap_err(), Error::NotFound);
    assert_eq!(libos.open("", OpenMode::ExistingOrNew, None).unwrap_err(), Error::InvalidArgument);
    let other = libos.create("other", None).unwrap();
    assert_eq!(push(s, other, b"x"), Ok(1), "logs are apart");
    assert_eq!(pop(s, qd), b"");
    [qd, other].into_iter().for_each(|qd| close(s, qd));
}

pub fn who_reads_only_changes_nothing(s: &mut dyn LogSubject) {
    let qd = open(s, "log");
    push(s, qd, b"one").unwrap();
    close(s, qd);
    s.restart();
    let libos = s.libos();
    let reader = libos.open("log", OpenMode::ReadOnly, None).unwrap();
    assert_eq!(pop(s, reader), b"one");
    assert_eq!(libos.push(reader, sga(s, b"x")).unwrap_err(), Error::ReadOnly);
    assert_eq!(libos.truncate(reader, 1).unwrap_err(), Error::ReadOnly);
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
    let (libos, qd) = (s.libos(), open(s, "log"));
    // Not yet recovered: all wait.
    for _ in 0..3 {
        drop(libos.redeem(libos.pop(qd, 1000).unwrap()));
    }
    (1..=5).for_each(|number| assert_eq!(pop(s, qd), record(number)));
    close(s, qd);
}

pub fn what_a_given_up_pop_had_goes_to_the_next_unless_the_cursor_went_elsewhere(s: &mut dyn LogSubject) {
    let (libos, qd) = (s.libos(), open(s, "log"));
    (1..=9).for_each(|number| assert_eq!(push(s, qd, &record(number)), Ok(number)));
    let give_up_one = |s: &mut dyn LogSubject| {
        let qt = libos.pop(qd, 1000).unwrap();
        (0..100).for_each(|_| s.turn());
        drop(libos.redeem(qt));
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
    let (libos, qd) = (s.libos(), open(s, "log"));
    let tokens: Vec<QToken> = (0..3).map(|_| libos.pop(qd, 1000).unwrap()).collect();
    libos.cancel(tokens[0]).unwrap();
    libos.cancel(tokens[2]).unwrap();
    assert_eq!(end(s, tokens[0]).done(), Err(Error::Canceled));
    assert_eq!(end(s, tokens[1]).popped().unwrap().sga.to_vec(), record(1));
    assert_eq!(end(s, tokens[2]).done(), Err(Error::Canceled));
    assert_eq!(pop(s, qd), record(2));
    close(s, qd);
}

pub fn a_cancelled_push_ends_once(s: &mut dyn LogSubject) {
    let (libos, qd) = (s.libos(), open(s, "log"));
    let tokens: Vec<QToken> = (1..=20).map(|number| libos.push(qd, sga(s, &record(number))).unwrap()).collect();
    tokens.iter().for_each(|&qt| libos.cancel(qt).unwrap());
    let mut next = 1;
    for qt in tokens {
        match end(s, qt).sequence() {
            Ok(sequence) => {
                assert_eq!(sequence, next, "those that were on their way have ended in order");
                next += 1;
            }
            Err(error) => assert_eq!(error, Error::Canceled),
        }
    }
    assert_eq!(push(s, qd, b"after"), Ok(next));
    close(s, qd);
}

pub fn close_lets_pushes_end_and_cancels_the_rest(s: &mut dyn LogSubject) {
    let (libos, qd) = (s.libos(), open(s, "log"));
    let pushes: Vec<QToken> = (1..=20).map(|number| libos.push(qd, sga(s, &record(number))).unwrap()).collect();
    let pops = [libos.seek(qd, 0).unwrap(), libos.pop(qd, 1000).unwrap()];
    close(s, qd);
    for qt in pops {
        let ended = end(s, qt);
        assert!(matches!(ended.result, Err(Error::Canceled) | Ok(Outcome::Sought { .. } | Outcome::Popped(_))));
    }
    for (i, qt) in pushes.into_iter().enumerate() {
        assert_eq!(end(s, qt).sequence(), Ok(i as u64 + 1));
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
