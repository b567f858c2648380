//! Carrying out the requests of this core's connections, in their order.

use framework::{Outbox, Session, SessionId};
use kv_engine::command::{Command, Flags, find};
use kv_engine::connection::{Effect, Host};
use kv_engine::resp::Request;
use kv_engine::shard::{Plan, plan};

use crate::client::Pending;
use crate::codec::Resp;
use crate::shard::Shard;
use crate::survey::{Ending, Question};
use crate::task::{Waiting, Work};

impl Shard {
    /// Carries out the next request of a connection, or what came instead; or makes it busy with it. If it is busy, that
    /// waits.
    #[inline]
    pub(crate) fn perform(&mut self, session: Session<Resp>, pending: Pending, out: &mut Outbox<'_, Shard>) {
        let now = self.time(out);
        let Some(client) = self.clients.get_mut(session.id()) else { return };
        client.heard = out.now();
        if client.busy {
            return self.line_up(session.id(), pending, out);
        }
        let Pending::Request(request) = pending else { return self.answer_misfit(session, &pending, out) };
        if self.pause.is_some_and(|pause| pause.concerns(&request, out)) {
            return self.wait(session.id(), request, out, |shard, id| shard.paused.push(id));
        }
        let Some(mut output) = out.output(session) else { return };
        let mut host = Host { config: &self.config, now, errors: &mut self.errors };
        let Some(command) = client.connection.admit(&request, &mut host, &mut output) else {
            let (cut, closing) = (client.connection.is_cut(), client.connection.is_closing());
            drop(output);
            match (cut, closing) {
                (true, _) => out.abort(session.id()),
                (_, true) => out.close(session.id()),
                _ => {}
            }
            return;
        };
        if let Some(refusal) = self.persistence.refusal(command) {
            client.connection.refuse_now(refusal, &request, &mut host, &mut output);
            return;
        }
        if command.flags.contains(Flags::WRITE)
            && let Some(refusal) = self.persistence.refusal_of_length(request.bytes(), self.engine.log_waiting())
        {
            client.connection.refuse_now(refusal, &request, &mut host, &mut output);
            return;
        }
        if self.persistence.is_behind() && command.flags.contains(Flags::WRITE) {
            drop(output);
            let waiting = Waiting::Client(session.id());
            return self.wait(session.id(), request, out, |shard, _| shard.persistence.line_up(waiting));
        }
        let speaker = client.connection.session();
        match plan(command, &request, speaker, self.shards) {
            Plan::Shard(shard) if shard == self.index && self.hold.is_free() => {
                let mark = client.connection.is_muted().then(|| output.mark());
                self.engine.execute(command, &request, speaker, now, &mut output);
                if let Some(mark) = mark {
                    output.rollback(mark);
                }
                self.gate.give_back(request);
                drop(output);
                #[cfg(margay_planted_bug = "read_before_flush")]
                if !command.flags.contains(Flags::WRITE) {
                    return;
                }
                self.hold_answer(session.id(), out);
            }
            Plan::Connection => {
                self.commands += 1;
                let mark = output.mark();
                let effect = client.connection.answer(command, &request, &mut host, &mut output);
                if effect != Effect::None || self.locked {
                    // What is to be answered when all cores have done it is not answered now.
                    if matches!(
                        effect,
                        Effect::Configure(_) | Effect::ResetStats | Effect::Pause { .. } | Effect::Unpause
                    ) {
                        output.rollback(mark);
                    }
                    drop(output);
                    self.effect(session, effect, out);
                }
            }
            Plan::Shard(shard) if shard == self.index => {
                drop(output);
                self.wait(session.id(), request, out, |shard, id| shard.hold.wait(Waiting::Client(id)));
            }
            #[cfg(margay_planted_bug = "stale_read")]
            Plan::Shard(_) if self.answer_from_copy(command, &request, speaker, now, &mut output) => {}
            Plan::Shard(shard) => {
                drop(output);
                self.run_elsewhere(session.id(), shard, request, out);
            }
            Plan::Conversation(conversation) => {
                drop(output);
                self.commands += 1;
                let hold = conversation.hold().to_vec();
                self.begin(Some(session.id()), hold, Work::Talk { conversation, answers: Vec::new(), awaited: 0 }, out);
            }
        }
    }

    /// A planted bug: what is set on another core leaves a copy on this one, and that is what is read here from then on.
    #[cfg(margay_planted_bug = "stale_read")]
    fn answer_from_copy(
        &mut self,
        command: &'static Command,
        request: &Request,
        speaker: kv_engine::engine::Session,
        now: framework::pdpix::WallTime,
        output: &mut framework::pdpix::Output,
    ) -> bool {
        let (is_read, mark) = (command.name == "get", output.mark());
        if is_read || command.name == "set" {
            self.engine.execute(command, request, speaker, now, &mut self.scratch);
        }
        let copy = self.scratch.take().map(|reply| reply.to_vec()).unwrap_or_default();
        output.put(&copy);
        let is_answered = is_read && copy != b"$-1\r\n";
        if !is_answered {
            output.rollback(mark);
        }
        is_answered
    }

    /// The request waits, and with it its connection; `with` says for what.
    #[cold]
    fn wait(
        &mut self,
        id: SessionId,
        request: Box<Request>,
        out: &mut Outbox<'_, Shard>,
        with: impl FnOnce(&mut Shard, SessionId),
    ) {
        if let Some(client) = self.clients.get_mut(id) {
            client.queue.push_front(Pending::Request(request));
            self.set_busy(id, out);
            with(self, id);
        }
    }

    pub(crate) fn set_busy(&mut self, id: SessionId, out: &mut Outbox<'_, Shard>) {
        let stopping = self.stopping;
        if let Some(client) = self.clients.get_mut(id) {
            client.busy = true;
            if stopping {
                client.held_back = true;
                out.pause(id);
            }
        }
    }

    /// A connection goes on with what has come in the meantime.
    pub(crate) fn go_on(&mut self, id: SessionId, out: &mut Outbox<'_, Shard>) {
        if let Some(client) = self.clients.get_mut(id) {
            client.busy = false;
        }
        while let Some(client) = self.clients.get_mut(id)
            && !client.busy
            && !client.connection.is_closing()
            && let Some(pending) = client.queue.pop_front()
        {
            let session = client.session;
            self.perform(session, pending, out);
        }
        let Some(client) = self.clients.get_mut(id) else { return };
        if client.has_room_again() && !(self.stopping && client.busy) {
            client.held_back = false;
            out.resume(id);
        }
        if client.finished && !client.busy {
            out.close(id);
        }
    }

    /// What is no request, or one that got lost.
    #[cold]
    fn answer_misfit(&mut self, session: Session<Resp>, pending: &Pending, out: &mut Outbox<'_, Shard>) {
        let Some(client) = self.clients.get_mut(session.id()) else { return };
        let Some(mut output) = out.output(session) else { return };
        match pending {
            Pending::Malformed(error) => {
                client.connection.on_broken_request(*error, &mut output);
                drop(output);
                out.close(session.id());
            }
            _ => client.connection.refuse_unread(&mut self.errors, &mut output),
        }
    }

    /// What a command of the connection asks of the server.
    #[cold]
    fn effect(&mut self, session: Session<Resp>, effect: Effect, out: &mut Outbox<'_, Shard>) {
        let id = session.id();
        let Some(client) = self.clients.get_mut(id) else { return };
        if self.locked && client.connection.is_authenticated() {
            self.gate.admit(id);
        }
        let (question, ending) = match effect {
            Effect::None => return,
            Effect::Close => return out.close(id),
            Effect::Info(sections) => (Question::Report, Ending::Info(sections)),
            Effect::Configure(changes) => (Question::Configure(changes), Ending::Ok),
            Effect::ResetStats => (Question::ResetStats, Ending::Ok),
            Effect::ListClients(filter) => (Question::List(filter), Ending::List),
            Effect::KillClients(filter, form) => (Question::Kill(filter), Ending::Kill(form)),
            Effect::Pause { until, writes_only } => (Question::Pause { until, writes_only }, Ending::Ok),
            Effect::Unpause => (Question::Unpause, Ending::Ok),
            Effect::Persist(what) => return self.persist(id, what, out),
        };
        // Changes of the configuration come to all cores in one order: who makes them holds the first shard.
        let hold = if matches!(question, Question::Configure(_)) && self.shards > 1 { vec![0] } else { Vec::new() };
        self.begin(Some(id), hold, Work::Survey { question, ending, findings: Vec::new(), awaited: 0 }, out);
    }

    /// Whether a waiting request may go to the same shard together with the one before it, and as what.
    pub(crate) fn goes_along(&self, id: SessionId, request: &Request, shard: usize) -> Option<&'static Command> {
        let client = self.clients.peek(id)?;
        if client.connection.is_muted() || !client.connection.is_authenticated() || self.pause.is_some() {
            return None;
        }
        let command = find(request).ok()?;
        if self.persistence.refusal(command).is_some() {
            return None;
        }
        let there = plan(command, request, client.connection.session(), self.shards);
        matches!(there, Plan::Shard(its) if its == shard).then_some(command)
    }

    /// The connection takes note of a request that goes along with the one before it. (It was looked at: it is not refused.)
    pub(crate) fn admit_along(&mut self, id: SessionId, request: &Request, out: &mut Outbox<'_, Shard>) {
        let now = self.time(out);
        let Some(client) = self.clients.get_mut(id) else { return };
        let mut host = Host { config: &self.config, now, errors: &mut self.errors };
        if let Some(mut output) = out.output(client.session) {
            let admitted = client.connection.admit(request, &mut host, &mut output);
            debug_assert!(admitted.is_some(), "it was found to be in order");
        }
    }
}
