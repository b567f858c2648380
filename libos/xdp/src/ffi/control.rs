//! Requests about interfaces: `ioctl`s that carry an `ifreq` (netdevice(7)), and those of TAP (tun.rst).

use std::ffi::c_char;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use super::check;

/// An `ifreq` that names an interface.
pub(crate) struct Request(libc::ifreq);

impl Request {
    /// `None`: the name is empty, too long, or has a NUL.
    pub(crate) fn named(name: &str) -> Option<Request> {
        let mut request = Request::empty();
        let room = request.0.ifr_name.len() - 1;
        if name.is_empty() || name.len() > room || name.bytes().any(|byte| byte == 0) {
            return None;
        }
        for (to, from) in request.0.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as c_char;
        }
        Some(request)
    }

    pub(crate) fn empty() -> Request {
        // SAFETY: zeros are a value: an empty name, and a union of integers and null pointers.
        Request(unsafe { std::mem::zeroed() })
    }

    pub(crate) fn name(&self) -> String {
        let bytes = self.0.ifr_name.iter().map(|&c| c as u8).take_while(|&byte| byte != 0);
        String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
    }

    /// The number in it: index, MTU.
    pub(crate) fn number(&self) -> i32 {
        // SAFETY: zeroed at the start and filled in by the kernel: any bytes are an integer.
        unsafe { self.0.ifr_ifru.ifru_ifindex }
    }

    pub(crate) fn set_number(&mut self, number: i32) {
        self.0.ifr_ifru.ifru_ifindex = number;
    }

    pub(crate) fn flags(&self) -> i32 {
        // SAFETY: as in `number`.
        i32::from(unsafe { self.0.ifr_ifru.ifru_flags } as u16)
    }

    pub(crate) fn set_flags(&mut self, flags: i32) {
        self.0.ifr_ifru.ifru_flags = flags as i16;
    }

    /// The first six bytes of a hardware address.
    pub(crate) fn mac(&self) -> [u8; 6] {
        // SAFETY: as in `number`.
        let data = unsafe { self.0.ifr_ifru.ifru_hwaddr.sa_data };
        std::array::from_fn(|i| data[i] as u8)
    }

    /// What kind of hardware the address is of (ARPHRD_*).
    pub(crate) fn hardware(&self) -> u16 {
        // SAFETY: as in `number`.
        unsafe { self.0.ifr_ifru.ifru_hwaddr.sa_family }
    }

    fn set_ipv4(&mut self, address: [u8; 4]) {
        let mut data = [0; 14];
        // `sockaddr_in`: two bytes of port, then the address.
        for (to, from) in data[2..6].iter_mut().zip(address) {
            *to = from as c_char;
        }
        self.0.ifr_ifru.ifru_addr = libc::sockaddr { sa_family: libc::AF_INET as u16, sa_data: data };
    }

    /// Carries it out on `fd`.
    ///
    /// Only for requests whose argument is an `ifreq` without pointers: SIOCGIF* and SIOCSIF* but for those of `ifconf`,
    /// `map` and `data`, and TUNSETIFF and TUNGETIFF.
    pub(crate) fn carry_out(&mut self, fd: impl AsFd, code: libc::c_ulong) -> Result<(), Errno> {
        debug_assert!(ALLOWED.contains(&code), "not a request that carries an ifreq");
        // SAFETY: the kernel reads and writes one `ifreq`, and follows no pointer in it (see above).
        check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), code as _, &raw mut self.0) })?;
        Ok(())
    }
}

const ALLOWED: [libc::c_ulong; 11] = [
    libc::SIOCGIFINDEX,
    libc::SIOCGIFNAME,
    libc::SIOCGIFHWADDR,
    libc::SIOCGIFMTU,
    libc::SIOCSIFMTU,
    libc::SIOCGIFFLAGS,
    libc::SIOCSIFFLAGS,
    libc::SIOCSIFADDR,
    libc::SIOCSIFNETMASK,
    libc::TUNSETIFF as libc::c_ulong,
    libc::TUNGETIFF as libc::c_ulong,
];

/// A TAP descriptor's request whose argument is a plain number.
pub(crate) fn tap_number(fd: impl AsFd, code: libc::c_ulong, number: libc::c_ulong) -> Result<(), Errno> {
    debug_assert!(code == libc::TUNSETOFFLOAD as libc::c_ulong);
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), code as _, number) })?;
    Ok(())
}

/// Gives an interface an address, beside those of other families that it has. `socket` is of the address's family.
pub(crate) fn add_address(socket: impl AsFd, name: &str, index: u32, address: IpAddr, prefix: u8) -> Result<(), Errno> {
    match address {
        IpAddr::V4(address) => {
            let mut request = Request::named(name).ok_or(Errno::NODEV)?;
            request.set_ipv4(address.octets());
            request.carry_out(&socket, libc::SIOCSIFADDR)?;
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            request.set_ipv4(mask.to_be_bytes());
            request.carry_out(&socket, libc::SIOCSIFNETMASK)
        }
        IpAddr::V6(address) => {
            let request = libc::in6_ifreq {
                ifr6_addr: libc::in6_addr { s6_addr: address.octets() },
                ifr6_prefixlen: u32::from(prefix.min(128)),
                ifr6_ifindex: index as i32,
            };
            // SAFETY: on a socket of IPv6, SIOCSIFADDR reads one `in6_ifreq`.
            check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFADDR as _, &raw const request) })?;
            Ok(())
        }
    }
}
