//! NDP.
use super::Ip;
use crate::wire::Mac;
use pdpix::Instant;
use std::net::Ipv6Addr;
impl Ip {
    pub(super) fn ask_ndp(&mut self, _ip: Ipv6Addr, _to: Option<Mac>, _now: Instant) {}
}
