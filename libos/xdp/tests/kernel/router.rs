//! A router of the kernel's between us and the kernel's other end, which long packets do not pass.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::sysctl;
use crate::link::*;

/// The router's addresses on our link.
pub const ROUTERS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 77, 0, 254)), IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0xfe))];
/// The kernel's addresses beyond it.
pub const BEYOND: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 78, 0, 2)), IpAddr::V6(Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, 2))];

/// Its namespace. Gone when dropped.
pub struct Router(String);

impl Router {
    /// `near0` for our device, and `far0` with the kernel's addresses, a network further.
    pub fn between(test: &str, mtu: usize) -> Option<(Link, Router)> {
        let link = Link::namespaces(test)?;
        let (near, far) = (&link.near, &link.far);
        let router = format!("{near}-router");
        ip(&format!("netns add {router}"));
        let here = Router(router);
        let router = &here.0;
        sysctl(near, "ipv6/conf/default/disable_ipv6", "1");
        for namespace in [router, far] {
            sysctl(namespace, "ipv6/conf/default/accept_dad", "0");
        }
        ip(&format!("link add near0 netns {near} address {OUR_MAC} type veth peer name near1 netns {router}"));
        ip(&format!("link add far0 netns {far} address {KERNEL_MAC} type veth peer name far1 netns {router}"));
        ip(&format!("-n {near} link set near0 up"));
        for (namespace, interface, addresses) in [
            (router, "near1", ["10.77.0.254/24", "fd77::fe/64"]),
            (router, "far1", ["10.78.0.254/24", "fd78::fe/64"]),
            (far, "far0", ["10.78.0.2/24", "fd78::2/64"]),
        ] {
            addresses.iter().for_each(|address| ip(&format!("-n {namespace} addr add {address} dev {interface}")));
            ip(&format!("-n {namespace} link set {interface} up"));
        }
        sysctl(router, "ipv4/ip_forward", "1");
        sysctl(router, "ipv6/conf/all/forwarding", "1");
        ip(&format!("-n {far} route add default via 10.78.0.254"));
        ip(&format!("-n {far} -6 route add default via fd78::fe"));
        for (family, network, interface) in [
            ("-4", "10.77.0.0/24", "near1"),
            ("-4", "10.78.0.0/24", "far1"),
            ("-6", "fd77::/64", "near1"),
            ("-6", "fd78::/64", "far1"),
        ] {
            ip(&format!("-n {router} {family} route replace {network} dev {interface} proto kernel mtu lock {mtu}"));
        }
        Some((link, here))
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        try_ip(&format!("netns del {}", self.0));
    }
}
