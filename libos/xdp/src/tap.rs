//! TAP: an interface whose other end is a descriptor. What the kernel sends out of the interface is what we receive.
//!
//! One frame a system call. Frames are read straight into receive memory of the heap, and written from where their pieces
//! lie. By default the kernel hands over frames whose checksums are filled in and that fit the MTU; with
//! [`TapSettings::offload`] both sides leave that to the other one (nothing is ever computed: the bytes stay on this host).
//!
//! Source: Documentation/networking/tuntap.rst. Not here: several queues.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use libos_mem::{BufMut, CopyPath, Heap, Purpose};
use libos_net::wire::{ETHERNET_LEN, Mac};
use libos_net::{Device, Frame, Link, Offloads, Received};
use pdpix::{Error, Instant, WakeOn};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use zerocopy::IntoBytes;

use crate::OpenError;
use crate::counters::Counters;
use crate::ffi;
use crate::ffi::control::{Request, tap_number};
use crate::interface::{Interface, NET_ADMIN};
use crate::vnet::{SEGMENTED_MAX, VNET_LEN, VnetHeader, WHOLE_MAX};

/// What TAP interface to open, and how.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TapSettings {
    /// The interface's name; made if there is none of it, and gone with the device then. With a `%d` in it the kernel
    /// chooses a number.
    pub name: String,
    /// Our address on the link. By default one that is made of the kernel side's.
    #[serde(with = "crate::mac_text")]
    pub mac: Option<Mac>,
    /// The longest IP packet, set on the interface. By default what it has (1500).
    pub mtu: Option<usize>,
    /// Addresses of the kernel's side, each with the length of its prefix. Ours are the stack's business.
    pub kernel_addresses: Vec<(IpAddr, u8)>,
    /// Whether checksums are left out and long TCP segments travel in one piece, both ways.
    pub offload: bool,
}

/// A TAP interface. It goes away when this is dropped, unless it was there before.
pub struct Tap {
    fd: OwnedFd,
    name: String,
    heap: Heap,
    link: Link,
    /// Memory for the next frame.
    next: Option<BufMut>,
    frame_len_max: usize,
    is_vnet: bool,
    is_down: bool,
    is_short_of_memory: bool,
    counters: Counters,
}

/// Pieces of a frame that one `writev` takes. (The kernel's limit is 1,024.)
const PIECES_MAX: usize = 32;

/// Frames up to this long are copied out of a large buffer, so that the large one is not pinned by them.
const SMALL_MAX: usize = 16 * 1024;

impl Tap {
    /// Opens the interface, sets it as asked, and brings it up.
    ///
    /// # Errors
    /// [`OpenError`]: mostly rights (CAP_NET_ADMIN, and access to /dev/net/tun), or a name that is taken.
    pub fn open(settings: TapSettings, heap: Heap) -> Result<Tap, OpenError> {
        let fd = open_descriptor(&settings)?;
        Tap::over(fd, settings, heap)
    }

    /// A device over a descriptor that somebody with the rights has opened. Of the settings, only `mac`, `mtu` (which is
    /// not set, but believed) and `offload` (which must be what the descriptor was opened with) matter.
    ///
    /// # Errors
    /// [`OpenError`]: it is not a TAP interface's.
    pub fn over(fd: OwnedFd, settings: TapSettings, heap: Heap) -> Result<Tap, OpenError> {
        let mut request = Request::empty();
        request
            .carry_out(&fd, libc::TUNGETIFF as libc::c_ulong)
            .map_err(|_| OpenError::WrongDescriptor("that of a TAP interface"))?;
        if request.flags() & libc::IFF_TAP == 0 || request.flags() & libc::IFF_NO_PI == 0 {
            return Err(OpenError::WrongDescriptor("that of a TAP interface without packet information"));
        }
        let is_vnet = request.flags() & libc::IFF_VNET_HDR != 0;
        if is_vnet != settings.offload {
            return Err(OpenError::BadSettings("the descriptor was opened with another choice of `offload`".into()));
        }
        rustix::fs::fcntl_setfl(&fd, OFlags::NONBLOCK)
            .map_err(|errno| OpenError::Os { what: "setting the descriptor", source: errno.into() })?;
        let name = request.name();
        request
            .carry_out(&fd, libc::SIOCGIFHWADDR)
            .map_err(OpenError::of("reading the interface's address", NET_ADMIN))?;
        let mtu = settings.mtu.or_else(|| Interface::find(&name).ok()?.mtu().ok()).unwrap_or(1500);
        let frame_len_max = if is_vnet { WHOLE_MAX } else { ETHERNET_LEN + 4 + mtu };
        let offloads = Offloads {
            verifies: is_vnet,
            checksums: is_vnet,
            segments: is_vnet.then_some(SEGMENTED_MAX),
            gathers: PIECES_MAX,
            external: true,
        };
        Ok(Tap {
            fd,
            heap,
            link: Link { mac: settings.mac.unwrap_or(other_end_of(Mac(request.mac()))), mtu, offloads },
            name,
            next: None,
            frame_len_max,
            is_vnet,
            is_down: false,
            is_short_of_memory: false,
            counters: Counters::default(),
        })
    }

    /// The interface's name, as the kernel chose it.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn header_len(&self) -> usize {
        if self.is_vnet { VNET_LEN } else { 0 }
    }

    /// One frame, as long as there is one.
    fn receive_one(&mut self) -> Result<Option<Received>, Errno> {
        // One byte more than may come, to see what is too long.
        let capacity = self.header_len() + self.frame_len_max + 1;
        let Some(mut buf) = self.next.take().or_else(|| self.heap.alloc_for(Purpose::Receive, capacity).ok()) else {
            self.is_short_of_memory = true;
            self.counters.rx_no_memory += 1;
            return Ok(None);
        };
        loop {
            buf.truncate(0);
            let read = ffi::read(&self.fd, &mut buf);
            let Ok(len) = read else {
                self.next = Some(buf);
                return if read == Err(Errno::AGAIN) { Ok(None) } else { Err(read.unwrap_err()) };
            };
            if len < self.header_len() + ETHERNET_LEN || len > self.header_len() + self.frame_len_max {
                self.counters.rx_too_long += u64::from(len > self.frame_len_max);
                continue;
            }
            self.counters.rx_frames += 1;
            return Ok(Some(self.finish(buf)));
        }
    }

    /// Takes the virtio header off.
    fn finish(&mut self, buf: BufMut) -> Received {
        if !self.is_vnet {
            return Received { buf: buf.freeze(), verified: false };
        }
        let verified = VnetHeader::read(&buf).is_some_and(|header| header.is_verified());
        let frame_len = buf.len() - VNET_LEN;
        if frame_len <= SMALL_MAX
            && let Ok(mut small) = self.heap.alloc_for(Purpose::Receive, frame_len)
        {
            small.put(&buf[VNET_LEN..]);
            self.heap.count_copied(CopyPath::Receive, frame_len);
            self.counters.rx_copied_bytes += frame_len as u64;
            self.next = Some(buf);
            return Received { buf: small.freeze(), verified };
        }
        let mut whole = buf.freeze();
        whole.advance(VNET_LEN);
        Received { buf: whole, verified }
    }

    /// Writes one frame. `false`: it has to wait.
    fn transmit_one(&mut self, frame: &Frame) -> bool {
        if frame.payload.segments().len() >= PIECES_MAX {
            debug_assert!(false, "a frame of more pieces than the device gathers");
            self.counters.tx_dropped += 1;
            return true;
        }
        let header = VnetHeader::for_frame(frame);
        let mut pieces = [IoSlice::new(&[]); PIECES_MAX + 1];
        let mut count = 0;
        if self.is_vnet {
            pieces[0] = IoSlice::new(header.as_bytes());
            count = 1;
        }
        for piece in frame.pieces() {
            pieces[count] = IoSlice::new(piece);
            count += 1;
        }
        self.counters.tx_calls += 1;
        match rustix::io::writev(&self.fd, &pieces[..count]) {
            Ok(_) => self.counters.tx_frames += 1,
            Err(Errno::AGAIN | Errno::INTR) => {
                self.counters.tx_busy += 1;
                return false;
            }
            // EIO: the interface is not up. EBADFD: it is gone; `receive` will say so.
            Err(_) => self.counters.tx_dropped += 1,
        }
        true
    }
}

impl Device for Tap {
    fn link(&self) -> Link {
        self.link
    }

    fn receive(&mut self, _: Instant, into: &mut VecDeque<Received>, room: usize) -> Result<(), Error> {
        self.is_short_of_memory = false;
        for _ in 0..room {
            if self.is_down {
                break;
            }
            match self.receive_one() {
                Ok(Some(received)) => into.push_back(received),
                Ok(None) => break,
                Err(Errno::INTR) => continue,
                Err(_) => {
                    self.is_down = true;
                    self.next = None;
                    return Err(Error::NetworkDown);
                }
            }
        }
        Ok(())
    }

    fn transmit(&mut self, _: Instant, frames: &mut VecDeque<Frame>) {
        while let Some(frame) = frames.pop_front() {
            if self.is_down {
                self.counters.tx_dropped += 1;
            } else if !self.transmit_one(&frame) {
                return frames.push_front(frame);
            }
        }
    }

    fn flush(&mut self, _: Instant) {}

    fn arm(&mut self, _: Instant) -> WakeOn {
        if self.is_down {
            WakeOn::Nothing
        } else if self.is_short_of_memory {
            WakeOn::Nap
        } else {
            WakeOn::Descriptor(self.fd.as_raw_fd())
        }
    }

    /// None: the kernel has copied what was written.
    fn in_flight(&self) -> usize {
        0
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        self.counters.list()
    }
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tap({}, {:?})", self.name, self.link)
    }
}

/// Opens the interface and sets it as asked, for this process or another one that has no rights.
pub(crate) fn open_descriptor(settings: &TapSettings) -> Result<OwnedFd, OpenError> {
    let what = "opening /dev/net/tun";
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => {
            OpenError::Unsupported("there is no /dev/net/tun: this kernel or this container has no TAP".into())
        }
        errno => OpenError::of(what, NET_ADMIN)(errno),
    })?;
    let mut request = Request::named(&settings.name).ok_or_else(|| OpenError::BadName(settings.name.clone()))?;
    let vnet = if settings.offload { libc::IFF_VNET_HDR } else { 0 };
    request.set_flags(libc::IFF_TAP | libc::IFF_NO_PI | vnet);
    request.carry_out(&fd, libc::TUNSETIFF as libc::c_ulong).map_err(|errno| match errno {
        Errno::BUSY => OpenError::BadSettings(format!("somebody else has the TAP interface {}", settings.name)),
        Errno::INVAL => OpenError::BadSettings(format!("{} is not a TAP interface", settings.name)),
        errno => OpenError::of("making a TAP interface", NET_ADMIN)(errno),
    })?;
    if settings.offload {
        let what = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6;
        tap_number(&fd, libc::TUNSETOFFLOAD as libc::c_ulong, libc::c_ulong::from(what))
            .map_err(OpenError::of("setting the TAP interface's offloads", NET_ADMIN))?;
    }
    let interface = Interface::find(&request.name())?;
    if let Some(mtu) = settings.mtu {
        interface.set_mtu(mtu)?;
    }
    for &(address, prefix) in &settings.kernel_addresses {
        interface.add_address(address, prefix)?;
    }
    interface.bring_up()?;
    Ok(fd)
}

/// An address for our end of the link, which is not that of the kernel's end.
fn other_end_of(Mac(mut mac): Mac) -> Mac {
    mac[0] = mac[0] & !1 | 2; // of one interface, locally administered
    mac[5] ^= 1;
    Mac(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_address_is_another_one_that_an_interface_can_have() {
        for kernels in ["02:00:00:00:77:02", "f2:11:22:33:44:55", "00:00:00:00:00:01", "a1:00:00:00:00:00"] {
            let kernels: Mac = kernels.parse().unwrap();
            let ours = other_end_of(kernels);
            assert!(ours != kernels && ours.is_unicast(), "{kernels} {ours}");
        }
    }
}
