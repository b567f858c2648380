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
    Looped,
    /// A frame for the device.
    ToSend,
}

impl Crossed {
    fn note(self) -> u64 {
        match self {
            Crossed::Received { verified, passes } => u64::from(verified) << 8 | u64::from(passes) << 16,
            Crossed::Looped => 1,
            Crossed::ToSend => 2,
        }
    }

    fn of(note: u64) -> Crossed {
        match note & 0xff {
            1 => Crossed::Looped,
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

    /// Hands a frame that the device received to whom it belongs. Gives it back if that is this core, too. `lost` counts
    /// what another core had no room for.
    pub(crate) fn steer(&mut self, frame: Received, lost: &mut u64) -> Option<Received> {
        match self.host.steer(&frame.buf) {
            Steer::Core(core) if core == self.core() => Some(frame),
            Steer::Core(core) => {
                let crossed = Crossed::Received { verified: frame.verified, passes: 0 };
                self.send(core, frame.buf, crossed, lost);
                None
            }
            Steer::All => {
                let crossed = Crossed::Received { verified: frame.verified, passes: 0 };
                let (own, cores) = (self.core(), self.conduit.cores());
                for core in (0..cores).filter(|&core| core != own) {
                    if !self.conduit.send(core, frame.buf.clone(), crossed.note()) {
                        *lost += 1;
                    }
                }
                Some(frame)
            }
        }
    }

    /// The same for a packet to ourselves.
    pub(crate) fn steer_looped(&mut self, frame: Received, lost: &mut u64) -> Option<Received> {
        match self.host.steer(&frame.buf) {
            Steer::Core(core) if core != self.core() => {
                self.send(core, frame.buf, Crossed::Looped, lost);
                None
            }
            _ => Some(frame),
        }
    }

    /// A frame of a connection that this core does not know goes on to the next one.
    pub(crate) fn pass_on(&mut self, frame: Received, passes: u8, lost: &mut u64) {
        let next = (self.core() + 1) % self.conduit.cores();
        self.send(next, frame.buf, Crossed::Received { verified: frame.verified, passes: passes + 1 }, lost);
    }

    /// Whether a frame that was passed on so often has been everywhere.
    pub(crate) fn is_last(&self, passes: u8) -> bool {
        usize::from(passes) + 1 >= self.conduit.cores()
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
            Crossed::Looped,
            Crossed::ToSend,
            Crossed::Received { verified: false, passes: 0 },
            Crossed::Received { verified: true, passes: 7 },
        ];
        all.iter().for_each(|&what| assert_eq!(Crossed::of(what.note()), what));
    }
}
