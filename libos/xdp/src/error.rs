//! Why a device could not be opened, in sentences for whoever has to do something about it.

use std::io;

use rustix::io::Errno;

/// Why a device could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No interface has this name in the network namespace of this process.
    #[error("there is no interface {0:?} in this network namespace")]
    NoInterface(String),
    /// The name cannot be that of an interface: empty, longer than 15 bytes, or with a NUL.
    #[error("{0:?} cannot be the name of an interface")]
    BadName(String),
    /// The process lacks a right.
    #[error(
        "{what} needs {right}, which this process does not have: run it as root, give it the capability, or let `margay grant` open it (docs/privileges.md)"
    )]
    Forbidden {
        /// What was tried.
        what: &'static str,
        /// The capability or limit that it takes.
        right: &'static str,
    },
    /// This build, this kernel or this interface has no such thing.
    #[error("{0}")]
    Unsupported(String),
    /// The settings contradict each other, or the device.
    #[error("{0}")]
    BadSettings(String),
    /// A descriptor that was handed over is not what it should be.
    #[error("the descriptor that was handed over is not {0}")]
    WrongDescriptor(&'static str),
    /// The operating system refused, for a reason of its own.
    #[error("{what}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl OpenError {
    /// For `map_err` after something that takes `right`.
    pub(crate) fn of(what: &'static str, right: &'static str) -> impl FnOnce(Errno) -> OpenError {
        move |errno| match errno {
            Errno::PERM | Errno::ACCESS => OpenError::Forbidden { what, right },
            errno => OpenError::Os { what, source: errno.into() },
        }
    }
}
