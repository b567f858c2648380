//! `margay devices`: what this machine offers to run on, and why the rest is not to be had.

use std::path::{Path, PathBuf};

use clap::Args;
use libos_boot::{BackendKind, backends};

#[derive(Args)]
pub struct Arguments {}

pub fn run(_: Arguments) -> anyhow::Result<i32> {
    println!("networks");
    for (kind, missing) in backends() {
        let says = match (kind, missing) {
            (_, Some(why)) => format!("not to be had: {why}"),
            (BackendKind::Epoll | BackendKind::IoUring, None) => "kernel sockets".into(),
            (BackendKind::Dpdk, None) => format!("{}; {}", libos_dpdk::Eal::version(), huge_pages()),
            (kind, None) => lacking(kind).map_or_else(|| "ready".into(), |right| format!("built; needs {right}")),
        };
        println!("  {:<10} {says}", kind.name());
    }
    println!("interfaces (--interface)");
    names("/sys/class/net").iter().for_each(|name| println!("  {name:<15} {}", interface(name)));
    println!("Ethernet cards (dpdk: --port)");
    let cards = cards();
    cards.iter().for_each(|card| println!("  {card}"));
    if cards.is_empty() {
        println!(
            "  none on the PCI bus; software ports: net_memif, net_virtio_user, net_vhost, net_af_packet, net_af_xdp, net_tap"
        );
    }
    println!("SPDK (--set storage.device=spdk:…)");
    let library = std::env::var_os("MARGAY_SPDK_LIBRARY").map(PathBuf::from);
    match libos_spdk::is_installed(library.as_deref()) {
        Ok(version) => println!("  {version}; {}", huge_pages()),
        Err(why) => println!("  not to be had: {why} (MARGAY_SPDK_LIBRARY)"),
    }
    on_the_bus("0x0108").iter().for_each(|card| println!("  {card}"));
    println!("block devices");
    let disks = names("/sys/block");
    disks.iter().for_each(|name| println!("  {name:<15} {}", disk(name)));
    if disks.is_empty() {
        println!("  none");
    }
    Ok(0)
}

/// What a backend that is built takes, and this process has not.
fn lacking(kind: BackendKind) -> Option<&'static str> {
    let is_root = rustix::process::geteuid().is_root();
    match kind {
        BackendKind::Tap if !Path::new("/dev/net/tun").exists() => Some("/dev/net/tun, which is not there"),
        BackendKind::Tap if !is_root => Some("CAP_NET_ADMIN"),
        BackendKind::Packet if !is_root => Some("CAP_NET_RAW"),
        BackendKind::Xdp if !is_root => Some("CAP_BPF, CAP_NET_ADMIN and CAP_NET_RAW"),
        _ => None,
    }
}

fn huge_pages() -> String {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = text.lines().find_map(|line| line.strip_prefix("HugePages_Free:")).unwrap_or("0").trim().to_string();
    match free.as_str() {
        "0" => "no huge pages are free, so it runs in ordinary ones (vm.nr_hugepages)".into(),
        free => format!("{free} huge pages are free"),
    }
}

/// The entries of a folder of the kernel's, in order.
fn names(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

fn read(path: String) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_string()
}

fn interface(name: &str) -> String {
    let of = |what: &str| read(format!("/sys/class/net/{name}/{what}"));
    let queues =
        names(&format!("/sys/class/net/{name}/queues")).iter().filter(|queue| queue.starts_with("rx-")).count();
    format!("{}, {}, MTU {}, {queues} queues", of("operstate"), of("address"), of("mtu"))
}

/// What is an Ethernet controller by its class (0x0200xx), and whose it is.
fn cards() -> Vec<String> {
    on_the_bus("0x0200")
}

/// What is of this class, whose it is, and whether it can be had.
fn on_the_bus(class: &str) -> Vec<String> {
    let describe = |address: &String| {
        let of = |what: &str| read(format!("/sys/bus/pci/devices/{address}/{what}"));
        if !of("class").starts_with(class) {
            return None;
        }
        let driver = std::fs::read_link(format!("/sys/bus/pci/devices/{address}/driver")).ok();
        let driver =
            driver.as_deref().and_then(Path::file_name).map_or("no driver".into(), |name| name.to_string_lossy());
        let to_be_had = match &*driver {
            "vfio-pci" | "uio_pci_generic" | "igb_uio" | "mlx5_core" | "mlx4_core" => "to be had",
            _ => "the kernel's: give it to vfio-pci (dpdk-devbind.py) to have it",
        };
        Some(format!("{address}  {}:{}, {driver}, {to_be_had}", of("vendor"), of("device")))
    };
    names("/sys/bus/pci/devices").iter().filter_map(describe).collect()
}

/// Size and kind. Which of them a log can be on is said by what opens block devices.
fn disk(name: &str) -> String {
    let of = |what: &str| read(format!("/sys/block/{name}/{what}"));
    let sectors: u64 = of("size").parse().unwrap_or(0);
    let kind = if of("queue/rotational") == "1" { "turning" } else { "flash or virtual" };
    format!(
        "{:.1} GiB, blocks of {} B, {kind}",
        sectors as f64 * 512.0 / (1u64 << 30) as f64,
        of("queue/logical_block_size")
    )
}
