//! The rings between the cores of a host, and what travels in them.
//!
//! Each core has a ring to each other one. What an application sends is refused when too much is under way; an answer,
//! which somebody reserved room for by asking, never is: it waits on the sender's side if the ring is full.
//! A peer's doorbell is rung once a burst, not once a message.

use std::collections::VecDeque;

use pdpix::{OpId, Qd};

use crate::carried::CarriedSga;
use crate::doorbell::Doorbell;
use crate::memory_queue::cost;
use crate::parcel::Parcel;
use crate::ring::{RingReceiver, RingSender, ring};
use crate::sync::Arc;

/// Slots of a ring. Half of them may be in use by what was sent without being asked for.
const RING_SLOTS: usize = 512;
const UNASKED_MAX: usize = RING_SLOTS / 2;

/// One core's ends of all its rings.
pub struct Ports {
    core: u8,
    doorbell: Arc<Doorbell>,
    peers: Vec<Option<Peer>>,
}

struct Peer {
    sender: RingSender,
    receiver: RingReceiver,
    doorbell: Arc<Doorbell>,
    /// Answers that did not fit.
    overflow: VecDeque<Parcel>,
    /// Something was sent since the doorbell was rung.
    dirty: bool,
}

/// Which kinds of doorbells a mesh has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MeshKind {
    /// Cores that sleep, and are woken through a descriptor.
    Threads,
    /// Cores that are stepped by the simulator.
    Stepped,
}

/// Rings between `cores` cores: each gets its ports.
///
/// # Errors
/// The system's: no descriptor left for a doorbell.
pub fn mesh(cores: usize, kind: MeshKind) -> std::io::Result<Vec<Ports>> {
    let doorbells = (0..cores).map(|_| match kind {
        MeshKind::Threads => Doorbell::with_descriptor(),
        MeshKind::Stepped => Ok(Doorbell::stepped()),
    });
    let doorbells: Vec<Arc<Doorbell>> = doorbells.collect::<Result<_, _>>()?;
    let mut ports: Vec<Ports> = (0..cores)
        .map(|core| Ports {
            core: core as u8,
            doorbell: doorbells[core].clone(),
            peers: (0..cores).map(|_| None).collect(),
        })
        .collect();
    for a in 0..cores {
        for b in a + 1..cores {
            let (to_b, from_a) = ring(RING_SLOTS);
            let (to_a, from_b) = ring(RING_SLOTS);
            let peer = |sender, receiver, other: usize| {
                let doorbell = doorbells[other].clone();
                Some(Peer { sender, receiver, doorbell, overflow: VecDeque::new(), dirty: false })
            };
            ports[a].peers[b] = peer(to_b, from_b, b);
            ports[b].peers[a] = peer(to_a, from_a, a);
        }
    }
    Ok(ports)
}

impl Ports {
    /// Which core this is.
    pub fn core(&self) -> u8 {
        self.core
    }

    /// How many cores the host has.
    pub fn cores(&self) -> usize {
        self.peers.len()
    }

    pub(crate) fn doorbell(&self) -> &Arc<Doorbell> {
        &self.doorbell
    }

    /// Sends what nobody asked for.
    ///
    /// # Errors
    /// The parcel back: too much is under way, or there is no such peer.
    #[inline]
    pub(crate) fn send(&mut self, to: u8, parcel: Parcel) -> Result<(), Parcel> {
        let Some(Some(peer)) = self.peers.get_mut(to as usize) else { return Err(parcel) };
        let full = |sender: &mut RingSender| {
            sender.in_flight_at_most() as usize >= UNASKED_MAX && sender.in_flight() >= UNASKED_MAX
        };
        if !peer.overflow.is_empty() || full(&mut peer.sender) {
            return Err(parcel);
        }
        peer.dirty = true;
        peer.sender.push(parcel)
    }

    /// Sends an answer.
    #[inline]
    pub(crate) fn answer(&mut self, to: u8, parcel: Parcel) {
        let Some(Some(peer)) = self.peers.get_mut(to as usize) else { return };
        peer.dirty = true;
        if !peer.overflow.is_empty() {
            return peer.overflow.push_back(parcel);
        }
        if let Err(parcel) = peer.sender.push(parcel) {
            peer.overflow.push_back(parcel);
        }
    }

    /// The next message from core `from`.
    #[inline]
    pub(crate) fn receive(&mut self, from: usize) -> Option<Parcel> {
        self.peers[from].as_mut()?.receiver.pop()
    }

    /// Whether a message waits.
    pub(crate) fn has_messages(&self) -> bool {
        self.peers.iter().flatten().any(|peer| !peer.receiver.is_empty())
    }

    /// Sends what had to wait, says how far it has read, and rings the doorbells. Once a burst.
    #[inline]
    pub(crate) fn flush(&mut self) {
        for peer in self.peers.iter_mut().flatten() {
            while let Some(parcel) = peer.overflow.pop_front() {
                if let Err(parcel) = peer.sender.push(parcel) {
                    peer.overflow.push_front(parcel);
                    break;
                }
            }
            peer.receiver.publish();
            if std::mem::replace(&mut peer.dirty, false) {
                peer.doorbell.ring();
            }
        }
    }

    /// Whether something waits here for room in a ring.
    pub(crate) fn has_overflow(&self) -> bool {
        self.peers.iter().flatten().any(|peer| !peer.overflow.is_empty())
    }
}

const _: () = assert!(size_of::<CoreMessage>() <= crate::parcel::INLINE_MAX);

/// Where a memory queue is, or the attached end of one: may be sent to other cores of the host.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct QueueAddress {
    pub(crate) core: u8,
    pub(crate) qd: Qd,
}

/// What the runtime itself sends from core to core.
#[derive(Debug)]
pub(crate) enum CoreMessage {
    /// An element for memory queue `to`, from the attached end `from`.
    Push { to: Qd, from: QueueAddress, carried: CarriedSga },
    /// Credit for the attached end `to`: so much was popped.
    Credit { to: Qd, cost: usize },
    /// The queue of the attached end `to` is gone.
    Closed { to: Qd },
}

/// The sending end of a memory queue of another core.
///
/// It has credit for what the queue's budget allows; each element costs, and what is popped comes back. Pushes beyond
/// the credit wait.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) to: QueueAddress,
    pub(crate) credit: isize,
    pub(crate) waiting: VecDeque<(OpId, CarriedSga)>,
    /// The queue is gone.
    pub(crate) closed: bool,
}

impl Attached {
    pub(crate) fn new(to: QueueAddress, budget: usize) -> Attached {
        Attached { to, credit: budget as isize, waiting: VecDeque::new(), closed: false }
    }

    /// Whether there is credit: the last element may cost more than what is left.
    pub(crate) fn can_pay(&self) -> bool {
        self.credit > 0
    }

    pub(crate) fn pay(&mut self, len: usize) {
        self.credit -= cost(len) as isize;
    }
}
