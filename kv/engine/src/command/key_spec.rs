//! Which arguments of a command are keys.

use super::row::flags;
use super::{Command, Flags};
use crate::number::parse_i64;
use crate::resp::Request;

/// A set of keys among the arguments, and what is done with them.
#[derive(Clone, Copy, Debug)]
pub struct KeySpec {
    /// What is done with these keys.
    pub flags: KeyFlags,
    /// The argument at which they begin.
    pub begin: usize,
    /// Which from there on.
    pub find: Find,
}

/// Which arguments from some place on.
#[derive(Clone, Copy, Debug)]
pub enum Find {
    /// From the first to one so many behind it (or, if negative, before the end of all), every `step`.
    Range {
        /// How far the last is behind the first, or from the end.
        last: i32,
        /// How far each is behind the one before.
        step: usize,
    },
    /// As many as the first argument says, behind it.
    Counted,
}

/// What a command does with keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyFlags(u32);

flags! { KeyFlags {
    /// Only reads.
    RO = 0 "RO",
    /// Reads and changes.
    RW = 1 "RW",
    /// Overwrites.
    OW = 2 "OW",
    /// Removes.
    RM = 3 "RM",
    /// Gives what is stored to the client.
    ACCESS = 4 "access",
    /// Changes what is stored.
    UPDATE = 5 "update",
    /// Only adds to it.
    INSERT = 6 "insert",
    /// Only takes from it.
    DELETE = 7 "delete",
    /// Depends on the other arguments.
    VARIABLE = 10 "variable_flags",
} }

impl KeySpec {
    const fn new(flags: KeyFlags, begin: usize, last: i32, step: usize) -> KeySpec {
        KeySpec { flags, begin, find: Find::Range { last, step } }
    }

    const RO_ACCESS: KeyFlags = KeyFlags::RO.and(KeyFlags::ACCESS);
    const RW_TAKE: KeyFlags = KeyFlags::RW.and(KeyFlags::ACCESS).and(KeyFlags::DELETE);
    const OW_UPDATE: KeyFlags = KeyFlags::OW.and(KeyFlags::UPDATE);

    /// Its value is read.
    pub(super) const READ: KeySpec = KeySpec::new(KeySpec::RO_ACCESS, 1, 0, 1);
    /// Something about it is read, but not its value.
    pub(super) const PEEK: KeySpec = KeySpec::new(KeyFlags::RO, 1, 0, 1);
    /// It is read, changed, and given back.
    pub(super) const EXCHANGE: KeySpec =
        KeySpec::new(KeyFlags::RW.and(KeyFlags::ACCESS).and(KeyFlags::UPDATE), 1, 0, 1);
    /// It is changed.
    pub(super) const UPDATE: KeySpec = KeySpec::new(KeyFlags::RW.and(KeyFlags::UPDATE), 1, 0, 1);
    /// Something is added to it.
    pub(super) const INSERT: KeySpec = KeySpec::new(KeyFlags::RW.and(KeyFlags::INSERT), 1, 0, 1);
    /// Something is taken from it.
    pub(super) const DELETE: KeySpec = KeySpec::new(KeyFlags::RW.and(KeyFlags::DELETE), 1, 0, 1);
    /// Something is taken from it and given back.
    pub(super) const TAKE: KeySpec = KeySpec::new(KeySpec::RW_TAKE, 1, 0, 1);
    /// It is overwritten.
    pub(super) const OVERWRITE: KeySpec = KeySpec::new(KeySpec::OW_UPDATE, 1, 0, 1);
    /// It is written if it is not there.
    pub(super) const CREATE: KeySpec = KeySpec::new(KeyFlags::OW.and(KeyFlags::INSERT), 1, 0, 1);
    /// SET: what is done with it depends on the options.
    pub(super) const SET: KeySpec =
        KeySpec { flags: KeySpec::EXCHANGE.flags.and(KeyFlags::VARIABLE), ..KeySpec::EXCHANGE };
    /// All that follow are read.
    pub(super) const READ_ALL: KeySpec = KeySpec::new(KeySpec::RO_ACCESS, 1, -1, 1);
    /// Something about all that follow is read.
    pub(super) const PEEK_ALL: KeySpec = KeySpec::new(KeyFlags::RO, 1, -1, 1);
    /// All that follow are removed.
    pub(super) const REMOVE_ALL: KeySpec = KeySpec::new(KeyFlags::RM.and(KeyFlags::DELETE), 1, -1, 1);
    /// Every second one is overwritten.
    pub(super) const OVERWRITE_PAIRS: KeySpec = KeySpec::new(KeySpec::OW_UPDATE, 1, -1, 2);
    /// Every second one is written if none is there.
    pub(super) const CREATE_PAIRS: KeySpec = KeySpec::new(KeyFlags::OW.and(KeyFlags::INSERT), 1, -1, 2);
    /// As many as the first argument says are read.
    pub(super) const READ_COUNTED: KeySpec = KeySpec { flags: KeySpec::RO_ACCESS, begin: 1, find: Find::Counted };

    /// The same from the second argument on.
    pub(super) const fn second(self) -> KeySpec {
        KeySpec { begin: 2, ..self }
    }

    pub(super) const fn is_counted(&self) -> bool {
        matches!(self.find, Find::Counted)
    }

    /// The one argument that it is, if it is never more.
    #[inline]
    const fn single(&self) -> Option<usize> {
        match self.find {
            Find::Range { last: 0, .. } => Some(self.begin),
            _ => None,
        }
    }

    /// Which arguments of a request of `len` they are. `None`: the request says that there are keys where there are none.
    fn places<'a>(&self, request: &'a Request) -> Option<std::iter::StepBy<std::ops::Range<usize>>>
    where
        Self: 'a,
    {
        let len = request.len();
        match self.find {
            Find::Range { last, step } => {
                let last = if last >= 0 { self.begin + last as usize } else { (len as i64 + i64::from(last)) as usize };
                (last < len).then(|| (self.begin..last + 1).step_by(step))
            }
            Find::Counted => {
                let count = (self.begin < len).then(|| parse_i64(request.arg(self.begin)))??;
                let count = usize::try_from(count).ok().filter(|&count| (1..len - self.begin).contains(&count))?;
                Some((self.begin + 1..self.begin + 1 + count).step_by(1))
            }
        }
    }
}

/// The arguments of one command that are keys, with what is done with each.
pub(crate) type Keys = smallvec::SmallVec<[(usize, KeyFlags); 4]>;

/// The only key of `request`, if commands of this kind have just one.
#[inline]
pub(crate) fn single_key_of<'a>(command: &Command, request: &'a Request) -> Option<&'a [u8]> {
    let [spec] = command.keys else { return None };
    spec.single().filter(|&index| index < request.len()).map(|index| request.arg(index))
}

/// Which arguments of `request` are keys. `None`: it says that there are keys where there are none.
pub(crate) fn keys_of(command: &Command, request: &Request) -> Option<Keys> {
    let mut keys = Keys::new();
    for spec in command.keys {
        keys.extend(spec.places(request)?.map(|index| (index, spec.flags)));
    }
    Some(keys)
}

/// The same where a number of keys is wrong, as COMMAND GETKEYS guesses: by the digits that the number begins with, and
/// with the other keys behind those that are counted.
pub(super) fn guess_keys_of(command: &Command, request: &Request) -> Option<Keys> {
    let counted = command.keys.iter().find(|spec| spec.is_counted())?;
    let text = request.arg(counted.begin).trim_ascii_start();
    let text = text.strip_prefix(b"+").unwrap_or(text);
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    let count = digits.fold(0usize, |count, byte| count.saturating_mul(10).saturating_add(usize::from(byte - b'0')));
    let first = counted.begin + 1;
    let places = (count > 0 && count <= request.len() - first).then(|| first..first + count)?;
    let mut keys: Keys = places.map(|index| (index, counted.flags)).collect();
    for spec in command.keys.iter().filter(|spec| !spec.is_counted()) {
        keys.extend(spec.places(request)?.map(|index| (index, spec.flags)));
    }
    Some(keys)
}

impl Command {
    /// The places of its keys as Redis told them before there were key specifications: first, last, step; zeros if there
    /// are none at fixed places.
    pub fn key_range(&self) -> (i64, i64, i64) {
        let mut range: Option<(i64, i64, i64)> = None;
        for spec in self.keys {
            let Find::Range { last, step } = spec.find else { continue };
            let end = if last >= 0 { spec.begin as i64 + i64::from(last) } else { i64::from(last) };
            range = match range {
                None => Some((spec.begin as i64, end, step as i64)),
                // One behind the other.
                Some((first, _, 1)) if step == 1 => Some((first, end, 1)),
                other => other,
            };
        }
        range.unwrap_or((0, 0, 0))
    }

    /// Whether its keys are not all at fixed places.
    pub fn has_movable_keys(&self) -> bool {
        self.flags.contains(Flags::MOVABLE_KEYS)
    }
}
