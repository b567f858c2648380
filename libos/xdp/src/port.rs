//! An interface that AF_XDP sockets are opened on: the program that steers frames to them, and the UMEM that they share.
//!
//! Opened once a process, then a socket a queue, each on the core that will poll it.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use libos_mem::{Heap, Reservation};
use libos_net::wire::Mac;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::OpenError;
use crate::copies::Copies;
use crate::ffi;
use crate::ffi::xsk::{self, Rings};
use crate::interface::Interface;
use crate::rtnetlink;
use crate::steering::{ProgramMode, Share, Steering};
use crate::xsk::{MTU_MAX, Xsk, chunk_size};

/// Who moves the bytes between the card and our memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyMode {
    /// The card where it can, else the kernel.
    #[default]
    Auto,
    /// The card, or not at all.
    ZeroCopy,
    /// The kernel.
    Copy,
}

/// SO_PREFER_BUSY_POLL and its fellows: the device is polled by our own calls, and its interrupts are put off.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BusyPoll {
    /// How long a call that finds nothing polls, in microseconds.
    pub micros: u32,
    /// Frames that one call takes at most.
    pub budget: u32,
}

/// What interface to open, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct XskSettings {
    /// Its name.
    pub interface: String,
    /// Addresses whose frames are ours.
    pub addresses: Vec<IpAddr>,
    /// What of them is.
    pub share: Share,
    /// Our address on the link. By default the interface's.
    #[serde(with = "crate::mac_text")]
    pub mac: Option<Mac>,
    /// Entries of each ring, a power of two; as many chunks of receive memory are filled, if there are.
    pub ring_size: u32,
    /// Who copies.
    pub copy_mode: CopyMode,
    /// Where the program runs.
    pub program_mode: ProgramMode,
    /// Busy polling, if it is wished.
    pub busy_poll: Option<BusyPoll>,
    /// In how many pieces a frame is handed to the kernel. 1: longer ones are put together by a counted copy, which in copy
    /// mode is faster than multi-buffer.
    pub gathers: usize,
    /// Whether frames may come whose transport checksums were never filled in (their sender is on this host): those are
    /// recognised, and taken as verified. By default on veth.
    pub partial_checksums: Option<bool>,
}

impl XskSettings {
    /// The usual ones: all of these addresses, rings of 1,024.
    pub fn new(interface: &str, addresses: &[IpAddr]) -> XskSettings {
        XskSettings {
            interface: interface.into(),
            addresses: addresses.to_vec(),
            share: Share::Addresses,
            mac: None,
            ring_size: 1024,
            copy_mode: CopyMode::Auto,
            program_mode: ProgramMode::Auto,
            busy_poll: None,
            gathers: 1,
            partial_checksums: None,
        }
    }
}

/// An interface with our program on it.
pub struct Port {
    interface: Interface,
    mtu: usize,
    chunk_size: usize,
    settings: XskSettings,
    reservation: Reservation,
    shared: Mutex<Shared>,
    notices: Vec<String>,
    partial_checksums: bool,
    is_granted: bool,
}

struct Shared {
    /// `None`: whoever opened the sockets for us holds it.
    steering: Option<Steering>,
    /// A socket that is bound with the UMEM, as long as there is one.
    first: Weak<OwnedFd>,
    /// What somebody else has opened for us.
    granted: Option<Granted>,
}

struct Granted {
    /// By queue.
    sockets: Vec<Option<OwnedFd>>,
    /// Packet sockets for copies, one for each.
    copies: Vec<OwnedFd>,
    /// He knows by it that we live.
    _connection: Arc<OwnedFd>,
}

impl Granted {
    fn socket(&mut self, queue: u32) -> Option<OwnedFd> {
        self.sockets.get_mut(queue as usize)?.take()
    }
}

/// How often a queue that is busy is asked for again, 10 ms apart.
const BIND_TRIES: usize = 30;

/// What sockets take.
const RIGHTS: &str = "CAP_NET_RAW";

impl Port {
    /// Puts the program on the interface. Frames come when a queue is opened.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(settings: XskSettings, reservation: &Reservation) -> Result<Arc<Port>, OpenError> {
        let interface = Interface::find(&settings.interface)?;
        let (mut steering, notice) = Steering::attach(&interface, settings.program_mode)?;
        steering.claim(&settings.addresses, &settings.share)?;
        let shared = Shared { steering: Some(steering), first: Weak::new(), granted: None };
        Port::new(settings, interface, reservation, shared, notice)
    }

    /// A port whose sockets, one a queue, somebody with the rights has opened with these settings. He holds the program as
    /// long as `connection` is open.
    pub(crate) fn granted(
        settings: XskSettings,
        sockets: Vec<OwnedFd>,
        copies: Vec<OwnedFd>,
        connection: Arc<OwnedFd>,
        reservation: &Reservation,
    ) -> Result<Arc<Port>, OpenError> {
        let interface = Interface::find(&settings.interface)?;
        let granted = Granted { sockets: sockets.into_iter().map(Some).collect(), copies, _connection: connection };
        let shared = Shared { steering: None, first: Weak::new(), granted: Some(granted) };
        Port::new(settings, interface, reservation, shared, None)
    }

    /// A socket as `settings` say, not bound yet.
    pub(crate) fn open_socket(settings: &XskSettings) -> Result<OwnedFd, OpenError> {
        let socket = xsk::open().map_err(|errno| match errno {
            Errno::AFNOSUPPORT => OpenError::Unsupported("this kernel has no AF_XDP".into()),
            errno => OpenError::of("opening an AF_XDP socket", RIGHTS)(errno),
        })?;
        let Some(busy_poll) = settings.busy_poll else { return Ok(socket) };
        let options =
            [(SO_PREFER_BUSY_POLL, 1), (libc::SO_BUSY_POLL, busy_poll.micros), (SO_BUSY_POLL_BUDGET, busy_poll.budget)];
        for (name, value) in options {
            ffi::set_option(&socket, libc::SOL_SOCKET, name, value)
                .map_err(OpenError::of("setting busy polling", "CAP_NET_ADMIN"))?;
        }
        Ok(socket)
    }

    fn new(
        settings: XskSettings,
        interface: Interface,
        reservation: &Reservation,
        shared: Shared,
        notice: Option<String>,
    ) -> Result<Arc<Port>, OpenError> {
        let mtu = interface.mtu()?;
        let chunk_size = chunk_size(mtu).ok_or_else(|| {
            let name = interface.name();
            OpenError::Unsupported(format!("{name} has an MTU of {mtu}, and AF_XDP takes {MTU_MAX} here: lower it"))
        })?;
        if !settings.ring_size.is_power_of_two() || !(64..=32_768).contains(&settings.ring_size) {
            let why = format!("rings of {} entries: it takes a power of two from 64 to 32,768", settings.ring_size);
            return Err(OpenError::BadSettings(why));
        }
        let is_granted = shared.steering.is_none();
        let partial_checksums = match settings.partial_checksums {
            Some(chosen) => chosen,
            None => rtnetlink::is_veth(interface.index())?,
        };
        Ok(Arc::new(Port {
            partial_checksums,
            interface,
            mtu,
            chunk_size,
            settings,
            reservation: reservation.clone(),
            shared: Mutex::new(shared),
            notices: notice.into_iter().collect(),
            is_granted,
        }))
    }

    /// Opens a queue of the interface, for the core whose heap this is.
    ///
    /// # Errors
    /// [`OpenError`]: rights, memlock, or the queue is somebody's.
    ///
    /// # Panics
    /// If the heap is not of the port's reservation.
    pub fn queue(self: &Arc<Port>, queue: u32, heap: Heap) -> Result<Xsk, OpenError> {
        assert!(heap.reservation().base() == self.reservation.base(), "a heap of another reservation");
        let (socket, rings) = self.bound_socket(queue)?;
        let copies = self.copies(&socket, &heap)?;
        let xsk = Xsk::over(socket.clone(), rings, copies, self.clone(), queue, heap)?;
        let steered = self.lock().steering.as_mut().map_or(Ok(()), |steering| steering.set_socket(queue, &socket));
        drop(socket); // so that the device, if it goes now, has the only count
        steered.map(|()| xsk)
    }

    /// A socket on a queue of the interface, with the UMEM that all of them share.
    fn bound_socket(&self, queue: u32) -> Result<(Arc<OwnedFd>, Rings), OpenError> {
        let mut shared = self.lock();
        let socket = match &mut shared.granted {
            None => Port::open_socket(&self.settings)?,
            Some(granted) => granted
                .socket(queue)
                .ok_or_else(|| OpenError::BadSettings(format!("queue {queue} was not granted, or has been opened")))?,
        };
        let first = shared.first.upgrade();
        if first.is_none() {
            self.register(&socket)?;
        }
        let rings = Rings::map(&socket, self.settings.ring_size).map_err(OpenError::of("making rings", RIGHTS))?;
        self.bind(&socket, queue, first.as_deref())?;
        let socket = Arc::new(socket);
        if first.is_none() {
            shared.first = Arc::downgrade(&socket);
        }
        Ok((socket, rings))
    }

    /// What is to be copied, where the kernel has our addresses.
    fn copies(&self, socket: &OwnedFd, heap: &Heap) -> Result<Option<Copies>, OpenError> {
        if self.settings.share == Share::Addresses {
            return Ok(None);
        }
        let mut shared = self.lock();
        let none = || OpenError::BadSettings("no socket for copies was granted".into());
        let fd = match &mut shared.steering {
            Some(steering) => Copies::open_descriptor(&self.interface, |socket| steering.filter_copies(socket))?,
            None => shared.granted.as_mut().and_then(|granted| granted.copies.pop()).ok_or_else(none)?,
        };
        drop(shared);
        Copies::over(fd, socket, &self.interface, heap.clone()).map(Some)
    }

    fn register(&self, socket: &OwnedFd) -> Result<(), OpenError> {
        xsk::register(socket, &self.reservation, self.chunk_size as u32).map_err(|errno| match errno {
            Errno::NOBUFS | Errno::NOMEM => OpenError::Forbidden {
                what: "pinning our memory for AF_XDP",
                right: "CAP_IPC_LOCK, or a memlock limit (`ulimit -l`) as large as the reservation,",
            },
            errno => OpenError::Os { what: "registering our memory for AF_XDP", source: errno.into() },
        })
    }

    fn bind(&self, socket: &OwnedFd, queue: u32, first: Option<&OwnedFd>) -> Result<(), OpenError> {
        // With a UMEM that is shared, the kernel wants no flags: they are the first one's.
        let mode = match self.settings.copy_mode {
            CopyMode::Auto => 0,
            CopyMode::ZeroCopy => libc::XDP_ZEROCOPY,
            CopyMode::Copy => libc::XDP_COPY,
        };
        let gathers = if self.settings.gathers > 1 { libc::XDP_USE_SG } else { 0 };
        let flags = if first.is_some() { 0 } else { mode | gathers | libc::XDP_USE_NEED_WAKEUP };
        let (index, name) = (self.interface.index(), self.interface.name());
        let mut bound = xsk::bind(socket, index, queue, flags, first);
        // A socket that was closed a moment ago lets go of its queue a little later.
        for _ in 0..BIND_TRIES {
            if bound != Err(Errno::BUSY) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            bound = xsk::bind(socket, index, queue, flags, first);
        }
        bound.map_err(|errno| match errno {
            Errno::BUSY => taken(self, queue),
            Errno::OPNOTSUPP => {
                OpenError::Unsupported(format!("{name} cannot do what is asked for (zero-copy, or gathering)"))
            }
            Errno::INVAL if queue > 0 => OpenError::BadSettings(format!("{name} has no queue {queue}")),
            errno => OpenError::of("binding an AF_XDP socket", RIGHTS)(errno),
        })
    }

    /// Takes a queue's socket out of the program's map, and closes it.
    pub(crate) fn close_queue(&self, queue: u32, socket: Arc<OwnedFd>) {
        let mut shared = self.lock();
        if let Some(steering) = &mut shared.steering {
            steering.unset_socket(queue);
        }
        drop(socket); // under the lock: nobody else has a count of it now
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is not as one would wish it, in sentences for the log.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    pub(crate) fn interface(&self) -> &Interface {
        &self.interface
    }

    pub(crate) fn settings(&self) -> &XskSettings {
        &self.settings
    }

    pub(crate) fn mtu(&self) -> usize {
        self.mtu
    }

    pub(crate) fn chunk_size(&self) -> usize {
        self.chunk_size
    }

    /// Whether frames may come without their transport checksums.
    pub(crate) fn partial_checksums(&self) -> bool {
        self.partial_checksums
    }

    /// Whether somebody else opened the sockets.
    pub(crate) fn is_granted(&self) -> bool {
        self.is_granted
    }
}

/// linux/socket.h.
const SO_PREFER_BUSY_POLL: i32 = 69;
const SO_BUSY_POLL_BUDGET: i32 = 70;

fn taken(port: &Port, queue: u32) -> OpenError {
    OpenError::BadSettings(format!("somebody has queue {queue} of {} already", port.interface.name()))
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Port({}, {:?} of {:?})", self.interface.name(), self.settings.share, self.settings.addresses)
    }
}
