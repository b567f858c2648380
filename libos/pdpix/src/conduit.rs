//! How buffers get from a network of one core to that of another core of the same host.

use libos_mem::Buf;

/// A core's ends of the rings to all other cores of its host, for what one core's device has received and another one's
/// connection is to have; and back, for cores that have no device of their own.
///
/// What is sent may be lost when there is no room or no memory, as on any network; it comes in order.
pub trait Conduit {
    /// Which core this is.
    fn core(&self) -> usize;

    /// How many the host has.
    fn cores(&self) -> usize;

    /// Whether another core's ring has room.
    fn has_room(&mut self, to: usize) -> bool;

    /// Hands a buffer over, with a note. False: there was no room, or no memory to lend it; it is gone.
    fn send(&mut self, to: usize, buf: Buf, note: u64) -> bool;

    /// What another core has sent: in memory of this core's, or lent to it.
    fn receive(&mut self) -> Option<(Buf, u64)>;

    /// Whether there is something to receive.
    fn has_arrived(&self) -> bool;

    /// Wakes those that something was sent to. Once a burst.
    fn flush(&mut self);
}
