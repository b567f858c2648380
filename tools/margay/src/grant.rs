//! `margay grant`: opens what takes rights, for a service that has none.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use libos_xdp::{BusyPoll, Giver, Offer, PacketSettings, PortRange, Share, TapSettings, Transport, XskSettings};

/// The service finds what it is given at the socket: it says `--grant PATH`. docs/privileges.md has the whole story.
#[derive(Args)]
pub struct Arguments {
    /// Where the service takes it: a Unix socket, which is made.
    #[arg(long, default_value = "/run/margay.grant", value_name = "PATH")]
    at: PathBuf,
    /// The user that the service runs as: a name or a number.
    #[arg(long, value_name = "USER", value_parser = user)]
    user: u32,
    /// Memory that the service may pin, in MiB: all that it reserves. Only AF_XDP takes it.
    #[arg(long, default_value_t = 1024, value_name = "MIB")]
    memlock: u64,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// A TAP interface, made if there is none of this name.
    Tap {
        name: String,
        /// An address of the kernel's side, with the length of its prefix; may be given several times.
        #[arg(long = "kernel-address", value_name = "ADDR/LEN", value_parser = address_and_prefix)]
        kernel_addresses: Vec<(IpAddr, u8)>,
        /// The longest IP packet.
        #[arg(long)]
        mtu: Option<usize>,
        /// Checksums are left out, and long segments travel in one piece.
        #[arg(long)]
        offload: bool,
    },
    /// Packet sockets on an interface. The kernel sees its frames, too.
    Packet {
        interface: String,
        /// One for each core of the service.
        #[arg(long, default_value_t = 1, value_name = "N")]
        sockets: u32,
        /// Checksums are left out, and long segments travel in one piece.
        #[arg(long)]
        offload: bool,
    },
    /// AF_XDP sockets on an interface, and the program that steers frames to them.
    Xdp {
        interface: String,
        /// An address whose frames are the service's; may be given several times.
        #[arg(long = "address", required = true, value_name = "ADDR")]
        addresses: Vec<IpAddr>,
        /// Only these ports are, and the kernel has the address as well: `tcp:6379` or `udp:7000-7010`; may be given several
        /// times.
        #[arg(long = "port", value_name = "PORTS", value_parser = port_range)]
        ports: Vec<PortRange>,
        /// Queues of the interface, one for each core of the service.
        #[arg(long, default_value_t = 1, value_name = "N")]
        queues: u32,
        /// The service's own calls poll the device.
        #[arg(long)]
        busy_poll: bool,
    },
}

pub fn run(arguments: Arguments) -> anyhow::Result<i32> {
    let Arguments { at, user, memlock, what } = arguments;
    let memlock = memlock.checked_mul(1 << 20).context("more memory than there is")?;
    let giver = Giver::listen(&at, user, what.offer(), memlock)?;
    println!("margay grant: user {user} is given it at {}", at.display());
    loop {
        let given = giver.give(|process, notices| {
            println!("margay grant: given to process {process}");
            notices.iter().for_each(|notice| eprintln!("margay grant: {notice}"));
        });
        match given {
            Ok(()) => println!("margay grant: it has ended"),
            Err(error) => {
                eprintln!("margay grant: {error}");
                // Whoever asks again and again is answered at his leisure.
                std::thread::sleep(std::time::Duration::from_millis(200));
            }
        }
    }
}

impl What {
    fn offer(self) -> Offer {
        match self {
            What::Tap { name, kernel_addresses, mtu, offload } => {
                Offer::Tap(TapSettings { name, mac: None, mtu, kernel_addresses, offload })
            }
            What::Packet { interface, sockets, offload } => {
                // Sockets of one service share a group; its number is that of this process, as no other's is.
                let fanout = (sockets > 1).then_some(std::process::id() as u16);
                Offer::Packet {
                    settings: PacketSettings { offload, fanout, ..PacketSettings::new(&interface) },
                    sockets,
                }
            }
            What::Xdp { interface, addresses, ports, queues, busy_poll } => {
                let share = if ports.is_empty() { Share::Addresses } else { Share::Ports(ports) };
                let busy_poll = busy_poll.then_some(BusyPoll { micros: 20, budget: 64 });
                Offer::Xsk {
                    settings: XskSettings { share, busy_poll, ..XskSettings::new(&interface, &addresses) },
                    queues,
                }
            }
        }
    }
}

/// A user's number, by number or by name.
fn user(text: &str) -> anyhow::Result<u32> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let users = std::fs::read_to_string("/etc/passwd").context("/etc/passwd")?;
    let number =
        users.lines().find_map(|line| line.strip_prefix(text)?.strip_prefix(':')?.split(':').nth(1)?.parse().ok());
    number.with_context(|| format!("there is no user {text:?}"))
}

fn address_and_prefix(text: &str) -> anyhow::Result<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/').context("an address, a slash, and the length of its prefix")?;
    let (address, prefix): (IpAddr, u8) = (address.parse()?, prefix.parse()?);
    if prefix > if address.is_ipv6() { 128 } else { 32 } {
        bail!("a prefix of {prefix} bits is too long");
    }
    Ok((address, prefix))
}

fn port_range(text: &str) -> anyhow::Result<PortRange> {
    let (transport, ports) = text.split_once(':').context("tcp or udp, a colon, and a port or two with a dash")?;
    let transport = match transport {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        other => bail!("{other:?} is neither tcp nor udp"),
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (first.parse()?, last.parse()?);
    if first > last {
        bail!("from {first} to {last} there is no port");
    }
    Ok(PortRange { transport, first, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_addresses_are_written_as_people_write_them() {
        let range = |text| port_range(text).ok().map(|range| (range.transport, range.first, range.last));
        assert_eq!(range("tcp:6379"), Some((Transport::Tcp, 6379, 6379)));
        assert_eq!(range("udp:7000-7010"), Some((Transport::Udp, 7000, 7010)));
        for wrong in ["6379", "sctp:1", "tcp:", "tcp:2-1", "tcp:70000", "udp:1-"] {
            assert_eq!(range(wrong), None, "{wrong}");
        }
        assert_eq!(address_and_prefix("10.0.0.1/24").unwrap(), ("10.0.0.1".parse().unwrap(), 24));
        for wrong in ["10.0.0.1", "10.0.0.1/33", "fd00::1/129", "x/8"] {
            assert!(address_and_prefix(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn users_have_names_and_numbers() {
        assert_eq!((user("0").unwrap(), user("root").unwrap()), (0, 0));
        assert!(user("no-such-user-here").is_err());
    }
}
