//! Files of Redis's kind, where there is no data: each shard reads all of them and keeps its own keys.

use std::time::Duration;

use framework::Outbox;
use kv_engine::rdb::Reader;
use kv_engine::shard::shard_of;

use super::{Progress, Stage};
use crate::peer::Peer;
use crate::persistence::TIMER_LOAD;
use crate::shard::Shard;

/// Keys that are loaded in one go, and bytes that are read.
const KEYS: usize = 4096;
const FILE_BYTES: usize = 256 << 10;

impl Shard {
    /// There is no data: loads files, if there are any.
    pub(super) fn begin_file(&mut self, out: &mut Outbox<'_, Shard>) {
        let Some(recovery) = &mut self.persistence.recovery else { return };
        if self.args.load.is_none() {
            return self.end_own(out);
        }
        recovery.stage = Stage::File;
        self.next_file(out);
    }

    fn next_file(&mut self, out: &mut Outbox<'_, Shard>) {
        let (Some(recovery), Some(load)) = (&mut self.persistence.recovery, &self.args.load) else { return };
        recovery.file = None;
        match load.open(recovery.files) {
            Ok(Some(file)) => {
                recovery.files += 1;
                (recovery.file, recovery.reader) = (Some(file), Reader::new());
                out.set_timer(Duration::ZERO, TIMER_LOAD);
            }
            Ok(None) => {
                self.persistence.told.keys_loaded = self.keys();
                self.on_imported(out);
            }
            Err(error) => self.give_up(&format!("the file cannot be read: {error}"), out),
        }
    }

    /// Goes on with it. Each shard reads it whole and keeps its own keys.
    pub(crate) fn load_file(&mut self, out: &mut Outbox<'_, Shard>) {
        let now = out.wall();
        let (index, shards) = (self.index, self.shards);
        let Some(recovery) = &mut self.persistence.recovery else { return };
        let Some(file) = &mut recovery.file else { return };
        let loaded = self.engine.load(&mut recovery.reader, |key| shard_of(key, shards) == index, Some(now), KEYS);
        match loaded {
            Err(error) => return self.give_up(&format!("the file cannot be loaded: {error}"), out),
            Ok(false) => {}
            Ok(true) if recovery.reader.is_over() => return self.next_file(out),
            Ok(true) => {
                let mut bytes = vec![0; FILE_BYTES];
                match file.read(&mut bytes) {
                    Ok(0) => recovery.reader.finish(),
                    Ok(len) => {
                        recovery.reader.feed(&bytes[..len]);
                        recovery.bytes += len as u64;
                    }
                    Err(error) => return self.give_up(&format!("the file cannot be read: {error}"), out),
                }
            }
        }
        let progress = Progress {
            shard: index,
            bytes: recovery.bytes,
            keys: 0,
            keys_expected: recovery.reader.announced(),
            is_over: false,
        };
        (self.args.on_progress)(Progress { keys: self.keys(), ..progress });
        out.set_timer(Duration::ZERO, TIMER_LOAD);
    }

    fn on_imported(&mut self, out: &mut Outbox<'_, Shard>) {
        let Some(recovery) = &mut self.persistence.recovery else { return };
        let (last, end) = (recovery.last, recovery.commands.1);
        recovery.ended[self.index] = true;
        recovery.has_ended = true;
        (self.persistence.appended, self.persistence.durable) = (last, last);
        self.persistence.durable_sequence = end - 1;
        self.tell_others(|me| Peer::Ended { core: me as u8 }, out);
        self.end_if_all_have(out);
    }
}
