//! The short way of most acknowledgements: of new data, while nothing is lost, marked, probed or in doubt.
//!
//! Always: it leaves behind what [`Recovery::on_ack`] would (the test compares all of it).

use pdpix::Instant;

use super::super::congestion::{Acked, CongestionControl};
use super::super::seq::SeqNumber;
use super::{Phase, Recovery};

impl Recovery {
    /// Whether nothing is lost, late, doubtful or being probed: an acknowledgement of new data leads to no more than
    /// [`Recovery::on_plain_ack`] does.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.phase == Phase::Open
            && self.probe.is_none()
            && self.undo.is_none()
            && self.recovered_to.is_none()
            && self.duplicates == 0
            && self.board.is_plain()
    }

    /// What [`Recovery::on_ack`] does of an acknowledgement of new data, and of nothing else, while [`Recovery::is_plain`].
    #[inline]
    pub(crate) fn on_plain_ack(&mut self, (una, ack, nxt): (SeqNumber, SeqNumber, SeqNumber), now: Instant) {
        let before = self.board.in_flight();
        let was_limited = self.limited.gt(una) || before.saturating_add(self.mss) > self.congestion.cwnd();
        let newest = self.board.ack_plain_to(ack);
        let mut rtt = None;
        if let Some(newest) = newest {
            // Segments that were sent once each are in the order of time: the last one is RACK's, and the sample's.
            let sample = self.rack.on_delivered(newest, now, 0);
            let expected = before.div_ceil(2 * self.mss.max(1));
            self.rtt.sample(sample, expected, now);
            rtt = Some(sample);
        }
        (self.timeouts, self.timeout_from) = (0, now);
        self.rack.look_again = None;
        self.congestion.on_ack(&Acked {
            bytes: ack.since(una),
            now,
            rtt,
            srtt: self.round_trip_nanos(),
            cwnd_limited: was_limited,
            ece: false,
            snd_una: ack,
            snd_nxt: nxt,
        });
        self.set_timer(now);
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use std::time::Duration;

    use super::super::super::rtt::RtoBounds;
    use super::super::*;

    const MSS: u32 = 1000;

    quickcheck! {
        /// Any sending and acknowledging in order: the short way and the long one leave the same behind.
        fn the_short_way_of_an_acknowledgement_is_the_long_one(steps: Vec<(u16, u8, u16)>, sack: bool) -> bool {
            let una = SeqNumber::new(u32::MAX - 5000); // the numbers wrap
            let rtt = || RttEstimator::new(RtoBounds::default());
            let new = || Recovery::new(una, MSS, sack, CongestionKind::Cubic, rtt());
            let (mut short, mut long) = (new(), new());
            let (mut una, mut nxt, mut now) = (una, una, Instant::from_nanos(1));
            for (pause, count, acked) in steps {
                now += Duration::from_micros(pause.into());
                for _ in 0..count % 4 {
                    short.on_send(MSS, now);
                    long.on_send(MSS, now);
                    nxt = nxt.add(MSS);
                }
                now += Duration::from_micros(acked.into());
                let ack = una.add(u32::from(acked).min(nxt.since(una)));
                if ack.gt(una) && short.is_plain() {
                    short.on_plain_ack((una, ack, nxt), now);
                    let (echo, stamp) = (None, timestamp_clock(now));
                    long.on_ack(&Ack {
                        una, ack, nxt, blocks: &[], echo, stamp, is_duplicate: false, ece: false, now,
                    });
                }
                una = if ack.gt(una) { ack } else { una };
                short.check(una, nxt);
            }
            format!("{short:?}") == format!("{long:?}")
        }
    }
}
