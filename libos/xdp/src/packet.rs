//! AF_PACKET: frames of an interface that the kernel has as well.
//!
//! Receiving: through a ring shared with the kernel (TPACKET_V2: a frame is there when it has arrived, without the
//! time-outs of version 3), copied into receive memory of the heap. What is longer than a slot (the kernel's own segments
//! before they are cut up, up to 64 KiB) is fetched by a system call each. Sending: `sendmmsg`, gathering the pieces.
//!
//! **The kernel sees every frame too**, and answers those for addresses that it has. Take an interface with no address of
//! the kernel's on it (one end of a veth pair), and give ours to the stack alone.
//!
//! Source: Documentation/networking/packet_mmap.rst, packet(7).

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use libos_mem::{Buf, CopyPath, Heap, Purpose};
use libos_net::wire::{ETHERNET_LEN, Mac};
use libos_net::{Device, Frame, Link, Offloads, Received};
use pdpix::{Error, Instant, WakeOn};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::OpenError;
use crate::counters::Counters;
use crate::ffi;
use crate::ffi::batch::{self, Batch};
use crate::ffi::packet_ring::{Geometry, PacketRing, Slot};
use crate::interface::Interface;
use crate::vnet::{SEGMENTED_MAX, VNET_LEN, VnetHeader, WHOLE_MAX};

/// What interface to open, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PacketSettings {
    /// Its name.
    pub interface: String,
    /// Our address on the link. By default the interface's; another one takes `promiscuous`.
    #[serde(with = "crate::mac_text")]
    pub mac: Option<Mac>,
    /// Whether frames for other addresses are received, too.
    pub promiscuous: bool,
    /// Slots of the receive ring, 2 KiB each up to an MTU of about 1,900: a power of two.
    pub ring_slots: usize,
    /// Whether checksums are left out and long TCP segments travel in one piece, both ways.
    pub offload: bool,
    /// Sockets with the same number share the interface's frames, by the hash of the flow: one for each core.
    pub fanout: Option<u16>,
}

impl PacketSettings {
    /// The usual ones for this interface: its own address, 2,048 slots, nothing left out.
    pub fn new(interface: &str) -> PacketSettings {
        PacketSettings {
            interface: interface.into(),
            mac: None,
            promiscuous: false,
            ring_slots: 2048,
            offload: false,
            fanout: None,
        }
    }
}

/// A packet socket.
pub struct PacketSocket {
    socket: OwnedFd,
    interface: Interface,
    ring: PacketRing,
    batch: Batch,
    heap: Heap,
    link: Link,
    is_vnet: bool,
    is_down: bool,
    /// The interface went down, and nothing has come since.
    was_down: bool,
    is_busy: bool,
    is_short_of_memory: bool,
    /// When to look whether the interface is there still.
    look_at: Instant,
    counters: Counters,
}

/// How often a device that hears nothing looks whether its interface is there still.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What a socket may hold of frames that are longer than a slot, and of frames to be sent.
const SOCKET_BUFFER: i32 = 8 << 20;

const RAW: &str = "CAP_NET_RAW";

impl PacketSocket {
    /// Opens a socket on the interface.
    ///
    /// # Errors
    /// [`OpenError`]: mostly rights (CAP_NET_RAW), or the name.
    pub fn open(settings: PacketSettings, heap: Heap) -> Result<PacketSocket, OpenError> {
        let interface = Interface::find(&settings.interface)?;
        let socket = open_socket(&settings, &interface, |_| Ok(()))?;
        PacketSocket::over(socket, settings, heap)
    }

    /// A device over a socket that somebody with the rights has opened with the same settings.
    ///
    /// # Errors
    /// [`OpenError`]: it is not a packet socket on an interface of this network namespace.
    pub fn over(socket: OwnedFd, settings: PacketSettings, heap: Heap) -> Result<PacketSocket, OpenError> {
        let wrong = OpenError::WrongDescriptor("a packet socket that was opened with the same settings");
        let is_vnet = ffi::get_option::<i32>(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR).is_ok_and(|on| on != 0);
        if is_vnet != settings.offload {
            return Err(wrong);
        }
        let interface = Interface::find(&settings.interface)?;
        let mtu = interface.mtu()?;
        let geometry = geometry(&settings, mtu)?;
        let ring = PacketRing::map(&socket, geometry).map_err(|_| wrong)?;
        let offloads = Offloads {
            verifies: true,
            checksums: is_vnet,
            segments: is_vnet.then_some(SEGMENTED_MAX),
            gathers: batch::PIECES_MAX,
            external: true,
        };
        Ok(PacketSocket {
            link: Link { mac: settings.mac.map_or_else(|| interface.mac(), Ok)?, mtu, offloads },
            socket,
            interface,
            ring,
            batch: Batch::new(),
            heap,
            is_vnet,
            is_down: false,
            was_down: false,
            is_busy: false,
            is_short_of_memory: false,
            look_at: Instant::ZERO,
            counters: Counters::default(),
        })
    }

    /// The frame of the next slot, and whether it may go on.
    fn receive_one(&mut self) -> Next {
        let Some(slot) = self.ring.peek() else { return Next::Nothing };
        let next = take_slot(&slot, &self.heap, &self.socket, self.is_vnet, &mut self.counters);
        if !matches!(next, Next::NoMemory) {
            self.ring.release();
        }
        next
    }

    /// Whether the interface has gone since the last look.
    fn has_gone(&mut self, now: Instant) -> bool {
        if now < self.look_at {
            return false;
        }
        self.look_at = now + LOOK_INTERVAL;
        if let Ok(stats) =
            ffi::get_option::<libc::tpacket_stats>(&self.socket, libc::SOL_PACKET, libc::PACKET_STATISTICS)
        {
            self.counters.rx_dropped += u64::from(stats.tp_drops); // reading it resets it
        }
        // The error says, once, that the interface went down; it may come back, or go later without another word.
        self.was_down |= ffi::take_socket_error(&self.socket).is_some();
        self.was_down && !self.interface.exists()
    }
}

/// What the next slot had.
enum Next {
    Frame(Received),
    /// A frame that is not for us, or was dropped.
    Skipped,
    Nothing,
    NoMemory,
}

fn take_slot(slot: &Slot<'_>, heap: &Heap, socket: &OwnedFd, is_vnet: bool, counters: &mut Counters) -> Next {
    let whole = if slot.len <= slot.bytes.len() {
        copy(slot.bytes, heap, counters)
    } else if slot.status & libc::TP_STATUS_COPY != 0 {
        fetch(socket, slot.len, heap, is_vnet)
    } else {
        counters.rx_too_long += 1;
        return Next::Skipped;
    };
    let Some(buf) = whole else {
        counters.rx_no_memory += 1;
        return Next::NoMemory;
    };
    if slot.status & libc::TP_STATUS_VLAN_VALID != 0 {
        counters.rx_vlan += 1;
        return Next::Skipped;
    }
    if buf.len() != slot.len || buf.len() < ETHERNET_LEN {
        counters.rx_too_long += 1;
        return Next::Skipped;
    }
    // Not ready: the kernel left the checksum out, as the frame has not left this host.
    let verified = slot.status & (libc::TP_STATUS_CSUMNOTREADY | libc::TP_STATUS_CSUM_VALID) != 0
        || is_vnet
            && slot.before.last_chunk::<VNET_LEN>().and_then(|b| VnetHeader::read(b)).is_some_and(|h| h.is_verified());
    counters.rx_frames += 1;
    Next::Frame(Received { buf, verified })
}

fn copy(bytes: &[u8], heap: &Heap, counters: &mut Counters) -> Option<Buf> {
    let mut buf = heap.alloc_for(Purpose::Receive, bytes.len()).ok()?;
    buf.put(bytes);
    heap.count_copied(CopyPath::Receive, bytes.len());
    counters.rx_copied_bytes += bytes.len() as u64;
    Some(buf.freeze())
}

/// Fetches a frame that did not fit into its slot.
fn fetch(socket: &OwnedFd, len: usize, heap: &Heap, is_vnet: bool) -> Option<Buf> {
    let before = if is_vnet { VNET_LEN } else { 0 };
    let mut buf = heap.alloc_for(Purpose::Receive, before + len).ok()?;
    let _ = ffi::receive(socket, &mut buf);
    let mut whole = buf.freeze();
    whole.advance(before.min(whole.len()));
    Some(whole)
}

impl Device for PacketSocket {
    fn link(&self) -> Link {
        self.link
    }

    fn receive(&mut self, now: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error> {
        if self.is_down {
            return Ok(());
        }
        self.is_short_of_memory = false;
        let mut taken = 0;
        while taken < room {
            match self.receive_one() {
                Next::Frame(received) => into.push_back(received),
                Next::Skipped => {}
                Next::Nothing => break,
                Next::NoMemory => {
                    self.is_short_of_memory = true;
                    break;
                }
            }
            taken += 1;
        }
        if taken > 0 {
            self.was_down = false;
        } else if self.has_gone(now) {
            self.is_down = true;
            return Err(Error::NetworkDown);
        }
        Ok(())
    }

    fn transmit(&mut self, _: Instant, frames: &mut VecDeque<Frame>) {
        self.is_busy = false;
        while !frames.is_empty() {
            if self.is_down {
                self.counters.tx_dropped += frames.len() as u64;
                return frames.clear();
            }
            debug_assert!(frames[0].pieces().count() <= batch::PIECES_MAX, "more pieces than the device gathers");
            self.counters.tx_calls += 1;
            match self.batch.send(&self.socket, frames.iter(), self.is_vnet) {
                Ok(sent) => {
                    self.counters.tx_frames += sent as u64;
                    drop(frames.drain(..sent));
                }
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => {
                    self.counters.tx_busy += 1;
                    self.is_busy = true;
                    return;
                }
                // The link is down, or it was too long for it.
                Err(_) => {
                    self.counters.tx_dropped += 1;
                    frames.pop_front();
                }
            }
        }
    }

    fn flush(&mut self, _: Instant) {}

    fn arm(&mut self, _: Instant) -> WakeOn {
        // A look at the next poll, whatever the time: an interface that has gone wakes the descriptor.
        self.look_at = Instant::ZERO;
        if self.is_down {
            WakeOn::Nothing
        } else if self.is_short_of_memory || self.is_busy || self.was_down {
            WakeOn::Nap
        } else {
            WakeOn::Descriptor(self.socket.as_raw_fd())
        }
    }

    /// None: the kernel has copied what was sent.
    fn in_flight(&self) -> usize {
        0
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.counters.list()
    }
}

impl std::fmt::Debug for PacketSocket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PacketSocket({}, {:?})", self.interface.name(), self.link)
    }
}

/// Opens a socket on the interface, for this process or another one that has no rights. Before it hears anything, `prepare`
/// may set it further.
pub(crate) fn open_socket(
    settings: &PacketSettings,
    interface: &Interface,
    prepare: impl FnOnce(&OwnedFd) -> Result<(), OpenError>,
) -> Result<OwnedFd, OpenError> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let geometry = geometry(settings, interface.mtu()?)?;
    let what = "opening a packet socket";
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // No protocol yet: nothing is received before everything is set.
    let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)
        .map_err(OpenError::of(what, RAW))?;
    let set = |name, value: i32| {
        ffi::set_option(&socket, libc::SOL_PACKET, name, value).map_err(OpenError::of("setting a packet socket", RAW))
    };
    set(libc::PACKET_VERSION, 1)?; // TPACKET_V2
    set(libc::PACKET_IGNORE_OUTGOING, 1)?;
    set(libc::PACKET_COPY_THRESH, 1)?; // what does not fit into a slot is kept for a system call
    if settings.offload {
        set(libc::PACKET_VNET_HDR, 1)?;
    }
    // Beyond the system's limit it takes CAP_NET_ADMIN; up to the limit it is enough for a while.
    for (force, ask) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
        let set = |name| ffi::set_option(&socket, libc::SOL_SOCKET, name, SOCKET_BUFFER);
        let _ = set(force).or_else(|_| set(ask));
    }
    ffi::set_option(&socket, libc::SOL_PACKET, libc::PACKET_RX_RING, geometry.request())
        .map_err(OpenError::of("making the receive ring", RAW))?;
    prepare(&socket)?;
    let all = (libc::ETH_P_ALL as u16).to_be();
    ffi::bind_packet(&socket, interface.index(), all).map_err(OpenError::of("binding a packet socket", RAW))?;
    if let Some(group) = settings.fanout {
        set(libc::PACKET_FANOUT, i32::from(group) | (libc::PACKET_FANOUT_HASH as i32) << 16)?;
    }
    if settings.promiscuous {
        let membership = libc::packet_mreq {
            mr_ifindex: interface.index() as i32,
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        ffi::set_option(&socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, membership)
            .map_err(OpenError::of("receiving frames for others", RAW))?;
    }
    Ok(socket)
}

/// Slots of 2 KiB, or as large as the MTU takes, with the kernel's headers before each frame.
fn geometry(settings: &PacketSettings, mtu: usize) -> Result<Geometry, OpenError> {
    const BEFORE: usize = 128;
    let slots = settings.ring_slots;
    if !slots.is_power_of_two() || !(16..=65_536).contains(&slots) {
        let why = format!("a ring of {slots} slots: it takes a power of two from 16 to 65,536");
        return Err(OpenError::BadSettings(why));
    }
    let slot_size = (BEFORE + mtu + ETHERNET_LEN).next_power_of_two().clamp(2048, 64 * 1024);
    debug_assert!(WHOLE_MAX > slot_size);
    Ok(Geometry { slot_size, slots })
}
