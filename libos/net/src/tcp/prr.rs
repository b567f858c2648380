//! Proportional rate reduction: how much may be sent during recovery (RFC 9937).
//!
//! For each acknowledgement that says that so much was delivered, a part of as much is sent (ssthresh / RecoverFS, usually
//! the factor by which the window is reduced), so that the sending goes on evenly, and ends recovery with `ssthresh` in
//! flight. When losses have brought less than that into flight, it is made up for: by one segment more for each
//! acknowledgement while recovery makes progress, else by as much as was delivered (the conservative bound).
//!
//! Always: what was sent is at most what was delivered, and one segment for each acknowledgement; so a sender in recovery never makes a
//! queue longer. Bytes. Not here: what is sent (retransmissions first), and what is in flight.

/// One recovery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Prr {
    /// What is to be in flight in the end.
    ssthresh: u32,
    /// What was in flight when recovery began.
    recover_fs: u32,
    /// Told to have arrived since.
    delivered: u64,
    /// Sent since, retransmissions included.
    out: u64,
}

/// What an acknowledgement says, during recovery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Delivered {
    /// Bytes that it newly acknowledges, cumulatively or selectively.
    pub(crate) bytes: u32,
    /// Bytes in flight after it: neither acknowledged nor thought lost (RFC 6675's pipe).
    pub(crate) in_flight: u32,
    /// It advances snd_una and shows no further loss (SafeACK).
    pub(crate) is_safe: bool,
}

impl Prr {
    /// Recovery begins. `recover_fs` is what was sent and not acknowledged before the acknowledgement that begins it, without
    /// what had been acknowledged selectively before (RFC 9937 §6.1).
    pub(crate) fn new(ssthresh: u32, recover_fs: u32) -> Prr {
        Prr { ssthresh, recover_fs: recover_fs.max(1), delivered: 0, out: 0 }
    }

    /// How much may be in flight now. For each acknowledgement of the recovery, the first one included.
    pub(crate) fn on_ack(&mut self, ack: Delivered, mss: u32) -> u32 {
        self.delivered += u64::from(ack.bytes);
        let mut room = if ack.in_flight > self.ssthresh {
            let share = (u128::from(self.delivered) * u128::from(self.ssthresh)).div_ceil(self.recover_fs.into());
            u64::try_from(share).unwrap_or(u64::MAX).saturating_sub(self.out)
        } else {
            let owed = self.delivered.saturating_sub(self.out).max(u64::from(ack.bytes));
            let limit = owed + if ack.is_safe { u64::from(mss) } else { 0 };
            limit.min(u64::from(self.ssthresh - ack.in_flight))
        };
        if self.out == 0 {
            // The fast retransmission itself. The RFC forces it when there is no room at all; a part of a segment is none.
            room = room.max(mss.into());
        }
        ack.in_flight.saturating_add(u32::try_from(room).unwrap_or(u32::MAX))
    }

    /// This much was sent, or sent again.
    #[inline]
    pub(crate) fn on_sent(&mut self, bytes: u32) {
        self.out += u64::from(bytes);
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;

    const MSS: u32 = 1000;

    /// A recovery from the loss of the first `lost` of `window` segments, each acknowledgement of which comes by itself.
    /// Gives how many segments were sent after each.
    fn recovery(window: u32, lost: u32, ssthresh: u32) -> (Vec<u32>, u32) {
        let mut prr = Prr::new(ssthresh * MSS, window * MSS);
        let mut in_flight = (window - lost) * MSS;
        let mut sent = Vec::new();
        for _ in lost..window {
            in_flight -= MSS;
            let cwnd = prr.on_ack(Delivered { bytes: MSS, in_flight, is_safe: false }, MSS);
            let count = (cwnd - in_flight) / MSS;
            prr.on_sent(count * MSS);
            in_flight += count * MSS;
            sent.push(count);
        }
        (sent, in_flight / MSS)
    }

    #[test]
    fn one_loss_sends_for_every_other_acknowledgement() {
        // 20 segments, the first lost, the window halved: the retransmission at once, then one for two.
        let (sent, in_flight) = recovery(20, 1, 10);
        assert_eq!(sent[..8], [1, 0, 0, 1, 0, 1, 0, 1], "{sent:?}");
        assert!((9..=10).contains(&in_flight), "it ends where it should: {in_flight}");
    }

    #[test]
    fn heavy_loss_sends_what_was_delivered_and_no_more() {
        // 15 of 20 lost: five in flight, below the ten that are wanted.
        let (sent, in_flight) = recovery(20, 15, 10);
        assert_eq!(sent, [1, 1, 1, 1, 1], "{sent:?}");
        assert_eq!(in_flight, 5, "no burst: the conservative bound");
    }

    #[test]
    fn progress_makes_up_for_what_is_missing() {
        let mut prr = Prr::new(10 * MSS, 20 * MSS);
        prr.on_sent(MSS);
        let cwnd = prr.on_ack(Delivered { bytes: MSS, in_flight: 4 * MSS, is_safe: true }, MSS);
        assert_eq!(cwnd, 6 * MSS, "what was delivered, and one more");
        let cwnd = prr.on_ack(Delivered { bytes: MSS, in_flight: 10 * MSS, is_safe: true }, MSS);
        assert_eq!(cwnd, 10 * MSS, "but not beyond ssthresh");
    }

    #[test]
    fn the_first_acknowledgement_always_sends_the_retransmission() {
        let mut prr = Prr::new(10 * MSS, 20 * MSS);
        let first = Delivered { bytes: 0, in_flight: 19 * MSS, is_safe: false };
        assert_eq!(prr.on_ack(first, MSS), 20 * MSS);
        prr.on_sent(MSS);
        assert_eq!(prr.on_ack(first, MSS), 19 * MSS, "once");
    }

    quickcheck! {
        /// Whatever is acknowledged: never more is sent than was delivered, and a segment for each acknowledgement.
        fn no_more_is_sent_than_was_delivered(ssthresh: u16, more: u16, acks: Vec<(u16, u16, bool, u8)>) -> bool {
            let ssthresh = u32::from(ssthresh) + 1;
            let mut prr = Prr::new(ssthresh, ssthresh + u32::from(more));
            let (mut delivered, mut sent) = (0, 0);
            for (count, (bytes, in_flight, is_safe, take)) in acks.into_iter().enumerate() {
                let ack = Delivered { bytes: bytes.into(), in_flight: in_flight.into(), is_safe };
                let cwnd = prr.on_ack(ack, MSS);
                assert!(cwnd >= ack.in_flight);
                if ack.in_flight <= ssthresh {
                    assert!(cwnd <= ssthresh.max(ack.in_flight + MSS), "beyond where recovery is to end");
                }
                let part = u64::from(cwnd - ack.in_flight) * u64::from(take) / 255;
                prr.on_sent(part as u32);
                (delivered, sent) = (delivered + u64::from(bytes), sent + part);
                assert!(sent <= delivered + (count as u64 + 1) * u64::from(MSS));
            }
            true
        }
    }
}
