//! An interface of the kernel's: what it is, and, with the rights to it, how it is to be.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use libos_net::wire::Mac;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::OpenError;
use crate::ffi::control::{self, Request};

/// What the changes below take.
pub(crate) const NET_ADMIN: &str = "CAP_NET_ADMIN";

/// An interface, and a socket to ask about it in the network namespace that it is in, whatever namespace the process
/// enters later.
pub(crate) struct Interface {
    socket: OwnedFd,
    name: String,
    index: u32,
}

impl Interface {
    /// The interface of this name, in the network namespace of the calling thread.
    pub(crate) fn find(name: &str) -> Result<Interface, OpenError> {
        let socket = socket(AddressFamily::INET)?;
        let mut request = Request::named(name).ok_or_else(|| OpenError::BadName(name.into()))?;
        match request.carry_out(&socket, libc::SIOCGIFINDEX) {
            Ok(()) => Ok(Interface { socket, name: name.into(), index: request.number() as u32 }),
            Err(Errno::NODEV) => Err(OpenError::NoInterface(name.into())),
            Err(errno) => Err(OpenError::Os { what: "looking for the interface", source: errno.into() }),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Whether it is there still. A renamed one is.
    pub(crate) fn exists(&self) -> bool {
        name_of(&self.socket, self.index).is_some()
    }

    fn ask(&self, code: libc::c_ulong, what: &'static str) -> Result<Request, OpenError> {
        let mut request = self.request();
        request.carry_out(&self.socket, code).map_err(OpenError::of(what, NET_ADMIN))?;
        Ok(request)
    }

    fn request(&self) -> Request {
        Request::named(&self.name).expect("a name that named an interface before")
    }

    /// Its address. Refused unless it is of Ethernet.
    pub(crate) fn mac(&self) -> Result<Mac, OpenError> {
        let request = self.ask(libc::SIOCGIFHWADDR, "reading the interface's address")?;
        match request.hardware() {
            libc::ARPHRD_ETHER => Ok(Mac(request.mac())),
            _ => Err(OpenError::Unsupported(format!("{} does not carry Ethernet frames", self.name))),
        }
    }

    /// The longest IP packet, in bytes.
    pub(crate) fn mtu(&self) -> Result<usize, OpenError> {
        Ok(self.ask(libc::SIOCGIFMTU, "reading the interface's MTU")?.number().max(0) as usize)
    }

    pub(crate) fn set_mtu(&self, mtu: usize) -> Result<(), OpenError> {
        let mut request = self.request();
        request.set_number(i32::try_from(mtu).unwrap_or(i32::MAX));
        request.carry_out(&self.socket, libc::SIOCSIFMTU).map_err(|errno| match errno {
            Errno::INVAL => OpenError::BadSettings(format!("{} cannot have an MTU of {mtu}", self.name)),
            errno => OpenError::of("setting the interface's MTU", NET_ADMIN)(errno),
        })
    }

    pub(crate) fn bring_up(&self) -> Result<(), OpenError> {
        let mut request = self.ask(libc::SIOCGIFFLAGS, "reading the interface's flags")?;
        request.set_flags(request.flags() | libc::IFF_UP);
        request
            .carry_out(&self.socket, libc::SIOCSIFFLAGS)
            .map_err(OpenError::of("bringing the interface up", NET_ADMIN))
    }

    /// Gives it an address of the kernel's.
    pub(crate) fn add_address(&self, address: IpAddr, prefix: u8) -> Result<(), OpenError> {
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        match control::add_address(socket(family)?, &self.name, self.index, address, prefix) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(OpenError::of("giving the interface an address", NET_ADMIN)(errno)),
        }
    }
}

fn socket(family: AddressFamily) -> Result<OwnedFd, OpenError> {
    rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| OpenError::Os { what: "opening a socket to ask about interfaces", source: errno.into() })
}

fn name_of(socket: &OwnedFd, index: u32) -> Option<String> {
    let mut request = Request::empty();
    request.set_number(index as i32);
    request.carry_out(socket, libc::SIOCGIFNAME).ok()?;
    Some(request.name())
}
