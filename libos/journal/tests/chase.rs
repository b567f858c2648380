//! An index that lies on the log it is of: a tree of nodes that name records by their numbers, looked up by `chase` and by pops.
//!
//! A node is a record: 8 bytes that say how high it is (0: a leaf), then entries of 16 bytes, sorted: the greatest key below, and
//! the record to go on with. A leaf's entries lead to values, whose first 8 bytes are their key.

mod rig;

use std::time::Duration;

use libos_journal::memory::Contents;
use libos_sim::{DiskSettings, SimDisk};
use pdpix::chase::{Comparison, Instruction, Program, REGISTERS};
use pdpix::{Error, Handle, LogOp, Outcome, Rng, Storage};
use rig::{Result, Rig, small};

const FANOUT: usize = 16;
/// Says that a record is a value.
const VALUE: u64 = u64::MAX;

// Registers.
const KEY: u8 = 0;
const OFFSET: u8 = 1;
const HERE: u8 = 2;
const STEP: u8 = 3;
const KIND: u8 = 4;
const LEN: u8 = 5;

/// Finds the value of the key in register 0.
fn program() -> Program {
    use Instruction::{Add, Follow, GiveUp, JumpIf, Len, Load, Set, Take};
    let mut code = vec![
        Load { to: KIND, at: 0, index: None, width: 8 },
        Set { to: HERE, value: VALUE },
        // A value: it is the right one, or there is none.
        JumpIf { comparison: Comparison::Less, a: KIND, b: HERE, forward: 4 },
        Load { to: HERE, at: 8, index: None, width: 8 },
        JumpIf { comparison: Comparison::Equal, a: HERE, b: KEY, forward: 1 },
        GiveUp,
        Take,
        // A node: the first entry whose key is not less.
        Len { to: LEN },
        Set { to: OFFSET, value: 8 },
        Set { to: STEP, value: 16 },
    ];
    for _ in 0..FANOUT {
        code.extend([
            JumpIf { comparison: Comparison::Less, a: OFFSET, b: LEN, forward: 1 },
            GiveUp,
            Load { to: HERE, at: 0, index: Some(OFFSET), width: 8 },
            JumpIf { comparison: Comparison::Less, a: HERE, b: KEY, forward: 2 },
            Load { to: HERE, at: 8, index: Some(OFFSET), width: 8 },
            Follow { reference: HERE },
            Add { to: OFFSET, value: STEP },
        ]);
    }
    code.push(GiveUp);
    Program::verify(&code, 8).unwrap()
}

/// Values for every third key up to `3 * count`, and the tree over them: its root.
fn build(rig: &mut Rig, log: Handle, count: u64) -> u64 {
    let mut level: Vec<(u64, u64)> = Vec::new();
    for i in 0..count {
        let key = 3 * i;
        let mut value = VALUE.to_le_bytes().to_vec();
        value.extend(key.to_le_bytes());
        value.extend(vec![key as u8; 100]);
        level.push((key, rig.put(log, &value).unwrap()));
    }
    let mut height = 0u64;
    loop {
        let mut above = Vec::new();
        for entries in level.chunks(FANOUT) {
            let mut node = height.to_le_bytes().to_vec();
            for (key, record) in entries {
                node.extend(key.to_le_bytes());
                node.extend(record.to_le_bytes());
            }
            above.push((entries.last().unwrap().0, rig.put(log, &node).unwrap()));
        }
        if let [(_, root)] = above[..] {
            return root;
        }
        (level, height) = (above, height + 1);
    }
}

fn chase(rig: &mut Rig, log: Handle, root: u64, key: u64) -> Result<Vec<u8>> {
    let mut registers = [0; REGISTERS];
    registers[KEY as usize] = key;
    let op = rig.submit(log, LogOp::Chase { start: root, program: program(), registers })?;
    match rig.wait(op)? {
        Outcome::Popped(popped) => Ok(popped.sga.to_vec()),
        other => panic!("{other:?}"),
    }
}

/// The same by seeks and pops.
fn look_up(rig: &mut Rig, log: Handle, root: u64, key: u64) -> Option<Vec<u8>> {
    let mut at = root;
    loop {
        assert_eq!(rig.seek(log, at), Ok(at));
        let record = rig.read(log).unwrap();
        let number = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().unwrap());
        if number(0) == VALUE {
            return (number(8) == key).then_some(record);
        }
        at = (8..record.len()).step_by(16).find(|&entry| number(entry) >= key).map(|entry| number(entry + 8))?;
    }
}

#[test]
fn a_key_is_found_as_by_pops_and_no_cursor_moves() {
    let mut rig = Rig::new(&Contents::new(16 << 20), small());
    let log = rig.log("index");
    let root = build(&mut rig, log, 1000);
    for key in 0..3100 {
        let found = chase(&mut rig, log, root, key);
        assert_eq!(found.as_ref().ok(), look_up(&mut rig, log, root, key).as_ref(), "{key}");
        if key % 3 == 0 && key < 3000 {
            assert_eq!(found.unwrap()[16..], [key as u8; 100]);
        } else {
            assert_eq!(found, Err(Error::NotFound), "{key}");
        }
    }
    rig.seek(log, 5).unwrap();
    let before = rig.read(log).unwrap();
    chase(&mut rig, log, root, 300).unwrap();
    rig.seek(log, 5).unwrap();
    assert_eq!(rig.read(log).unwrap(), before);
}

#[test]
fn its_reach_is_what_is_durable_and_kept_and_its_steps_are_bounded() {
    let mut rig = Rig::new(&Contents::new(16 << 20), small());
    let log = rig.log("index");
    let root = build(&mut rig, log, 1000);
    assert_eq!(chase(&mut rig, log, root + 1, 3), Err(Error::NotFound), "not there yet");
    assert_eq!(chase(&mut rig, log, 0, 3), Err(Error::NotFound));
    rig.truncate(log, 500).unwrap();
    assert_eq!(chase(&mut rig, log, root, 3), Err(Error::NotFound), "truncated");
    assert!(chase(&mut rig, log, root, 2400).is_ok());
    // Two steps do not lead through three levels and to the value.
    let back = [Instruction::Load { to: 1, at: 16, index: None, width: 8 }, Instruction::Follow { reference: 1 }];
    let short = Program::verify(&back, 2).unwrap();
    let op = rig.submit(log, LogOp::Chase { start: root, program: short, registers: [0; REGISTERS] }).unwrap();
    assert!(matches!(rig.wait(op), Err(Error::Overflow)));
}

#[test]
fn a_chase_can_be_cancelled_and_ends_with_its_handle() {
    let mut disk = DiskSettings::new(16 << 20);
    disk.latency = Duration::from_micros(50)..=Duration::from_micros(50);
    let disk = SimDisk::new(disk, Rng::new(3));
    let mut rig = Rig::over(Box::new(disk.device()), small());
    let pass = |rig: &mut Rig, count: u32| (0..count).for_each(|_| rig.pass(Duration::from_micros(20)));
    let log = rig.log("index");
    let ops: Vec<_> = (0..50u64).map(|i| rig.append(log, &[i as u8; 64]).unwrap()).collect();
    pass(&mut rig, 500);
    assert!(ops.into_iter().all(|op| rig.ended(op).is_some_and(|end| end.is_ok())));
    let take = Program::verify(&[Instruction::Take], 1).unwrap();
    let begin = |rig: &mut Rig| {
        let what = LogOp::Chase { start: 7, program: take.clone(), registers: [0; REGISTERS] };
        rig.submit(log, what).unwrap()
    };
    let [first, second, third] = [begin(&mut rig), begin(&mut rig), begin(&mut rig)];
    rig.store.cancel(log, second);
    pass(&mut rig, 20);
    assert!(matches!(rig.ended(first), Some(Ok(Outcome::Popped(popped))) if popped.sga.to_vec() == [6; 64]));
    assert!(matches!(rig.ended(second), Some(Err(Error::Canceled))));
    assert!(matches!(rig.ended(third), Some(Ok(_))));
    let last = begin(&mut rig);
    rig.store.close(log);
    assert_eq!(rig.store.zombies(), 1);
    pass(&mut rig, 20);
    assert!(matches!(rig.ended(last), Some(Err(Error::Canceled))));
    assert_eq!(rig.store.zombies(), 0);
}
