//! Neighbour discovery (RFC 4861 §4): messages of ICMPv6.

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Mac;

/// A neighbour solicitation or advertisement (§4.3, §4.4), without its options.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the RFC's names")]
pub struct NeighbourMessage {
    pub kind: u8,
    pub code: u8,
    pub checksum: U16,
    /// Of an advertisement; of a solicitation nothing.
    pub flags: U32,
    pub target: [u8; 16],
}

impl NeighbourMessage {
    /// R: the sender is a router.
    pub const ROUTER: u32 = 1 << 31;
    /// S: it answers a solicitation.
    pub const SOLICITED: u32 = 1 << 30;
    /// O: it overrides what is known.
    pub const OVERRIDE: u32 = 1 << 29;
}

/// A router advertisement (§4.2), without its options.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "the RFC's names")]
pub struct RouterAdvertisement {
    pub kind: u8,
    pub code: u8,
    pub checksum: U16,
    pub hop_limit: u8,
    pub flags: u8,
    /// Seconds that it is a default router; zero: it is none.
    pub lifetime: U16,
    pub reachable_ms: U32,
    pub retransmit_ms: U32,
}

/// The option with a link-layer address (§4.6.1).
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct LinkAddressOption {
    /// [`SOURCE_LINK_ADDRESS`] or [`TARGET_LINK_ADDRESS`].
    pub kind: u8,
    /// In units of 8 bytes: 1.
    pub len: u8,
    /// The address.
    pub mac: Mac,
}

/// Of the sender.
pub const SOURCE_LINK_ADDRESS: u8 = 1;
/// Of the target.
pub const TARGET_LINK_ADDRESS: u8 = 2;

impl LinkAddressOption {
    /// The first option of this kind in a message's options. RFC 4861 §6.1, §7.1: an option of length zero makes the
    /// message invalid, and so does one that does not fit.
    ///
    /// # Errors
    /// The message is to be dropped.
    pub fn find(options: &[u8], kind: u8) -> Result<Option<Mac>, Malformed> {
        let (mut rest, mut found) = (options, None);
        while !rest.is_empty() {
            let len = 8 * usize::from(*rest.get(1).ok_or(Malformed)?);
            if len == 0 || len > rest.len() {
                return Err(Malformed);
            }
            if rest[0] == kind && len == size_of::<LinkAddressOption>() && found.is_none() {
                let option = LinkAddressOption::ref_from_bytes(&rest[..len]).map_err(|_| Malformed)?;
                found = Some(option.mac);
            }
            rest = &rest[len..];
        }
        Ok(found)
    }
}

/// Options that do not add up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

const _: () = assert!(
    size_of::<NeighbourMessage>() == 24
        && size_of::<RouterAdvertisement>() == 16
        && size_of::<LinkAddressOption>() == 8
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_no_length_and_beyond_the_end_are_malformed() {
        let good = [14, 1, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 9];
        assert_eq!(LinkAddressOption::find(&good, SOURCE_LINK_ADDRESS), Ok(Some(Mac([2, 0, 0, 0, 0, 9]))));
        assert_eq!(LinkAddressOption::find(&good, TARGET_LINK_ADDRESS), Ok(None));
        assert_eq!(LinkAddressOption::find(&[], SOURCE_LINK_ADDRESS), Ok(None));
        for wrong in [&[1u8, 0, 0, 0, 0, 0, 0, 0][..], &[1, 2, 0, 0, 0, 0, 0, 0], &[1]] {
            assert_eq!(LinkAddressOption::find(wrong, SOURCE_LINK_ADDRESS), Err(Malformed), "{wrong:?}");
        }
    }
}
