//! A network that knows no queues: it sends the frames that a test asks for, and notes what arrives. It is what a stack is
//! to the world: something that is polled, has deadlines, and owns a device.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use libos_mem::Heap;
use libos_net::wire::{Mac, Protocol, pseudo_header};
use libos_net::{ChecksumAt, Device, Frame, Received};
use libos_sim::{Attached, HostId, Interface, NetKind, SimDevice, World};
use pdpix::{
    Completions, Endpoint, Error, Handle, Instant, Network, Op, OpId, OptionName, Sga, SocketKind, SocketOption,
    Submitted, Wake,
};

/// Frames to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Unsent {
    pub to: Mac,
    pub len: usize,
    pub count: u32,
    /// As UDP over IPv4, with a checksum that the card has to fill in.
    pub udp: bool,
}

impl Unsent {
    pub fn new(to: Mac, len: usize, count: u32) -> Unsent {
        Unsent { to, len, count, udp: false }
    }
}

/// A frame that has arrived.
#[derive(Clone, Debug)]
pub struct Got {
    /// Since the network was made for the first time.
    pub at: Duration,
    pub from: Mac,
    pub number: u32,
    pub verified: bool,
    /// What it carries is as it was sent, and for us.
    pub intact: bool,
}

/// What a test has in hand of a host.
#[derive(Default)]
pub struct Notes {
    pub unsent: VecDeque<Unsent>,
    /// To whom, and its number.
    pub sent: Vec<(Mac, u32)>,
    pub received: Vec<Got>,
    pub faults: Vec<Error>,
    /// As of the last pass.
    pub in_flight: usize,
    /// Whether what arrives is kept.
    pub keeps: bool,
    kept: Vec<Received>,
    numbers: u32,
    start: Option<Instant>,
}

impl Notes {
    /// Gives back what was kept, and forgets what was received.
    pub fn forget(&mut self) {
        (self.keeps, self.kept) = (false, Vec::new());
        self.received.clear();
    }
}

/// A host that talks, and the notes of what it does.
pub struct Talk(HostId, Rc<RefCell<Notes>>);

impl Deref for Talk {
    type Target = RefCell<Notes>;

    fn deref(&self) -> &RefCell<Notes> {
        &self.1
    }
}

impl Talk {
    pub fn send(&self, to: Mac, len: usize, count: u32, world: &mut World) {
        self.send_as(Unsent::new(to, len, count), world);
    }

    pub fn send_as(&self, unsent: Unsent, world: &mut World) {
        self.borrow_mut().unsent.push_back(unsent);
        world.wake(self.0.core(0));
    }

    pub fn received(&self) -> usize {
        self.borrow().received.len()
    }

    pub fn is_intact(&self) -> bool {
        self.borrow().received.iter().all(|got| got.intact)
    }

    pub fn forget_all(&self) {
        self.borrow_mut().received.clear();
        self.borrow_mut().sent.clear();
    }
}

/// A host of one core that talks.
pub fn add(world: &mut World, name: &str, interface: Interface) -> (HostId, Talk) {
    let notes = Rc::new(RefCell::new(Notes::default()));
    let theirs = notes.clone();
    let net = NetKind::frames(interface, move |attached| Box::new(Talker::new(attached, theirs.clone())));
    let id = world.add_host_on(net, name, 1, |_| {});
    (id, Talk(id, notes))
}

pub struct Talker {
    device: SimDevice,
    heap: Heap,
    mac: Mac,
    notes: Rc<RefCell<Notes>>,
    frames: VecDeque<Frame>,
    arrived: VecDeque<Received>,
}

/// Bytes of the headers, and of what a payload begins with.
const ETHERNET: usize = 14;
const UDP: usize = 28;
const MARKS: usize = 24;

impl Talker {
    fn new(attached: Attached, notes: Rc<RefCell<Notes>>) -> Talker {
        let mac = attached.device.link().mac;
        let Attached { device, heap, .. } = attached;
        Talker { device, heap, mac, notes, frames: VecDeque::new(), arrived: VecDeque::new() }
    }

    /// Marks and a pattern: to whom, from whom, its number, and bytes that follow from all that.
    fn payload(to: Mac, from: Mac, number: u32, len: usize) -> Vec<u8> {
        let mut payload = Vec::with_capacity(len.max(MARKS));
        payload.extend(to.0);
        payload.extend(from.0);
        payload.extend(number.to_be_bytes());
        let mix = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
        let sum = payload.iter().fold(len as u64, mix);
        payload.extend(sum.to_be_bytes());
        payload.extend((MARKS..len).map(|i| (sum as usize + i * 7) as u8));
        payload
    }

    fn frame(&mut self, unsent: Unsent) -> Option<Frame> {
        let number = {
            let mut notes = self.notes.borrow_mut();
            notes.numbers += 1;
            let number = notes.numbers;
            notes.sent.push((unsent.to, number));
            number
        };
        let heads = if unsent.udp { ETHERNET + UDP } else { ETHERNET };
        let payload = Talker::payload(unsent.to, self.mac, number, unsent.len.saturating_sub(heads));
        let mut header = [&unsent.to.0[..], &self.mac.0[..]].concat();
        let checksum = unsent.udp.then_some(ChecksumAt { start: (ETHERNET + 20) as u16, field: 6 });
        if unsent.udp {
            header.extend([8, 0]);
            header.extend(udp_headers(payload.len()));
        } else {
            header.extend([0x88, 0xb5]); // IEEE 802: for local experiments
        }
        let header = self.heap.copy(&header).ok()?;
        Some(Frame { header, payload: Sga::copy(&self.heap, &payload).ok()?, checksum, segment_size: 0 })
    }

    fn got(&self, received: &Received, at: Duration) -> Got {
        let bytes = &received.buf[..];
        let heads = if bytes.get(12..14) == Some(&[8, 0]) { ETHERNET + UDP } else { ETHERNET };
        let mac = |at: usize| bytes.get(at..at + 6).map_or(Mac::default(), |mac| Mac(mac.try_into().unwrap()));
        let (to, from) = (mac(heads), mac(heads + 6));
        let number =
            bytes.get(heads + 12..heads + 16).map_or(0, |number| u32::from_be_bytes(number.try_into().unwrap()));
        let as_sent = Talker::payload(to, from, number, bytes.len().saturating_sub(heads));
        let is_ours = to == self.mac || to == Mac::BROADCAST;
        let intact = is_ours && bytes.get(heads..) == Some(&as_sent[..]);
        Got { at, from, number, verified: received.verified, intact }
    }
}

/// IPv4 and UDP, but for the sum that the card fills in.
fn udp_headers(payload: usize) -> Vec<u8> {
    let addresses: [IpAddr; 2] = [[10, 0, 0, 1].into(), [10, 0, 0, 2].into()];
    let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    ip[2..4].copy_from_slice(&((UDP + payload) as u16).to_be_bytes());
    let sum = libos_net::wire::Checksum::new().add(&ip).finish();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let len = 8 + payload;
    let pseudo = pseudo_header(addresses[0], addresses[1], Protocol::UDP, len).partial();
    ip.extend([0, 7, 0, 9]);
    ip.extend((len as u16).to_be_bytes());
    ip.extend(pseudo.to_be_bytes());
    ip
}

impl Network for Talker {
    fn open(&mut self, _: SocketKind) -> Result<Handle, Error> {
        Err(Error::NotSupported)
    }

    fn set_option(&mut self, _: Handle, _: SocketOption) -> Result<(), Error> {
        Err(Error::NotSupported)
    }

    fn option(&self, _: Handle, _: OptionName) -> Result<SocketOption, Error> {
        Err(Error::NotSupported)
    }

    fn bind(&mut self, _: Handle, _: Endpoint) -> Result<Endpoint, Error> {
        Err(Error::NotSupported)
    }

    fn listen(&mut self, _: Handle, _: u32) -> Result<(), Error> {
        Err(Error::NotSupported)
    }

    fn local(&self, _: Handle) -> Result<Endpoint, Error> {
        Err(Error::NotSupported)
    }

    fn peer(&self, _: Handle) -> Result<Endpoint, Error> {
        Err(Error::NotSupported)
    }

    fn submit(&mut self, _: Handle, _: OpId, _: Op) -> Result<Submitted, Error> {
        Err(Error::NotSupported)
    }

    fn cancel(&mut self, _: Handle, _: OpId) {}

    fn finish(&mut self, _: Handle) -> Result<(), Error> {
        Err(Error::NotSupported)
    }

    fn close(&mut self, _: Handle) {}

    fn poll(&mut self, now: Instant, _: &mut Completions) {
        let start = *self.notes.borrow_mut().start.get_or_insert(now);
        if let Err(fault) = self.device.receive(now, &mut self.arrived, 16) {
            self.notes.borrow_mut().faults.push(fault);
        }
        while let Some(received) = self.arrived.pop_front() {
            let got = self.got(&received, now.since(start));
            let mut notes = self.notes.borrow_mut();
            notes.received.push(got);
            if notes.keeps {
                notes.kept.push(received);
            }
        }
        while let Some(unsent) = { self.notes.borrow_mut().unsent.pop_front() } {
            for _ in 0..unsent.count {
                let frame = self.frame(unsent).expect("memory to send from");
                self.frames.push_back(frame);
            }
        }
    }

    fn flush(&mut self, now: Instant) {
        if !self.frames.is_empty() {
            self.device.transmit(now, &mut self.frames);
        }
        self.device.flush(now);
        self.notes.borrow_mut().in_flight = self.device.in_flight();
    }

    fn arm(&mut self, now: Instant) -> Wake {
        Wake { deadline: self.device.deadline(), on: self.device.arm(now) }
    }

    fn zombies(&self) -> usize {
        0
    }
}
