//! WAITAOF: who asks when all is durable.

use framework::Outbox;
use kv_engine::refusal::Refusal;

use super::Waiter;
use crate::peer::{Claim, Peer};
use crate::shard::Shard;
use crate::survey::Finding;

impl Shard {
    /// Finds out for a task when all is durable here.
    pub(crate) fn ask_durable(&mut self, claim: Claim, out: &mut Outbox<'_, Shard>) {
        self.commit(out);
        self.hurry_log(out);
        self.when_durable(Waiter::Asked(claim), out);
    }

    pub(crate) fn answer_wait(&mut self, core: u8, task: u32, is_fine: bool, out: &mut Outbox<'_, Shard>) {
        let finding = if is_fine { Finding::Done } else { Finding::Refused(Refusal::SaveFailed) };
        if usize::from(core) == self.index {
            self.on_found(task, finding, out);
        } else {
            self.tell(usize::from(core), Peer::Found { task, finding: Box::new(finding) }, out);
        }
    }
}
