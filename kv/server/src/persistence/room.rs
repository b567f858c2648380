//! How much room a disk has left: for the log, for a snapshot, and for what makes the data less.
//!
//! Counted here, as a journal does not tell: the log with its padding, the last snapshot, and the one that is being written.

use framework::Outbox;

use super::Persistence;
use super::saving::LOG_LEN_MIN;
use crate::peer::Peer;
use crate::shard::Shard;

/// The space that a record or a piece takes in a journal that writes these units, if it is flushed for itself.
pub(super) fn space_of(len: usize, unit: u64) -> u64 {
    (len as u64 + 32).next_multiple_of(unit.max(1))
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

    /// A log that takes more is made short by a snapshot: as long as the last one, and while there is room for the next.
    pub(super) fn log_space_max(&self, log_len_max: u64) -> u64 {
        let room = (self.storage_len - self.reserve()).saturating_sub(2 * self.saved_len);
        self.saved_len.max(LOG_LEN_MIN).min(log_len_max).min(room.max(self.storage_len / 16))
    }
}

impl Shard {
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
