//! Small programs that follow references from record to record of a log, where the reads come back, without waking anybody in
//! between. The idea is XRP's (OSDI'22), without a kernel.
//!
//! A program is run on each record that it reads; it has eight registers, which it keeps from one record to the next. It may
//! load numbers from the record, compute, jump forwards, and ends by following a reference to an older record, by taking the
//! record, or by giving up.
//!
//! Always: a program that was verified ends. It only jumps forwards, so it takes at most its own length of instructions a
//! record; each reference goes to a smaller number, and there are at most `steps_max` of them. Its reach is the log of its
//! queue: a reference is a sequence number, and what was truncated or is not yet durable is not found.

use std::rc::Rc;

use crate::error::Error;

/// How many registers there are.
pub const REGISTERS: usize = 8;
/// The longest program.
pub const LEN_MAX: usize = 256;
/// The most records that one chase reads.
pub const STEPS_MAX: u32 = 64;

/// A register.
pub type Register = u8;

/// How two numbers are compared, unsigned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    /// a == b
    Equal,
    /// a < b
    Less,
    /// a <= b
    LessOrEqual,
}

/// One step of a program on a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Instruction {
    /// Loads a little-endian number of `width` (1, 2, 4 or 8) bytes from byte `at` + `index` of the record. Beyond its end the
    /// chase fails with `InvalidArgument`.
    Load {
        /// Where to.
        to: Register,
        /// Byte.
        at: u32,
        /// And the register that is added to it.
        index: Option<Register>,
        /// Bytes.
        width: u8,
    },
    /// The length of the record.
    Len {
        /// Where to.
        to: Register,
    },
    /// A number.
    Set {
        /// Where to.
        to: Register,
        /// Which.
        value: u64,
    },
    /// `to = to + value`, modulo 2^64.
    Add {
        /// Changed.
        to: Register,
        /// Added.
        value: Register,
    },
    /// `to = to - value`, modulo 2^64.
    Subtract {
        /// Changed.
        to: Register,
        /// Taken off.
        value: Register,
    },
    /// `to = to * value`, modulo 2^64.
    Multiply {
        /// Changed.
        to: Register,
        /// By which.
        value: Register,
    },
    /// `to = to >> bits`.
    ShiftRight {
        /// Changed.
        to: Register,
        /// Less than 64.
        bits: u8,
    },
    /// Goes on `forward` instructions further (0: the next) if the comparison holds.
    JumpIf {
        /// Which.
        comparison: Comparison,
        /// Left.
        a: Register,
        /// Right.
        b: Register,
        /// How far.
        forward: u16,
    },
    /// Reads the record of this number, which is smaller than the present one's, and begins again.
    Follow {
        /// The register with its number.
        reference: Register,
    },
    /// The chase ends with this record.
    Take,
    /// The chase ends with `NotFound`.
    GiveUp,
}

/// A program that was verified. Clones are the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    instructions: Rc<[Instruction]>,
    steps_max: u32,
}

/// Where a program goes after a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// To the record of this number.
    Follow(u64),
    /// Nowhere: this is it.
    Take,
}

impl Program {
    /// Verifies a program that reads at most `steps_max` records.
    ///
    /// # Errors
    /// `InvalidArgument`: it is empty or too long, may run beyond its end, or names what there is not.
    pub fn verify(instructions: &[Instruction], steps_max: u32) -> Result<Program, Error> {
        let len = instructions.len();
        let ends =
            matches!(instructions.last(), Some(Instruction::Follow { .. } | Instruction::Take | Instruction::GiveUp));
        let right = |(at, instruction): (usize, &Instruction)| {
            let registers: [Option<Register>; 2] = match *instruction {
                Instruction::Load { to, index, width: 1 | 2 | 4 | 8, .. } => [Some(to), index],
                Instruction::Load { .. } => return false,
                Instruction::Len { to } | Instruction::Set { to, .. } => [Some(to), None],
                Instruction::Add { to, value }
                | Instruction::Subtract { to, value }
                | Instruction::Multiply { to, value } => [Some(to), Some(value)],
                Instruction::ShiftRight { to, bits } if bits < 64 => [Some(to), None],
                Instruction::ShiftRight { .. } => return false,
                Instruction::JumpIf { a, b, forward, .. } if at + 1 + (forward as usize) < len => [Some(a), Some(b)],
                Instruction::JumpIf { .. } => return false,
                Instruction::Follow { reference } => [Some(reference), None],
                Instruction::Take | Instruction::GiveUp => [None, None],
            };
            registers.into_iter().flatten().all(|register| (register as usize) < REGISTERS)
        };
        let is_right = ends
            && len <= LEN_MAX
            && (1..=STEPS_MAX).contains(&steps_max)
            && instructions.iter().enumerate().all(right);
        if is_right {
            Ok(Program { instructions: instructions.into(), steps_max })
        } else {
            Err(Error::InvalidArgument)
        }
    }

    /// The most records that it reads.
    pub fn steps_max(&self) -> u32 {
        self.steps_max
    }

    /// Runs it on the record `sequence`, of which `load(offset, into)` copies bytes, and says whether they are there.
    ///
    /// # Errors
    /// `NotFound` (it gave up), `InvalidArgument` (it loads what is not there, or follows a reference that does not go back).
    pub fn run(
        &self,
        registers: &mut [u64; REGISTERS],
        sequence: u64,
        len: usize,
        load: impl Fn(usize, &mut [u8]) -> bool,
    ) -> Result<Next, Error> {
        let mut at = 0;
        loop {
            let instruction = self.instructions[at];
            at += 1;
            match instruction {
                Instruction::Load { to, at, index, width } => {
                    let offset = (at as u64).checked_add(index.map_or(0, |index| registers[index as usize]));
                    let mut bytes = [0; 8];
                    let offset =
                        offset.and_then(|offset| usize::try_from(offset).ok()).ok_or(Error::InvalidArgument)?;
                    if !load(offset, &mut bytes[..width as usize]) {
                        return Err(Error::InvalidArgument);
                    }
                    registers[to as usize] = u64::from_le_bytes(bytes);
                }
                Instruction::Len { to } => registers[to as usize] = len as u64,
                Instruction::Set { to, value } => registers[to as usize] = value,
                Instruction::Add { to, value } => {
                    registers[to as usize] = registers[to as usize].wrapping_add(registers[value as usize]);
                }
                Instruction::Subtract { to, value } => {
                    registers[to as usize] = registers[to as usize].wrapping_sub(registers[value as usize]);
                }
                Instruction::Multiply { to, value } => {
                    registers[to as usize] = registers[to as usize].wrapping_mul(registers[value as usize]);
                }
                Instruction::ShiftRight { to, bits } => registers[to as usize] >>= bits,
                Instruction::JumpIf { comparison, a, b, forward } => {
                    let (a, b) = (registers[a as usize], registers[b as usize]);
                    let holds = match comparison {
                        Comparison::Equal => a == b,
                        Comparison::Less => a < b,
                        Comparison::LessOrEqual => a <= b,
                    };
                    at += if holds { forward as usize } else { 0 };
                }
                Instruction::Follow { reference } => {
                    let reference = registers[reference as usize];
                    let goes_back = (1..sequence).contains(&reference);
                    return if goes_back { Ok(Next::Follow(reference)) } else { Err(Error::InvalidArgument) };
                }
                Instruction::Take => return Ok(Next::Take),
                Instruction::GiveUp => return Err(Error::NotFound),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(instructions: &[Instruction], registers: &mut [u64; REGISTERS], record: &[u8]) -> Result<Next, Error> {
        let load = |offset: usize, into: &mut [u8]| match record.get(offset..offset.saturating_add(into.len())) {
            Some(bytes) => {
                into.copy_from_slice(bytes);
                true
            }
            None => false,
        };
        Program::verify(instructions, 8).unwrap().run(registers, 10, record.len(), load)
    }

    #[test]
    fn what_could_run_on_or_names_nothing_is_refused() {
        use Instruction::{Follow, GiveUp, JumpIf, Load, Set, ShiftRight, Take};
        let jump = |forward| JumpIf { comparison: Comparison::Equal, a: 0, b: 0, forward };
        for (bad, why) in [
            (&[][..], "nothing"),
            (&[Set { to: 0, value: 1 }], "runs beyond its end"),
            (&[jump(1), Take], "jumps beyond its end"),
            (&[jump(u16::MAX), Take], "jumps far"),
            (&[Set { to: 8, value: 1 }, Take], "no such register"),
            (&[Follow { reference: 200 }], "no such register"),
            (&[Load { to: 0, at: 0, index: Some(8), width: 8 }, Take], "no such register"),
            (&[Load { to: 0, at: 0, index: None, width: 3 }, Take], "no such width"),
            (&[ShiftRight { to: 0, bits: 64 }, Take], "shifts everything out"),
            (&[Take; LEN_MAX + 1], "too long"),
        ] {
            assert_eq!(Program::verify(bad, 8), Err(Error::InvalidArgument), "{why}");
        }
        assert_eq!(Program::verify(&[Take], 0), Err(Error::InvalidArgument));
        assert_eq!(Program::verify(&[Take], STEPS_MAX + 1), Err(Error::InvalidArgument));
        assert!(Program::verify(&[jump(0), GiveUp], STEPS_MAX).is_ok());
    }

    #[test]
    fn it_computes_jumps_and_follows() {
        use Instruction::{Add, Follow, GiveUp, JumpIf, Load, Multiply, Set, ShiftRight, Subtract, Take};
        let mut registers = [0; REGISTERS];
        registers[1] = 2;
        let program = [
            Load { to: 0, at: 1, index: Some(1), width: 1 },
            Add { to: 0, value: 1 },
            Multiply { to: 0, value: 1 },
            ShiftRight { to: 0, bits: 1 },
            Subtract { to: 0, value: 1 },
            Set { to: 2, value: 5 },
            JumpIf { comparison: Comparison::LessOrEqual, a: 0, b: 2, forward: 1 },
            Take,
            JumpIf { comparison: Comparison::Less, a: 0, b: 2, forward: 1 },
            GiveUp,
            Follow { reference: 0 },
        ];
        assert_eq!(run(&program, &mut registers, &[0, 0, 0, 4]), Ok(Next::Follow(4)));
        assert_eq!(run(&program, &mut registers, &[0, 0, 0, 5]), Err(Error::NotFound));
        assert_eq!(run(&program, &mut registers, &[0, 0, 0, 6]), Ok(Next::Take));
        assert_eq!(run(&program, &mut registers, &[0, 0, 0, 0]), Err(Error::InvalidArgument), "record 0");
        assert_eq!(run(&program, &mut registers, &[0, 0, 0]), Err(Error::InvalidArgument), "beyond its end");
        registers[1] = u64::MAX;
        assert_eq!(run(&program, &mut registers, &[0, 0, 0, 0]), Err(Error::InvalidArgument), "far beyond");
        let forwards = [Set { to: 0, value: 10 }, Follow { reference: 0 }];
        assert_eq!(run(&forwards, &mut registers, &[]), Err(Error::InvalidArgument), "to itself");
    }
}
