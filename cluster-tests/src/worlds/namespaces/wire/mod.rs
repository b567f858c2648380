//! What carries frames between nodes, and what it does to them.
//!
//! A node has one end of a veth pair; the other, its port, lies in the hub, and a [`Wire`] joins the ports. [`KernelWire`] is a
//! bridge of the kernel's, which drops at each port by a filter, and by its own chance. [`SeededWire`] is ours, in user space: it
//! delays, doubles, damages and reorders as well, and draws all of it from the run's seed.

mod kernel;
mod seeded;

use std::collections::BTreeSet;

use anyhow::Result;

/// A node's end of the hub.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// The number of the node, from 0.
    pub node: usize,
    /// Its network device, in the namespace of the hub.
    pub device: String,
}

/// What is done to the frames that go out to a node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// Frames of these nodes are dropped.
    pub blocked: BTreeSet<usize>,
    /// And so many of a hundred of the others.
    pub loss_percent: u64,
}

/// What carries frames between ports.
pub trait Wire {
    /// Joins a port with those that were joined before.
    ///
    /// # Errors
    /// If this machine cannot do that.
    fn join(&mut self, port: &Port) -> Result<()>;

    /// Says what is done from now on to the frames that go out to a port.
    ///
    /// # Errors
    /// If this machine cannot do that.
    fn set(&mut self, port: &Port, rules: &Rules) -> Result<()>;
}

/// The last byte of a node's hardware address, which is otherwise 02:00:00:00:00.
pub fn last_byte_of_address(node: usize) -> u8 {
    node as u8 + 1
}

pub use self::kernel::KernelWire;
pub use self::seeded::SeededWire;
