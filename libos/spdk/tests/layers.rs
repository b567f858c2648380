//! Devices of SPDK's block layer that lie on others: what is known of the caches below them.

mod nvmf;

use std::path::PathBuf;

use libos_runtime::{Clock, KernelClock};
use libos_spdk::{DiskSettings, Env, OpenError, Opened, Target, open};
use nvmf::POOLS;
use pdpix::block::BlockOp;
use pdpix::{BlockDevice, Heap, OpId};

/// RAIDs of both kinds, a logical volume, a file, and nothing at all.
fn configuration(file: &str) -> String {
    let malloc = |name: &str, mib: u32| {
        let blocks = mib * 2048;
        format!(
            r#"{{"method":"bdev_malloc_create","params":{{"name":"{name}","num_blocks":{blocks},"block_size":512}}}}"#
        )
    };
    let raid = |name: &str, level: &str, bases: &str, strip: u32| {
        format!(
            r#"{{"method":"bdev_raid_create","params":{{"name":"{name}","raid_level":"{level}","strip_size_kb":{strip},"base_bdevs":[{bases}]}}}}"#
        )
    };
    let calls = [
        malloc("A", 8),
        malloc("B", 8),
        malloc("C", 8),
        malloc("D", 8),
        malloc("Store", 64),
        raid("Striped", "0", r#""A","B""#, 64),
        raid("Mirrored", "1", r#""C","D""#, 0),
        r#"{"method":"bdev_lvol_create_lvstore","params":{"bdev_name":"Store","lvs_name":"lvs","cluster_sz":1048576}}"#
            .into(),
        r#"{"method":"bdev_lvol_create","params":{"lvs_name":"lvs","lvol_name":"volume","size_in_mib":8}}"#.into(),
        format!(r#"{{"method":"bdev_aio_create","params":{{"name":"File","filename":"{file}","block_size":512}}}}"#),
        r#"{"method":"bdev_null_create","params":{"name":"Null","num_blocks":16384,"block_size":512}}"#.into(),
    ];
    format!(
        r#"{{"subsystems":[{{"subsystem":"iobuf","config":[{POOLS}]}},{{"subsystem":"bdev","config":[{}]}}]}}"#,
        calls.join(",")
    )
}

struct Layers {
    env: Env,
    heap: Heap,
    configuration: String,
    file: PathBuf,
}

impl Layers {
    fn new() -> Result<Layers, String> {
        let env = nvmf::env()?;
        let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("layers-{}.disk", std::process::id()));
        std::fs::File::create(&file).unwrap().set_len(8 << 20).unwrap();
        let configuration = configuration(file.to_str().unwrap());
        Ok(Layers { env, heap: nvmf::heap(env), configuration, file })
    }

    fn open(&self, name: &str, read_only: bool) -> Result<Opened, OpenError> {
        let settings = DiskSettings { configuration: self.configuration.clone(), read_only, ..DiskSettings::default() };
        open(self.env, &Target::parse(&format!("bdev:{name}"), 0).unwrap(), &settings, &self.heap)
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

#[test]
fn what_lies_on_other_devices_is_flushed_or_refused() {
    let layers = match Layers::new() {
        Err(why) => return println!("SKIP spdk_layers: {why}"),
        Ok(layers) => layers,
    };
    // A RAID says that it has no cache, whatever is below it.
    for name in ["Striped", "File"] {
        let mut device = layers.open(name, false).unwrap().device;
        assert!(device.geometry().volatile_cache, "{name} is believed to have no cache");
        device.submit(OpId(1), BlockOp::Flush).unwrap();
        let mut done = Vec::new();
        while done.is_empty() {
            device.poll(KernelClock.now(), 1, &mut done);
        }
        assert_eq!(done[0].result, Ok(()), "{name}");
    }
    for (name, product) in [("Mirrored", "Raid Volume"), ("lvs/volume", "Logical Volume")] {
        let why = layers.open(name, false).err().expect("it cannot be flushed, and was taken").to_string();
        assert!(why.contains(product) && why.contains("flush"), "{why}");
        // To be read it is good enough.
        assert!(layers.open(name, true).is_ok(), "{name}");
    }
}

#[test]
fn a_device_that_says_success_and_reads_nothing_is_found_out() {
    let layers = match Layers::new() {
        Err(why) => return println!("SKIP spdk_layers: {why}"),
        Ok(layers) => layers,
    };
    // SPDK's null device leaves the memory as it was: as an IOMMU that is too narrow does.
    assert!(matches!(layers.open("Null", false), Err(OpenError::WrongData(_))));
}

#[test]
fn what_somebody_else_writes_to_can_be_read() {
    let layers = match Layers::new() {
        Err(why) => return println!("SKIP spdk_layers: {why}"),
        Ok(layers) => layers,
    };
    // A part of a RAID is the RAID's.
    let why = layers.open("A", false).err().expect("the RAID has it").to_string();
    assert!(why.contains("cannot be opened"), "{why}");
    assert!(layers.open("A", true).is_ok());
}
