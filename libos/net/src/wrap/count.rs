//! A device that counts what goes through another one.

use std::collections::VecDeque;

use pdpix::{Error, Instant, WakeOn};

use crate::device::{Device, Frame, Link, Received};

/// What has gone in one direction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Bytes of them, Ethernet headers included.
    pub bytes: u64,
    /// Calls that moved any.
    pub bursts: u64,
    /// The most frames of one call.
    pub burst_max: u64,
}

impl Traffic {
    fn add(&mut self, frames: u64, bytes: u64) {
        self.frames += frames;
        self.bytes += bytes;
        self.bursts += u64::from(frames > 0);
        self.burst_max = self.burst_max.max(frames);
    }
}

/// Counts frames, bytes and bursts, whatever the device below counts by itself.
pub struct Counted<D> {
    device: D,
    received: Traffic,
    transmitted: Traffic,
    refused: u64,
}

impl<D: Device> Counted<D> {
    /// Counts what goes through `device`.
    pub fn new(device: D) -> Counted<D> {
        Counted { device, received: Traffic::default(), transmitted: Traffic::default(), refused: 0 }
    }

    /// What was received.
    pub fn received(&self) -> Traffic {
        self.received
    }

    /// What the device has taken to be sent.
    pub fn transmitted(&self) -> Traffic {
        self.transmitted
    }

    /// How often it took less than it was given.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

impl<D: Device> Device for Counted<D> {
    fn link(&self) -> Link {
        self.device.link()
    }

    fn receive(&mut self, now: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error> {
        let before = into.len();
        let result = self.device.receive(now, into, room);
        let bytes = into.range(before..).map(|received| received.buf.len() as u64).sum();
        self.received.add((into.len() - before) as u64, bytes);
        result
    }

    fn transmit(&mut self, now: Instant, frames: &mut VecDeque<Frame>) {
        let bytes = |frames: &VecDeque<Frame>| frames.iter().map(|frame| frame.len() as u64).sum::<u64>();
        let before = (frames.len(), bytes(frames));
        self.device.transmit(now, frames);
        self.transmitted.add((before.0 - frames.len()) as u64, before.1 - bytes(frames));
        self.refused += u64::from(!frames.is_empty());
    }

    fn flush(&mut self, now: Instant) {
        self.device.flush(now);
    }

    fn arm(&mut self, now: Instant) -> WakeOn {
        self.device.arm(now)
    }

    fn deadline(&self) -> Option<Instant> {
        self.device.deadline()
    }

    fn in_flight(&self) -> usize {
        self.device.in_flight()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let mut counters = self.device.counters();
        counters.extend([
            ("counted_rx_frames", self.received.frames),
            ("counted_rx_bytes", self.received.bytes),
            ("counted_rx_bursts", self.received.bursts),
            ("counted_rx_burst_max", self.received.burst_max),
            ("counted_tx_frames", self.transmitted.frames),
            ("counted_tx_bytes", self.transmitted.bytes),
            ("counted_tx_bursts", self.transmitted.bursts),
            ("counted_tx_burst_max", self.transmitted.burst_max),
            ("counted_tx_refused", self.refused),
        ]);
        counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wrap::fake::Fake;

    #[test]
    fn frames_bytes_and_bursts_are_counted_as_the_device_takes_them() {
        let mut fake = Fake::new();
        fake.arrive(&[1; 60]);
        fake.arrive(&[2; 100]);
        fake.room = 2;
        let mut counted = Counted::new(fake);
        let mut into = VecDeque::new();
        counted.receive(Instant::ZERO, &mut into, 8).unwrap();
        counted.receive(Instant::ZERO, &mut into, 8).unwrap();
        assert_eq!(counted.received(), Traffic { frames: 2, bytes: 160, bursts: 1, burst_max: 2 });

        let mut frames: VecDeque<Frame> = [70, 80, 90].map(|len| counted.device.frame(&vec![0; len])).into();
        counted.transmit(Instant::ZERO, &mut frames);
        assert_eq!((frames.len(), counted.refused()), (1, 1));
        assert_eq!(counted.transmitted(), Traffic { frames: 2, bytes: 150, bursts: 1, burst_max: 2 });
        let counters = counted.counters();
        assert!(counters.contains(&("counted_tx_bytes", 150)) && counters.contains(&("fake", 1)), "{counters:?}");
    }

    #[test]
    fn a_device_that_is_gone_says_so_through_it() {
        let mut fake = Fake::new();
        fake.gone = true;
        let mut counted = Counted::new(fake);
        assert_eq!(counted.receive(Instant::ZERO, &mut VecDeque::new(), 1), Err(Error::NetworkDown));
    }
}
