//! The header that the kernel puts before a frame, and takes before one, when checksums and segments are left to it
//! (virtio 1.2, §5.1.6; the legacy form of ten bytes, in the machine's byte order).

use libos_net::Frame;
use libos_net::wire::{ETHERNET_LEN, EtherType, EthernetHeader};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct virtio_net_hdr`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub(crate) struct VnetHeader {
    flags: u8,
    gso_type: u8,
    header_len: u16,
    gso_size: u16,
    checksum_start: u16,
    checksum_offset: u16,
}

const _: () = assert!(size_of::<VnetHeader>() == VNET_LEN);

/// Bytes of the header.
pub(crate) const VNET_LEN: usize = 10;

/// The checksum is to be filled in. In a frame received: it never was.
const NEEDS_CHECKSUM: u8 = 1;
/// The checksums were found right.
const DATA_VALID: u8 = 2;

const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

impl VnetHeader {
    /// What to say about a frame of ours.
    pub(crate) fn for_frame(frame: &Frame) -> VnetHeader {
        let mut header = VnetHeader::default();
        if let Some(checksum) = frame.checksum {
            header.flags = NEEDS_CHECKSUM;
            header.checksum_start = checksum.start;
            header.checksum_offset = checksum.field;
        }
        if frame.segment_size > 0 {
            let is_ipv6 = EthernetHeader::ref_from_prefix(&frame.header)
                .is_ok_and(|(ethernet, _)| ethernet.ethertype == EtherType::IPV6);
            header.gso_type = if is_ipv6 { GSO_TCPV6 } else { GSO_TCPV4 };
            header.gso_size = frame.segment_size;
            header.header_len = frame.header.len() as u16;
        }
        header
    }

    /// Reads the one at the start of `bytes`.
    pub(crate) fn read(bytes: &[u8]) -> Option<VnetHeader> {
        VnetHeader::read_from_prefix(bytes).ok().map(|(header, _)| header)
    }

    /// Whether a frame received with it needs no check: somebody did it, or it never left this host.
    pub(crate) fn is_verified(&self) -> bool {
        self.flags & (NEEDS_CHECKSUM | DATA_VALID) != 0
    }
}

/// The longest payload of a frame that the kernel cuts up: IP packets have 64 KiB, and headers at most 120 + 14 of them.
pub(crate) const SEGMENTED_MAX: usize = 65_535 - 134;

/// The longest frame that can come from a kernel that leaves cutting up to us.
pub(crate) const WHOLE_MAX: usize = ETHERNET_LEN + 4 + 65_535;

#[cfg(test)]
mod tests {
    use libos_mem::Heap;
    use libos_net::ChecksumAt;
    use pdpix::Sga;

    use super::*;

    fn frame(ether_type: EtherType, segment_size: u16) -> Frame {
        let heap = Heap::alone(4 << 20).unwrap();
        let mut header = vec![0; 54];
        header[12..14].copy_from_slice(ether_type.as_bytes());
        let checksum = Some(ChecksumAt { start: 34, field: 16 });
        Frame { header: heap.copy(&header).unwrap(), payload: Sga::new(), checksum, segment_size }
    }

    #[test]
    fn a_header_says_what_the_frame_leaves_to_the_kernel() {
        let plain = VnetHeader::for_frame(&Frame { checksum: None, ..frame(EtherType::IPV4, 0) });
        assert_eq!(plain, VnetHeader::default());
        let summed = VnetHeader::for_frame(&frame(EtherType::IPV4, 0));
        assert_eq!((summed.flags, summed.checksum_start, summed.checksum_offset, summed.gso_type), (1, 34, 16, 0));
        let cut = VnetHeader::for_frame(&frame(EtherType::IPV4, 1448));
        assert_eq!((cut.gso_type, cut.gso_size, cut.header_len), (GSO_TCPV4, 1448, 54));
        assert_eq!(VnetHeader::for_frame(&frame(EtherType::IPV6, 1428)).gso_type, GSO_TCPV6);
    }

    #[test]
    fn a_frame_is_verified_when_the_kernel_vouches_for_it() {
        for (flags, is_verified) in [(0, false), (1, true), (2, true), (4, false)] {
            let bytes = [flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, 99];
            assert_eq!(VnetHeader::read(&bytes).unwrap().is_verified(), is_verified, "{flags}");
        }
        assert_eq!(VnetHeader::read(&[0; 9]), None);
    }
}
