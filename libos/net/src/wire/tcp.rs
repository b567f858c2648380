//! TCP headers (RFC 9293 §3.1) and the options that we know: MSS (§3.7.1), window scale and timestamps (RFC 7323 §2, §3),
//! selective acknowledgements (RFC 2018).

use smallvec::SmallVec;
use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a TCP header without options.
pub const TCP_LEN: usize = size_of::<TcpHeader>();
/// The most bytes of options.
pub const TCP_OPTIONS_MAX: usize = 40;
/// The most blocks of a selective acknowledgement that fit (RFC 2018 §3).
pub const SACK_BLOCKS_MAX: usize = 4;

/// The header of a segment, up to its options.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
#[allow(missing_docs, reason = "RFC 9293's names")]
pub struct TcpHeader {
    pub source: U16,
    pub destination: U16,
    pub sequence: U32,
    pub acknowledgment: U32,
    /// The length of the header in words, in the high four bits.
    pub data_offset: u8,
    pub flags: Flags,
    pub window: U16,
    pub checksum: U16,
    pub urgent: U16,
}

impl TcpHeader {
    /// Bytes of the header, options included, as it says.
    #[inline]
    pub const fn header_len(&self) -> usize {
        (self.data_offset >> 4) as usize * 4
    }
}

/// Control bits.
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(transparent)]
pub struct Flags(pub u8);

#[allow(missing_docs, reason = "RFC 9293's names")]
impl Flags {
    pub const FIN: Flags = Flags(0x01);
    pub const SYN: Flags = Flags(0x02);
    pub const RST: Flags = Flags(0x04);
    pub const PSH: Flags = Flags(0x08);
    pub const ACK: Flags = Flags(0x10);
    pub const URG: Flags = Flags(0x20);
    pub const ECE: Flags = Flags(0x40);
    pub const CWR: Flags = Flags(0x80);

    /// Both.
    #[inline]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    #[inline]
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any of `other` is set.
    #[inline]
    pub const fn any(self, other: Flags) -> bool {
        self.0 & other.0 != 0
    }
}

impl std::fmt::Debug for Flags {
    /// As tcpdump writes them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const LETTERS: [(Flags, char); 8] = [
            (Flags::FIN, 'F'),
            (Flags::SYN, 'S'),
            (Flags::RST, 'R'),
            (Flags::PSH, 'P'),
            (Flags::ACK, '.'),
            (Flags::URG, 'U'),
            (Flags::ECE, 'E'),
            (Flags::CWR, 'W'),
        ];
        LETTERS.iter().filter(|(flag, _)| self.has(*flag)).try_for_each(|(_, letter)| write!(f, "{letter}"))
    }
}

/// RFC 7323 §3: TSval and TSecr.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timestamps {
    /// The sender's clock.
    pub value: u32,
    /// What the sender had from us.
    pub echo: u32,
}

/// Bytes of the option with two NOPs before it (RFC 7323, appendix A).
pub const STAMPS_LEN: usize = 12;

impl Timestamps {
    /// The option as nearly all segments have it: two NOPs before it.
    #[inline]
    pub fn option(self) -> [u8; STAMPS_LEN] {
        let ([v0, v1, v2, v3], [e0, e1, e2, e3]) = (self.value.to_be_bytes(), self.echo.to_be_bytes());
        [NOP, NOP, TIMESTAMPS, 10, v0, v1, v2, v3, e0, e1, e2, e3]
    }
}

/// Ranges of sequence numbers, the left edge and the right one.
pub type SackBlocks = SmallVec<[(u32, u32); SACK_BLOCKS_MAX]>;

/// The options of a segment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TcpOptions {
    /// The largest segment that its sender takes. Only on SYN.
    pub mss: Option<u16>,
    /// The shift of its windows, not more than 14 (RFC 7323 §2.3). Only on SYN.
    pub window_scale: Option<u8>,
    /// It understands selective acknowledgements. Only on SYN.
    pub sack_permitted: bool,
    /// Its timestamps.
    pub timestamps: Option<Timestamps>,
    /// What it has beyond the acknowledgement.
    pub sack: SackBlocks,
}

const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const WINDOW_SCALE: u8 = 3;
const SACK_PERMITTED: u8 = 4;
const SACK: u8 = 5;
const TIMESTAMPS: u8 = 8;

impl TcpOptions {
    /// Reads the options of a segment. `None`: a length is wrong (RFC 9293 §3.1: such a segment is dropped). Options that
    /// nobody knows are skipped.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<TcpOptions> {
        // What nearly all segments of a connection have: two NOPs and the timestamps (RFC 7323, appendix A).
        if let Ok(bytes) = bytes.try_into()
            && let Some(timestamps) = TcpOptions::parse_timestamps_only(bytes)
        {
            return Some(TcpOptions { timestamps: Some(timestamps), ..TcpOptions::default() });
        }
        TcpOptions::parse_any(bytes)
    }

    /// Reads options of two NOPs and the timestamps. `None`: they are others.
    #[inline(always)]
    pub fn parse_timestamps_only(bytes: &[u8; 12]) -> Option<Timestamps> {
        let &[n, m, kind, len, v0, v1, v2, v3, e0, e1, e2, e3] = bytes;
        let timestamps =
            Timestamps { value: u32::from_be_bytes([v0, v1, v2, v3]), echo: u32::from_be_bytes([e0, e1, e2, e3]) };
        ([n, m, kind, len] == [NOP, NOP, TIMESTAMPS, 10]).then_some(timestamps)
    }

    fn parse_any(mut bytes: &[u8]) -> Option<TcpOptions> {
        let mut options = TcpOptions::default();
        loop {
            let (kind, data, rest) = match bytes {
                [] | [END, ..] => return Some(options),
                [NOP, rest @ ..] => {
                    bytes = rest;
                    continue;
                }
                [kind, len, rest @ ..] => {
                    let (data, rest) = rest.split_at_checked(usize::from(*len).checked_sub(2)?)?;
                    (*kind, data, rest)
                }
                [_] => return None,
            };
            options.take(kind, data)?;
            bytes = rest;
        }
    }

    fn take(&mut self, kind: u8, data: &[u8]) -> Option<()> {
        match (kind, data) {
            (MSS, &[high, low]) => self.mss = Some(u16::from_be_bytes([high, low])),
            (WINDOW_SCALE, &[shift]) => self.window_scale = Some(shift.min(14)),
            (SACK_PERMITTED, []) => self.sack_permitted = true,
            (TIMESTAMPS, data) if data.len() == 8 => self.timestamps = parse_timestamps(data),
            (SACK, data) if data.len().is_multiple_of(8) && data.len() <= 8 * SACK_BLOCKS_MAX => {
                let word = |at: &[u8]| u32::from_be_bytes([at[0], at[1], at[2], at[3]]);
                self.sack = data.chunks_exact(8).map(|block| (word(block), word(&block[4..]))).collect();
            }
            (MSS | WINDOW_SCALE | SACK_PERMITTED | TIMESTAMPS | SACK, _) => return None,
            _ => {}
        }
        Some(())
    }

    /// Bytes that [`TcpOptions::write`] needs: a multiple of four.
    pub fn len(&self) -> usize {
        let mss = if self.mss.is_some() { 4 } else { 0 };
        let scale = if self.window_scale.is_some() { 4 } else { 0 };
        // With timestamps it takes the place of their padding.
        let permitted = if self.sack_permitted && self.timestamps.is_none() { 4 } else { 0 };
        let timestamps = if self.timestamps.is_some() { 12 } else { 0 };
        let sack = if self.sack.is_empty() { 0 } else { 4 + 8 * self.sack.len() };
        mss + scale + permitted + timestamps + sack
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes them, in the order that Linux writes them, and says how many bytes that were.
    ///
    /// # Panics
    /// If `into` is shorter than [`TcpOptions::len`].
    #[inline]
    pub fn write(&self, into: &mut [u8]) -> usize {
        // As in `parse`: what nearly all have.
        if let TcpOptions { mss: None, window_scale: None, sack_permitted: false, timestamps: Some(stamps), sack } =
            self
            && sack.is_empty()
        {
            into[..STAMPS_LEN].copy_from_slice(&stamps.option());
            return STAMPS_LEN;
        }
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            into[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        if let Some(mss) = self.mss {
            put(&[MSS, 4]);
            put(&mss.to_be_bytes());
        }
        match (self.sack_permitted, self.timestamps.is_some()) {
            (true, true) => put(&[SACK_PERMITTED, 2]),
            (true, false) => put(&[NOP, NOP, SACK_PERMITTED, 2]),
            (false, true) => put(&[NOP, NOP]),
            (false, false) => {}
        }
        if let Some(timestamps) = self.timestamps {
            put(&[TIMESTAMPS, 10]);
            put(&timestamps.value.to_be_bytes());
            put(&timestamps.echo.to_be_bytes());
        }
        if let Some(shift) = self.window_scale {
            put(&[NOP, WINDOW_SCALE, 3, shift]);
        }
        if !self.sack.is_empty() {
            put(&[NOP, NOP, SACK, 2 + 8 * self.sack.len() as u8]);
            for (left, right) in &self.sack {
                put(&left.to_be_bytes());
                put(&right.to_be_bytes());
            }
        }
        at
    }
}

#[inline]
fn parse_timestamps(data: &[u8]) -> Option<Timestamps> {
    let word = |at: usize| Some(u32::from_be_bytes(*data.get(at..)?.first_chunk()?));
    Some(Timestamps { value: word(0)?, echo: word(4)? })
}

#[cfg(test)]
mod tests {
    use quickcheck::{Arbitrary, Gen, quickcheck};

    use super::*;

    impl Arbitrary for TcpOptions {
        fn arbitrary(g: &mut Gen) -> TcpOptions {
            let timestamps =
                bool::arbitrary(g).then(|| Timestamps { value: u32::arbitrary(g), echo: u32::arbitrary(g) });
            let on_syn = bool::arbitrary(g);
            let blocks = if on_syn { 0 } else { usize::arbitrary(g) % if timestamps.is_some() { 4 } else { 5 } };
            TcpOptions {
                mss: on_syn.then(|| u16::arbitrary(g)),
                window_scale: (on_syn && bool::arbitrary(g)).then(|| u8::arbitrary(g) % 15),
                sack_permitted: on_syn && bool::arbitrary(g),
                timestamps,
                sack: (0..blocks).map(|_| (u32::arbitrary(g), u32::arbitrary(g))).collect(),
            }
        }
    }

    quickcheck! {
        fn what_is_written_is_read(options: TcpOptions) -> bool {
            let mut bytes = [0xaa; TCP_OPTIONS_MAX];
            let len = options.write(&mut bytes);
            len == options.len() && len.is_multiple_of(4) && TcpOptions::parse(&bytes[..len]) == Some(options)
        }

        fn no_bytes_make_it_panic(bytes: Vec<u8>) -> bool {
            TcpOptions::parse(&bytes).is_none_or(|options| options.sack.len() <= SACK_BLOCKS_MAX)
        }
    }

    #[test]
    fn wrong_lengths_are_refused_and_the_unknown_is_skipped() {
        assert_eq!(TcpOptions::parse(&[MSS, 4, 5]), None, "beyond the end");
        assert_eq!(TcpOptions::parse(&[MSS, 3, 5]), None, "not its length");
        assert_eq!(TcpOptions::parse(&[99, 1, 0, 0]), None, "shorter than itself");
        assert_eq!(TcpOptions::parse(&[99, 0, 0, 0]), None, "would never end");
        assert_eq!(TcpOptions::parse(&[99]), None, "no length");
        let parsed = TcpOptions::parse(&[99, 3, 7, NOP, MSS, 4, 5, 0xb4, END, 99]).unwrap();
        assert_eq!(parsed, TcpOptions { mss: Some(1460), ..TcpOptions::default() });
        let shift = TcpOptions::parse(&[WINDOW_SCALE, 3, 200]).unwrap().window_scale;
        assert_eq!(shift, Some(14), "RFC 7323 §2.3: a larger one is taken for 14");
    }

    #[test]
    fn flags_are_written_as_tcpdump_does() {
        assert_eq!(format!("{:?}", Flags::SYN.with(Flags::ACK).with(Flags::ECE)), "S.E");
    }
}
