//! How TCP behaves here, for all connections of a core.

use std::time::Duration;

use super::congestion::CongestionKind;
use super::rtt::RtoBounds;

/// How TCP behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TcpSettings {
    /// Which congestion control.
    pub congestion: CongestionKind,
    /// Selective acknowledgements (RFC 2018).
    pub sack: bool,
    /// Timestamps (RFC 7323 §3).
    pub timestamps: bool,
    /// Windows of more than 64 KiB (RFC 7323 §2).
    pub window_scaling: bool,
    /// Whether we ask for congestion notification (RFC 3168). If asked, we take part.
    pub ecn: bool,
    /// The receive budget that a connection begins with, in bytes pinned, and the one that it may grow to.
    pub receive_budget: usize,
    /// See [`TcpSettings::receive_budget`].
    pub receive_budget_max: usize,
    /// The least retransmission timeout (RFC 6298 §2.4 says a second, Linux 200 ms).
    pub rto_min: Duration,
    /// The timeout of the first SYN; later ones double (RFC 6298 §2.1).
    pub syn_timeout: Duration,
    /// So often a SYN is sent again.
    pub syn_retries: u8,
    /// So many timeouts in a row end a connection (RFC 9293 §3.8.3, R2; 15 are about a quarter of an hour).
    pub retries: u8,
    /// 2 MSL (RFC 9293 §3.4.2 has 4 minutes, Linux one).
    pub time_wait: Duration,
    /// How long a connection that nobody holds waits for the peer's FIN.
    pub fin_wait: Duration,
    /// Half-open connections of one listener that are remembered; beyond that there are cookies (RFC 4987 §3.6).
    pub embryos_max: usize,
    /// Ends of connections that are remembered in TIME-WAIT.
    pub time_waits_max: usize,
    /// A push is complete when the peer has acknowledged it, and not already when it is in the send budget.
    pub push_is_acknowledged: bool,
    /// Connections.
    pub connections_max: usize,
}

impl Default for TcpSettings {
    fn default() -> TcpSettings {
        TcpSettings {
            congestion: CongestionKind::Cubic,
            sack: true,
            timestamps: true,
            window_scaling: true,
            ecn: false,
            receive_budget: 256 << 10,
            receive_budget_max: 8 << 20,
            rto_min: Duration::from_millis(200),
            syn_timeout: Duration::from_secs(1),
            syn_retries: 6,
            retries: 15,
            time_wait: Duration::from_secs(60),
            fin_wait: Duration::from_secs(60),
            embryos_max: 1024,
            time_waits_max: 65_536,
            push_is_acknowledged: false,
            connections_max: 1 << 20,
        }
    }
}

impl TcpSettings {
    /// Whether a SYN of ours asks for congestion notification: DCTCP is nothing without it.
    pub(crate) fn asks_for_ecn(&self) -> bool {
        self.ecn || self.congestion == CongestionKind::Dctcp
    }

    pub(crate) fn rto_bounds(&self) -> RtoBounds {
        RtoBounds { minimum: self.rto_min, ..RtoBounds::default() }
    }

    /// The shift with which the largest budget can be announced (RFC 7323 §2.2).
    pub(crate) fn window_scale(&self) -> u8 {
        if !self.window_scaling {
            return 0;
        }
        (0..14).find(|&shift| 0xffff_usize << shift >= self.receive_budget_max).unwrap_or(14)
    }
}
