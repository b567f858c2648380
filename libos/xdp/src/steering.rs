//! The XDP program that tells our frames from the kernel's (`bpf/steer.bpf.c`), and the maps that it goes by.
//!
//! Always: it is on the interface as long as this lives, and not longer: it is attached by a BPF link, which the kernel
//! takes off when the process dies, however it dies. (Kernels before 5.9 have no such links; there a killed process leaves
//! the program behind, which the next start recognises by its name, and removes.)
//!
//! The program is compiled by clang when this crate is built, and left out where there is none: `BUILT` says so.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::maps::{Array, HashMap, MapData, XskMap};
use aya::programs::{ProgramError, SocketFilter, Xdp, XdpMode};
use aya::{Ebpf, EbpfError};
use serde::{Deserialize, Serialize};

use crate::OpenError;
use crate::interface::Interface;
use crate::rtnetlink::Attached;

/// The program's name in the kernel, by which one that was left behind is recognised.
const NAME: &str = "margay_steer";
/// The filter's in its source.
const COPIES: &str = "margay_copies";

#[cfg(has_program)]
const BUILT: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o")));
#[cfg(not(has_program))]
const BUILT: Option<&[u8]> = None;

/// Why AF_XDP is not in this build, if it is not.
///
/// # Errors
/// A sentence that says what was missing.
pub fn is_built() -> Result<(), &'static str> {
    BUILT.map(drop).ok_or(
        "AF_XDP is not in this build: it takes clang and libbpf's headers (Debian: clang, libbpf-dev) when margay is built",
    )
}

/// Where the program runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProgramMode {
    /// In the driver where it can, else before the kernel's stack.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Driver,
    /// Before the kernel's stack: every driver can, and it is slower.
    Skb,
}

/// TCP or UDP.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "names of protocols")]
pub enum Transport {
    Tcp,
    Udp,
}

/// Ports from `first` to `last`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PortRange {
    /// Of which protocol.
    pub transport: Transport,
    /// The first one.
    pub first: u16,
    /// The last one, which belongs to it.
    pub last: u16,
}

/// What comes to us.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// All of the addresses. The kernel must not have them.
    Addresses,
    /// These ports of the addresses, which the kernel has as well. It answers for everything else: it is the kernel that
    /// answers ARP, neighbour discovery and echo requests, and we get a copy of the answers to ours.
    Ports(Vec<PortRange>),
}

const OURS: u32 = 1;
const SHARED: u32 = 2;

/// `struct first` of the program's source: each entry an address in two words and its owner; how many; and whether there are
/// more than these.
type First = [u64; FIRST_MAX * 3 + 2];
const FIRST_MAX: usize = 8;

/// The addresses that are found without a hash.
#[derive(Default)]
struct Few {
    entries: Vec<([u8; 16], u32)>,
    has_more: bool,
}

impl Few {
    fn add(&mut self, address: [u8; 16], owner: u32) {
        if let Some(known) = self.entries.iter_mut().find(|(known, _)| *known == address) {
            known.1 = owner;
        } else if self.entries.len() < FIRST_MAX {
            self.entries.push((address, owner));
        } else {
            self.has_more = true;
        }
    }

    fn value(&self) -> First {
        let mut value = [0; FIRST_MAX * 3 + 2];
        for (entry, (address, owner)) in value.chunks_exact_mut(3).zip(&self.entries) {
            let (words, _) = address.as_chunks::<8>();
            entry.copy_from_slice(&[u64::from_ne_bytes(words[0]), u64::from_ne_bytes(words[1]), u64::from(*owner)]);
        }
        value[FIRST_MAX * 3] = self.entries.len() as u64;
        value[FIRST_MAX * 3 + 1] = u64::from(self.has_more);
        value
    }
}

/// The program on an interface.
pub(crate) struct Steering {
    sockets: XskMap<MapData>,
    addresses: HashMap<MapData, [u8; 16], u32>,
    /// The first of them, where the program looks before it hashes.
    first: Array<MapData, First>,
    few: Few,
    ports: Array<MapData, u64>,
    /// Holds the program and its link. Dropping it detaches.
    program: Ebpf,
}

impl Steering {
    /// Puts the program on the interface. Nothing is ours before it is told so. Says what is not as it was wished.
    pub(crate) fn attach(interface: &Interface, mode: ProgramMode) -> Result<(Steering, Option<String>), OpenError> {
        let object = BUILT.ok_or_else(|| OpenError::Unsupported(is_built().unwrap_err().into()))?;
        remove_stale(interface)?;
        let mut program = Ebpf::load(object).map_err(load_error)?;
        let steering = Steering {
            sockets: XskMap::try_from(take(&mut program, "sockets")).map_err(EbpfError::from).map_err(load_error)?,
            addresses: HashMap::try_from(take(&mut program, "addresses"))
                .map_err(EbpfError::from)
                .map_err(load_error)?,
            first: Array::try_from(take(&mut program, "first")).map_err(EbpfError::from).map_err(load_error)?,
            few: Few::default(),
            ports: Array::try_from(take(&mut program, "ports")).map_err(EbpfError::from).map_err(load_error)?,
            program,
        };
        steering.start(interface, mode)
    }

    fn start(mut self, interface: &Interface, mode: ProgramMode) -> Result<(Steering, Option<String>), OpenError> {
        let program: &mut Xdp = self.program.program_mut(NAME).expect("named in its source").try_into().expect("XDP");
        program.load().map_err(|error| load_error(error.into()))?;
        let first = if mode == ProgramMode::Skb { XdpMode::Skb } else { XdpMode::Driver };
        let mut notice = None;
        match program.attach_to_if_index(interface.index(), first) {
            Ok(_) => {}
            Err(error) if mode == ProgramMode::Auto => {
                notice = Some(format!(
                    "{} does not run XDP programs in its driver ({}): the program runs before the kernel's stack, which is slower",
                    interface.name(),
                    cause(&error)
                ));
                program.attach_to_if_index(interface.index(), XdpMode::Skb).map_err(|e| attach_error(interface, &e))?;
            }
            Err(error) => return Err(attach_error(interface, &error)),
        }
        Ok((self, notice))
    }

    /// Gives frames of `queue` that are ours to a socket.
    pub(crate) fn set_socket(&mut self, queue: u32, socket: &OwnedFd) -> Result<(), OpenError> {
        self.sockets.set(queue, socket.as_fd().as_raw_fd(), 0).map_err(map_error)
    }

    /// Gives them to the kernel again.
    pub(crate) fn unset_socket(&mut self, queue: u32) {
        let _ = self.sockets.unset(queue); // it may have been gone with its socket
    }

    /// Lets a packet socket hear only copies of what we share with the kernel.
    pub(crate) fn filter_copies(&mut self, socket: &OwnedFd) -> Result<(), OpenError> {
        let filter = self.program.program_mut(COPIES).expect("named in its source");
        let filter: &mut SocketFilter = filter.try_into().expect("a socket filter");
        match filter.load() {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
            Err(error) => return Err(load_error(error.into())),
        }
        // It goes with the socket.
        filter.attach(socket).map_err(|error| load_error(error.into()))
    }

    /// Claims addresses, or ports of them.
    pub(crate) fn claim(&mut self, addresses: &[IpAddr], share: &Share) -> Result<(), OpenError> {
        if let Share::Ports(ranges) = share {
            for (word, bits) in ranges.iter().filter(|range| range.first <= range.last).flat_map(words) {
                let old = self.ports.get(&word, 0).map_err(map_error)?;
                self.ports.set(word, old | bits, 0).map_err(map_error)?;
            }
        }
        let owner = if *share == Share::Addresses { OURS } else { SHARED };
        for &address in addresses {
            self.addresses.insert(key(address), owner, 0).map_err(map_error)?;
            self.few.add(key(address), owner);
        }
        self.first.set(0, self.few.value(), 0).map_err(map_error)?;
        Ok(())
    }
}

/// The words of the map of ports that a range sets bits in, and the bits.
fn words(range: &PortRange) -> impl Iterator<Item = (u32, u64)> {
    let half = if range.transport == Transport::Udp { 65_536 / 64 } else { 0 };
    let (first, last) = (u32::from(range.first), u32::from(range.last));
    (first / 64..=last / 64).map(move |word| {
        let from = first.max(word * 64) % 64;
        let to = last.min(word * 64 + 63) % 64;
        (half + word, (u64::MAX >> (63 - (to - from))) << from)
    })
}

/// IPv4 as ::ffff:a.b.c.d.
fn key(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn take(program: &mut Ebpf, map: &str) -> aya::maps::Map {
    program.take_map(map).expect("named in its source")
}

/// Removes a program that a process of ours left behind; refuses if it is somebody's.
fn remove_stale(interface: &Interface) -> Result<(), OpenError> {
    for attached in Attached::of(interface.index())? {
        let found = aya::programs::loaded_programs()
            .filter_map(Result::ok)
            .find(|program| program.id() == attached.id)
            .map(|program| (program.name_as_str().unwrap_or_default().to_owned(), program.fd()));
        let taken = |by: &str| OpenError::BadSettings(format!("{} has {by} on it already", interface.name()));
        match found {
            Some((name, Ok(fd))) if name == NAME => {
                let fd = fd.as_fd().try_clone_to_owned().map_err(|_| taken("an XDP program of Margay's"))?;
                match attached.remove(interface.index(), &fd) {
                    Ok(()) => {}
                    Err(error @ OpenError::Forbidden { .. }) => return Err(error),
                    // Attached by a link: its owner lives.
                    Err(_) => return Err(taken("the XDP program of another process of Margay's")),
                }
            }
            Some((name, _)) => return Err(taken(&format!("an XDP program of somebody else's ({name:?})"))),
            // It takes rights to see programs, which the next step will miss as well; or it has gone meanwhile.
            None => {}
        }
    }
    Ok(())
}

const RIGHTS: &str = "CAP_BPF and CAP_NET_ADMIN";

/// The operating system's word, if there is one in an error.
fn os_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a std::io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(os) = error.downcast_ref::<std::io::Error>() {
            return Some(os);
        }
        next = error.source();
    }
    None
}

fn cause(error: &ProgramError) -> String {
    os_error(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn load_error(error: EbpfError) -> OpenError {
    match os_error(&error).and_then(std::io::Error::raw_os_error) {
        Some(libc::EPERM | libc::EACCES) => OpenError::Forbidden { what: "loading the XDP program", right: RIGHTS },
        _ => OpenError::Unsupported(format!("the kernel does not take the XDP program: {error}")),
    }
}

fn map_error(error: aya::maps::MapError) -> OpenError {
    match os_error(&error).and_then(std::io::Error::raw_os_error) {
        Some(libc::EPERM | libc::EACCES) => OpenError::Forbidden { what: "telling the XDP program", right: RIGHTS },
        Some(code) => {
            OpenError::Os { what: "telling the XDP program", source: std::io::Error::from_raw_os_error(code) }
        }
        None => OpenError::BadSettings(format!("telling the XDP program: {error}")),
    }
}

fn attach_error(interface: &Interface, error: &ProgramError) -> OpenError {
    let name = interface.name();
    match os_error(error).and_then(std::io::Error::raw_os_error) {
        Some(libc::EPERM | libc::EACCES) => OpenError::Forbidden { what: "attaching the XDP program", right: RIGHTS },
        Some(libc::EBUSY | libc::EEXIST) => OpenError::BadSettings(format!("{name} has an XDP program on it already")),
        Some(libc::ERANGE) => OpenError::BadSettings(format!(
            "the MTU of {name} is too large for XDP in its driver: lower it, or run the program before the kernel's stack (skb mode)"
        )),
        _ => OpenError::Unsupported(format!("{name} does not take XDP programs: {}", cause(error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_are_keys_of_one_form() {
        assert_eq!(key("10.1.2.3".parse().unwrap()), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3]);
        assert_eq!(key("fd00::1".parse().unwrap())[..2], [0xfd, 0]);
    }

    #[test]
    fn a_few_addresses_are_found_first_and_the_others_by_hash() {
        let mut few = Few::default();
        for last in 0..FIRST_MAX as u8 + 1 {
            assert!(!few.has_more);
            few.add([last; 16], OURS);
        }
        few.add([3; 16], SHARED);
        let value = few.value();
        assert_eq!((value[9], value[10], value[11]), (0x0303_0303_0303_0303, 0x0303_0303_0303_0303, u64::from(SHARED)));
        assert_eq!(value[FIRST_MAX * 3..], [FIRST_MAX as u64, 1]);
    }

    #[test]
    fn a_range_of_ports_is_its_bits() {
        let ranges = [(0, 0), (7, 7), (0, 63), (63, 64), (5, 200), (64, 127), (65_535, 65_535), (0, 65_535)];
        for (first, last) in ranges {
            for (transport, half) in [(Transport::Tcp, 0), (Transport::Udp, 65_536)] {
                let range = PortRange { transport, first, last };
                let bits = words(&range).flat_map(|(word, bits)| {
                    (0..64).filter(move |bit| bits >> bit & 1 != 0).map(move |bit| word * 64 + bit)
                });
                let expected = u32::from(first) + half..=u32::from(last) + half;
                assert!(bits.eq(expected), "{range:?}");
            }
        }
    }

    #[test]
    fn a_build_without_the_program_says_what_was_missing() {
        match is_built() {
            Ok(()) => assert!(BUILT.is_some_and(|object| object.starts_with(b"\x7fELF"))),
            Err(why) => assert!(BUILT.is_none() && why.contains("clang")),
        }
    }
}
