//! A device that harms what goes through another one, by chance and by seed.
//!
//! Each direction is a [`Line`]: loss, duplicates, strays, delay, corruption, truncation, a rate. A frame that it holds
//! back is the wrapper's, with its buffers, until it goes on; [`Device::deadline`] says when that is.
//!
//! What it passes on is harmed in flight, so the device below may not put a checksum over harmed bytes, nor vouch for
//! them: checksums and segmentation are not offered, and nothing that was received is called verified.
//! Bounds: the lines', and [`READY_MAX`] frames that the device below has no room for.

use std::collections::VecDeque;

use pdpix::{Error, Instant, Rng, WakeOn};

use crate::device::{Device, Frame, Link, Offloads, Received};
use crate::line::{Line, LineCounters, LineSettings};

/// What is to befall frames in each direction.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct FaultSettings {
    /// Those that are received.
    pub receive: LineSettings,
    /// Those that are sent.
    pub transmit: LineSettings,
}

/// Frames that are due and that the device below has not taken; beyond that, no more are taken from above.
const READY_MAX: usize = 256;

/// Harms frames in both directions.
pub struct Faults<D> {
    device: D,
    receiving: Line<Received>,
    transmitting: Line<Frame>,
    ready: VecDeque<Frame>,
    arrived: VecDeque<Received>,
}

impl<D: Device> Faults<D> {
    /// Harms what goes through `device`.
    ///
    /// # Panics
    /// If the settings make no sense.
    pub fn new(device: D, settings: FaultSettings, rng: &mut Rng) -> Faults<D> {
        Faults {
            device,
            receiving: Line::new(settings.receive, rng.fork()),
            transmitting: Line::new(settings.transmit, rng.fork()),
            ready: VecDeque::new(),
            arrived: VecDeque::new(),
        }
    }

    /// Other harm from now on.
    ///
    /// # Panics
    /// If the settings make no sense.
    pub fn set(&mut self, settings: FaultSettings) {
        self.receiving.set(settings.receive);
        self.transmitting.set(settings.transmit);
    }

    /// What befell received frames.
    pub fn receiving(&self) -> LineCounters {
        self.receiving.counters()
    }

    /// What befell sent ones.
    pub fn transmitting(&self) -> LineCounters {
        self.transmitting.counters()
    }

    /// Gives the device below what is due.
    fn pass_on(&mut self, now: Instant) {
        while self.ready.len() < READY_MAX
            && let Some(frame) = self.transmitting.pop(now)
        {
            self.ready.push_back(frame);
        }
        if !self.ready.is_empty() {
            self.device.transmit(now, &mut self.ready);
        }
    }
}

impl<D: Device> Device for Faults<D> {
    fn link(&self) -> Link {
        let link = self.device.link();
        let offloads = Offloads { verifies: false, checksums: false, segments: None, ..link.offloads };
        Link { offloads, ..link }
    }

    fn receive(&mut self, now: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error> {
        let result = self.device.receive(now, &mut self.arrived, room);
        for received in self.arrived.drain(..) {
            self.receiving.push(now, Received { verified: false, ..received });
        }
        for _ in 0..room {
            let Some(received) = self.receiving.pop(now) else { break };
            into.push_back(received);
        }
        result
    }

    fn transmit(&mut self, now: Instant, frames: &mut VecDeque<Frame>) {
        if self.ready.len() < READY_MAX {
            frames.drain(..).for_each(|frame| self.transmitting.push(now, frame));
        }
        self.pass_on(now);
    }

    fn flush(&mut self, now: Instant) {
        self.pass_on(now);
        self.device.flush(now);
    }

    fn arm(&mut self, now: Instant) -> WakeOn {
        let wake = self.device.arm(now);
        if self.receiving.deadline().is_some_and(|due| due <= now) {
            return WakeOn::Now;
        }
        // Above, nobody sees what waits here for room.
        let waits = !self.ready.is_empty() && !matches!(wake, WakeOn::Now);
        if waits { WakeOn::Nap } else { wake }
    }

    fn deadline(&self) -> Option<Instant> {
        // When the device below has no room, `arm` has it asked again.
        let sends = self.transmitting.deadline().filter(|_| self.ready.is_empty());
        [self.device.deadline(), self.receiving.deadline(), sends].into_iter().flatten().min()
    }

    fn in_flight(&self) -> usize {
        self.device.in_flight() + self.transmitting.on_line() + self.ready.len()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = self.device.counters();
        let (rx, tx) = (self.receiving.counters(), self.transmitting.counters());
        counters.extend([
            ("faults_rx_dropped", rx.dropped()),
            ("faults_rx_duplicated", rx.duplicated),
            ("faults_rx_strayed", rx.strayed),
            ("faults_rx_corrupted", rx.corrupted),
            ("faults_rx_truncated", rx.truncated),
            ("faults_tx_dropped", tx.dropped()),
            ("faults_tx_duplicated", tx.duplicated),
            ("faults_tx_strayed", tx.strayed),
            ("faults_tx_corrupted", tx.corrupted),
            ("faults_tx_truncated", tx.truncated),
        ]);
        counters
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::line::Loss;
    use crate::wrap::fake::Fake;

    const MS: Duration = Duration::from_millis(1);

    fn faults(settings: FaultSettings) -> Faults<Fake> {
        Faults::new(Fake::new(), settings, &mut Rng::new(3))
    }

    fn send(faults: &mut Faults<Fake>, now: Instant, frames: &[&[u8]]) -> usize {
        let mut frames = frames.iter().map(|bytes| faults.device.frame(bytes)).collect();
        faults.transmit(now, &mut frames);
        faults.flush(now);
        frames.len()
    }

    fn received(faults: &mut Faults<Fake>, now: Instant, room: usize) -> Vec<Vec<u8>> {
        let mut into = VecDeque::new();
        faults.receive(now, &mut into, room).unwrap();
        assert!(into.iter().all(|received| !received.verified));
        into.iter().map(|received| received.buf.to_vec()).collect()
    }

    #[test]
    fn without_faults_everything_goes_through_at_once() {
        let mut faults = faults(FaultSettings::default());
        faults.device.arrive(&[5; 64]);
        assert_eq!(send(&mut faults, Instant::ZERO, &[&[1; 60], &[2; 90]]), 0);
        assert_eq!(faults.device.sent, [vec![1; 60], vec![2; 90]]);
        assert_eq!(received(&mut faults, Instant::ZERO, 8), [vec![5; 64]]);
        assert_eq!((faults.in_flight(), faults.deadline()), (0, None));
    }

    #[test]
    fn what_harms_bytes_is_not_vouched_for() {
        let offloads = faults(FaultSettings::default()).link().offloads;
        let gathers = Fake::new().offloads.gathers;
        assert_eq!(offloads, Offloads { gathers, ..Offloads::NONE });
    }

    #[test]
    fn frames_are_held_in_both_directions_until_their_time() {
        let late = LineSettings::with_latency(MS);
        let mut faults = faults(FaultSettings { receive: late.clone(), transmit: late });
        faults.device.arrive(&[5; 64]);
        send(&mut faults, Instant::ZERO, &[&[1; 60]]);
        assert!(received(&mut faults, Instant::ZERO, 8).is_empty());
        assert_eq!((faults.device.sent.len(), faults.in_flight()), (0, 1));
        let due = faults.deadline().expect("it wants to be polled again");
        assert_eq!(due, Instant::ZERO + MS);
        assert_eq!((faults.arm(Instant::ZERO), faults.arm(due)), (WakeOn::Nothing, WakeOn::Now));
        faults.flush(due);
        assert_eq!(received(&mut faults, due, 8).len(), 1);
        assert_eq!((faults.device.sent.len(), faults.in_flight(), faults.deadline()), (1, 0, None));
    }

    #[test]
    fn loss_is_counted_in_its_direction() {
        let lossy = LineSettings { loss: Loss::Each(1.0), ..LineSettings::default() };
        let mut faults = faults(FaultSettings { receive: LineSettings::default(), transmit: lossy });
        faults.device.arrive(&[5; 64]);
        send(&mut faults, Instant::ZERO, &[&[1; 60], &[2; 60]]);
        assert_eq!(received(&mut faults, Instant::ZERO, 8).len(), 1);
        assert!(faults.device.sent.is_empty());
        let counters = faults.counters();
        assert!(counters.contains(&("faults_tx_dropped", 2)) && counters.contains(&("faults_rx_dropped", 0)));
        faults.set(FaultSettings::default());
        send(&mut faults, Instant::ZERO, &[&[3; 60]]);
        assert_eq!(faults.device.sent, [vec![3; 60]]);
        assert_eq!(faults.device.heap.stats().pinned, 0, "lost frames give their memory back");
    }

    #[test]
    fn a_device_without_room_loses_nothing() {
        let mut faults = faults(FaultSettings::default());
        faults.device.room = 1;
        assert_eq!(send(&mut faults, Instant::ZERO, &[&[1; 60], &[2; 60], &[3; 60]]), 0);
        assert_eq!((faults.device.sent.len(), faults.in_flight(), faults.deadline()), (1, 2, None));
        faults.device.room = 8;
        faults.flush(Instant::ZERO);
        assert_eq!((faults.device.sent.len(), faults.in_flight()), (3, 0));
    }

    #[test]
    fn no_more_is_given_than_there_is_room_for() {
        let mut faults = faults(FaultSettings::default());
        (0..5).for_each(|i| faults.device.arrive(&[i; 60]));
        let mut into = VecDeque::new();
        faults.receive(Instant::ZERO, &mut into, 2).unwrap();
        assert_eq!(into.len(), 2);
        assert_eq!(received(&mut faults, Instant::ZERO, 8).len(), 3);
    }
}
