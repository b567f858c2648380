//! Asking for a snapshot: who asks, which name it gets, and when it is complete on all shards.

use framework::pdpix::Error;
use framework::{Outbox, SessionId};
use kv_engine::connection::Persist;
use kv_engine::refusal::Refusal;
use kv_engine::resp::Reply;

use super::super::Durability;
use super::{Lead, Way};
use crate::peer::Peer;
use crate::shard::Shard;
use crate::survey::{Ending, Finding, Question};
use crate::task::Work;

impl Shard {
    /// What a command asks of the disk.
    #[cold]
    pub(crate) fn persist(&mut self, id: SessionId, what: Persist, out: &mut Outbox<'_, Shard>) {
        let has_storage = self.persistence.has_storage;
        match what {
            Persist::LastSave => {
                let at = self.persistence.last_save.unwrap_or_else(|| self.started_at(out));
                self.answer(id, out, |reply| reply.integer(at as i64));
            }
            Persist::Reload => {
                let hold = (0..self.shards).collect();
                let work =
                    Work::Survey { question: Question::Reload, ending: Ending::Ok, findings: Vec::new(), awaited: 0 };
                self.begin(Some(id), hold, work, out);
            }
            Persist::Wait { local, .. } if local && self.persistence.durability == Durability::None => {
                self.answer_refusal(id, Refusal::NoLog, out);
            }
            Persist::Wait { replicas, timeout_ms, .. } => {
                let ending = Ending::Durable { in_vain_ms: (replicas > 0).then_some(timeout_ms) };
                let work = Work::Survey { question: Question::Durable, ending, findings: Vec::new(), awaited: 0 };
                self.begin(Some(id), Vec::new(), work, out);
            }
            Persist::Shutdown { save } => {
                let saves = save.unwrap_or(has_storage && self.persistence.durability == Durability::None);
                match saves {
                    true if !has_storage => self.answer_refusal(id, Refusal::NoStorage, out),
                    true => self.begin_saving(Some(id), Way::Shutdown, out),
                    false => out.stop_service(0),
                }
            }
            _ if self.persistence.is_read_only => {
                self.answer_refusal(id, Refusal::NotWritable(Error::ReadOnly), out);
            }
            _ if !has_storage => self.answer_refusal(id, Refusal::NoStorage, out),
            Persist::Save => self.begin_saving(Some(id), Way::Wait, out),
            Persist::SaveBehind => self.begin_saving(Some(id), Way::Behind, out),
            Persist::RewriteBehind => self.begin_saving(Some(id), Way::Rewrite, out),
        }
    }

    fn answer(&mut self, id: SessionId, out: &mut Outbox<'_, Shard>, write: impl FnOnce(&mut Reply<'_>)) {
        let Some(client) = self.clients.get_mut(id).filter(|client| !client.connection.is_muted()) else { return };
        let (session, protocol) = (client.session, client.connection.session().protocol);
        if let Some(mut output) = out.output(session) {
            write(&mut Reply::new(&mut output, protocol));
        }
    }

    pub(crate) fn answer_refusal(&mut self, id: SessionId, refusal: Refusal, out: &mut Outbox<'_, Shard>) {
        let text = refusal.text(None, &kv_engine::resp::Request::default());
        self.errors.count(&text);
        self.answer(id, out, |reply| reply.error(&text));
    }

    fn started_at(&self, out: &Outbox<'_, Shard>) -> u64 {
        let age = self.started.map_or(0, |started| out.now().since(started).as_secs());
        (out.wall().as_millis() / 1000).saturating_sub(age)
    }

    /// Holds all shards, and begins a snapshot on each.
    pub(crate) fn begin_saving(&mut self, id: Option<SessionId>, way: Way, out: &mut Outbox<'_, Shard>) {
        let is_for_the_end = way == Way::Shutdown;
        let question = Question::Save { generation: 0, leader: self.index, is_for_the_end };
        let ending = Ending::Saving { generation: 0, way };
        let work = Work::Survey { question, ending, findings: Vec::new(), awaited: 0 };
        self.begin(id, (0..self.shards).collect(), work, out);
    }

    /// All shards are held: names the snapshot. As only one task holds them all, and each takes note of the number whether it
    /// begins or refuses, no two have the same, and a later one has a higher.
    pub(crate) fn name_snapshot(&mut self, task: u32, out: &Outbox<'_, Shard>) {
        let number = (self.persistence.generation + 1).max(out.wall().as_millis());
        let work = &mut self.tasks[task as usize].work;
        if let Work::Survey { question: Question::Save { generation, .. }, ending, .. } = work {
            *generation = number;
            if let Ending::Saving { generation, .. } = ending {
                *generation = number;
            }
        }
    }

    /// All have begun, or some have not. Whether the task is over.
    pub(crate) fn conclude_saving(
        &mut self,
        task: u32,
        (generation, way): (u64, Way),
        findings: &[Finding],
        out: &mut Outbox<'_, Shard>,
    ) -> bool {
        let refusal = findings.iter().find_map(|finding| match finding {
            Finding::Refused(refusal) => Some(*refusal),
            _ => None,
        });
        self.persistence.is_asked = false;
        let client = self.client_of(task);
        if let Some(refusal) = refusal {
            self.tell_complete(generation, false, out);
            client.into_iter().for_each(|id| self.answer_refusal(id, refusal, out));
            return true;
        }
        let waits = matches!(way, Way::Wait | Way::Shutdown);
        let task = Some(task).filter(|_| waits);
        // Shards that have been faster have told already.
        match &mut self.persistence.lead {
            Some(lead) if lead.generation == generation => (lead.task, lead.way) = (task, way),
            lead => *lead = Some(Lead { generation, left: self.shards, is_fine: true, task, way }),
        }
        match way {
            Way::Behind => client.into_iter().for_each(|id| {
                self.answer(id, out, |reply| reply.simple("Background saving started"));
            }),
            Way::Rewrite => client.into_iter().for_each(|id| {
                self.answer(id, out, |reply| reply.simple("Background append only file rewriting started"));
            }),
            Way::Wait | Way::Shutdown => {}
        }
        self.complete_if_all_have(out);
        !waits
    }

    fn tell_complete(&mut self, generation: u64, is_fine: bool, out: &mut Outbox<'_, Shard>) {
        self.tell_others(|_| Peer::Complete { generation, is_fine }, out);
        self.on_complete(generation, is_fine, out);
    }

    /// Another shard has written its part, or could not.
    pub(crate) fn on_saved(&mut self, generation: u64, is_fine: bool, out: &mut Outbox<'_, Shard>) {
        // A lead of an older one has come to nothing, or all would not have begun this one; and this one has, if there is
        // a newer one already.
        let new = Lead { generation, left: self.shards, is_fine: true, task: None, way: Way::Behind };
        let lead = self.persistence.lead.get_or_insert(new);
        if lead.generation > generation {
            return;
        }
        if lead.generation < generation {
            *lead = new;
        }
        lead.left = lead.left.saturating_sub(1);
        lead.is_fine &= is_fine;
        self.complete_if_all_have(out);
    }

    fn complete_if_all_have(&mut self, out: &mut Outbox<'_, Shard>) {
        let Some(Lead { generation, is_fine, task, way, .. }) = self.persistence.lead.take_if(|lead| lead.left == 0)
        else {
            return;
        };
        self.tell_complete(generation, is_fine, out);
        let Some(task) = task else { return };
        if let Some(id) = self.client_of(task) {
            match is_fine {
                true if way == Way::Wait => self.answer(id, out, |reply| reply.ok()),
                true => {}
                false => self.answer_refusal(id, Refusal::SaveFailed, out),
            }
        }
        self.end_task(task, out);
        if is_fine && way == Way::Shutdown {
            out.stop_service(0);
        }
    }
}
