//! The device of a stack whose peer is a test: frames wait in two queues.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use libos_mem::Heap;
use libos_net::{Device, Frame, Link, Received};
use pdpix::{Error, Instant, Purpose, WakeOn};

use super::packet::{OUR_IP, OUR_MAC, PEER_IP, PEER_MAC};

/// The device: what was sent waits here, and so does what is to be received.
pub struct Shared {
    pub sent: VecDeque<(Instant, Vec<u8>)>,
    pub coming: VecDeque<Vec<u8>>,
}

pub struct Port {
    pub shared: Rc<RefCell<Shared>>,
    pub heap: Heap,
    pub link: Link,
}

impl Device for Port {
    fn link(&self) -> Link {
        self.link
    }

    fn receive(&mut self, _: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error> {
        for _ in 0..room {
            let Some(frame) = self.shared.borrow_mut().coming.pop_front() else { break };
            let Ok(mut buf) = self.heap.alloc_for(Purpose::Receive, 2048.max(frame.len())) else { break };
            buf.put(&frame);
            into.push_back(Received { buf: buf.freeze(), verified: false });
        }
        Ok(())
    }

    fn transmit(&mut self, now: Instant, frames: &mut VecDeque<Frame>) {
        let too_long = |frame: &Frame| frame.segment_size > 0 || frame.len() > self.link.mtu + 14;
        assert!(!frames.iter().any(too_long), "longer than the link carries");
        self.shared.borrow_mut().sent.extend(frames.drain(..).map(|frame| (now, frame.to_vec())));
    }

    fn flush(&mut self, _: Instant) {}

    fn arm(&mut self, _: Instant) -> WakeOn {
        if self.shared.borrow().coming.is_empty() { WakeOn::Nothing } else { WakeOn::Now }
    }

    fn in_flight(&self) -> usize {
        0
    }
}

/// The peer says where it is.
pub fn arp_reply() -> Vec<u8> {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 2];
    arp.extend(PEER_MAC);
    arp.extend(PEER_IP.octets());
    arp.extend(OUR_MAC);
    arp.extend(OUR_IP.octets());
    [&OUR_MAC[..], &PEER_MAC, &[8, 6], &arp].concat()
}
