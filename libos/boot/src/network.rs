//! The networks that there are, by name.

use libos_mem::{Heap, Reservation};
use libos_posix::{EpollNetwork, UringNetwork, UringSettings};
use libos_runtime::BufRings;
use pdpix::{Error, Network};
use serde::Deserialize;

use crate::frames::Frames;
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
    /// Our own stack over AF_XDP.
    Xdp,
    /// Our own stack over AF_PACKET.
    Packet,
    /// Our own stack over a TAP interface.
    Tap,
    /// Our own stack over a DPDK port.
    Dpdk,
}

impl BackendKind {
    /// As it is written in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            BackendKind::Auto => "auto",
            BackendKind::Epoll => "epoll",
            BackendKind::IoUring => "io_uring",
            BackendKind::Xdp => "xdp",
            BackendKind::Packet => "packet",
            BackendKind::Tap => "tap",
            BackendKind::Dpdk => "dpdk",
        }
    }

    /// Whether it moves frames, under our own stack.
    pub fn has_frames(self) -> bool {
        matches!(self, BackendKind::Xdp | BackendKind::Packet | BackendKind::Tap | BackendKind::Dpdk)
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
    let xdp = libos_xdp::is_built().map_err(str::to_string);
    vec![
        (BackendKind::Epoll, None),
        (BackendKind::IoUring, try_uring().err()),
        (BackendKind::Xdp, xdp.err()),
        (BackendKind::Packet, None),
        (BackendKind::Tap, None),
        (BackendKind::Dpdk, libos_dpdk::is_built().err().map(str::to_string)),
    ]
}

/// What is opened before any core runs, and makes the network of each.
pub(crate) enum Networks {
    Sockets,
    Frames(Box<Frames>),
}

impl Networks {
    /// What the settings say.
    ///
    /// # Errors
    /// A sentence for whoever started this.
    pub(crate) fn open(settings: &Settings, reservation: &Reservation) -> Result<Networks, String> {
        let backend = settings.network.backend;
        if !backend.has_frames() {
            return Ok(Networks::Sockets);
        }
        Frames::open(settings, reservation).map(|frames| Networks::Frames(Box::new(frames)))
    }

    /// What to tell whoever started this.
    pub(crate) fn notices(&self) -> &[String] {
        if let Networks::Frames(frames) = self { &frames.notices } else { &[] }
    }

    /// The network of one core: its name, and itself.
    ///
    /// # Errors
    /// A sentence for whoever started this.
    pub(crate) fn make(
        &self,
        settings: &Settings,
        core: usize,
        seed: u64,
        heap: &Heap,
        rings: BufRings,
    ) -> Result<(String, Box<dyn Network>), String> {
        let kind = settings.network.backend;
        let said = |error: Error| error.to_string();
        Ok(match self {
            Networks::Frames(frames) => (kind.name().into(), frames.network(core, seed, heap, rings)?),
            Networks::Sockets if kind == BackendKind::IoUring => {
                let settings = UringSettings {
                    buffers: settings.network.buffers,
                    buffer_size: settings.buffer_size(),
                    zero_copy_min: settings.zero_copy_min().unwrap_or_default(),
                };
                (kind.name().into(), Box::new(UringNetwork::new(heap.clone(), settings).map_err(said)?))
            }
            Networks::Sockets => ("epoll".into(), Box::new(EpollNetwork::new(heap.clone()).map_err(said)?)),
        })
    }
}
