//! How much room a disk has left: for the log, for a snapshot, and for what makes the data less.
//!
//! Counted here, as a journal does not tell: the log with its padding, the last snapshot, and the one that is being written.

use framework::Outbox;
use framework::pdpix::Error;
use kv_engine::command::{Command, Flags};
use kv_engine::refusal::Refusal;
use kv_engine::resp::Request;

use super::saving::LOG_LEN_MIN;
use super::{Durability, Persistence};
use crate::peer::Peer;
use crate::shard::Shard;

/// Bytes of a request that is not long.
const SHORT: usize = 64 << 10;

/// How much room a disk has left, and what is taken. Each step keeps something back for the next: what makes the data less is
/// written down, too, and so is what takes all away. So whoever deletes enough comes back from each of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Room {
    /// Everything.
    #[default]
    Enough,
    /// Nothing that may let data grow.
    Little,
    /// Of what writes, only what deletes keys.
    Scarce,
    /// Only what deletes all of them.
    Last,
}

impl Room {
    /// Whether this is not taken now.
    pub fn refuses(self, command: &Command) -> bool {
        let writes = command.flags.contains(Flags::WRITE) || command.flags.contains(Flags::DENYOOM);
        match self {
            Room::Enough => false,
            Room::Little => command.flags.contains(Flags::DENYOOM),
            Room::Scarce => writes && !["del", "unlink", "flushall", "flushdb"].contains(&command.name),
            Room::Last => writes && !["flushall", "flushdb"].contains(&command.name),
        }
    }
}

/// The space that a record or a piece takes in a journal that writes these units, if it is flushed for itself.
pub(super) fn space_of(len: usize, unit: u64) -> u64 {
    (len as u64 + 32).next_multiple_of(unit.max(1))
}

impl Persistence {
    /// What a snapshot leaves free, so that the log goes on meanwhile.
    fn reserve(&self) -> u64 {
        self.storage_len / 8
    }

    /// The snapshot that is being written would take what the log needs. That is less when there is little to be logged, and
    /// nothing where there is no log, or one that cannot be written to.
    pub(super) fn is_over_room(&self) -> bool {
        let saving = self.saving.as_ref().map_or(0, |saving| saving.len);
        let kept = match self.room() {
            _ if self.failed.is_some() || self.durability == Durability::None => 0,
            Room::Enough => self.reserve(),
            Room::Little | Room::Scarce => self.reserve() / 2,
            Room::Last => 0,
        };
        self.log_space + self.saved_len + saving > self.storage_len - kept
    }

    /// What is left of this shard's disk. Without a log nothing needs any.
    pub(super) fn room(&self) -> Room {
        let free = self.storage_len.saturating_sub(self.log_space + self.saved_len);
        let eighths = |count: u64| count * self.reserve();
        match free {
            _ if self.durability == Durability::None => Room::Enough,
            free if free < eighths(1) => Room::Last,
            free if free < eighths(2) => Room::Scarce,
            free if free < eighths(3) => Room::Little,
            _ => Room::Enough,
        }
    }

    pub(super) fn is_short_of_room(&self) -> bool {
        self.room() > Room::Enough
    }

    /// Why a command is not carried out, as far as room goes: that of the disk that has least.
    pub(super) fn refusal_for_room(&self, command: &Command) -> Option<Error> {
        let least = self.short_of_room.values().copied().max().unwrap_or_default();
        least.refuses(command).then_some(Error::NoSpace)
    }

    /// Whether a snapshot of so many bytes would be the last one, as no second one fits beside it.
    pub(super) fn is_too_long_for_two(&self, len: u64) -> bool {
        self.durability != Durability::None && 2 * len > self.storage_len - self.reserve()
    }

    /// A request that is longer than all the room that is left is refused before anything of it is carried out: its record
    /// would be refused by the journal when it is too late, and the log fail with it. `waiting` bytes are still to be written.
    #[inline]
    pub fn refusal_of_length(&self, len: usize, waiting: usize) -> Option<Refusal> {
        if len <= SHORT {
            return None; // there is always room for it, as growing stops long before
        }
        self.has_no_room_for(len as u64 + waiting as u64).then_some(Refusal::NotWritable(Error::NoSpace))
    }

    #[cold]
    fn has_no_room_for(&self, len: u64) -> bool {
        if self.durability == Durability::None {
            return false;
        }
        let saving = self.saving.as_ref().map_or(0, |saving| saving.len);
        let taken = self.log_space + self.saved_len + saving;
        // What is around its pieces, and what is left free at the end of an extent.
        taken + len + len / 8 + SHORT as u64 > self.storage_len
    }

    /// Whether the log is to be made short by a snapshot.
    pub(super) fn is_log_long(&self, log_len_max: u64) -> bool {
        self.log_space > self.log_space_max(log_len_max)
    }

    /// A log that takes more is made short by a snapshot: as long as the last one, and while there is room for the next.
    fn log_space_max(&self, log_len_max: u64) -> u64 {
        let room = (self.storage_len - self.reserve()).saturating_sub(2 * self.saved_len);
        self.saved_len.max(LOG_LEN_MIN).min(log_len_max).min(room.max(self.storage_len / 16))
    }
}

impl Shard {
    /// Why a command that has come from another core is not carried out here: it is longer than the room that is left.
    pub(crate) fn refusal_of_length(&self, command: &Command, request: &Request) -> Option<Refusal> {
        if !command.flags.contains(Flags::WRITE) {
            return None;
        }
        self.persistence.refusal_of_length(request.bytes(), self.engine.log_waiting())
    }

    /// Everybody is told when there is little room here, and when there is enough again.
    pub(super) fn look_at_room(&mut self, out: &mut Outbox<'_, Shard>) {
        let (of, room) = (self.index as u8, self.persistence.room());
        let known = self.persistence.short_of_room.get(&of).copied().unwrap_or_default();
        if room == known {
            return;
        }
        self.persistence.told.log_failed = room > Room::Enough || self.persistence.failed.is_some();
        self.persistence.on_room(of, room);
        self.tell_others(|_| Peer::Room { of, room }, out);
        if room > known {
            self.set_consider_timer(out);
        }
    }
}

impl Persistence {
    pub(crate) fn on_room(&mut self, of: u8, room: Room) {
        if room > Room::Enough {
            self.short_of_room.insert(of, room);
        } else {
            self.short_of_room.remove(&of);
        }
    }
}
