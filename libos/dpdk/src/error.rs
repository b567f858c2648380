//! Why a port could not be opened, in sentences for whoever has to do something about it.

/// Why DPDK, or a port of it, could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// This build or this machine has no such thing.
    #[error("{0}")]
    Unsupported(String),
    /// The settings contradict each other, or the port.
    #[error("{0}")]
    BadSettings(String),
    /// DPDK refused.
    #[error("{what}: {why}")]
    Refused {
        /// What was tried.
        what: String,
        /// What it said.
        why: String,
    },
}
