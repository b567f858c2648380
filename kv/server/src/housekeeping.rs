//! What is done when there is nothing better to do: taking out keys whose time has come, freeing what was deleted, closing
//! idle connections, and rates.

use std::time::Duration;

use framework::Outbox;

use crate::shard::{Shard, TIMER_TICK};

/// How often, if there is nothing to catch up with.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// And how often if there is.
const TICK_BUSY: Duration = Duration::from_millis(1);
/// Keys taken out, and portions of a few hundred elements freed, in one go.
const EXPIRE_BUDGET: usize = 1000;
const FREE_BUDGET: usize = 20;
/// So many ticks make up a rate, and so many a look at idle connections.
const SAMPLES: usize = 10;

/// What changes from tick to tick.
#[derive(Default, Debug)]
pub(crate) struct Rates {
    samples: [u64; SAMPLES],
    ticks: usize,
    commands: u64,
    pinned_peak: usize,
}

impl Rates {
    fn note(&mut self, commands: u64, pinned: usize) {
        self.samples[self.ticks % SAMPLES] = commands.saturating_sub(self.commands);
        self.ticks += 1;
        self.commands = commands;
        self.pinned_peak = self.pinned_peak.max(pinned);
    }

    /// Commands in the last second.
    pub fn per_second(&self) -> u64 {
        self.samples.iter().sum()
    }

    pub fn pinned_peak(&self) -> usize {
        self.pinned_peak
    }

    pub fn reset_peak(&mut self) {
        (self.pinned_peak, self.commands) = (0, 0);
    }
}

impl Shard {
    pub(crate) fn tick(&mut self, out: &mut Outbox<'_, Shard>) {
        let mut more = self.expire(out);
        more |= (0..FREE_BUDGET).all(|_| self.engine.free_some());
        if more {
            out.set_timer(TICK_BUSY, TIMER_TICK);
            return;
        }
        self.consider_saving(out);
        self.rates.note(self.commands + self.engine.stats().commands, out.heap().stats().pinned);
        if self.rates.ticks.is_multiple_of(SAMPLES) {
            self.close_idle(out);
        }
        out.set_timer(TICK, TIMER_TICK);
    }

    /// Takes out keys whose time has come; whether there may be more. Not while the log is done again: what stands there
    /// finds the data as it was at its own time, and may give a key that has expired since a longer life.
    fn expire(&mut self, out: &mut Outbox<'_, Shard>) -> bool {
        if self.persistence.recovery.is_some() {
            return false;
        }
        let now = self.time(out);
        self.engine.expire_some(now, EXPIRE_BUDGET) == EXPIRE_BUDGET
    }

    /// Closes connections that have said nothing for as long as `timeout` allows.
    fn close_idle(&mut self, out: &mut Outbox<'_, Shard>) {
        let Some(seconds) = self.config.idle_seconds_max() else { return };
        let now = out.now();
        for client in self.clients.iter().filter(|client| !client.busy) {
            let id = client.session.id();
            // A long request may take long to arrive: that is no silence.
            let heard = out.heard(id).map_or(client.heard, |heard| heard.max(client.heard));
            if now.since(heard).as_secs() > seconds as u64 {
                out.close(id);
            }
        }
    }
}
