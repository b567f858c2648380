//! Which command a name means, in a few dozen instructions.
//!
//! Names are letters only (asserted below), so that setting one bit of each byte makes upper and lower case the same
//! and confuses nothing else with them. Two words, the first eight bytes and the last eight, tell all names apart.

use super::{
    Command, connections, counters, generic, hashes, lists, persistence, row::Run, sets, strings, zset_ranges,
    zset_sums, zsets,
};
use crate::refusal::Refusal;
use crate::resp::Request;

const GROUPS: [&[Command]; 11] = [
    strings::ROWS,
    counters::ROWS,
    generic::ROWS,
    lists::ROWS,
    sets::ROWS,
    hashes::ROWS,
    zsets::ROWS,
    zset_ranges::ROWS,
    zset_sums::ROWS,
    connections::ROWS,
    persistence::ROWS,
];

const COUNT: usize = {
    let (mut count, mut group) = (0, 0);
    while group < GROUPS.len() {
        count += GROUPS[group].len();
        group += 1;
    }
    count
};

/// Slots of the hash table, a power of two, less than a third full.
const SLOTS: usize = 512;
const EMPTY: u16 = u16::MAX;
const _: () = assert!(COUNT * 3 < SLOTS, "the table is too full to be fast");

static COMMANDS: [&Command; COUNT] = {
    let mut all = [&GROUPS[0][0]; COUNT];
    let (mut count, mut group) = (0, 0);
    while group < GROUPS.len() {
        let mut row = 0;
        while row < GROUPS[group].len() {
            all[count] = &GROUPS[group][row];
            count += 1;
            row += 1;
        }
        group += 1;
    }
    all
};

/// A name in a form in which case does not matter.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Folded {
    first: u64,
    last: u64,
    len: usize,
}

const CASE: u64 = 0x2020_2020_2020_2020;

impl Folded {
    /// `None` if no command's name is as long or as short.
    #[inline(always)]
    const fn new(name: &[u8]) -> Option<Folded> {
        let len = name.len();
        let (first, last) = if len >= 8 {
            let (Some(first), Some(last)) = (name.first_chunk::<8>(), name.last_chunk::<8>()) else { return None };
            (u64::from_le_bytes(*first), u64::from_le_bytes(*last))
        } else if len >= 4 {
            let (Some(first), Some(last)) = (name.first_chunk::<4>(), name.last_chunk::<4>()) else { return None };
            (u32::from_le_bytes(*first) as u64, u32::from_le_bytes(*last) as u64)
        } else if len >= 2 {
            let (Some(first), Some(last)) = (name.first_chunk::<2>(), name.last_chunk::<2>()) else { return None };
            (u16::from_le_bytes(*first) as u64, u16::from_le_bytes(*last) as u64)
        } else {
            return None;
        };
        if len > 16 {
            return None;
        }
        Some(Folded { first: first | CASE, last: last | CASE, len })
    }

    #[inline(always)]
    const fn slot(self) -> usize {
        let mixed = (self.first ^ self.last.rotate_left(23)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed >> (64 - SLOTS.ilog2())) as usize
    }
}

#[derive(Clone, Copy)]
struct Slot {
    name: Folded,
    index: u16,
}

static TABLE: [Slot; SLOTS] = {
    let empty = Slot { name: Folded { first: 0, last: 0, len: 0 }, index: EMPTY };
    let mut table = [empty; SLOTS];
    let mut index = 0;
    while index < COUNT {
        let name = COMMANDS[index].name.as_bytes();
        let mut at = 0;
        while at < name.len() {
            assert!(name[at].is_ascii_lowercase(), "a name has small letters only");
            at += 1;
        }
        let name = Folded::new(name).expect("a name has two to sixteen letters");
        let mut slot = name.slot();
        while table[slot].index != EMPTY {
            slot = (slot + 1) % SLOTS;
        }
        table[slot] = Slot { name, index: index as u16 };
        index += 1;
    }
    table
};

/// The command of this name, in whatever case.
#[inline]
pub fn lookup(name: &[u8]) -> Option<&'static Command> {
    let name = Folded::new(name)?;
    let mut slot = name.slot();
    loop {
        let found = &TABLE[slot];
        if found.name == name {
            return COMMANDS.get(found.index as usize).copied();
        }
        if found.index == EMPTY {
            return None;
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// All commands, group by group; subcommands are in their containers.
pub fn all() -> &'static [&'static Command] {
    &COMMANDS
}

impl Command {
    /// The subcommand of this name, in whatever case.
    pub fn subcommand(&self, name: &[u8]) -> Option<&'static Command> {
        self.subcommands.iter().find(|command| command.own_name().as_bytes().eq_ignore_ascii_case(name))
    }
}

/// The command that a request names, whatever its arguments.
#[inline]
pub(crate) fn named(request: &Request) -> Option<&'static Command> {
    let command = lookup(request.arg(0))?;
    if command.subcommands.is_empty() || request.len() == 1 {
        return Some(command);
    }
    command.subcommand(request.arg(1))
}

/// The command of a request, if it takes as many arguments.
///
/// # Errors
/// [`Refusal`]: there is no such command or subcommand, or it takes more arguments, or fewer.
#[inline]
pub fn find(request: &Request) -> Result<&'static Command, Refusal> {
    match named(request) {
        Some(command) if command.takes(request.len()) && !matches!(command.run, Run::Container) => Ok(command),
        Some(_) => Err(Refusal::Arity),
        None if lookup(request.arg(0)).is_some() => Err(Refusal::UnknownSubcommand),
        None => Err(Refusal::UnknownCommand),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_finds_its_command_in_any_case() {
        for command in all() {
            for name in [command.name.to_string(), command.name.to_uppercase(), {
                let mixed = |(i, c): (usize, char)| if i % 2 == 0 { c.to_ascii_uppercase() } else { c };
                command.name.chars().enumerate().map(mixed).collect()
            }] {
                assert!(lookup(name.as_bytes()).is_some_and(|found| std::ptr::eq(found, *command)), "{name}");
            }
            for other in ["", "x", &command.name[1..], &format!("{}x", command.name), &command.name.replace('e', "E@")]
            {
                assert!(lookup(other.as_bytes()).is_none_or(|found| found.name.eq_ignore_ascii_case(other)), "{other}");
            }
        }
    }

    #[test]
    fn rows_are_whole() {
        for command in all().iter().copied().chain(all().iter().flat_map(|command| command.subcommands)) {
            assert!(!command.summary.is_empty() && !command.since.is_empty(), "{}", command.name);
            assert!(command.arity != 0);
        }
    }
}
