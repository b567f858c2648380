//! The contract of one-sided access to another node's memory. docs/contract.md §6 has the reasons.

use libos_mem::Region;

use crate::completion::{Completions, Submitted};
use crate::error::Error;
use crate::network::{Handle, OpId};
use crate::sga::Sga;

/// What a peer may do with an export.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rights {
    /// Read.
    pub read: bool,
    /// Write.
    pub write: bool,
    /// Compare-and-swap, fetch-and-add.
    pub atomic: bool,
}

/// Names an export on the owner's side.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ExportId(pub u32);

/// The capability that a peer needs: sent to it as bytes, by whatever queue. Shown redacted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RemoteKey {
    /// Address of the first byte, as the peer's device wants it.
    pub address: u64,
    /// The key.
    pub rkey: u32,
    /// Bytes.
    pub len: u32,
}

impl std::fmt::Debug for RemoteKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RemoteKey({} B, rkey redacted)", self.len)
    }
}

/// An operation on a peer's memory.
#[derive(Debug)]
pub enum RemoteOp {
    /// Gives the bytes, as a pop does.
    Read {
        /// Where.
        key: RemoteKey,
        /// From here.
        offset: u32,
        /// So many.
        len: u32,
    },
    /// Done when the responder acknowledged.
    Write {
        /// Where.
        key: RemoteKey,
        /// From here.
        offset: u32,
        /// What.
        from: Sga,
    },
    /// Writes `desired` if the word is `expected`; gives what it was.
    CompareSwap {
        /// Where.
        key: RemoteKey,
        /// A multiple of 8.
        offset: u32,
        /// Compared with.
        expected: u64,
        /// Written.
        desired: u64,
    },
    /// Adds; gives what it was.
    FetchAdd {
        /// Where.
        key: RemoteKey,
        /// A multiple of 8.
        offset: u32,
        /// Added, wrapping.
        add: u64,
    },
}

/// One-sided access over the connections of a network.
pub trait RemoteMemory {
    /// Lets peers at a region.
    ///
    /// # Errors
    /// `NotSupported`, `NoBuffers`, `InvalidArgument` (no rights).
    fn export(&mut self, region: Region, rights: Rights) -> Result<(ExportId, RemoteKey), Error>;

    /// Takes the rights back. `op` is done when no remote operation can reach the memory any more.
    ///
    /// # Errors
    /// `InvalidArgument`: no such export.
    fn revoke(&mut self, export: ExportId, op: OpId) -> Result<Submitted, Error>;

    /// Begins an operation over the connection `h`, as in [`Network::submit`](crate::Network::submit).
    ///
    /// # Errors
    /// `NotConnected`, `InvalidArgument` (outside the export, not a word), `NoBuffers`.
    fn submit(&mut self, h: Handle, op: OpId, what: RemoteOp) -> Result<Submitted, Error>;

    /// As [`Network::poll`](crate::Network::poll): the ends of remote operations.
    fn poll(&mut self, done: &mut Completions);
}
