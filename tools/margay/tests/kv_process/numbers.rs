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

/// What one client has sent, and what of it was acknowledged and when.
#[derive(Clone, Debug, Default)]
pub struct Noted {
    /// What was there at the beginning.
    pub from: u64,
    pub sent: u64,
    pub acknowledged: Vec<(u64, Instant)>,
}

impl Noted {
    pub fn last(&self) -> u64 {
        self.acknowledged.last().map_or(0, |(number, _)| *number)
    }

    /// The last number that may not be missing after a crash at this time that may cost so much.
    pub fn must_be_there(&self, crashed: Instant, may_lose: Duration) -> u64 {
        if may_lose.is_zero() {
            return self.last().max(self.from);
        }
        let kept = self.acknowledged.iter().rev().find(|(_, when)| *when + may_lose <= crashed);
        kept.map_or(0, |(number, _)| *number)
    }
}

/// The clients, each on a thread; they end with their connections.
pub struct Writers {
    books: Arc<Mutex<Vec<Noted>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    /// `from`: what is there of each client's numbers.
    pub fn start(from: &[u64; CLIENTS], to: SocketAddr) -> Writers {
        let noted = from.iter().map(|&from| Noted { from, sent: from, ..Noted::default() }).collect();
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
    let from = books.lock().expect("the books")[index].from;
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
pub fn check(
    peer: &mut Peer,
    index: usize,
    must: u64,
    sent: u64,
    is_always: bool,
) -> Result<RangeInclusive<u64>, String> {
    let there = found(peer, index, is_always)?;
    if *there.start() < must {
        return Err(format!("{} is there, and {must} was acknowledged", there.start()));
    }
    if *there.end() > sent {
        return Err(format!("{} is there, and nobody has written it", there.end()));
    }
    Ok(there)
}

fn found(peer: &mut Peer, index: usize, is_always: bool) -> Result<RangeInclusive<u64>, String> {
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
            if !list.is_sorted_by(|one, other| one < other) {
                return Err(format!("pushed twice, or not in order: {list:?}"));
            }
            let last = list.last().copied().unwrap_or(0);
            // Of two that were sent together and not answered either may be missing: they may lie on two cores.
            if is_always && set.abs_diff(last) > 1 {
                return Err(format!("{set} beside {last}"));
            }
            Ok(set.min(last)..=set.max(last))
        }
    }
}
