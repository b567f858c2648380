//! Transfers over streams, in both directions at once, with every byte checked.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use libos_runtime::{Coroutine, LibOs};
use libos_sim::World;
use pdpix::{Endpoint, Error, Qd, Rng, Sga, SocketKind};

pub const PORT: u16 = 7;

/// A piece of a push, and of a pop.
const PIECE_MAX: u64 = 70_000;

/// What a client asks for: so many bytes there, and so many back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    pub id: u32,
    pub there: u32,
    pub back: u32,
}

const ASKED_LEN: usize = 12;

impl Transfer {
    /// Of any length up to `len_max`, more often a short one.
    pub fn draw(id: u32, len_max: u64, rng: &mut Rng) -> Transfer {
        let mut len = || {
            let bits = rng.below(u64::from(len_max.ilog2()) + 2);
            if bits == 0 { 0 } else { rng.below(1 << bits).min(len_max) as u32 }
        };
        Transfer { id, there: len(), back: len() }
    }

    fn to_bytes(self) -> Vec<u8> {
        [self.id, self.there, self.back].into_iter().flat_map(u32::to_be_bytes).collect()
    }

    fn of_bytes(bytes: &[u8]) -> Transfer {
        let word = |i: usize| u32::from_be_bytes(bytes[i * 4..i * 4 + 4].try_into().unwrap());
        Transfer { id: word(0), there: word(1), back: word(2) }
    }

    /// A key for the bytes of each direction.
    fn keys(self) -> [u64; 2] {
        [0, 1].map(|direction| (u64::from(self.id) << 1 | direction).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// The bytes of one direction, from `offset` on.
fn pattern(key: u64, offset: usize, len: usize) -> Vec<u8> {
    let word = |i: usize| {
        let mixed = (key ^ i as u64).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ mixed >> 29).wrapping_mul(0x94d0_49bb_1331_11eb).to_le_bytes()
    };
    let words = (offset / 8..(offset + len).div_ceil(8)).flat_map(word);
    words.skip(offset % 8).take(len).collect()
}

/// Pushes the bytes of one direction in pieces of any length.
async fn send(libos: &LibOs, qd: Qd, key: u64, len: usize, rng: &mut Rng) -> Result<(), Error> {
    let mut sent = 0;
    while sent < len {
        let piece = (rng.range(1..=PIECE_MAX) as usize).min(len - sent);
        let sga = loop {
            // A heap that is full empties itself as the peer acknowledges.
            match Sga::copy(libos.heap(), &pattern(key, sent, piece)) {
                Ok(sga) => break sga,
                Err(_) => libos.sleep(Duration::from_millis(1)).await,
            }
        };
        libos.redeem(libos.push(qd, sga)?).await?.done()?;
        sent += piece;
    }
    Ok(())
}

/// What has come of one direction.
struct Sink {
    key: u64,
    got: usize,
}

impl Sink {
    /// The next bytes.
    ///
    /// # Panics
    /// If they are not those that were sent.
    fn take(&mut self, bytes: &[u8]) {
        let sent = pattern(self.key, self.got, bytes.len());
        if sent != bytes {
            let at = sent.iter().zip(bytes).position(|(sent, got)| sent != got).unwrap();
            panic!("byte {} of a stream is {:#x}, and {:#x} was sent", self.got + at, bytes[at], sent[at]);
        }
        self.got += bytes.len();
    }
}

async fn pop(libos: &LibOs, qd: Qd, rng: &mut Rng) -> Result<Vec<u8>, Error> {
    let len_max = rng.range(1..=PIECE_MAX) as usize;
    let popped = libos.redeem(libos.pop(qd, len_max)?).await?.popped()?;
    Ok(popped.sga.to_vec())
}

/// Takes everything up to the end.
async fn drain(libos: &LibOs, qd: Qd, sink: &mut Sink, rng: &mut Rng) -> Result<(), Error> {
    loop {
        let bytes = pop(libos, qd, rng).await?;
        if bytes.is_empty() {
            return Ok(());
        }
        sink.take(&bytes);
    }
}

/// One transfer, from the client's side. Whatever arrives is what was sent; without an error, all of it.
pub async fn transfer(libos: LibOs, to: Endpoint, what: Transfer, seed: u64) -> Result<(), Error> {
    let qd = connect(&libos, to).await?;
    let result = transfer_on(&libos, qd, what, seed).await;
    libos.close(qd)?;
    result
}

/// A host whose address nobody answers for is unreachable for now, and is tried again. So is one that does not answer: where
/// bits flip, an answer of ARP, which has no checksum, may have told us a wrong address, and that is believed for longer
/// than a SYN is repeated.
async fn connect(libos: &LibOs, to: Endpoint) -> Result<Qd, Error> {
    loop {
        let qd = libos.socket(SocketKind::Stream, None)?;
        match libos.redeem(libos.connect(qd, to)?).await?.done() {
            Ok(()) => return Ok(qd),
            Err(fault) => {
                libos.close(qd)?;
                if !matches!(fault, Error::HostUnreachable | Error::TimedOut) {
                    return Err(fault);
                }
                libos.sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn transfer_on(libos: &LibOs, qd: Qd, what: Transfer, seed: u64) -> Result<(), Error> {
    // A peer that crashes when everything is acknowledged would be waited for in vain.
    libos.set_option(qd, pdpix::SocketOption::KeepAlive(Some(Duration::from_secs(5))))?;
    let asked = Sga::copy(libos.heap(), &what.to_bytes())?;
    libos.redeem(libos.push(qd, asked)?).await?.done()?;
    let [there, back] = what.keys();
    let (theirs, mut rng) = (libos.clone(), Rng::new(seed));
    let mut rng_there = rng.fork();
    let writer = libos.spawn(async move {
        send(&theirs, qd, there, what.there as usize, &mut rng_there).await?;
        theirs.finish(qd)
    });
    let mut sink = Sink { key: back, got: 0 };
    both_ways(drain(libos, qd, &mut sink, &mut rng).await, writer).await?;
    assert_eq!(sink.got, what.back as usize, "the end came, and not all bytes before it: {what:?}");
    Ok(())
}

/// Both directions must have ended before the queue is closed; but for a fault of one.
async fn both_ways(drained: Result<(), Error>, writer: Coroutine<Result<(), Error>>) -> Result<(), Error> {
    if drained.is_err() {
        writer.abort();
    }
    drained?;
    writer.await?
}

/// What servers have seen.
#[derive(Default, Debug)]
pub struct Served {
    pub whole: Vec<Transfer>,
    pub broken: usize,
}

/// Serves transfers for ever, to both families.
pub fn serve(libos: &LibOs, served: &Rc<RefCell<Served>>) {
    for any in [IpAddr::from([0; 4]), IpAddr::from([0; 16])] {
        let (theirs, served) = (libos.clone(), served.clone());
        libos.spawn(async move {
            let listener = theirs.socket(SocketKind::Stream, None).unwrap();
            theirs.bind(listener, Endpoint::new(any, PORT)).unwrap();
            theirs.listen(listener, 64).unwrap();
            let mut rng = theirs.fork_rng();
            loop {
                let accepted = theirs.redeem(theirs.accept(listener).unwrap()).await.unwrap().accepted();
                let Ok((qd, _)) = accepted else { return };
                serve_one(&theirs, qd, rng.fork(), served.clone());
            }
        });
    }
}

fn serve_one(libos: &LibOs, qd: Qd, mut rng: Rng, served: Rc<RefCell<Served>>) {
    let theirs = libos.clone();
    libos.spawn(async move {
        let result = answer(&theirs, qd, &mut rng).await;
        theirs.close(qd).unwrap();
        match result {
            Ok(transfer) => served.borrow_mut().whole.push(transfer),
            Err(_) => served.borrow_mut().broken += 1,
        }
    });
}

async fn answer(libos: &LibOs, qd: Qd, rng: &mut Rng) -> Result<Transfer, Error> {
    libos.set_option(qd, pdpix::SocketOption::KeepAlive(Some(Duration::from_secs(5))))?;
    let mut head = Vec::new();
    while head.len() < ASKED_LEN {
        let bytes = pop(libos, qd, rng).await?;
        if bytes.is_empty() {
            return Err(Error::ConnectionAborted); // before it has asked for anything
        }
        head.extend(bytes);
    }
    let more = head.split_off(ASKED_LEN);
    let what = Transfer::of_bytes(&head);
    let [there, back] = what.keys();
    let (theirs, mut rng_back) = (libos.clone(), rng.fork());
    let writer = libos.spawn(async move {
        send(&theirs, qd, back, what.back as usize, &mut rng_back).await?;
        theirs.finish(qd)
    });
    let mut sink = Sink { key: there, got: 0 };
    sink.take(&more);
    both_ways(drain(libos, qd, &mut sink, rng).await, writer).await?;
    assert_eq!(sink.got, what.there as usize, "the end came, and not all bytes before it: {what:?}");
    Ok(what)
}

/// Nothing is left on any of these cores but their listeners: no queue, no zombie, no buffer.
pub fn check_nothing_is_left(world: &World, hosts: &[libos_sim::HostId]) {
    for &host in hosts {
        let libos = world.libos(host.core(0));
        let left = (libos.queues_in_use(), libos.zombies(), libos.heap().stats().pinned);
        assert_eq!(left, (2, 0, 0), "queues (with the listeners), zombies, and bytes that are left on {host:?}");
    }
}
