//! Packets on their way from core to core of a host: what one core's device received for another one's connection, and what
//! a core without a device sends.

use std::sync::Arc;

use pdpix::{Buf, Conduit};

use crate::device::Received;
use crate::host::{Host, Steer};

/// How a core takes part in a network that several cores of its host share.
pub struct Crossing {
    /// What they share.
    pub host: Arc<Host>,
    /// The way to the others.
    pub conduit: Box<dyn Conduit>,
    /// Whose device sends for this core, if it has none of its own.
    pub sends_through: Option<usize>,
}

/// What a buffer is that crosses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Crossed {
    /// A frame from the device, of which the checksums are right or not known yet.
    Received { verified: bool, passes: u8 },
    /// A packet from one core of this host to another.
    Looped { passes: u8 },
    /// A frame for the device.
    ToSend,
}

impl Crossed {
    fn note(self) -> u64 {
        match self {
            Crossed::Received { verified, passes } => u64::from(verified) << 8 | u64::from(passes) << 16,
            Crossed::Looped { passes } => 1 | u64::from(passes) << 16,
            Crossed::ToSend => 2,
        }
    }

    fn of(note: u64) -> Crossed {
        match note & 0xff {
            1 => Crossed::Looped { passes: (note >> 16) as u8 },
            2 => Crossed::ToSend,
            _ => Crossed::Received { verified: note >> 8 & 1 != 0, passes: (note >> 16) as u8 },
        }
    }
}

impl Crossing {
    /// Which core this is.
    pub(crate) fn core(&self) -> usize {
        self.conduit.core()
    }

    /// Hands a frame, which the device received or which is to ourselves, to whom it belongs. Gives it back if that is this
    /// core, too. `lost` counts what another core had no room for.
    pub(crate) fn steer(&mut self, frame: Received, what: Crossed, lost: &mut u64) -> Option<Received> {
        match self.host.steer(&frame.buf) {
            Steer::Core(core) if core == self.core() => Some(frame),
            Steer::Core(core) => {
                self.send(core, frame.buf, what, lost);
                None
            }
            Steer::All => {
                let (own, cores) = (self.core(), self.conduit.cores());
                for core in (0..cores).filter(|&core| core != own) {
                    self.send(core, frame.buf.clone(), what, lost);
                }
                Some(frame)
            }
        }
    }

    /// A frame of a connection that this core does not know goes on to the next one. `None`: it has been everywhere.
    pub(crate) fn next(&self, what: Crossed) -> Option<(usize, Crossed)> {
        let on = |passes: u8| (usize::from(passes) + 1 < self.conduit.cores()).then_some(passes + 1);
        let what = match what {
            Crossed::Received { verified, passes } => Crossed::Received { verified, passes: on(passes)? },
            Crossed::Looped { passes } => Crossed::Looped { passes: on(passes)? },
            Crossed::ToSend => return None,
        };
        Some(((self.core() + 1) % self.conduit.cores(), what))
    }

    pub(crate) fn send(&mut self, to: usize, buf: Buf, what: Crossed, lost: &mut u64) {
        if !self.conduit.send(to, buf, what.note()) {
            *lost += 1;
        }
    }

    /// The next thing that another core has sent here.
    pub(crate) fn receive(&mut self) -> Option<(Buf, Crossed)> {
        self.conduit.receive().map(|(buf, note)| (buf, Crossed::of(note)))
    }
}

impl std::fmt::Debug for Crossing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Crossing(core {} of {:?})", self.core(), self.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_say_what_crosses() {
        let all = [
            Crossed::Looped { passes: 0 },
            Crossed::Looped { passes: 63 },
            Crossed::ToSend,
            Crossed::Received { verified: false, passes: 0 },
            Crossed::Received { verified: true, passes: 7 },
        ];
        all.iter().for_each(|&what| assert_eq!(Crossed::of(what.note()), what));
    }
}
