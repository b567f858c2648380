//! The networks that there are, by name.

use libos_mem::Heap;
use libos_posix::{EpollNetwork, UringNetwork, UringSettings};
use pdpix::{Error, Network};
use serde::Deserialize;

use crate::settings::Settings;

/// Which backend carries a network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackendKind {
    /// The one that measured better, which is epoll (docs/posix.md).
    #[default]
    Auto,
    /// Kernel sockets over epoll.
    Epoll,
    /// Kernel sockets over io_uring.
    IoUring,
}

impl BackendKind {
    /// As it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            BackendKind::Auto => "auto",
            BackendKind::Epoll => "epoll",
            BackendKind::IoUring => "io_uring",
        }
    }
}

/// Every backend, and whether this machine has it: `None`, or why not.
pub fn backends() -> Vec<(BackendKind, Option<String>)> {
    let try_uring = || -> Result<(), String> {
        let heap = Heap::alone(8 << 20).map_err(|error| error.to_string())?;
        match UringNetwork::new(heap, UringSettings { buffers: 8, ..UringSettings::default() }) {
            Ok(_) => Ok(()),
            Err(Error::PermissionDenied) => {
                Err("io_uring is forbidden here (kernel.io_uring_disabled, or a container)".into())
            }
            Err(Error::NotSupported) => Err("the kernel has no io_uring, or is older than 6.1".into()),
            Err(error) => Err(error.to_string()),
        }
    };
    vec![(BackendKind::Epoll, None), (BackendKind::IoUring, try_uring().err())]
}

/// Makes the configured network for the core whose heap is `heap`: its name, and itself.
pub(crate) fn make(settings: &Settings, heap: &Heap) -> Result<(String, Box<dyn Network>), Error> {
    let uring = || -> Result<Box<dyn Network>, Error> {
        let settings = UringSettings {
            buffers: settings.network.buffers,
            buffer_size: settings.buffer_size(),
            zero_copy_min: settings.zero_copy_min().unwrap_or_default(),
        };
        Ok(Box::new(UringNetwork::new(heap.clone(), settings)?))
    };
    let epoll = || -> Result<Box<dyn Network>, Error> { Ok(Box::new(EpollNetwork::new(heap.clone())?)) };
    Ok(match settings.network.backend {
        BackendKind::Auto | BackendKind::Epoll => ("epoll".into(), epoll()?),
        BackendKind::IoUring => ("io_uring".into(), uring()?),
    })
}
