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

/// The space that a record or a piece takes in a journal, if it is flushed for itself.
pub(super) fn space_of(len: usize) -> u64 {
    (len as u64 + 32).next_multiple_of(512)
}

impl Persistence {
    /// What a snapshot leaves free, so that the log goes on meanwhile.
    fn reserve(&self) -> u64 {
        self.storage_len / 8
    }

    /// The snapshot that is being written would take what the log needs.
    pub(super) fn is_over_room(&self) -> bool {
        let saving = self.saving.as_ref().map_or(0, |saving| saving.len);
        self.log_space + self.saved_len + saving > self.storage_len - self.reserve()
    }

    /// So little is left that nothing may grow: the rest is for what makes the data less, and for a snapshot of a quarter of
    /// what the disk holds.
    pub(super) fn is_short_of_room(&self) -> bool {
        self.log_space + self.saved_len > self.storage_len - 3 * self.reserve()
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
        let (of, is_short) = (self.index as u8, self.persistence.is_short_of_room());
        if is_short == self.persistence.short_of_room.contains(&of) {
            return;
        }
        self.persistence.told.log_failed = is_short || self.persistence.failed.is_some();
        self.persistence.on_room(of, is_short);
        self.tell_others(|_| Peer::Room { of, is_short }, out);
        if is_short {
            self.set_consider_timer(out);
        }
    }
}

impl Persistence {
    pub(crate) fn on_room(&mut self, of: u8, is_short: bool) {
        if is_short {
            self.short_of_room.insert(of);
        } else {
            self.short_of_room.remove(&of);
        }
    }
}
