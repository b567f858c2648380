//! A machine of its own starts, runs what it is given, and is gone; what its disk is asked for reaches ours.

use std::time::Duration;

use margay_guest::disk::Disk;
use margay_guest::machine::{Ended, Plan};
use margay_guest::nbd::Server;

const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn a_machine_runs_a_script_and_its_flushes_reach_the_disk() {
    let mut plan = match Plan::new() {
        Ok(plan) => plan,
        Err(why) => return println!("SKIP guest_machine: {why:#}"),
    };
    let disk = Disk::new(vec![0; 8 << 20], 1);
    let socket = std::env::temp_dir().join(format!("margay-machine-{}", std::process::id()));
    let server = Server::start(socket, disk.clone()).expect("a server");
    plan.nvme(&server.uri()).file("/etc/a-file", "brought");
    let script = "
        cat /etc/a-file; echo
        cat /sys/block/nvme0n1/size /sys/block/nvme0n1/queue/write_cache
        printf abcd | dd of=/dev/nvme0n1 bs=512 seek=3 conv=sync,fsync 2>/dev/null
        echo written; echo to the other stream >&2
        exit 3";
    let mut machine = plan.start(script).expect("a machine");
    machine.await_line("written", LIMIT).expect("a line");
    let flushed = disk.counts().1;
    let (ended, told) = machine.wait(LIMIT).expect("its end");
    assert_eq!(told, ["brought", "16384", "write back", "written", "to the other stream"]);
    assert_eq!(ended, Ended::Script(3));
    assert!(flushed > 0, "a flush of the guest's reached the disk");
    assert_eq!(&disk.cut()[3 * 512..][..6], b"abcd\0\0", "what it flushed is there after a cut");
    assert_eq!(server.dropped(), 0);
}

#[test]
fn a_machine_that_ends_without_its_script_is_told_and_its_console_too() {
    let Ok(plan) = Plan::new() else {
        return println!("SKIP guest_panic: as guest_machine");
    };
    let machine = plan.start("sleep 1; echo c > /proc/sysrq-trigger; sleep 60").expect("a machine");
    match machine.wait(LIMIT).expect("its end") {
        (Ended::Machine(console), _) => assert!(console.contains("sysrq triggered crash"), "{console}"),
        other => panic!("{other:?}"),
    }
}
