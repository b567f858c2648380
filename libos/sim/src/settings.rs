//! What kind of a world it is: how fast, how unreliable, how large.

use std::ops::RangeInclusive;
use std::time::Duration;

/// The nature of a world. Probabilities are from 0 to 1.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long anything takes between two hosts.
    pub latency: RangeInclusive<Duration>,
    /// How long it takes within a host.
    pub latency_own: RangeInclusive<Duration>,
    /// How much virtual time one pass of a core takes.
    pub pass: Duration,
    /// A stream is cut into segments of at most so many bytes, at seeded places.
    pub segment_max: usize,
    /// A pop of a stream brings less than it could.
    pub short_pops: f64,
    /// An operation that could end at once ends later, by up to [`Settings::late_max`]: after others, in any order
    /// between queues.
    pub late: f64,
    /// See [`Settings::late`].
    pub late_max: Duration,
    /// A stream's window closes for a time of up to [`Settings::stall_max`].
    pub stalls: f64,
    /// See [`Settings::stalls`].
    pub stall_max: Duration,
    /// A connection is lost when a segment is delivered.
    pub resets: f64,
    /// A datagram is lost, comes twice, or is overtaken.
    pub datagram_loss: f64,
    /// See [`Settings::datagram_loss`].
    pub datagram_twice: f64,
    /// See [`Settings::datagram_loss`].
    pub datagram_overtaken: f64,
    /// What was not answered is sent again after so long; doubled each time, up to 64 times.
    pub retry: Duration,
    /// A connect that nobody answers fails after so long.
    pub connect_timeout: Duration,
    /// A connection whose peer does not acknowledge is given up after so long.
    pub give_up: Duration,
    /// Bytes of each core's heap.
    pub heap_size: usize,
    /// Whether the whole trace is kept; else only its end, for failures.
    pub keep_trace: bool,
    /// The most passes of a run: beyond that it is taken for one that will never end.
    pub passes_max: u64,
}

const fn micros(from: u64, to: u64) -> RangeInclusive<Duration> {
    Duration::from_micros(from)..=Duration::from_micros(to)
}

impl Default for Settings {
    /// A network that cuts, stalls and comes late, and loses nothing.
    fn default() -> Settings {
        Settings {
            latency: micros(20, 200),
            latency_own: micros(1, 10),
            pass: Duration::from_micros(1),
            segment_max: 64 * 1024,
            short_pops: 0.3,
            late: 0.2,
            late_max: Duration::from_micros(300),
            stalls: 0.02,
            stall_max: Duration::from_millis(2),
            resets: 0.0,
            datagram_loss: 0.0,
            datagram_twice: 0.0,
            datagram_overtaken: 0.0,
            retry: Duration::from_millis(5),
            connect_timeout: Duration::from_secs(10),
            give_up: Duration::from_secs(20),
            heap_size: 32 << 20,
            keep_trace: false,
            passes_max: 20_000_000,
        }
    }
}

impl Settings {
    /// A network that loses connections and datagrams as well.
    pub fn hostile() -> Settings {
        Settings {
            resets: 0.01,
            datagram_loss: 0.05,
            datagram_twice: 0.02,
            datagram_overtaken: 0.1,
            ..Settings::default()
        }
    }
}
