//! What stands for DPDK where it was left out: nothing of it can be had.

use std::collections::VecDeque;
use std::sync::Arc;

use libos_mem::{Heap, Plan, Reservation};
use libos_net::{Device, Frame, Link, Received};
use pdpix::{Error, Instant, WakeOn};

use crate::{EalSettings, OpenError, PortSettings};

fn missing() -> OpenError {
    OpenError::Unsupported(crate::is_built().err().unwrap_or_default().into())
}

/// DPDK's environment: not in this build.
#[derive(Clone, Copy, Debug)]
pub enum Eal {}

impl Eal {
    /// # Errors
    /// Always: it was left out.
    pub fn start(_: &EalSettings) -> Result<Eal, OpenError> {
        Err(missing())
    }

    /// Of what is not there.
    pub fn version() -> String {
        "no DPDK".into()
    }

    /// # Errors
    /// Never comes here.
    pub fn reserve(&self, _: Plan) -> Result<Reservation, OpenError> {
        match *self {}
    }
}

/// # Errors
/// Never comes here.
pub fn ring_pair(eal: Eal, _: [&str; 2], _: u32) -> Result<(), OpenError> {
    match eal {}
}

/// A port: not in this build.
#[derive(Debug)]
pub enum Port {}

impl Port {
    /// # Errors
    /// Always: it was left out.
    pub fn open(_: Eal, _: PortSettings, _: &Reservation) -> Result<Arc<Port>, OpenError> {
        Err(missing())
    }

    /// Of nothing.
    pub fn queues(&self) -> usize {
        match *self {}
    }

    /// Of nothing.
    pub fn notices(&self) -> &[String] {
        match *self {}
    }

    /// Of nothing.
    pub fn is_up(&self) -> bool {
        match *self {}
    }

    /// # Errors
    /// Never comes here.
    pub fn queue(self: &Arc<Port>, _: usize, _: Heap) -> Result<Queue, OpenError> {
        match **self {}
    }
}

/// A queue: not in this build.
#[derive(Debug)]
pub enum Queue {}

impl Device for Queue {
    fn link(&self) -> Link {
        match *self {}
    }

    fn receive(&mut self, _: Instant, _: &mut VecDeque<Received>, _: usize) -> Result<(), Error> {
        match *self {}
    }

    fn transmit(&mut self, _: Instant, _: &mut VecDeque<Frame>) {
        match *self {}
    }

    fn flush(&mut self, _: Instant) {
        match *self {}
    }

    fn arm(&mut self, _: Instant) -> WakeOn {
        match *self {}
    }

    fn in_flight(&self) -> usize {
        match *self {}
    }
}
