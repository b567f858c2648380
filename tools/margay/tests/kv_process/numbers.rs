//! Clients that write numbers, counted up, and note what of it was acknowledged and when; and what must be there of them after
//! a crash.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kv_differential::generate::words;
use kv_differential::{Peer, Reply, Subject};

/// Clients at once; each writes in one of four ways.
pub const CLIENTS: usize = 8;

/// What is there of a client's numbers after each life of the service that has ended: the least and the most, where what was
/// sent together is not there together.
#[derive(Clone, Debug, Default)]
pub struct Past(Vec<RangeInclusive<u64>>);

impl Past {
    /// So much was found when a life had ended: it does not go any more.
    pub fn then(mut self, there: RangeInclusive<u64>) -> Past {
        self.0.push(there);
        self
    }

    /// All numbers up to this one are there.
    fn start(&self) -> u64 {
        self.0.last().map_or(0, |there| *there.start())
    }

    /// The next life goes on after this one.
    fn end(&self) -> u64 {
        self.0.last().map_or(0, |there| *there.end())
    }

    /// Whether nothing is missing between two numbers of a list: only the last ones of a life may be.
    fn joins(&self, one: u64, next: u64) -> bool {
        next == one + 1 || one < next && self.0.iter().any(|there| next == there.end() + 1 && one >= *there.start())
    }

    /// # Errors
    /// A sentence: a number is in the list twice, not in its place, or not at all.
    fn check_list(&self, list: &[u64]) -> Result<(), String> {
        for (before, number) in std::iter::once(&0).chain(list).zip(list) {
            if number <= before {
                return Err(format!("pushed twice, or not in order: {number} after {before}"));
            }
            if !self.joins(*before, *number) {
                return Err(format!("{number} follows {before} in the list, and what is between was acknowledged"));
            }
        }
        Ok(())
    }
}

/// What must be there of a client's numbers, and what may be.
#[derive(Clone, Debug)]
pub struct Expected {
    /// All up to this one.
    pub must: u64,
    /// None after this one.
    pub sent: u64,
    pub past: Past,
}

/// What one client has sent, and what of it was acknowledged and when.
#[derive(Clone, Debug, Default)]
pub struct Noted {
    /// What was there at the beginning.
    pub past: Past,
    pub sent: u64,
    pub acknowledged: Vec<(u64, Instant)>,
}

impl Noted {
    pub fn last(&self) -> u64 {
        self.acknowledged.last().map_or(0, |(number, _)| *number)
    }

    /// After a crash at this time that may cost so much. What earlier lives have left costs none.
    pub fn expected(&self, crashed: Instant, may_lose: Duration) -> Expected {
        let is_kept = |(_, when): &&(u64, Instant)| may_lose.is_zero() || *when + may_lose <= crashed;
        let kept = self.acknowledged.iter().rev().find(is_kept);
        let must = kept.map_or(0, |(number, _)| *number).max(self.past.start());
        Expected { must, sent: self.sent, past: self.past.clone() }
    }
}

/// The clients, each on a thread; they end with their connections.
pub struct Writers {
    books: Arc<Mutex<Vec<Noted>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    /// `past`: what is there of each client's numbers.
    pub fn start(past: &[Past; CLIENTS], to: SocketAddr) -> Writers {
        let noted =
            past.iter().map(|past| Noted { past: past.clone(), sent: past.end(), ..Noted::default() }).collect();
        let books = Arc::new(Mutex::new(noted));
        let threads = (0..CLIENTS).map(|index| {
            let books = books.clone();
            thread::spawn(move || write_numbers(index, &books, to))
        });
        Writers { threads: threads.collect(), books }
    }

    /// What they have noted so far, whenever it is asked for.
    pub fn books(&self) -> Arc<Mutex<Vec<Noted>>> {
        self.books.clone()
    }

    /// Waits for their end.
    pub fn join(self) -> Vec<Noted> {
        self.threads.into_iter().for_each(|thread| thread.join().expect("a writer"));
        let books = self.books.lock().expect("the books");
        books.clone()
    }
}

/// The commands by which client `index` writes `number`.
fn commands(index: usize, number: u64) -> Vec<String> {
    let pad = "x".repeat((number % 5) as usize * 300);
    match index % 4 {
        0 => vec![format!("SET set:{index} {number}:{pad}")],
        1 => vec![format!("INCR incr:{index}")],
        2 => vec![format!("MSET m:{index}:a {number} m:{index}:b {number} m:{index}:c {number} m:{index}:d {number}")],
        // Several at once.
        _ => vec![format!("RPUSH list:{index} {number}"), format!("SET pipe:{index} {number}")],
    }
}

fn write_numbers(index: usize, books: &Mutex<Vec<Noted>>, to: SocketAddr) {
    let Ok(mut stream) = TcpStream::connect(to) else { return };
    let _ = stream.set_nodelay(true);
    let mut bytes = [0; 4096];
    let from = books.lock().expect("the books")[index].past.end();
    for number in from + 1.. {
        let commands = commands(index, number);
        let request: String = commands.iter().map(|command| format!("{command}\r\n")).collect();
        books.lock().expect("the books")[index].sent = number;
        if stream.write_all(request.as_bytes()).is_err() {
            break;
        }
        let mut got = Vec::new();
        while got.iter().filter(|&&byte| byte == b'\n').count() < commands.len() {
            match stream.read(&mut bytes) {
                Ok(len) if len > 0 => got.extend_from_slice(&bytes[..len]),
                _ => return,
            }
        }
        assert!(!got.contains(&b'-'), "{}", String::from_utf8_lossy(&got));
        books.lock().expect("the books")[index].acknowledged.push((number, Instant::now()));
    }
}

pub fn number(reply: &Reply) -> u64 {
    let text = String::from_utf8_lossy(reply.bytes()).into_owned();
    if text.is_empty() || text == "null" { 0 } else { text.split(':').next().unwrap().parse().expect("a number") }
}

/// What is there of a client's numbers: the least and the most, where they may differ.
///
/// # Errors
/// A sentence: something is missing that must be there, or is there and was never written, or what was written together is
/// not there together.
pub fn check(peer: &mut Peer, index: usize, expected: &Expected) -> Result<RangeInclusive<u64>, String> {
    let there = found(peer, index, &expected.past)?;
    let Expected { must, sent, .. } = expected;
    if there.start() < must {
        return Err(format!("{} is there, and {must} was acknowledged", there.start()));
    }
    if there.end() > sent {
        return Err(format!("{} is there, and nobody has written it", there.end()));
    }
    Ok(there)
}

fn found(peer: &mut Peer, index: usize, past: &Past) -> Result<RangeInclusive<u64>, String> {
    let mut ask = |line: String| peer.ask(&words(&line)).expect("a reply");
    let mut get = |key: String| match ask(format!("EXISTS {key}")).integer() {
        Some(1) => number(&ask(format!("GET {key}"))),
        _ => 0,
    };
    let one = |number: u64| Ok(number..=number);
    match index % 4 {
        0 => one(get(format!("set:{index}"))),
        1 => one(get(format!("incr:{index}"))),
        2 => {
            let all = ["a", "b", "c", "d"].map(|name| get(format!("m:{index}:{name}")));
            if all.iter().any(|one| *one != all[0]) {
                return Err(format!("an MSET that is there in part: {all:?}"));
            }
            one(all[0])
        }
        _ => {
            let set = get(format!("pipe:{index}"));
            let list = ask(format!("LRANGE list:{index} 0 -1"));
            let list: Vec<u64> = list.items().iter().map(number).collect();
            past.check_list(&list)?;
            let last = list.last().copied().unwrap_or(0);
            // Of two that were sent together and not answered either may be missing: they may lie on two cores.
            Ok(set.min(last)..=set.max(last))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_lacks_nothing_but_the_end_of_a_life() {
        let past = Past::default().then(3..=5).then(7..=7);
        for whole in [&[][..], &[1, 2], &[1, 2, 3, 6, 7, 8], &[1, 2, 3, 4, 6, 7], &[1, 2, 3, 4, 5, 6, 7, 8, 9]] {
            assert_eq!(past.check_list(whole), Ok(()), "{whole:?}");
        }
        for not in [&[2][..], &[1, 3], &[1, 2, 6], &[1, 2, 3, 5], &[1, 2, 3, 4, 5, 6, 8], &[1, 2, 2], &[1, 2, 3, 2]] {
            assert!(past.check_list(not).is_err(), "{not:?}");
        }
    }

    #[test]
    fn what_earlier_lives_left_must_be_there_and_no_more_of_it() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let past = Past::default().then(5..=6);
        let nothing = Noted { past: past.clone(), sent: 7, ..Noted::default() };
        let one = Noted { acknowledged: vec![(7, now)], ..nothing.clone() };
        for (noted, may_lose, must) in
            [(&nothing, Duration::ZERO, 5), (&nothing, second, 5), (&one, Duration::ZERO, 7), (&one, second, 5)]
        {
            assert_eq!(noted.expected(now, may_lose).must, must, "{noted:?}, {may_lose:?}");
        }
        assert_eq!(one.expected(now + second, second).must, 7);
    }
}
