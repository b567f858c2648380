//! The nature of a line.

use std::ops::RangeInclusive;
use std::time::Duration;

/// How frames get lost. Probabilities from 0 to 1.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Loss {
    /// They do not.
    None,
    /// Each by itself.
    Each(f64),
    /// In bursts (Gilbert and Elliott): before each frame a burst may begin or end, and frames inside and outside of bursts
    /// are lost with their own probabilities. The mean length of a burst is `1 / ends` frames.
    Bursts {
        /// That a burst begins.
        begins: f64,
        /// That it ends.
        ends: f64,
        /// Loss inside of one.
        inside: f64,
        /// Loss outside.
        outside: f64,
    },
}

/// The nature of a line. The default does nothing to frames, and takes no time. Probabilities are from 0 to 1, and of a
/// frame.
#[derive(Clone, PartialEq, Debug)]
pub struct LineSettings {
    /// From the last bit sent to the frame at the other end. A range is jitter, without reordering.
    pub latency: RangeInclusive<Duration>,
    /// Bits a second. `None`: a frame takes no time to send, and nothing ever waits.
    pub bandwidth: Option<u64>,
    /// What may wait to be sent, the frame that is being sent included; more is dropped at the tail.
    pub queue_bytes: usize,
    /// See [`LineSettings::queue_bytes`].
    pub queue_frames: usize,
    /// When more bytes than that wait, packets whose transport is ECN-capable are marked (RFC 3168).
    pub mark_above: Option<usize>,
    /// Loss.
    pub loss: Loss,
    /// It arrives twice.
    pub duplication: f64,
    /// It goes astray: it takes longer by [`LineSettings::stray_by`], and others overtake it.
    pub strays: f64,
    /// See [`LineSettings::strays`].
    pub stray_by: RangeInclusive<Duration>,
    /// One bit of it is flipped.
    pub corruption: f64,
    /// Its end is cut off, anywhere.
    pub truncation: f64,
    /// A black hole: longer frames vanish, Ethernet header included, and nobody is told.
    pub frame_len_max: Option<usize>,
    /// Nothing passes.
    pub down: bool,
    /// The most frames on the line at once: beyond that they are dropped as if the queue was full.
    pub frames_max: usize,
}

impl Default for LineSettings {
    fn default() -> LineSettings {
        LineSettings {
            latency: Duration::ZERO..=Duration::ZERO,
            bandwidth: None,
            queue_bytes: usize::MAX,
            queue_frames: 1000,
            mark_above: None,
            loss: Loss::None,
            duplication: 0.0,
            strays: 0.0,
            stray_by: Duration::ZERO..=Duration::ZERO,
            corruption: 0.0,
            truncation: 0.0,
            frame_len_max: None,
            down: false,
            frames_max: 1 << 16,
        }
    }
}

impl LineSettings {
    /// One that carries everything, and takes so long.
    pub fn with_latency(latency: Duration) -> LineSettings {
        LineSettings { latency: latency..=latency, ..LineSettings::default() }
    }

    /// The same line without its faults: it loses, damages and reorders nothing, and is up.
    #[must_use]
    pub fn healed(&self) -> LineSettings {
        LineSettings {
            latency: self.latency.clone(),
            bandwidth: self.bandwidth,
            queue_bytes: self.queue_bytes,
            queue_frames: self.queue_frames,
            mark_above: self.mark_above,
            frames_max: self.frames_max,
            ..LineSettings::default()
        }
    }

    /// Whether it makes sense.
    ///
    /// # Panics
    /// If a probability is none, a range is empty, or the rate is zero or beyond a terabit a second.
    pub fn check(&self) {
        let (begins, ends, inside, outside) = match self.loss {
            Loss::None => (0.0, 0.0, 0.0, 0.0),
            Loss::Each(each) => (each, 0.0, 0.0, 0.0),
            Loss::Bursts { begins, ends, inside, outside } => (begins, ends, inside, outside),
        };
        let of_frame = [self.duplication, self.strays, self.corruption, self.truncation];
        for probability in [begins, ends, inside, outside].into_iter().chain(of_frame) {
            assert!((0.0..=1.0).contains(&probability), "{probability} is no probability");
        }
        assert!(!self.latency.is_empty() && !self.stray_by.is_empty(), "a range that is empty");
        assert!(
            self.bandwidth.is_none_or(|rate| (1..=1_000_000_000_000).contains(&rate)),
            "{:?} bit/s",
            self.bandwidth
        );
    }
}
