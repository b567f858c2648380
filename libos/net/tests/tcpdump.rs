//! What `Pcap` writes, read by tcpdump.

use std::collections::VecDeque;
use std::io::Write;
use std::process::{Command, Stdio};

use libos_mem::Heap;
use libos_net::wire::{Checksum, Mac};
use libos_net::{Device, Frame, Link, Offloads, Pcap, Received};
use pdpix::{Error, Instant, Sga, WakeOn, WallTime};

/// Takes everything, and gives back what it took.
struct Loop(VecDeque<Frame>);

impl Device for Loop {
    fn link(&self) -> Link {
        Link { mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500, offloads: Offloads { gathers: 4, ..Offloads::NONE } }
    }

    fn receive(&mut self, _: Instant, into: &mut VecDeque<Received>, _: usize) -> Result<(), Error> {
        into.extend(self.0.drain(..).map(|frame| Received { buf: frame.header, verified: true }));
        Ok(())
    }

    fn transmit(&mut self, _: Instant, frames: &mut VecDeque<Frame>) {
        self.0.append(frames);
    }

    fn flush(&mut self, _: Instant) {}

    fn arm(&mut self, _: Instant) -> WakeOn {
        WakeOn::Nothing
    }

    fn in_flight(&self) -> usize {
        0
    }
}

/// A UDP datagram from 10.0.0.1:7 to 10.0.0.2:9, its header and its data.
fn datagram(data: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut header = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    let udp_len = 8 + data.len() as u16;
    let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    ip[2..4].copy_from_slice(&(20 + udp_len).to_be_bytes());
    let sum = Checksum::new().add(&ip).finish();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    header.extend(ip);
    header.extend([0, 7, 0, 9]);
    header.extend(udp_len.to_be_bytes());
    header.extend([0, 0]);
    (header, data.to_vec())
}

/// A capture of three datagrams to be sent, of which the first comes back.
fn capture() -> Vec<u8> {
    let heap = Heap::alone(1 << 20).unwrap();
    let mut file = Vec::new();
    let mut pcap = Pcap::new(Loop(VecDeque::new()), &mut file, 0, WallTime::from_nanos(1_900_000_000_000_000_000));
    for len in [5, 700, 1400usize] {
        let (header, data) = datagram(&vec![b'x'; len]);
        let (header, payload) = (heap.copy(&header).unwrap(), Sga::copy(&heap, &data).unwrap());
        let mut frames = VecDeque::from([Frame { header, payload, checksum: None, segment_size: 0 }]);
        pcap.transmit(Instant::from_nanos(len as u64), &mut frames);
    }
    pcap.receive(Instant::from_nanos(2_000_000_001), &mut VecDeque::new(), 1).unwrap();
    drop(pcap);
    file
}

#[test]
fn tcpdump_reads_what_was_written() {
    let reader = Command::new("tcpdump")
        .args(["-nn", "-tt", "--nano", "-r", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut reader) = reader else {
        println!("SKIP tcpdump: there is no tcpdump in the path");
        return;
    };
    reader.stdin.take().unwrap().write_all(&capture()).unwrap();
    let output = reader.wait_with_output().unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{complained}");
    let line = |nanos: &str, len: usize| format!("{nanos} IP 10.0.0.1.7 > 10.0.0.2.9: UDP, length {len}");
    let first = ["1900000000.000000005", "1900000000.000000700", "1900000000.000001400"];
    let lines: Vec<&str> = said.lines().collect();
    let expected: Vec<String> = first.iter().zip([5, 700, 1400]).map(|(nanos, len)| line(nanos, len)).collect();
    assert_eq!(lines[..3], expected, "{complained}");
    // What comes back are headers alone, in this device.
    assert!(lines[3].starts_with("1900000002.000000001 ") && lines.len() == 6, "{said}");
}
