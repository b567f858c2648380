//! A bridge of the kernel's, and at each port a filter that drops.

use anyhow::Result;

use super::{Port, Rules, Wire, last_byte_of_address};
use crate::worlds::namespaces::process::tool;

/// A bridge, and at each port of it a queue with a filter: what that chooses falls into a class that has a black hole.
///
/// Everything here is in every kernel that has traffic control and classic BPF; nftables and netem are not needed.
#[derive(Debug)]
pub struct KernelWire {
    hub: String,
}

const BRIDGE: &str = "hub";

impl KernelWire {
    /// In the namespace called `hub`.
    ///
    /// # Errors
    /// If this machine has no bridge.
    pub fn new(hub: &str) -> Result<KernelWire> {
        tool("ip", &["-n", hub, "link", "add", BRIDGE, "type", "bridge"])?;
        tool("ip", &["-n", hub, "link", "set", BRIDGE, "up"])?;
        Ok(KernelWire { hub: hub.to_string() })
    }

    /// Runs a command of tc's at a port; then come words that may have blanks in them.
    fn tc(&self, words: &str, more: &[&str]) -> Result<()> {
        let words = ["-n", &self.hub].into_iter().chain(words.split_whitespace()).chain(more.iter().copied());
        tool("tc", &words.collect::<Vec<_>>())
    }
}

impl Wire for KernelWire {
    fn join(&mut self, port: &Port) -> Result<()> {
        let device = &port.device;
        tool("ip", &["-n", &self.hub, "link", "set", device, "master", BRIDGE, "up"])?;
        self.tc(&format!("qdisc add dev {device} root handle 1: htb default 1"), &[])?;
        for class in ["1:1", "1:2"] {
            self.tc(&format!("class add dev {device} parent 1: classid {class} htb rate 10gbit quantum 200000"), &[])?;
        }
        self.tc(&format!("qdisc add dev {device} parent 1:2 blackhole"), &[])
    }

    fn set(&mut self, port: &Port, rules: &Rules) -> Result<()> {
        let (device, program) = (&port.device, program(rules));
        let filter = format!("filter replace dev {device} parent 1: protocol all prio 1 handle 1 bpf bytecode");
        self.tc(&filter, &[&program, "flowid", "1:2"])
    }
}

/// A filter in classic BPF that chooses what is to be dropped, as `tc` reads it.
fn program(rules: &Rules) -> String {
    const LOAD_BYTE: u16 = 0x30; // ldb [k]
    const LOAD_WORD: u16 = 0x20; // ld [k]
    const IF_EQUAL: u16 = 0x15; // jeq k, jt, jf
    const IF_AT_LEAST: u16 = 0x35; // jge k, jt, jf
    const RETURN: u16 = 0x06;
    /// Where the last byte of a frame's source address is.
    const SOURCE: u32 = 11;
    /// Not a place in the frame, but a random number (SKF_AD_OFF + SKF_AD_RANDOM).
    const RANDOM: u32 = (-0x1000_i32 + 56) as u32;
    const CHOOSE: u32 = u32::MAX;
    const PASS: u32 = 0;

    let mut code: Vec<(u16, u8, u8, u32)> = vec![(LOAD_BYTE, 0, 0, SOURCE)];
    for &node in &rules.blocked {
        code.push((IF_EQUAL, 0, 1, u32::from(last_byte_of_address(node))));
        code.push((RETURN, 0, 0, CHOOSE));
    }
    if rules.loss_percent > 0 {
        let below = (u64::from(u32::MAX) * rules.loss_percent.min(100) / 100) as u32;
        code.push((LOAD_WORD, 0, 0, RANDOM));
        code.push((IF_AT_LEAST, 1, 0, below));
        code.push((RETURN, 0, 0, CHOOSE));
    }
    code.push((RETURN, 0, 0, PASS));
    let lines = code.iter().map(|(code, jt, jf, k)| format!("{code} {jt} {jf} {k}"));
    format!("{},{}", code.len(), lines.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn filters_choose_the_blocked_and_then_by_chance() {
        assert_eq!(program(&Rules::default()), "2,48 0 0 11,6 0 0 0");
        let blocked = Rules { blocked: [2].into(), loss_percent: 0 };
        assert_eq!(program(&blocked), "4,48 0 0 11,21 0 1 3,6 0 0 4294967295,6 0 0 0");
        let lossy = Rules { blocked: BTreeSet::new(), loss_percent: 50 };
        assert_eq!(program(&lossy), "5,48 0 0 11,32 0 0 4294963256,53 1 0 2147483647,6 0 0 4294967295,6 0 0 0");
    }
}
