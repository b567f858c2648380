//! What is known of drivers beyond what they say of themselves. Each line is measured (docs/dpdk.md), and costs only speed
//! where a driver is none of these.

use crate::PortSettings;
use crate::ffi::PIECES_MAX;

/// What a driver needs to be treated with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Manners {
    /// It wants a pool with data of its own to receive into: its memory is what the kernel writes to.
    pub plain_pool: bool,
    /// Its address is that of the kernel's interface at its other end, which takes nothing from itself: ours is another.
    pub mac_is_the_peers: bool,
    /// Checksums are done by its software, if at all: ours is as good.
    pub no_offload: bool,
    /// It says that it cuts segments up before it knows whether its peer takes long ones.
    pub knows_peer_later: bool,
    /// It brings TCP segments that nobody has cut up, in chains of buffers of the pool; what finds none is dropped.
    pub brings_long: bool,
    /// An empty burst makes it give back what it has sent.
    pub reaps_when_empty: bool,
    /// Buffers that it may keep before it gives any back, if that can be chosen.
    pub keeps: Option<u16>,
    /// Descriptors of its rings, where it does not listen to what it is told.
    pub ring_size: Option<u16>,
    /// A frame in pieces that meets a full ring is counted twice, and never given back: the ring must never be full.
    pub counts_twice_when_full: bool,
    /// It forgets buffers when its peer goes, and never gives them back.
    pub loses: bool,
    /// Its link may come back after it was lost.
    pub comes_back: bool,
    /// It looks for its peer once, when it is started: while there is no link, it is to be started again.
    pub looks_once: bool,
    /// It unmaps memory on DPDK's own thread when its peer goes, whoever polls it then.
    pub unmaps_while_polled: bool,
}

const USUAL: Manners = Manners {
    plain_pool: false,
    mac_is_the_peers: false,
    no_offload: false,
    knows_peer_later: false,
    brings_long: false,
    reaps_when_empty: false,
    keeps: None,
    ring_size: None,
    counts_twice_when_full: false,
    loses: false,
    comes_back: true,
    looks_once: false,
    unmaps_while_polled: false,
};

/// For this driver.
pub(crate) fn manners(driver: &str, settings: &PortSettings) -> Manners {
    let number = |name: &str| settings.argument(name).and_then(|text| text.parse::<u16>().ok());
    match driver {
        "net_memif" => {
            // In copy mode the buffers are back when the call returns.
            let is_zero_copy = settings.argument("zero-copy") == Some("yes");
            Manners {
                reaps_when_empty: is_zero_copy,
                counts_twice_when_full: is_zero_copy,
                ring_size: Some(1 << number("rsize").unwrap_or(10).min(14)),
                loses: true,
                comes_back: !is_zero_copy,
                looks_once: !settings.is_memif_server(),
                unmaps_while_polled: true,
                ..USUAL
            }
        }
        "net_virtio_user" | "net_virtio" => {
            let size = number("queue_size").unwrap_or(256);
            // As a client it connects once.
            let is_server = settings.argument("server") == Some("1");
            let comes_back = driver == "net_virtio" || is_server;
            Manners {
                knows_peer_later: is_server,
                keeps: Some(size.saturating_sub(4)),
                ring_size: Some(size),
                comes_back,
                ..USUAL
            }
        }
        "net_vhost" => Manners { brings_long: settings.argument("tso") == Some("1"), ..USUAL },
        // What is in the ring that the kernel fills is never given back; its socket and its memory are gone by then.
        "net_af_xdp" => Manners { plain_pool: true, loses: true, ..USUAL },
        "net_tap" | "net_tun" => Manners { mac_is_the_peers: true, no_offload: true, ..USUAL },
        _ => USUAL,
    }
}

/// Of a ring of so many descriptors, how many a driver may keep before it gives back any.
impl Manners {
    pub(crate) fn free_threshold(&self, ring_size: u16) -> Option<u16> {
        self.keeps.map(|_| ring_size.saturating_sub(4)).filter(|&threshold| threshold > 0)
    }

    /// How much may be with the driver at a time, by a transmit ring of so many, as far as it listens to that.
    ///
    /// # Errors
    /// The size that it has and the least that would do.
    pub(crate) fn send_room(&self, ring_size: u16) -> Result<SendRoom, [usize; 2]> {
        if !self.counts_twice_when_full {
            let size = usize::from(ring_size.max(self.ring_size.unwrap_or(0)));
            let pieces = 4 * size.clamp(256, 4096);
            return Ok(SendRoom { pieces, short: pieces / 4 + 512 });
        }
        // What it has, and not what it was asked for: together less than that, and room for a few frames of either kind.
        const SIZE_MIN: usize = 8 * PIECES_MAX;
        let size = usize::from(self.ring_size.unwrap_or(ring_size));
        if size < SIZE_MIN {
            return Err([size, SIZE_MIN]);
        }
        Ok(SendRoom { pieces: size / 2, short: size / 2 - (size / 8).min(64) })
    }
}

/// What may be with a driver at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SendRoom {
    /// Pieces of frames, where they lie.
    pub pieces: usize,
    /// Short frames, copied.
    pub short: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_that_must_not_be_full_never_is() {
        let memif = |rsize: usize| {
            let device = format!("net_memif0,role=client,zero-copy=yes,rsize={rsize}");
            manners("net_memif", &PortSettings::new(&device))
        };
        for rsize in 0..7 {
            assert_eq!(memif(rsize).send_room(512), Err([1 << rsize, 128]));
        }
        for rsize in 7..15 {
            // Whatever is asked for, it has its own.
            for asked in [64, 512, 16_384] {
                let SendRoom { pieces, short } = memif(rsize).send_room(asked).unwrap();
                assert!(pieces + short < 1 << rsize, "{rsize}: {pieces} and {short}");
                assert!(pieces >= 2 * PIECES_MAX && short >= PIECES_MAX, "{rsize}: {pieces} and {short}");
            }
        }
    }
}
