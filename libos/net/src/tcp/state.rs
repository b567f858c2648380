//! The states of a connection and what moves between them: RFC 9293 §3.3.2, figure 5, with its notes.

/// RFC 9293 §3.3.2. `Closed` is a connection that is over; nobody keeps one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the RFC's names")]
pub(crate) enum State {
    Closed,
    Listen,
    SynSent,
    SynRcvd,
    Estab,
    FinWait1,
    FinWait2,
    CloseWait,
    Closing,
    LastAck,
    TimeWait,
}

/// What moves a connection on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(
    dead_code,
    reason = "the diagram is whole; a listener, a reset and an abort make or delete a connection directly"
)]
pub(crate) enum Event {
    OpenPassive,
    OpenActive,
    /// Our side of the stream is to end; its FIN goes out after what was pushed.
    Close,
    RcvSyn,
    RcvSynAck,
    RcvAckOfSyn,
    RcvFin,
    RcvAckOfFin,
    /// A reset that RFC 5961 §3.2 accepts.
    RcvRst,
    /// 2 MSL have passed in TIME-WAIT.
    Timeout,
    /// The user's ABORT, or the end of our patience: the connection is deleted.
    Abort,
}

use Event::*;
use State::*;

/// Where `event` leads. `None`: the diagram has no such arrow; §3.10.7 says what to answer.
pub(crate) const fn next(state: State, event: Event) -> Option<State> {
    Some(match (state, event) {
        (Closed, OpenPassive) => Listen,
        (Closed, OpenActive) => SynSent,
        (Listen | SynSent, RcvSyn) => SynRcvd,
        (SynSent, RcvSynAck) => Estab,
        (SynRcvd, RcvAckOfSyn) => Estab,
        (Listen | SynSent, Close) => Closed,
        (SynRcvd | Estab, Close) => FinWait1,
        (CloseWait, Close) => LastAck,
        (Estab, RcvFin) => CloseWait,
        (FinWait1, RcvFin) => Closing,
        (FinWait2, RcvFin) => TimeWait,
        (FinWait1, RcvAckOfFin) => FinWait2,
        (Closing, RcvAckOfFin) => TimeWait,
        (LastAck, RcvAckOfFin) => Closed,
        (TimeWait, Timeout) => Closed,
        (Closed | Listen, RcvRst | Abort) | (Closed, _) => return None,
        (_, RcvRst | Abort) => Closed,
        _ => return None,
    })
}

impl State {
    /// The three-way handshake is over.
    #[inline]
    pub(crate) const fn is_synchronized(self) -> bool {
        !matches!(self, Closed | Listen | SynSent | SynRcvd)
    }

    /// The peer may still send data: its FIN was not seen.
    #[inline]
    pub(crate) const fn receives(self) -> bool {
        matches!(self, SynSent | SynRcvd | Estab | FinWait1 | FinWait2)
    }

    /// Our side has not ended yet.
    #[inline]
    #[cfg(test)]
    pub(crate) const fn sends(self) -> bool {
        matches!(self, SynSent | SynRcvd | Estab | CloseWait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [State; 11] =
        [Closed, Listen, SynSent, SynRcvd, Estab, FinWait1, FinWait2, CloseWait, Closing, LastAck, TimeWait];
    const EVENTS: [Event; 11] =
        [OpenPassive, OpenActive, Close, RcvSyn, RcvSynAck, RcvAckOfSyn, RcvFin, RcvAckOfFin, RcvRst, Timeout, Abort];

    /// Every pair: what is drawn exists, and all else is refused.
    #[test]
    fn arrows_match_the_rfc() {
        let pairs = STATES.into_iter().flat_map(|state| EVENTS.map(|event| (state, event)));
        let mut drawn: Vec<String> =
            pairs.filter_map(|(s, e)| next(s, e).map(|to| format!("{s:?} --{e:?}--> {to:?}"))).collect();
        let file = include_str!("state.arrows").lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let mut written: Vec<String> = file.map(str::to_string).collect();
        drawn.sort();
        written.sort();
        assert_eq!(drawn, written);
    }

    #[test]
    fn who_may_send_and_receive() {
        assert!(CloseWait.sends() && !CloseWait.receives());
        assert!(FinWait2.receives() && !FinWait2.sends());
        assert!(TimeWait.is_synchronized() && !SynRcvd.is_synchronized());
    }
}
