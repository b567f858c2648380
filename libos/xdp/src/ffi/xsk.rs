//! Calls of an AF_XDP socket.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libos_mem::{Buf, BufMut, Reservation};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::mapping::Mapping;
use super::xsk_ring::{ConsumerRing, ProducerRing};
use super::{Plain, check, get_option, set_option};

// SAFETY: structs of integers. The address in `xdp_umem_reg` is kept by the kernel: `register` argues for that.
unsafe impl Plain for libc::xdp_mmap_offsets {}
// SAFETY: as above.
unsafe impl Plain for libc::xdp_statistics {}
// SAFETY: as above.
unsafe impl Plain for libc::xdp_options {}
// SAFETY: as above.
unsafe impl Plain for libc::xdp_umem_reg {}

pub(crate) fn open() -> Result<OwnedFd, Errno> {
    let family = AddressFamily::from_raw(libc::AF_XDP as u16);
    rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, None)
}

/// Registers the whole reservation as the socket's UMEM, in chunks that may begin anywhere.
pub(crate) fn register(socket: impl AsFd, reservation: &Reservation, chunk_size: u32) -> Result<(), Errno> {
    let umem = libc::xdp_umem_reg {
        addr: reservation.base().as_ptr() as u64,
        len: reservation.size() as u64,
        chunk_size,
        headroom: 0,
        flags: libc::XDP_UMEM_UNALIGNED_CHUNK_FLAG,
        tx_metadata_len: 0,
    };
    // The kernel pins the pages. It writes to them only where the fill ring says so, reads only where the transmit ring
    // does, and keeps them if they are unmapped here: so this by itself touches no memory of ours.
    set_option(socket, libc::SOL_XDP, libc::XDP_UMEM_REG, umem)
}

/// The rings of one socket.
pub(crate) struct Rings {
    pub(crate) fill: ProducerRing<u64>,
    pub(crate) completion: ConsumerRing<u64>,
    pub(crate) rx: ConsumerRing<libc::xdp_desc>,
    pub(crate) tx: ProducerRing<libc::xdp_desc>,
}

impl Rings {
    /// Makes and maps rings of `size` entries each.
    pub(crate) fn map(socket: impl AsFd, size: u32) -> Result<Rings, Errno> {
        for name in [libc::XDP_UMEM_FILL_RING, libc::XDP_UMEM_COMPLETION_RING, libc::XDP_RX_RING, libc::XDP_TX_RING] {
            set_option(&socket, libc::SOL_XDP, name, size)?;
        }
        let offsets: libc::xdp_mmap_offsets = get_option(&socket, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)?;
        let map = |ring: &libc::xdp_ring_offset, entry_size: usize, page: u64| {
            Mapping::new(&socket, ring.desc as usize + size as usize * entry_size, page)
        };
        let address = size_of::<u64>();
        let desc = size_of::<libc::xdp_desc>();
        let fill = map(&offsets.fr, address, libc::XDP_UMEM_PGOFF_FILL_RING)?;
        let completion = map(&offsets.cr, address, libc::XDP_UMEM_PGOFF_COMPLETION_RING)?;
        let rx = map(&offsets.rx, desc, libc::XDP_PGOFF_RX_RING as u64)?;
        let tx = map(&offsets.tx, desc, libc::XDP_PGOFF_TX_RING as u64)?;
        Ok(Rings {
            fill: ProducerRing::new(fill, &offsets.fr, size),
            completion: ConsumerRing::new(completion, &offsets.cr, size),
            rx: ConsumerRing::new(rx, &offsets.rx, size),
            tx: ProducerRing::new(tx, &offsets.tx, size),
        })
    }
}

/// Binds a socket to a queue of an interface, with a UMEM of its own or that of `shared`.
pub(crate) fn bind(
    socket: impl AsFd,
    index: u32,
    queue: u32,
    flags: u16,
    shared: Option<&OwnedFd>,
) -> Result<(), Errno> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags | shared.map_or(0, |_| libc::XDP_SHARED_UMEM),
        sxdp_ifindex: index,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: shared.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    let len = size_of_val(&address) as u32;
    // SAFETY: the kernel reads `len` bytes, as many as `address` has.
    check(unsafe { libc::bind(socket.as_fd().as_raw_fd(), (&raw const address).cast(), len) })?;
    Ok(())
}

/// Whether the device reads and writes the UMEM itself.
pub(crate) fn is_zero_copy(socket: impl AsFd) -> Result<bool, Errno> {
    let options: libc::xdp_options = get_option(socket, libc::SOL_XDP, libc::XDP_OPTIONS)?;
    Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

pub(crate) fn statistics(socket: impl AsFd) -> Result<libc::xdp_statistics, Errno> {
    get_option(socket, libc::SOL_XDP, libc::XDP_STATISTICS)
}

/// Tells the kernel to send what is in the transmit ring.
pub(crate) fn kick_transmit(socket: impl AsFd) -> Result<(), Errno> {
    // SAFETY: no buffer and no address: the kernel touches no memory of ours but the rings.
    check(unsafe {
        let fd = socket.as_fd().as_raw_fd();
        libc::sendto(fd, std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) as i32
    })?;
    Ok(())
}

/// Tells the kernel to look at the fill ring, or to poll the device for us.
pub(crate) fn kick_receive(socket: impl AsFd) -> Result<(), Errno> {
    // SAFETY: as above.
    check(unsafe {
        let fd = socket.as_fd().as_raw_fd();
        let (no_address, no_len) = (std::ptr::null_mut(), std::ptr::null_mut());
        libc::recvfrom(fd, std::ptr::null_mut(), 0, libc::MSG_DONTWAIT, no_address, no_len) as i32
    })?;
    Ok(())
}

/// The frame of `len` bytes at `offset` that the kernel has written into `buf`. `None`: it does not lie inside.
pub(crate) fn received(mut buf: BufMut, offset: usize, len: usize) -> Option<Buf> {
    let end = offset.checked_add(len)?;
    if end > buf.capacity() {
        return None;
    }
    // SAFETY: the kernel wrote `offset..end`; what is before it is memory of the reservation, which is initialised from
    // the start (zero pages, or as `Reservation::over_external` demands), and within the capacity.
    unsafe { buf.set_len(end) };
    let mut frame = buf.freeze();
    frame.advance(offset);
    Some(frame)
}
