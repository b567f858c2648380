//! What XDP program an interface has, and whether it is one of a veth pair: asked and changed over rtnetlink.

use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage, LinkXdp, XdpAttached};
use rustix::net::{AddressFamily, SendFlags, SocketType};

use crate::OpenError;
use crate::interface::NET_ADMIN;

/// XDP_FLAGS_* of linux/if_link.h.
const SKB_MODE: u32 = 1 << 1;
const DRIVER_MODE: u32 = 1 << 2;
const HARDWARE_MODE: u32 = 1 << 3;
const REPLACE: u32 = 1 << 4;

/// A program on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attached {
    /// Its number in the kernel.
    pub(crate) id: u32,
    /// How it was attached: a flag from above.
    mode: u32,
}

impl Attached {
    /// The programs of interface number `index`. One at most, but for hardware that can have one beside.
    pub(crate) fn of(index: u32) -> Result<Vec<Attached>, OpenError> {
        let xdp = attributes(index)?.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Xdp(xdp) => Some(xdp),
            _ => None,
        });
        Ok(programs(&xdp.unwrap_or_default()))
    }

    /// Takes the program, whose descriptor is `program`, off again, if it is on still.
    pub(crate) fn remove(self, index: u32, program: &OwnedFd) -> Result<(), OpenError> {
        let mut message = link(index);
        message.attributes.push(LinkAttribute::Xdp(vec![
            LinkXdp::Fd(-1),
            LinkXdp::Flags(self.mode | REPLACE),
            LinkXdp::ExpectedFd(program.as_raw_fd() as u32),
        ]));
        exchange(RouteNetlinkMessage::SetLink(message), NLM_F_REQUEST | NLM_F_ACK).map(drop)
    }
}

/// Whether interface number `index` is one end of a veth pair.
pub(crate) fn is_veth(index: u32) -> Result<bool, OpenError> {
    Ok(attributes(index)?.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(info) => info.contains(&LinkInfo::Kind(InfoKind::Veth)),
        _ => false,
    }))
}

fn attributes(index: u32) -> Result<Vec<LinkAttribute>, OpenError> {
    match exchange(RouteNetlinkMessage::GetLink(link(index)), NLM_F_REQUEST)?.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(link.attributes),
        _ => Err(failed(std::io::ErrorKind::InvalidData.into())),
    }
}

fn programs(xdp: &[LinkXdp]) -> Vec<Attached> {
    let all = xdp.iter().filter_map(|attribute| match attribute {
        LinkXdp::DrvProgId(id) => Some(Attached { id: *id, mode: DRIVER_MODE }),
        LinkXdp::SkbProgId(id) => Some(Attached { id: *id, mode: SKB_MODE }),
        LinkXdp::HwProgId(id) => Some(Attached { id: *id, mode: HARDWARE_MODE }),
        _ => None,
    });
    let all: Vec<Attached> = all.collect();
    if !all.is_empty() {
        return all;
    }
    // Kernels before 4.20 say how, and which, apart.
    let mode = xdp.iter().find_map(|attribute| match attribute {
        LinkXdp::Attached(XdpAttached::Driver) => Some(DRIVER_MODE),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(SKB_MODE),
        LinkXdp::Attached(XdpAttached::Hardware) => Some(HARDWARE_MODE),
        _ => None,
    });
    let id = xdp.iter().find_map(|attribute| match attribute {
        LinkXdp::ProgId(id) => Some(*id),
        _ => None,
    });
    id.zip(mode).map(|(id, mode)| Attached { id, mode }).into_iter().collect()
}

fn link(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

fn failed(source: std::io::Error) -> OpenError {
    OpenError::Os { what: "asking about the interface over netlink", source }
}

/// Sends a request, and gives its answer.
fn exchange(message: RouteNetlinkMessage, flags: u16) -> Result<NetlinkMessage<RouteNetlinkMessage>, OpenError> {
    let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None).map_err(|e| failed(e.into()))?;
    let mut request = NetlinkMessage::from(message);
    request.header.flags = flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    rustix::net::send(&socket, &bytes, SendFlags::empty()).map_err(|e| failed(e.into()))?;
    let mut bytes = vec![0; 64 * 1024];
    let (len, _) =
        rustix::net::recv(&socket, &mut bytes[..], rustix::net::RecvFlags::empty()).map_err(|e| failed(e.into()))?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes[..len])
        .map_err(|error| failed(std::io::Error::other(error.to_string())))?;
    match &answer.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => {
            let error = error.to_io();
            Err(match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => {
                    OpenError::Forbidden { what: "taking an XDP program off", right: NET_ADMIN }
                }
                _ => failed(error),
            })
        }
        _ => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_what_old_and_new_kernels_say() {
        assert_eq!(programs(&[LinkXdp::Attached(XdpAttached::None)]), []);
        let new = [LinkXdp::Attached(XdpAttached::Driver), LinkXdp::ProgId(7), LinkXdp::DrvProgId(7)];
        assert_eq!(programs(&new), [Attached { id: 7, mode: DRIVER_MODE }]);
        let old = [LinkXdp::Attached(XdpAttached::SocketBuffer), LinkXdp::ProgId(8)];
        assert_eq!(programs(&old), [Attached { id: 8, mode: SKB_MODE }]);
    }
}
