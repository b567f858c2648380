//! Socket addresses, from C and to C.

use std::mem::size_of;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use libc::{AF_INET, AF_INET6, in_addr, in6_addr, sa_family_t, sockaddr, sockaddr_in, sockaddr_in6, socklen_t};
use pdpix::Endpoint;

use crate::abi::NO_ADDRESS;
use crate::errno::Errno;

const V4_SIZE: usize = size_of::<sockaddr_in>();
const V6_SIZE: usize = size_of::<sockaddr_in6>();
/// No program has a longer one.
const SIZE_MAX: usize = size_of::<libc::sockaddr_storage>();

/// The address at `addr`, of `size` bytes.
///
/// # Errors
/// EINVAL: null, or a size that no such address has; EAFNOSUPPORT.
///
/// # Safety
/// `addr` is null, or `size` bytes can be read there.
pub(crate) unsafe fn read(addr: *const sockaddr, size: socklen_t) -> Result<Endpoint, Errno> {
    let size = size as usize;
    if addr.is_null() || !(size_of::<sa_family_t>()..=SIZE_MAX).contains(&size) {
        return Err(Errno::INVALID);
    }
    // SAFETY: the family is within `size` bytes; C need not have aligned them.
    let family = unsafe { addr.cast::<sa_family_t>().read_unaligned() };
    match i32::from(family) {
        AF_INET if size >= V4_SIZE => {
            // SAFETY: as many bytes are there, and all of them mean something.
            let v4 = unsafe { addr.cast::<sockaddr_in>().read_unaligned() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Ok(SocketAddr::from((ip, u16::from_be(v4.sin_port))))
        }
        AF_INET6 if size >= V6_SIZE => {
            // SAFETY: as above.
            let v6 = unsafe { addr.cast::<sockaddr_in6>().read_unaligned() };
            let (ip, port) = (Ipv6Addr::from(v6.sin6_addr.s6_addr), u16::from_be(v6.sin6_port));
            Ok(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        AF_INET | AF_INET6 => Err(Errno::INVALID),
        _ => Err(Errno::new(libc::EAFNOSUPPORT)),
    }
}

/// For the fields that have room for IPv4 only. Of an IPv6 address family and port are there.
pub(crate) fn to_v4(endpoint: Endpoint) -> sockaddr_in {
    let sin_port = endpoint.port().to_be();
    match endpoint {
        SocketAddr::V4(v4) => {
            let sin_addr = in_addr { s_addr: u32::from(*v4.ip()).to_be() };
            sockaddr_in { sin_family: AF_INET as sa_family_t, sin_port, sin_addr, ..NO_ADDRESS }
        }
        SocketAddr::V6(_) => sockaddr_in { sin_family: AF_INET6 as sa_family_t, sin_port, ..NO_ADDRESS },
    }
}

/// The IPv4 address of such a field, if it has one.
pub(crate) fn of_v4(addr: sockaddr_in) -> Option<Endpoint> {
    let ip = Ipv4Addr::from(u32::from_be(addr.sin_addr.s_addr));
    (i32::from(addr.sin_family) == AF_INET).then(|| SocketAddr::from((ip, u16::from_be(addr.sin_port))))
}

/// Writes an address where there is room for `*size` bytes, as far as it fits, and how long it is to `size`.
///
/// # Errors
/// EINVAL: a null pointer, or a negative size.
///
/// # Safety
/// Each pointer is null, or can be written to: `size` as a `socklen_t`, `addr` for as many bytes as it says.
pub(crate) unsafe fn write(endpoint: Endpoint, addr: *mut sockaddr, size: *mut socklen_t) -> Result<(), Errno> {
    // SAFETY: not null, and so readable by the caller's promise.
    let room = unsafe { room(addr, size)? };
    let (v4, v6);
    let (from, len) = match endpoint {
        SocketAddr::V4(_) => {
            v4 = to_v4(endpoint);
            ((&raw const v4).cast::<u8>(), V4_SIZE)
        }
        SocketAddr::V6(at) => {
            v6 = sockaddr_in6 {
                sin6_family: AF_INET6 as sa_family_t,
                sin6_port: at.port().to_be(),
                sin6_flowinfo: at.flowinfo(),
                sin6_addr: in6_addr { s6_addr: at.ip().octets() },
                sin6_scope_id: at.scope_id(),
            };
            ((&raw const v6).cast::<u8>(), V6_SIZE)
        }
    };
    // SAFETY: `from` has `len` bytes, `addr` room for `room`.
    unsafe { std::ptr::copy_nonoverlapping(from, addr.cast::<u8>(), len.min(room)) };
    // SAFETY: not null, and so writable by the caller's promise.
    unsafe { size.write_unaligned(len as socklen_t) };
    Ok(())
}

/// How much room there is for an address.
///
/// # Errors
/// As [`write()`].
///
/// # Safety
/// As [`write()`].
pub(crate) unsafe fn room(addr: *mut sockaddr, size: *mut socklen_t) -> Result<usize, Errno> {
    if addr.is_null() || size.is_null() {
        return Err(Errno::INVALID);
    }
    // SAFETY: not null, and so readable by the caller's promise.
    let room = unsafe { size.read_unaligned() };
    if room > i32::MAX as u32 { Err(Errno::INVALID) } else { Ok(room as usize) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(endpoint: Endpoint, room: u32) -> (Vec<u8>, u32) {
        let (mut bytes, mut size) = ([0xee_u8; 128], room);
        // SAFETY: both are there.
        unsafe { write(endpoint, bytes.as_mut_ptr().cast(), &mut size).unwrap() };
        (bytes.to_vec(), size)
    }

    #[test]
    fn an_address_comes_back_as_it_was() {
        for text in ["10.1.2.3:80", "[fd00::1]:65535", "0.0.0.0:0"] {
            let endpoint: Endpoint = text.parse().unwrap();
            let (bytes, size) = written(endpoint, 128);
            // SAFETY: as many bytes are there.
            let read = unsafe { read(bytes.as_ptr().cast(), size) };
            assert_eq!(read, Ok(endpoint));
        }
    }

    #[test]
    fn what_has_no_room_is_cut_and_its_length_told() {
        let (bytes, size) = written("10.1.2.3:80".parse().unwrap(), 4);
        assert_eq!((size, bytes[2..6].to_vec()), (16, vec![0, 80, 0xee, 0xee]));
    }

    #[test]
    fn senseless_addresses_are_refused() {
        let (bytes, _) = written("10.1.2.3:80".parse().unwrap(), 128);
        let (at, none) = (bytes.as_ptr().cast::<sockaddr>(), std::ptr::null());
        for (addr, size, errno) in [
            (none, 16, libc::EINVAL),
            (at, 0, libc::EINVAL),
            (at, 15, libc::EINVAL),
            (at, u32::MAX, libc::EINVAL),
            ([9_u16; 8].as_ptr().cast(), 16, libc::EAFNOSUPPORT),
        ] {
            // SAFETY: null, or longer than what a size that is let pass says.
            assert_eq!(unsafe { read(addr, size) }, Err(Errno::new(errno)), "{size}");
        }
    }
}
