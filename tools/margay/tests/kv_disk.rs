//! `margay kv` on a whole disk, here one that the kernel makes of a file (losetup): how long it is, discarding, and disks that
//! are not ours to write on.

mod kv_process;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use kv_differential::Subject;
use kv_differential::generate::words;
use kv_process::{Form, Kv, margay_kv, run};
use rustix::process::Signal;

/// A disk made of a file; both are gone when it is dropped.
struct LoopDisk {
    file: PathBuf,
    path: String,
}

impl LoopDisk {
    fn new(name: &str, bytes: u64) -> Option<LoopDisk> {
        let file = std::env::temp_dir().join(format!("margay-loop-{name}-{}", std::process::id()));
        std::fs::File::create(&file).and_then(|file| file.set_len(bytes)).expect("a file");
        let made = Command::new("losetup").args(["--find", "--show"]).arg(&file).output();
        match made {
            Ok(output) if output.status.success() => {
                Some(LoopDisk { file, path: String::from_utf8_lossy(&output.stdout).trim().to_string() })
            }
            _ => {
                println!("SKIP block_loop: losetup cannot make a disk (root, and a kernel with loop devices)");
                let _ = std::fs::remove_file(file);
                None
            }
        }
    }

    fn start(&self, more: &[&str]) -> Kv {
        let device = format!("storage.device={}", self.path);
        let mut arguments = vec!["--durability", "always", "--set", &device, "--set", "memory.size=128MiB"];
        arguments.extend(more);
        let kv = Kv::start(&Form { backend: "epoll", cores: 1 }, &arguments);
        while kv.connect().ask(&words("PING")).is_none_or(|reply| reply.bytes() != b"PONG") {
            std::thread::sleep(Duration::from_millis(5));
        }
        kv
    }

    /// What it says when it does not start.
    fn refused(&self) -> String {
        let mut command = margay_kv();
        command.args(["--listen", "127.0.0.1:0", "--cores", "1", "--durability", "always"]);
        command.args(["--set", &format!("storage.device={}", self.path), "--set", "memory.size=128MiB"]);
        let (code, output, says) = run(&mut command, Duration::from_secs(20));
        assert!(code == Some(1), "it ends with {code:?}: {output}{says}");
        says
    }

    fn content(&self) -> Vec<u8> {
        std::fs::read(&self.path).expect("a disk that can be read")
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.path]).status();
        let _ = std::fs::remove_file(&self.file);
    }
}

#[test]
fn a_whole_disk_keeps_the_data_and_its_log_fits_it() {
    for discard in ["storage.discard=false", "storage.discard=true"] {
        // The disk is much shorter than `storage.size`, which is for files.
        let Some(disk) = LoopDisk::new("data", 24 << 20) else { return };
        let more = ["--set", discard];
        let kv = disk.start(&more);
        let mut peer = kv.connect();
        let value = "v".repeat(50_000);
        // Nearly twice what fits: the log must be cut off again and again.
        for number in 0..900 {
            let reply = peer.ask(&words(&format!("SET key:{} {number}:{value}", number % 10))).expect("a reply");
            assert_eq!(reply.bytes(), b"OK", "{discard}, write {number}: {reply:?}");
        }
        kv.signal(Signal::KILL);
        drop(kv);
        let kv = disk.start(&more);
        for key in 0..10 {
            let reply = kv.connect().ask(&words(&format!("GET key:{key}"))).expect("a reply");
            let start = format!("{}:v", 890 + key);
            assert!(reply.bytes().starts_with(start.as_bytes()), "{discard}: key:{key}");
        }
        let says = disk.refused();
        assert!(says.contains("another process uses"), "a second one: {says}");
        kv.stop();
    }
}

#[test]
fn a_disk_that_is_mounted_or_has_something_else_on_it_is_left_alone() {
    let Some(disk) = LoopDisk::new("mounted", 16 << 20) else { return };
    let made = Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", &disk.path]).status();
    if !made.is_ok_and(|status| status.success()) {
        return println!("SKIP block_loop: there is no mke2fs");
    }
    let before = disk.content();
    let says = disk.refused();
    assert!(says.contains("cannot be opened: damaged data"), "a file system that is not mounted: {says}");
    assert!(disk.content() == before, "something was written on a file system");
    let place = disk.file.with_extension("mount");
    std::fs::create_dir_all(&place).expect("a directory");
    let mounted = Command::new("mount").args(["-o", "ro"]).arg(&disk.path).arg(&place).status();
    if mounted.is_ok_and(|status| status.success()) {
        let says = disk.refused();
        let _ = Command::new("umount").arg(&place).status();
        assert!(says.contains("or it is mounted"), "{says}");
    } else {
        println!("SKIP block_loop: ext4 cannot be mounted here");
    }
    let _ = std::fs::remove_dir(&place);
}

#[test]
fn a_disk_that_is_too_small_is_refused() {
    let Some(disk) = LoopDisk::new("small", 64 << 10) else { return };
    let says = disk.refused();
    assert!(says.contains("space") || says.contains("small"), "{says}");
    assert!(disk.content().iter().all(|byte| *byte == 0), "something was written");
}

/// A device of SPDK's block layer is as long as it is, too.
#[test]
fn a_device_of_spdk_is_as_long_as_it_is() {
    let Some(library) = std::env::var_os("MARGAY_SPDK_LIBRARY") else {
        return println!("SKIP spdk_kv: MARGAY_SPDK_LIBRARY names no SPDK");
    };
    let configuration = std::env::temp_dir().join(format!("margay-spdk-kv-{}.json", std::process::id()));
    let calls = r#"{"subsystems":[
        {"subsystem":"iobuf","config":[{"method":"iobuf_set_options","params":{"small_pool_count":1024,"large_pool_count":64}}]},
        {"subsystem":"bdev","config":[{"method":"bdev_malloc_create","params":{"name":"Log","num_blocks":49152,"block_size":512}}]}]}"#;
    std::fs::write(&configuration, calls).expect("a file");
    let keys = [
        "storage.device=spdk:bdev:Log".to_string(),
        format!("spdk.library={}", library.display()),
        format!("spdk.config={}", configuration.display()),
        "memory.size=128MiB".to_string(),
    ];
    let mut arguments = vec!["--durability", "always"];
    arguments.extend(keys.iter().flat_map(|key| ["--set", key]));
    let kv = Kv::start(&Form { backend: "epoll", cores: 1 }, &arguments);
    while kv.connect().ask(&words("PING")).is_none_or(|reply| reply.bytes() != b"PONG") {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut peer = kv.connect();
    let value = "v".repeat(50_000);
    // Nearly twice what fits into its 24 MiB.
    for number in 0..900 {
        let reply = peer.ask(&words(&format!("SET key:{} {number}:{value}", number % 10))).expect("a reply");
        assert_eq!(reply.bytes(), b"OK", "write {number}: {reply:?}");
    }
    kv.stop();
    let _ = std::fs::remove_file(configuration);
}
