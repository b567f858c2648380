//! `margay devices` says what there is, and of everything else why not.

use std::process::Command;

#[test]
fn every_backend_is_named_and_the_loopback_interface_is_listed() {
    let output = Command::new(env!("CARGO_BIN_EXE_margay")).arg("devices").output().expect("margay to start");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    for name in ["epoll", "io_uring", "xdp", "packet", "tap", "dpdk", "networks", "interfaces", "SPDK", "block devices"]
    {
        assert!(text.lines().any(|line| line.trim_start().starts_with(name)), "{name}: {text}");
    }
    let dpdk = text.lines().find(|line| line.trim_start().starts_with("dpdk")).expect("a line");
    match libos_dpdk::is_built() {
        Ok(()) => assert!(dpdk.contains("DPDK 2"), "its version: {dpdk}"),
        Err(why) => assert!(dpdk.contains(why), "why not: {dpdk}"),
    }
    for disk in std::fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        assert!(text.contains(&*disk.file_name().to_string_lossy()), "{:?}: {text}", disk.file_name());
    }
}
