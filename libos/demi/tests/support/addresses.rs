//! Addresses as C has them.

use std::ffi::c_int;
use std::net::SocketAddr;

use libc::{sockaddr, sockaddr_storage, socklen_t};
use pdpix::{Endpoint, Error};

use super::checked;

/// An address as C has it.
pub(super) fn to_c(endpoint: Endpoint) -> (sockaddr_storage, socklen_t) {
    // SAFETY: zero-filled memory is a value of it.
    let mut storage: sockaddr_storage = unsafe { std::mem::zeroed() };
    let at = &raw mut storage;
    let size = match endpoint {
        SocketAddr::V4(v4) => {
            let sin_addr = libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() };
            let sin = libc::sockaddr_in {
                sin_family: libc::AF_INET as _,
                sin_port: v4.port().to_be(),
                sin_addr,
                sin_zero: [0; 8],
            };
            // SAFETY: there is room, by the definition of the storage.
            unsafe { at.cast::<libc::sockaddr_in>().write(sin) };
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let sin = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as _,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: as above.
            unsafe { at.cast::<libc::sockaddr_in6>().write(sin) };
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, size as socklen_t)
}

pub(super) fn of_c(storage: &sockaddr_storage) -> Option<Endpoint> {
    let at = &raw const *storage;
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says what it is.
            let sin = unsafe { at.cast::<libc::sockaddr_in>().read() };
            Some(SocketAddr::from((u32::from_be(sin.sin_addr.s_addr).to_be_bytes(), u16::from_be(sin.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let sin = unsafe { at.cast::<libc::sockaddr_in6>().read() };
            Some(SocketAddr::from((sin.sin6_addr.s6_addr, u16::from_be(sin.sin6_port))))
        }
        _ => None,
    }
}

/// Asks a call for an address.
pub(super) fn address(call: impl FnOnce(*mut sockaddr, *mut socklen_t) -> c_int) -> Result<Endpoint, Error> {
    // SAFETY: zero-filled memory is a value of it.
    let mut storage: sockaddr_storage = unsafe { std::mem::zeroed() };
    let mut size = size_of::<sockaddr_storage>() as socklen_t;
    checked(call((&raw mut storage).cast(), &mut size))?;
    Ok(of_c(&storage).expect("a family that it was told"))
}
