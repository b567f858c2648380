//! Rings between the cores of a host for the buffers of its networks: [`Conduit`] over [`ring()`](crate::ring()).

use pdpix::{Buf, Conduit, Heap};

use crate::carried::CarriedBuf;
use crate::doorbell::Doorbell;
use crate::mesh::Ports;
use crate::parcel::Parcel;
use crate::ring::{RingReceiver, RingSender, ring};
use crate::sync::Arc;

/// Slots of each ring: a burst of a device's, several times over.
const SLOTS: usize = 1024;

/// One core's ends, before it has a heap: `Send`.
pub struct BufRings {
    core: usize,
    peers: Vec<Option<Peer>>,
}

struct Peer {
    sender: RingSender,
    receiver: RingReceiver,
    doorbell: Arc<Doorbell>,
    /// Something was sent since the doorbell was rung.
    dirty: bool,
}

struct Handed {
    buf: CarriedBuf,
    note: u64,
}

/// Rings between all cores of a mesh, whose doorbells they ring: each core's ends.
pub fn buf_rings(mesh: &[Ports]) -> Vec<BufRings> {
    let of = |core| BufRings { core, peers: mesh.iter().map(|_| None).collect() };
    let mut all: Vec<BufRings> = (0..mesh.len()).map(of).collect();
    for a in 0..mesh.len() {
        for b in 0..a {
            let (to_b, from_a) = ring(SLOTS);
            let (to_a, from_b) = ring(SLOTS);
            let bell = |core: usize| mesh[core].doorbell().clone();
            all[a].peers[b] = Some(Peer { sender: to_b, receiver: from_b, doorbell: bell(b), dirty: false });
            all[b].peers[a] = Some(Peer { sender: to_a, receiver: from_a, doorbell: bell(a), dirty: false });
        }
    }
    all
}

impl BufRings {
    /// On its core, whose heap this is.
    pub fn with_heap(self, heap: Heap) -> Box<dyn Conduit> {
        Box::new(OnCore { core: self.core, peers: self.peers, heap, next: 0 })
    }
}

struct OnCore {
    core: usize,
    peers: Vec<Option<Peer>>,
    heap: Heap,
    /// Who is received from first.
    next: usize,
}

impl OnCore {
    fn peer(&mut self, core: usize) -> Option<&mut Peer> {
        self.peers.get_mut(core)?.as_mut()
    }
}

impl Conduit for OnCore {
    fn core(&self) -> usize {
        self.core
    }

    fn cores(&self) -> usize {
        self.peers.len()
    }

    fn has_room(&mut self, to: usize) -> bool {
        self.peer(to).is_some_and(|peer| peer.sender.in_flight() < peer.sender.capacity())
    }

    fn send(&mut self, to: usize, buf: Buf, note: u64) -> bool {
        let Some(peer) = self.peer(to) else { return false };
        let Ok(buf) = CarriedBuf::new(buf) else { return false };
        let sent = peer.sender.push(Parcel::new(Handed { buf, note })).is_ok();
        peer.dirty |= sent;
        sent
    }

    fn receive(&mut self) -> Option<(Buf, u64)> {
        for _ in 0..self.peers.len() {
            let from = self.next;
            self.next = (self.next + 1) % self.peers.len();
            let heap = self.heap.clone();
            while let Some(parcel) = self.peer(from).and_then(|peer| peer.receiver.pop()) {
                let Ok(Handed { buf, note }) = parcel.take::<Handed>() else { continue };
                // Without memory it is lost, as a frame is for which a device has none.
                if let Ok(buf) = buf.land(&heap) {
                    return Some((buf, note));
                }
            }
        }
        None
    }

    fn has_arrived(&self) -> bool {
        self.peers.iter().flatten().any(|peer| !peer.receiver.is_empty())
    }

    fn flush(&mut self) {
        for peer in self.peers.iter_mut().flatten() {
            peer.receiver.publish();
            if std::mem::take(&mut peer.dirty) {
                peer.doorbell.ring();
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use libos_mem::{Plan, Reservation, Reserves, Source};

    use super::*;
    use crate::mesh::{MeshKind, mesh};

    #[test]
    fn buffers_come_in_order_from_each_core_and_go_home() {
        let plan = Plan { heaps: 3, heap_size: 4 << 20, reserves: Reserves::NONE, source: Source::Ordinary };
        let reservation = Reservation::new(plan).unwrap();
        let heaps: Vec<Heap> = (0..3).map(|i| reservation.heap(i).unwrap()).collect();
        let rings = buf_rings(&mesh(3, MeshKind::Stepped).unwrap());
        let mut ends: Vec<_> = rings.into_iter().zip(&heaps).map(|(ring, heap)| ring.with_heap(heap.clone())).collect();
        for i in 0..10u64 {
            assert!(ends[0].send(2, heaps[0].copy(&[i as u8; 500]).unwrap(), i));
            assert!(ends[1].send(2, heaps[1].copy(&[i as u8; 5]).unwrap(), 100 + i));
        }
        assert!(ends[2].has_arrived() && !ends[0].has_arrived());
        let mut got: Vec<(usize, u64)> = Vec::new();
        while let Some((buf, note)) = ends[2].receive() {
            assert!(buf.iter().all(|&byte| u64::from(byte) == note % 100));
            got.push((buf.len(), note));
        }
        got.sort_by_key(|&(_, note)| note / 100); // stable: the order within each is what counts
        let expected = (0..10).map(|i| (500, i)).chain((0..10).map(|i| (5, 100 + i)));
        assert_eq!(got, expected.collect::<Vec<_>>());
        heaps.iter().rev().for_each(Heap::exchange_returns);
        heaps.iter().for_each(Heap::exchange_returns);
        assert!(heaps.iter().all(|heap| heap.stats().pinned == 0));
        assert!(!ends[0].send(0, heaps[0].copy(b"x").unwrap(), 0), "there is no ring to oneself");
    }

    #[test]
    fn a_full_ring_refuses() {
        let heap = Heap::alone(8 << 20).unwrap();
        let mut ends = buf_rings(&mesh(2, MeshKind::Stepped).unwrap());
        let _other = ends.pop();
        let mut end = ends.pop().unwrap().with_heap(heap.clone());
        let mut count = 0;
        while end.has_room(1) {
            assert!(end.send(1, heap.copy(b"x").unwrap(), 0));
            count += 1;
        }
        assert!(count >= SLOTS && !end.send(1, heap.copy(b"x").unwrap(), 0), "{count}");
    }
}
