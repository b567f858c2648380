//! CRC32C, on its own and fused with a copy.

use crc32c::crc32c_append;
use libos_mem::BufMut;

/// Copied and summed in pieces of this size, so that the sum finds what the copy has just written in the first cache.
const PIECE: usize = 4096;

/// Appends `bytes` to `page`, which has room for them, and gives the checksum that went on from `crc` over them. The source
/// is read once.
#[inline]
pub(crate) fn copy_summed(page: &mut BufMut, bytes: &[u8], mut crc: u32) -> u32 {
    for piece in bytes.chunks(PIECE) {
        let from = page.len();
        let copied = page.put(piece);
        debug_assert_eq!(copied, piece.len(), "the page was to have room");
        crc = sum(crc, &page[from..]);
    }
    crc
}

/// The checksum that goes on from `crc` over `bytes` of payload.
#[inline]
pub(crate) fn sum(crc: u32, bytes: &[u8]) -> u32 {
    if cfg!(margay_planted_bug = "crc_without_payload") {
        return crc;
    }
    crc32c_append(crc, bytes)
}
