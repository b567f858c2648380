//! Why a device cannot be opened.

use spdk_sys::LoadError;

/// Why a device cannot be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// There is no SPDK, or not one for us.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Not a name of a device.
    #[error("{0}")]
    BadName(String),
    /// SPDK refused.
    #[error("{what}: {why}")]
    Refused {
        /// What was tried.
        what: String,
        /// What it said.
        why: String,
    },
    /// What was read is not what is there.
    #[error(
        "{0} does not reach our memory: what was read into it is not what was read into SPDK's. Is its IOMMU too narrow for the \
         addresses? (docs/spdk.md)"
    )]
    WrongData(String),
}

/// What an errno of SPDK's (below zero) says.
pub(crate) fn says(rc: i32) -> String {
    std::io::Error::from_raw_os_error(rc.saturating_abs()).to_string()
}
