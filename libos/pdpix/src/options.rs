//! The properties of a queue, as every backend keeps them: their defaults, and which of them which queue has.

use std::time::Duration;

use crate::error::Error;
use crate::network::{OptionName, SocketKind, SocketOption};

/// All properties of one queue. Defaults are those that [`SocketOption`] names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "see SocketOption")]
pub struct SocketOptions {
    pub no_delay: bool,
    pub keep_alive: Option<Duration>,
    pub linger: Duration,
    pub shared: bool,
    pub send_budget: usize,
    pub receive_budget: usize,
}

impl Default for SocketOptions {
    fn default() -> SocketOptions {
        SocketOptions {
            no_delay: true,
            keep_alive: None,
            linger: Duration::from_secs(60),
            shared: false,
            send_budget: 1 << 20,
            receive_budget: 1 << 20,
        }
    }
}

impl SocketOptions {
    /// Sets one property of a queue of this kind, which is bound or not. What follows from it is the backend's to do.
    ///
    /// # Errors
    /// `InvalidArgument` (a budget of nothing; sharing what is bound), `NotSupported` (not a property of this kind).
    pub fn set(&mut self, option: SocketOption, kind: SocketKind, bound: bool) -> Result<(), Error> {
        match option {
            SocketOption::SendBudget(0) | SocketOption::ReceiveBudget(0) => return Err(Error::InvalidArgument),
            SocketOption::NoDelay(_) | SocketOption::KeepAlive(_) | SocketOption::Linger(_)
                if kind != SocketKind::Stream =>
            {
                return Err(Error::NotSupported);
            }
            SocketOption::Shared(_) if bound => return Err(Error::InvalidArgument),
            SocketOption::NoDelay(no_delay) => self.no_delay = no_delay,
            SocketOption::KeepAlive(keep_alive) => self.keep_alive = keep_alive,
            SocketOption::Linger(linger) => self.linger = linger,
            SocketOption::Shared(shared) => self.shared = shared,
            SocketOption::SendBudget(budget) => self.send_budget = budget,
            SocketOption::ReceiveBudget(budget) => self.receive_budget = budget,
        }
        Ok(())
    }

    /// One property of a queue of this kind.
    ///
    /// # Errors
    /// `NotSupported`: it is not a property of this kind.
    pub fn get(&self, name: OptionName, kind: SocketKind) -> Result<SocketOption, Error> {
        Ok(match name {
            OptionName::NoDelay | OptionName::KeepAlive | OptionName::Linger if kind != SocketKind::Stream => {
                return Err(Error::NotSupported);
            }
            OptionName::NoDelay => SocketOption::NoDelay(self.no_delay),
            OptionName::KeepAlive => SocketOption::KeepAlive(self.keep_alive),
            OptionName::Linger => SocketOption::Linger(self.linger),
            OptionName::Shared => SocketOption::Shared(self.shared),
            OptionName::SendBudget => SocketOption::SendBudget(self.send_budget),
            OptionName::ReceiveBudget => SocketOption::ReceiveBudget(self.receive_budget),
        })
    }
}
