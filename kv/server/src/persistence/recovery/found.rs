//! What each shard has found on its disk, and what all of them begin with: the newest snapshot that every one has whole.

use framework::Outbox;

use super::Stage;
use crate::peer::Peer;
use crate::persistence::Note;
use crate::shard::Shard;

/// What a shard has found before anything was loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Its whole snapshots, as far as their pieces are there.
    pub(crate) generations: Vec<u64>,
    /// The last number that one had.
    pub(crate) newest: u64,
    /// One was whole everywhere: the notes before it are gone.
    pub(crate) was_complete: bool,
    /// Changes were written down here.
    pub(crate) has_commands: bool,
    /// Nothing at all was ever written here.
    pub(crate) is_new: bool,
}

impl Shard {
    pub(super) fn tell_found(&mut self, found: Found, out: &mut Outbox<'_, Shard>) {
        self.tell_others(|me| Peer::Recovers { core: me as u8, found: Box::new(found.clone()) }, out);
        self.on_found_data(self.index, found, out);
    }

    /// What another shard has found; when all have told, it is clear where to begin.
    pub(crate) fn on_found_data(&mut self, shard: usize, found: Found, out: &mut Outbox<'_, Shard>) {
        let (me, shards) = (self.index, self.shards);
        let (logs, is_read_only) = (self.persistence.logs, self.persistence.is_read_only);
        let Some(recovery) = &mut self.persistence.recovery else { return };
        recovery.found[shard] = Some(found);
        let Some(found) = recovery.found.iter().cloned().collect::<Option<Vec<Found>>>() else { return };
        if recovery.stage != Stage::Notes {
            return;
        }
        // Nobody writes anything before all have noted that they were there.
        let has_data = |found: &Found| found.has_commands || found.newest > 0;
        if let Some(core) = found.iter().position(|found| found.is_new)
            && found.iter().any(has_data)
        {
            let why = format!("there is nothing of core {core}, and others have data: is its file missing?");
            return self.give_up(&why, out);
        }
        if let Some(logs) = logs.filter(|_| found[me].is_new && !is_read_only) {
            match out.heap().copy(&Note::Made { cores: shards as u16 }.write()) {
                Ok(data) => recovery.making = Some(out.append(logs.notes, data)),
                Err(_) => self.give_up("there is not enough memory for a note", out),
            }
            return;
        }
        self.begin_loading(out);
    }

    /// It is clear what there is: begins with what all have.
    pub(super) fn begin_loading(&mut self, out: &mut Outbox<'_, Shard>) {
        let Some(recovery) = &mut self.persistence.recovery else { return };
        let found: Vec<Found> = recovery.found.iter().flatten().cloned().collect();
        let has = |generation: &u64| found.iter().all(|found| found.generations.contains(generation));
        let chosen = found[0].generations.iter().copied().filter(|generation| has(generation)).max();
        self.persistence.generation = found.iter().map(|found| found.newest).max().unwrap_or(0);
        if chosen.is_none() && found.iter().any(|found| found.was_complete) {
            let lacks = found.iter().enumerate().filter(|(_, found)| found.generations.is_empty());
            let cores: Vec<String> = lacks.map(|(core, _)| core.to_string()).collect();
            let why = format!("a snapshot was whole on all cores, and is not there any more on: {}", cores.join(", "));
            return self.give_up(&why, out);
        }
        // A snapshot of some shards only was the first one: that of an import that did not come to its end, perhaps.
        if chosen.is_none() && !found.iter().any(|found| found.has_commands) {
            return self.begin_file(out);
        }
        if self.args.load_is_asked_for {
            return self.give_up("there is data already: a file is loaded where there is none", out);
        }
        recovery.saved = chosen.and_then(|chosen| recovery.whole().find(|saved| saved.generation == chosen));
        match recovery.saved {
            Some(saved) => {
                (recovery.stage, recovery.next, recovery.last) = (Stage::Snapshot, saved.first, saved.next - 1);
                self.read_on(out);
            }
            None => self.begin_commands(out),
        }
    }
}
