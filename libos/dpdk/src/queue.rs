//! A core's queue of a port, in both directions: the device under a stack.
//!
//! Bounds: what the driver may hold, a table of entries; when that is full, or a pool is dry, frames stay with the stack, and
//! received ones in the ring. A link that is down drops what is sent; one that stays down is an error, once.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use libos_net::{Device, Frame, Link, Received};
use pdpix::{Error, Instant, WakeOn};

use crate::counters::Counters;
use crate::ffi::{BURST, Receiver, Registered, Sender, Taken};
use crate::port::{Carrier, Port};

/// How often it is looked whether the link is there.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How often DPDK's interrupt thread is let round, where it is held, though nothing is known of that it has to do.
const SERVE_INTERVAL: Duration = Duration::from_secs(1);

/// See the module's head.
pub struct Queue {
    port: Arc<Port>,
    queue: usize,
    /// Taken by drop only.
    ends: Option<(Receiver, Sender)>,
    /// What the driver says of checksums is believed.
    verifies: bool,
    /// Frames were sent since the last flush.
    has_sent: bool,
    is_short_of_memory: bool,
    look_at: Instant,
    serve_at: Instant,
    down_since: Option<Instant>,
    is_down: bool,
    /// Whoever is connected has heard that the link is lost.
    is_told: bool,
    counters: Counters,
    _registered: Registered,
    /// Its caches are this thread's.
    _not_send: PhantomData<*const ()>,
}

impl Queue {
    pub(crate) fn over(port: Arc<Port>, queue: usize, receiver: Receiver, sender: Sender) -> Queue {
        Queue {
            verifies: port.link().offloads.verifies,
            port,
            queue,
            ends: Some((receiver, sender)),
            has_sent: false,
            is_short_of_memory: false,
            look_at: Instant::ZERO,
            serve_at: Instant::ZERO,
            down_since: None,
            is_down: false,
            is_told: false,
            counters: Counters::default(),
            _registered: Registered::this_thread(),
            _not_send: PhantomData,
        }
    }

    /// The port that it belongs to.
    pub fn port(&self) -> &Arc<Port> {
        &self.port
    }

    #[inline]
    fn receiver(&mut self) -> &mut Receiver {
        &mut self.ends.as_mut().expect("taken by drop only").0
    }

    #[inline]
    fn sender(&mut self) -> &mut Sender {
        &mut self.ends.as_mut().expect("taken by drop only").1
    }

    /// Whether the link has been down for too long. Looks now and then.
    fn is_lost(&mut self, now: Instant) -> bool {
        if now < self.look_at {
            return false;
        }
        self.look_at = now + LOOK_INTERVAL;
        let carrier = if self.queue == 0 {
            let is_due = now >= self.serve_at;
            if is_due {
                self.serve_at = now + SERVE_INTERVAL;
            }
            self.port.look(is_due)
        } else {
            self.port.carrier()
        };
        if carrier != Carrier::Down {
            self.down_since = None;
            self.is_told = false;
            return false;
        }
        let since = *self.down_since.get_or_insert_with(|| {
            self.counters.link_down += 1;
            now
        });
        !self.is_told && now >= since + Duration::from_millis(self.port.down_after_ms())
    }

    /// Takes what the driver has, into our own memory.
    #[inline]
    fn take_arrived(&mut self, into: &mut VecDeque<Received>, room: usize) {
        let end = into.len() + room;
        while into.len() < end && self.receiver().has_arrived() {
            let (taken, is_verified) = self.receiver().take();
            let buf = match taken {
                Taken::InPlace(buf) => buf,
                Taken::Copied(buf) => {
                    self.counters.rx_copied_bytes += buf.len() as u64;
                    buf
                }
                Taken::NoMemory => {
                    self.counters.rx_no_memory += 1;
                    self.is_short_of_memory = true;
                    return;
                }
                Taken::Malformed => {
                    self.counters.rx_malformed += 1;
                    continue;
                }
            };
            self.counters.rx_frames += 1;
            into.push_back(Received { buf, verified: is_verified && self.verifies });
        }
    }

    /// Hands what is built to the ring. False: it refuses some.
    fn send_built(&mut self) -> bool {
        if self.sender().kept() == 0 {
            return true;
        }
        if self.port.carrier() != Carrier::Up || self.port.is_stopping() {
            // A link that is down drops.
            self.counters.tx_dropped += self.sender().drop_kept() as u64;
            return true;
        }
        if !self.port.enter(self.queue) {
            return false; // in a moment
        }
        let (sent, refused) = self.sender().burst();
        self.port.leave(self.queue);
        self.counters.tx_frames += sent as u64;
        self.counters.tx_refused += refused as u64;
        self.has_sent |= sent > 0;
        let is_refused = self.sender().kept() > 0;
        self.counters.tx_busy += u64::from(is_refused);
        !is_refused
    }

    /// The link has been down for too long. Gives back what was under way, as far as the driver lets go of it: of a link that
    /// does not come back it does when the port is closed.
    fn lose(&mut self) -> Error {
        self.receiver().drop_arrived();
        self.counters.tx_dropped += self.sender().drop_kept() as u64;
        if self.port.manners.comes_back {
            self.is_told = true;
            return Error::NetworkUnreachable;
        }
        self.is_down = true;
        self.port.close();
        if self.port.manners.loses {
            self.sender().forget();
        } else {
            self.sender().sweep();
        }
        Error::NetworkDown
    }
}

impl Device for Queue {
    fn link(&self) -> Link {
        self.port.link()
    }

    fn receive(&mut self, now: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error> {
        if self.is_down {
            return Ok(());
        }
        self.is_short_of_memory = false;
        // Some drivers bring nothing if they are asked for less than they like to bring: always a burst.
        if !self.receiver().has_arrived() && self.port.carrier() == Carrier::Up && self.port.enter(self.queue) {
            self.receiver().burst();
            self.port.leave(self.queue);
        }
        let before = into.len();
        if self.receiver().has_arrived() {
            self.take_arrived(into, room);
        }
        // Also where what arrived finds no memory.
        if self.is_lost(now) && into.len() == before {
            return Err(self.lose());
        }
        Ok(())
    }

    fn transmit(&mut self, _: Instant, frames: &mut VecDeque<Frame>) {
        if self.is_down || self.port.carrier() != Carrier::Up {
            self.counters.tx_dropped += frames.len() as u64;
            return frames.clear();
        }
        loop {
            if self.sender().kept() >= BURST && !self.send_built() {
                return;
            }
            let Some(frame) = frames.front() else { break };
            if let Some(copied) = self.sender().build_short(frame) {
                self.counters.tx_copied_bytes += copied as u64;
                drop(frames.pop_front());
                continue;
            }
            let Some(frame) = frames.pop_front() else { break };
            if let Err(frame) = self.sender().build(frame) {
                frames.push_front(frame);
                self.counters.tx_full += 1;
                self.sender().sweep();
                break;
            }
        }
        self.send_built();
    }

    fn flush(&mut self, _: Instant) {
        if self.is_down {
            return;
        }
        self.send_built();
        if self.sender().in_flight() == 0 {
            return;
        }
        // What is sent gives back what was sent before. If nothing is, the driver is asked to.
        if !std::mem::take(&mut self.has_sent) && self.port.carrier() == Carrier::Up && self.port.enter(self.queue) {
            if self.port.manners.reaps_when_empty {
                self.sender().nudge();
            } else if self.port.manners.keeps.is_none() {
                self.port.id().clean_up(self.queue as u16);
            }
            self.port.leave(self.queue);
        }
        self.sender().reap();
    }

    /// There is no descriptor to wait for: naps.
    fn arm(&mut self, _: Instant) -> WakeOn {
        if self.is_down { WakeOn::Nothing } else { WakeOn::Nap }
    }

    fn in_flight(&self) -> usize {
        self.ends.as_ref().map_or(0, |(_, sender)| sender.in_flight())
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.counters.list()
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.receiver().drop_arrived();
        self.send_built();
        self.port.close();
        let loses = self.port.manners.loses;
        if let Some((receiver, sender)) = self.ends.take() {
            self.counters.buried += (receiver.close(loses) + sender.close(loses)) as u64;
        }
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Queue({} of {}, {:?})", self.queue, self.port.name(), self.counters)
    }
}
