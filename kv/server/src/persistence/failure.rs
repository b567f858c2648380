//! A log that cannot be written to, from its failure to the snapshot that makes up for it.

use std::time::Duration;

use framework::Outbox;
use framework::pdpix::Error;

use crate::peer::{LogState, Peer};
use crate::shard::Shard;

impl Shard {
    /// The log cannot be written to: nothing that waits is acknowledged, and writes are refused from now on.
    #[cold]
    pub(crate) fn fail_log(&mut self, error: Error, out: &mut Outbox<'_, Shard>) {
        self.persistence.failed.get_or_insert(error);
        self.persistence.told.log_failed = true;
        self.persistence.appends.clear();
        self.persistence.unsent.clear();
        self.persistence.try_again = Some(out.now() + Duration::from_secs(1));
        self.tell_log_state(out);
        self.give_up_waiting(out);
        self.let_on(out);
    }

    fn tell_log_state(&mut self, out: &mut Outbox<'_, Shard>) {
        self.persistence.log_version += 1;
        let (of, version, error) = (self.index as u8, self.persistence.log_version, self.persistence.failed);
        let state = LogState { of, version, error };
        self.persistence.on_log_state(state);
        self.tell_others(|_| Peer::LogState(state), out);
    }

    /// Nobody will be told that what he has written is durable.
    pub(super) fn give_up_waiting(&mut self, out: &mut Outbox<'_, Shard>) {
        if self.engine.log_waiting() > 0 && self.hold.is_free() {
            self.persistence.appended = self.engine.next_record();
            let _ = self.engine.take_record(None);
        }
        // What is read from now on may be what could not be written: it is answered, as there is nothing to wait for.
        self.persistence.durable = self.persistence.appended;
        for (id, _) in std::mem::take(&mut self.persistence.held) {
            out.abort(id);
        }
        for (_, waiter) in std::mem::take(&mut self.persistence.waiting) {
            self.tell_waiter(waiter, false, out);
        }
        self.persistence.dropped = self.persistence.appended;
    }

    /// A snapshot is durable, of which this is the first record that it does not hold. If it holds all that the log has
    /// not, the log can be used again; if it was begun before the log failed, another one is due.
    pub(crate) fn mend_log(&mut self, next: u64, out: &mut Outbox<'_, Shard>) {
        if self.persistence.failed.is_none() {
            return;
        }
        if next <= self.persistence.dropped {
            self.persistence.try_again = Some(out.now());
            return;
        }
        self.persistence.failed = None;
        self.persistence.told.log_failed = self.persistence.is_short_of_room();
        self.persistence.try_again = None;
        self.tell_log_state(out);
    }
}
