//! Rights apart from the service: a process that has them opens what takes them, and hands the descriptors over.
//!
//! The operator tells the granting side ([`Giver`], `margay grant`) what to give and to which user; whoever connects asks
//! for nothing, he only takes. He gets the descriptors and the settings that they were opened with in one message over a
//! Unix socket (SCM_RIGHTS), and a memlock limit as large as the memory that he is to register. He then needs no rights.
//!
//! Always: one grant at a time. What belongs to the interface and not to a socket (the XDP program) stays with the giver,
//! who takes it off when the taker's connection ends, which it does however the taker ends.
//!
//! docs/privileges.md says which rights each device takes.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libos_mem::{Heap, Reservation};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde::{Deserialize, Serialize};

use crate::OpenError;
use crate::copies::Copies;
use crate::interface::Interface;
use crate::packet::{self, PacketSettings, PacketSocket};
use crate::port::{Port, XskSettings};
use crate::steering::{Share, Steering, is_built};
use crate::tap::{self, Tap, TapSettings};

/// What is given.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Offer {
    /// A TAP interface.
    Tap(TapSettings),
    /// Packet sockets.
    Packet {
        /// What each is.
        settings: PacketSettings,
        /// One for each core; several share the frames ([`PacketSettings::fanout`]).
        sockets: u32,
    },
    /// AF_XDP sockets, and the program that steers frames to them.
    Xsk {
        /// What each is.
        settings: XskSettings,
        /// Sockets for queues 0 to `queues` - 1.
        queues: u32,
    },
}

/// Descriptors in one message (SCM_MAX_FD).
const DESCRIPTORS_MAX: usize = 253;

/// Bytes of the settings in one message.
const TEXT_MAX: usize = 64 * 1024;

/// What was opened.
struct Opened {
    descriptors: Vec<OwnedFd>,
    notice: Option<String>,
    /// Kept as long as the taker lives.
    _steering: Option<Steering>,
}

impl Offer {
    fn open(&self) -> Result<Opened, OpenError> {
        let plain = |descriptors| Opened { descriptors, notice: None, _steering: None };
        match self {
            Offer::Tap(settings) => Ok(plain(vec![tap::open_descriptor(settings)?])),
            Offer::Packet { settings, sockets } => {
                let interface = Interface::find(&settings.interface)?;
                let open = |_| packet::open_socket(settings, &interface, |_| Ok(()));
                Ok(plain((0..*sockets).map(open).collect::<Result<_, _>>()?))
            }
            Offer::Xsk { settings, queues } => open_xsk(settings, *queues),
        }
    }
}

fn open_xsk(settings: &XskSettings, queues: u32) -> Result<Opened, OpenError> {
    let interface = Interface::find(&settings.interface)?;
    let (mut steering, notice) = Steering::attach(&interface, settings.program_mode)?;
    steering.claim(&settings.addresses, &settings.share)?;
    let mut descriptors = Vec::new();
    for queue in 0..queues {
        let socket = Port::open_socket(settings)?;
        steering.set_socket(queue, &socket)?;
        descriptors.push(socket);
    }
    if settings.share != Share::Addresses {
        for _ in 0..queues {
            descriptors.push(Copies::open_descriptor(&interface, |socket| steering.filter_copies(socket))?);
        }
    }
    Ok(Opened { descriptors, notice, _steering: Some(steering) })
}

/// The side with the rights.
pub struct Giver {
    socket: OwnedFd,
    path: PathBuf,
    uid: u32,
    offer: Offer,
    memlock: u64,
}

impl Giver {
    /// Listens at `path`, where only the user `uid` may connect. A taker's memlock limit is raised to `memlock` bytes.
    ///
    /// # Errors
    /// [`OpenError`]: the path cannot be made, or is somebody's.
    pub fn listen(path: &Path, uid: u32, offer: Offer, memlock: u64) -> Result<Giver, OpenError> {
        let count = match &offer {
            Offer::Tap(_) => 1,
            Offer::Packet { sockets, .. } => *sockets as usize,
            Offer::Xsk { queues, .. } => *queues as usize * 2,
        };
        if count == 0 || count > DESCRIPTORS_MAX {
            return Err(OpenError::BadSettings(format!("{count} sockets: it takes between 1 and {DESCRIPTORS_MAX}")));
        }
        if let (Offer::Xsk { .. }, Err(why)) = (&offer, is_built()) {
            return Err(OpenError::Unsupported(why.into()));
        }
        let failed = |source| OpenError::Os { what: "listening for who is to be granted", source };
        let socket = seqpacket().map_err(|errno| failed(errno.into()))?;
        let address = SocketAddrUnix::new(path).map_err(|errno| failed(errno.into()))?;
        let mut bound = rustix::net::bind(&socket, &address);
        if bound == Err(Errno::ADDRINUSE) && is_left_over(&address) {
            std::fs::remove_file(path).map_err(failed)?;
            bound = rustix::net::bind(&socket, &address);
        }
        bound.map_err(|errno| failed(errno.into()))?;
        // From here on the path is ours to remove.
        let giver = Giver { socket, path: path.to_owned(), uid, offer, memlock };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        chown(path, Some(uid), None).map_err(failed)?;
        rustix::net::listen(&giver.socket, 1).map_err(|errno| failed(errno.into()))?;
        Ok(giver)
    }

    /// Gives to the next one who connects, and waits until he ends. `on_given` gets the number of his process, and what is
    /// not as one would wish it.
    ///
    /// # Errors
    /// [`OpenError`]: it could not be opened or given. The next one may be luckier.
    pub fn give(&self, on_given: impl FnOnce(i32, &[String])) -> Result<(), OpenError> {
        let failed = |errno: Errno| OpenError::Os { what: "granting", source: errno.into() };
        let taker = rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC).map_err(failed)?;
        let who = sockopt::socket_peercred(&taker).map_err(failed)?;
        if who.uid.as_raw() != self.uid {
            return Err(OpenError::BadSettings(format!(
                "user {} asked for what is user {}'s",
                who.uid.as_raw(),
                self.uid
            )));
        }
        let opened = match self.offer.open() {
            Ok(opened) => opened,
            Err(error) => {
                // He is told why; whether he hears it does not matter.
                let _ = send(&taker, &Message::Refused(error.to_string()), &[]);
                return Err(error);
            }
        };
        let not_raised = self.raise_memlock(who.pid);
        send(&taker, &Message::Given(self.offer.clone()), &opened.descriptors)?;
        let Opened { descriptors, notice, _steering } = opened;
        drop(descriptors); // the taker's are the only ones now: his sockets close with him
        let notices: Vec<String> = notice.into_iter().chain(not_raised).collect();
        on_given(who.pid.as_raw_nonzero().get(), &notices);
        // Nothing comes; at the taker's end, the end.
        let mut nothing = [0; 1];
        while rustix::net::recv(&taker, &mut nothing[..], RecvFlags::empty()).is_ok_and(|(count, _)| count > 0) {}
        Ok(())
    }
}

impl Giver {
    /// Lets a process pin as much memory as it is to register. That it could not be done is a notice and no error: the
    /// limit may be high enough already.
    fn raise_memlock(&self, of: Pid) -> Option<String> {
        if !matches!(self.offer, Offer::Xsk { .. }) {
            return None; // nothing else is pinned
        }
        let limit = Rlimit { current: Some(self.memlock), maximum: Some(self.memlock) };
        let errno = prlimit(Some(of), Resource::Memlock, limit).err()?;
        Some(format!(
            "the memlock limit of process {of:?} stays as it is, as raising it takes CAP_SYS_RESOURCE ({errno})"
        ))
    }
}

impl Drop for Giver {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Message {
    Given(Offer),
    Refused(String),
}

fn seqpacket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Whether a giver who has ended left this socket behind.
fn is_left_over(address: &SocketAddrUnix) -> bool {
    seqpacket().is_ok_and(|socket| rustix::net::connect(&socket, address) == Err(Errno::CONNREFUSED))
}

fn send(to: &OwnedFd, message: &Message, descriptors: &[OwnedFd]) -> Result<(), OpenError> {
    let failed = |source| OpenError::Os { what: "handing descriptors over", source };
    let text = serde_json::to_vec(message).map_err(|error| failed(error.into()))?;
    let fds: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    rustix::net::sendmsg(to, &[IoSlice::new(&text)], &mut ancillary, SendFlags::NOSIGNAL)
        .map_err(|errno| failed(errno.into()))?;
    Ok(())
}

/// What was given: descriptors, and the settings that they were opened with. To be kept as long as the devices are: when it
/// goes, the giver takes it that we have ended, and gives to the next one. (A [`Port`] keeps what matters by itself.)
#[derive(Debug)]
pub struct Granted {
    offer: Offer,
    descriptors: Vec<OwnedFd>,
    /// As long as this is open, the giver knows that we live.
    connection: Arc<OwnedFd>,
}

impl Granted {
    /// Takes what is given at `path`.
    ///
    /// # Errors
    /// [`OpenError`]: nobody gives anything there, or what he says makes no sense.
    pub fn take(path: &Path) -> Result<Granted, OpenError> {
        let failed = |source| OpenError::Os { what: "taking what `margay grant` gives", source };
        let os = |errno: Errno| failed(errno.into());
        let connection = seqpacket().map_err(os)?;
        rustix::net::connect(&connection, &SocketAddrUnix::new(path).map_err(os)?).map_err(os)?;
        let mut text = vec![0; TEXT_MAX];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &connection,
            &mut [IoSliceMut::new(&mut text)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
        .map_err(os)?;
        let descriptors: Vec<OwnedFd> = ancillary
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            })
            .flatten()
            .collect();
        match serde_json::from_slice(&text[..received.bytes]).map_err(|error| failed(error.into()))? {
            Message::Given(offer) => Ok(Granted { offer, descriptors, connection: Arc::new(connection) }),
            Message::Refused(why) => Err(OpenError::Unsupported(format!("`margay grant` has nothing to give: {why}"))),
        }
    }

    /// What it is.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    fn next(&mut self) -> Result<OwnedFd, OpenError> {
        let none = || OpenError::BadSettings("more devices are opened than were granted".into());
        if self.descriptors.is_empty() { Err(none()) } else { Ok(self.descriptors.remove(0)) }
    }

    /// The TAP interface.
    ///
    /// # Errors
    /// [`OpenError`]: something else was granted.
    pub fn tap(&mut self, heap: Heap) -> Result<Tap, OpenError> {
        let Offer::Tap(settings) = self.offer.clone() else { return Err(something_else("a TAP interface")) };
        Tap::over(self.next()?, settings, heap)
    }

    /// The next of the packet sockets.
    ///
    /// # Errors
    /// [`OpenError`]: something else was granted, or there is none left.
    pub fn packet(&mut self, heap: Heap) -> Result<PacketSocket, OpenError> {
        let Offer::Packet { settings, .. } = self.offer.clone() else { return Err(something_else("packet sockets")) };
        PacketSocket::over(self.next()?, settings, heap)
    }

    /// The port with all AF_XDP sockets.
    ///
    /// # Errors
    /// [`OpenError`]: something else was granted.
    pub fn port(self, reservation: &Reservation) -> Result<Arc<Port>, OpenError> {
        let Offer::Xsk { settings, queues } = self.offer else { return Err(something_else("AF_XDP sockets")) };
        let mut sockets = self.descriptors;
        let copies = sockets.split_off((queues as usize).min(sockets.len()));
        Port::granted(settings, sockets, copies, self.connection, reservation)
    }
}

fn something_else(than: &str) -> OpenError {
    OpenError::BadSettings(format!("`margay grant` gives something else than {than}"))
}
