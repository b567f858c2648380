//! A wire of ours between two devices: what comes in at one goes out at the other, through a [`Line`] each way.
//!
//! With two TAP interfaces or packet sockets it stands between the kernel's network stack and ours, or between two of the
//! kernel's, and does to the frames what a seed says: a lossy wire in user space. Whoever runs it owns the loop: poll,
//! then sleep until [`Bridge::deadline`] or what [`Bridge::arm`] says.
//!
//! Frames are forwarded in the memory that they came in; both devices belong to one core. A kernel that leaves checksums
//! to its interface must be told not to (`ethtool -K IF tx off`), as a bridge does not fill them in.
//! Bounds: the lines', and [`READY_MAX`] frames that an end has no room for.

use std::collections::VecDeque;

use pdpix::{Buf, Error, Instant, Rng, Sga, WakeOn};

use crate::device::{Device, Frame, Received};
use crate::line::{Line, LineCounters, LineSettings};
use crate::wire::ETHERNET_LEN;

/// Frames that are taken from an end at once.
const BURST: usize = 64;
/// Frames that wait for room at an end; more stay on the line.
const READY_MAX: usize = 256;

/// Two devices, and a line each way.
pub struct Bridge {
    ends: [Box<dyn Device>; 2],
    /// From the first to the second, and back.
    lines: [Line<Buf>; 2],
    /// What is to go out at each end.
    ready: [VecDeque<Frame>; 2],
    arrived: VecDeque<Received>,
    too_long: u64,
}

impl Bridge {
    /// A bridge; `settings` are those of the line from the first end to the second, and of the one back.
    ///
    /// # Panics
    /// If the settings make no sense.
    pub fn new(ends: [Box<dyn Device>; 2], settings: [LineSettings; 2], rng: &mut Rng) -> Bridge {
        let lines = settings.map(|settings| Line::new(settings, rng.fork()));
        Bridge { ends, lines, ready: Default::default(), arrived: VecDeque::new(), too_long: 0 }
    }

    /// Moves what there is to move, a bounded amount. Says how many frames came in or went out.
    ///
    /// # Errors
    /// `NetworkDown`: an end is gone.
    pub fn poll(&mut self, now: Instant) -> Result<usize, Error> {
        let mut moved = 0;
        for (end, line) in self.ends.iter_mut().zip(&mut self.lines) {
            end.receive(now, &mut self.arrived, BURST)?;
            moved += self.arrived.len();
            self.arrived.drain(..).for_each(|received| line.push(now, received.buf));
        }
        for side in 0..2 {
            moved += self.send(now, side);
        }
        Ok(moved)
    }

    /// Sends what is due at one end.
    fn send(&mut self, now: Instant, side: usize) -> usize {
        let (end, line, ready) = (&mut self.ends[side], &mut self.lines[1 - side], &mut self.ready[side]);
        let longest = end.link().mtu + ETHERNET_LEN;
        while ready.len() < READY_MAX
            && let Some(buf) = line.pop(now)
        {
            if buf.len() > longest {
                self.too_long += 1;
            } else if !buf.is_empty() {
                ready.push_back(Frame { header: buf, payload: Sga::new(), checksum: None, segment_size: 0 });
            }
        }
        let before = ready.len();
        if before > 0 {
            end.transmit(now, ready);
        }
        end.flush(now);
        before - ready.len()
    }

    /// When it has to be polled again, if nothing comes in.
    pub fn deadline(&self) -> Option<Instant> {
        // Where an end has no room, `arm` says when it has again.
        let lines = (0..2).filter(|&side| self.ready[1 - side].is_empty()).map(|side| self.lines[side].deadline());
        lines.chain(self.ends.iter().map(|end| end.deadline())).flatten().min()
    }

    /// Asks both ends to wake it, when there is something to receive or room to send.
    pub fn arm(&mut self, now: Instant) -> [WakeOn; 2] {
        self.ends.each_mut().map(|end| end.arm(now))
    }

    /// Changes a line: 0 is the one from the first end to the second.
    ///
    /// # Panics
    /// If the settings make no sense, or there is no such line.
    pub fn set(&mut self, line: usize, settings: LineSettings) {
        self.lines[line].set(settings);
    }

    /// What each line has done.
    pub fn counters(&self) -> [LineCounters; 2] {
        self.lines.each_ref().map(Line::counters)
    }

    /// Frames that were longer than the end at which they were to go out takes: dropped.
    pub fn too_long(&self) -> u64 {
        self.too_long
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::device::{Link, Offloads};
    use crate::line::Loss;
    use crate::wrap::fake::Fake;

    /// A fake that the test keeps a hand on.
    #[derive(Clone)]
    struct Shared(Rc<RefCell<Fake>>);

    impl Device for Shared {
        fn link(&self) -> Link {
            self.0.borrow().link()
        }

        fn receive(&mut self, now: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error> {
            self.0.borrow_mut().receive(now, into, room)
        }

        fn transmit(&mut self, now: Instant, frames: &mut VecDeque<Frame>) {
            self.0.borrow_mut().transmit(now, frames);
        }

        fn flush(&mut self, _: Instant) {}

        fn arm(&mut self, now: Instant) -> WakeOn {
            self.0.borrow_mut().arm(now)
        }

        fn in_flight(&self) -> usize {
            0
        }
    }

    fn bridge(settings: [LineSettings; 2]) -> (Bridge, [Rc<RefCell<Fake>>; 2]) {
        let ends = [(); 2].map(|()| Rc::new(RefCell::new(Fake { offloads: Offloads::NONE, ..Fake::new() })));
        let devices = ends.each_ref().map(|end| Box::new(Shared(end.clone())) as Box<dyn Device>);
        (Bridge::new(devices, settings, &mut Rng::new(5)), ends)
    }

    #[test]
    fn frames_cross_in_both_directions_each_after_its_own_latency() {
        let ms = Duration::from_millis(1);
        let (mut bridge, ends) = bridge([LineSettings::with_latency(ms), LineSettings::with_latency(ms * 3)]);
        ends[0].borrow_mut().arrive(b"from the first to the second");
        ends[1].borrow_mut().arrive(b"from the second to the first");
        assert_eq!(bridge.poll(Instant::ZERO), Ok(2));
        assert_eq!(bridge.deadline(), Some(Instant::ZERO + ms));
        assert_eq!(bridge.poll(Instant::ZERO + ms), Ok(1));
        assert_eq!(ends[1].borrow().sent, [b"from the first to the second"]);
        assert!(ends[0].borrow().sent.is_empty());
        assert_eq!(bridge.poll(Instant::ZERO + ms * 3), Ok(1));
        assert_eq!(ends[0].borrow().sent, [b"from the second to the first"]);
        assert_eq!(bridge.deadline(), None);
    }

    #[test]
    fn a_line_loses_what_its_settings_say_and_the_other_nothing() {
        let lossy = LineSettings { loss: Loss::Each(0.5), ..LineSettings::default() };
        let (mut bridge, ends) = bridge([lossy, LineSettings::default()]);
        for i in 0..200 {
            ends.iter().for_each(|end| end.borrow_mut().arrive(&[i; 60]));
        }
        while bridge.poll(Instant::ZERO).unwrap() > 0 {}
        let [there, back] = bridge.counters();
        assert_eq!((ends[1].borrow().sent.len() as u64, ends[0].borrow().sent.len()), (there.delivered, 200));
        assert!((70..130).contains(&there.lost) && back.lost == 0, "{there:?}");
        bridge.set(0, LineSettings { down: true, ..LineSettings::default() });
        ends[0].borrow_mut().arrive(&[1; 60]);
        assert_eq!((bridge.poll(Instant::ZERO), bridge.counters()[0].down), (Ok(1), 1));
    }

    #[test]
    fn what_an_end_has_no_room_for_waits_and_what_it_cannot_take_is_counted() {
        let (mut bridge, ends) = bridge([LineSettings::default(), LineSettings::default()]);
        ends[1].borrow_mut().room = 1;
        [60, 61, 1515].into_iter().for_each(|len| ends[0].borrow_mut().arrive(&vec![1; len]));
        assert_eq!(bridge.poll(Instant::ZERO), Ok(4));
        assert_eq!((ends[1].borrow().sent.len(), bridge.too_long(), bridge.deadline()), (1, 1, None));
        ends[1].borrow_mut().room = 1;
        assert_eq!(bridge.poll(Instant::ZERO), Ok(1));
        assert_eq!(ends[1].borrow().sent[1].len(), 61);
        let pinned = ends[0].borrow().heap.stats().pinned;
        assert_eq!(pinned, 0, "what was forwarded is given back");
    }

    #[test]
    fn an_end_that_is_gone_ends_it() {
        let (mut bridge, ends) = bridge([LineSettings::default(), LineSettings::default()]);
        ends[1].borrow_mut().gone = true;
        assert_eq!(bridge.poll(Instant::ZERO), Err(Error::NetworkDown));
    }
}
