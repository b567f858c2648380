//! Devices around devices: what goes through is written down ([`Pcap`]), harmed ([`Faults`]), counted ([`Counted`]), or cut up
//! ([`Cutting`]).
//! They stack in any order; each is a [`Device`](crate::Device) over any other.

mod count;
mod cutting;
#[cfg(test)]
pub(crate) mod fake;
mod fault;
mod pcap;

pub use count::{Counted, Traffic};
pub use cutting::Cutting;
pub use fault::{FaultSettings, Faults};
pub use pcap::Pcap;
