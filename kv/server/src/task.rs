//! What takes more than one core: requests carried out elsewhere, commands over several shards, surveys. And the holding
//! of this shard for one of them.

use std::collections::VecDeque;
use std::time::Duration;

use framework::pdpix::{Heap, Output, Sga};
use framework::runtime::CarriedBuf;
use framework::{Outbox, SessionId};
use kv_engine::command::find;
use kv_engine::log::Joint;
use kv_engine::refusal::Refusal;
use kv_engine::resp::{Protocol, Reply, Request};
use kv_engine::shard::{Answer, Conversation, Part, Step};
use libos_mem::Exhausted;

use crate::client::Pending;
use crate::peer::{Claim, Failure, Peer, Run};
use crate::persistence::Waiter;
use crate::shard::{Shard, TIMER_TASK};
use crate::survey::{Ending, Finding, Question};

/// The most requests that go to another shard in one message.
const RUN_MAX: usize = 64;

/// Something that several cores do for a connection, which is busy meanwhile and may be gone when it is done.
#[derive(Debug)]
pub(crate) struct Task {
    /// For whom; nobody, if the service wants it itself.
    client: Option<SessionId>,
    /// The reply is not sent.
    muted: bool,
    /// These shards are to be held, in this order, and so many are.
    hold: Vec<usize>,
    held: usize,
    pub(crate) work: Work,
}

#[derive(Debug)]
pub(crate) enum Work {
    /// Requests are carried out by another shard.
    Run,
    /// A command over several shards.
    Talk { conversation: Box<Conversation>, answers: Vec<Option<Answer>>, awaited: usize },
    /// Such a command is carried out; what it has changed is being written down, and then this is answered.
    Logging { reply: Option<Sga>, awaited: usize, is_fine: bool },
    /// All cores are asked.
    Survey { question: Question, ending: Ending, findings: Vec<Finding>, awaited: usize },
}

/// Who holds this shard, and who waits.
#[derive(Default, Debug)]
pub(crate) struct Hold {
    holder: Option<Claim>,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
pub(crate) enum Waiting {
    Hold(Claim),
    Run(Box<Run>),
    /// A connection of this core.
    Client(SessionId),
}

impl Hold {
    /// Whether the shard works for everybody.
    #[inline]
    pub fn is_free(&self) -> bool {
        self.holder.is_none()
    }

    pub fn wait(&mut self, waiting: Waiting) {
        self.waiting.push_back(waiting);
    }

    /// Takes the shard, or waits for it. Whether it was free.
    fn claim(&mut self, claim: Claim) -> bool {
        if self.holder.is_none() {
            self.holder = Some(claim);
            return true;
        }
        self.waiting.push_back(Waiting::Hold(claim));
        false
    }
}

// What other shards say.
impl Shard {
    pub(crate) fn on_peer(&mut self, peer: Peer, out: &mut Outbox<'_, Shard>) {
        match peer {
            Peer::Run(run) => self.end_wait(Waiting::Run(run), out),
            Peer::Ran { task, replies } => self.on_ran(task, replies, out),
            Peer::Hold(claim) => self.end_wait(Waiting::Hold(claim), out),
            Peer::Held { task, failure } => {
                failure.into_iter().for_each(|failure| self.persistence.on_log_state(failure.into()));
                self.on_held(task, out);
            }
            Peer::Release(claim) => self.release(claim, out),
            Peer::Part { claim, index, part } => {
                debug_assert_eq!(self.hold.holder, Some(claim), "only who holds a shard works on it");
                let answer = match part.try_map_bufs(|buf| buf.land(out.heap())) {
                    Ok(part) => {
                        let now = self.time(out);
                        self.engine.carry_out(part, now)
                    }
                    Err(_) => Answer::Exhausted,
                };
                let answer = Box::new(answer.try_map_bufs(CarriedBuf::new).unwrap_or(Answer::Exhausted));
                self.tell(usize::from(claim.core), Peer::Answered { task: claim.task, index, answer }, out);
            }
            Peer::Answered { task, index, answer } => self.on_answered(task, index, *answer, out),
            Peer::Ask { claim, question } if matches!(*question, Question::Durable) => self.ask_durable(claim, out),
            Peer::Ask { claim, question } => {
                let finding = Box::new(self.find_out(&question, None, out));
                self.tell(usize::from(claim.core), Peer::Found { task: claim.task, finding }, out);
            }
            Peer::Found { task, finding } => self.on_found(task, *finding, out),
            Peer::Log { claim, joint, answer } => self.log_for(claim, joint.as_deref(), answer, out),
            Peer::Logged { task, failure } => self.on_logged(task, failure, out),
            Peer::LogState(state) => self.persistence.on_log_state(state),
            Peer::Room { of, room } => self.persistence.on_room(of, room),
            Peer::Recovers { core, found } => self.on_found_data(usize::from(core), *found, out),
            Peer::Reached { joint } => self.on_reached(joint, out),
            Peer::Ended { core } => self.on_ended(usize::from(core), out),
            Peer::Saved { generation, is_fine } => self.on_saved(generation, is_fine, out),
            Peer::Complete { generation, is_fine } => self.on_complete(generation, is_fine, out),
        }
    }
}

// Requests carried out by another shard.
impl Shard {
    /// Sends a request to the shard of its keys, and with it those that follow and go there too.
    pub(crate) fn run_elsewhere(
        &mut self,
        id: SessionId,
        shard: usize,
        request: Box<Request>,
        out: &mut Outbox<'_, Shard>,
    ) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let (speaker, muted) = (client.connection.session(), client.connection.is_muted());
        let mut requests = Vec::new();
        let mut next = Some(request);
        while let Some(request) = next.take() {
            match request.try_map_bufs(CarriedBuf::new) {
                Ok(request) => requests.push(request),
                Err(Exhausted) if requests.is_empty() => {
                    if let Some(client) = self.clients.get_mut(id)
                        && let Some(mut output) = out.output(client.session)
                    {
                        client.connection.refuse_for_memory(&mut self.errors, &mut output);
                    }
                    return;
                }
                Err(Exhausted) => {
                    self.clients.get_mut(id).into_iter().for_each(|client| client.queue.push_front(Pending::NoMemory));
                    break;
                }
            }
            if requests.len() < RUN_MAX {
                next = self.take_along(id, shard, out);
            }
        }
        let task = self.add_task(Some(id), Vec::new(), Work::Run, muted, out);
        let claim = self.claim_of(task);
        self.tell(shard, Peer::Run(Box::new(Run { claim, speaker, requests })), out);
    }

    /// The next request of a connection, if it goes to the same shard.
    fn take_along(&mut self, id: SessionId, shard: usize, out: &mut Outbox<'_, Shard>) -> Option<Box<Request>> {
        let Some(Pending::Request(next)) = self.clients.peek(id)?.queue.front() else { return None };
        self.goes_along(id, next, shard)?;
        let Some(Pending::Request(next)) = self.clients.get_mut(id)?.queue.pop_front() else { return None };
        self.admit_along(id, &next, out);
        Some(next)
    }

    /// Carries out what another core's connection has asked for.
    fn run_for(&mut self, run: Run, out: &mut Outbox<'_, Shard>) {
        let Run { claim, speaker, requests } = run;
        let now = self.time(out);
        for request in requests {
            match request.try_map_bufs(|buf| buf.land(out.heap())) {
                Ok(request) => {
                    if let Ok(command) = find(&request) {
                        let refusal = self.persistence.refusal(command);
                        if let Some(refusal) = refusal.or_else(|| self.refusal_of_length(command, &request)) {
                            let text = refusal.text(None, &request);
                            self.errors.count(&text);
                            Reply::new(&mut self.scratch, speaker.protocol).error(&text);
                            continue;
                        }
                        self.engine.execute(command, &request, speaker, now, &mut self.scratch);
                    }
                }
                Err(_) => put_no_memory(&mut self.scratch),
            }
        }
        let replies = carry_replies(&mut self.scratch);
        self.when_answerable(Waiter::Ran { core: usize::from(claim.core), task: claim.task, replies }, out);
    }

    fn on_ran(&mut self, task: u32, replies: Option<Vec<CarriedBuf>>, out: &mut Outbox<'_, Shard>) {
        let Task { client: Some(id), muted, .. } = self.tasks.remove(task as usize) else { return };
        if let Some(client) = self.clients.get_mut(id).filter(|_| !muted) {
            let (session, heap) = (client.session, out.heap().clone());
            // With a reply missing, none that follows could be told from another.
            let Some(replies) = replies else { return out.abort(id) };
            if let Some(mut output) = out.output(session) {
                replies.into_iter().for_each(|reply| put_carried(reply, &heap, &mut output));
            }
        }
        self.go_on(id, out);
    }
}

/// What was written, as it travels; `None`: there is no memory for it.
fn carry_replies(output: &mut Output) -> Option<Vec<CarriedBuf>> {
    output.take().and_then(|sga| sga.into_iter().map(CarriedBuf::new).collect()).ok()
}

fn put_carried(carried: CarriedBuf, heap: &Heap, output: &mut Output) {
    match carried {
        CarriedBuf::Inline(len, bytes) => output.put(&bytes[..usize::from(len)]),
        CarriedBuf::Loan(loan) => output.put_buf(loan.accept(heap)),
    }
}

fn put_no_memory(output: &mut Output) {
    let text = Refusal::OutOfMemory.text(None, &Request::default());
    Reply::new(output, Protocol::Resp2).error(&text);
}

// Tasks.
impl Shard {
    fn claim_of(&self, task: u32) -> Claim {
        Claim { core: self.index as u8, task }
    }

    /// For whom a task is.
    pub(crate) fn client_of(&self, task: u32) -> Option<SessionId> {
        self.tasks.get(task as usize).and_then(|task| task.client)
    }

    fn add_task(
        &mut self,
        client: Option<SessionId>,
        hold: Vec<usize>,
        work: Work,
        muted: bool,
        out: &mut Outbox<'_, Shard>,
    ) -> u32 {
        client.into_iter().for_each(|client| self.set_busy(client, out));
        self.tasks.insert(Task { client, muted, hold, held: 0, work }) as u32
    }

    /// Begins something that holds these shards.
    pub(crate) fn begin(
        &mut self,
        client: Option<SessionId>,
        hold: Vec<usize>,
        work: Work,
        out: &mut Outbox<'_, Shard>,
    ) {
        let known = client.and_then(|client| self.clients.get_mut(client));
        let muted = known.is_none_or(|client| client.connection.is_muted());
        let task = self.add_task(client, hold, work, muted, out);
        self.hold_next(task, out);
    }

    /// Holds the next shard that is to be held; if all are, goes to work.
    fn hold_next(&mut self, task: u32, out: &mut Outbox<'_, Shard>) {
        let claim = self.claim_of(task);
        loop {
            let Task { hold, held, .. } = &mut self.tasks[task as usize];
            match hold.get(*held) {
                None => return self.work(task, out),
                Some(&shard) if shard == self.index && self.persistence.is_behind() => {
                    return self.persistence.line_up(Waiting::Hold(claim));
                }
                Some(&shard) if shard == self.index => {
                    if !self.hold.claim(claim) {
                        return;
                    }
                    *held += 1;
                    self.commit_before_hold(out);
                }
                Some(&shard) => return self.tell(shard, Peer::Hold(claim), out),
            }
        }
    }

    fn tell_held(&mut self, claim: Claim, out: &mut Outbox<'_, Shard>) {
        let failure = self.persistence.failure();
        self.tell(usize::from(claim.core), Peer::Held { task: claim.task, failure }, out);
    }

    fn on_held(&mut self, task: u32, out: &mut Outbox<'_, Shard>) {
        self.tasks[task as usize].held += 1;
        self.hold_next(task, out);
    }

    fn work(&mut self, task: u32, out: &mut Outbox<'_, Shard>) {
        self.name_snapshot(task, out);
        match &mut self.tasks[task as usize].work {
            Work::Run | Work::Logging { .. } => {}
            Work::Talk { conversation, .. } => {
                // It may have waited for one that has found a log that cannot be written to.
                match self.persistence.refusal(conversation.command()) {
                    Some(refusal) => self.refuse_task(task, refusal, out),
                    None => self.talk(task, None, out),
                }
            }
            Work::Survey { question, awaited, .. } => {
                let question = question.clone();
                let is_later = matches!(question, Question::Durable);
                *awaited = if is_later { self.shards } else { self.shards - 1 };
                let client = self.tasks[task as usize].client;
                let me = client.and_then(|client| self.clients.get_mut(client)).map(|client| client.connection.id());
                let finding = self.find_out(&question, me, out);
                let claim = self.claim_of(task);
                for shard in 0..self.shards {
                    if shard != self.index {
                        self.tell(shard, Peer::Ask { claim, question: Box::new(question.clone()) }, out);
                    }
                }
                if is_later {
                    return self.ask_durable(claim, out);
                }
                self.note_finding(task, finding, out);
            }
        }
    }

    /// Nothing of it is carried out.
    #[cold]
    fn refuse_task(&mut self, task: u32, refusal: Refusal, out: &mut Outbox<'_, Shard>) {
        if let Some(client) = self.client_of(task) {
            self.answer_refusal(client, refusal, out);
        }
        self.end_task(task, out);
    }

    /// The next round of a conversation; several, if they concern this core only.
    fn talk(&mut self, task: u32, mut answers: Option<Vec<Answer>>, out: &mut Outbox<'_, Shard>) {
        let now = self.time(out);
        loop {
            let Task { client, muted, work: Work::Talk { conversation, .. }, .. } = &mut self.tasks[task as usize]
            else {
                return;
            };
            let session = client.and_then(|client| self.clients.get_mut(client)).filter(|_| !*muted);
            let session = session.map(|client| client.session);
            let limits = self.limits;
            let mut step = |output: &mut Output| match answers.take() {
                None => conversation.start(output),
                Some(answers) => conversation.step(answers, &limits, now, output),
            };
            // What the client does not get, or not yet, is carried out all the same.
            let is_later = self.persistence.is_always();
            let mut unread = Output::new(out.heap().clone());
            let step = match session.filter(|_| !is_later).and_then(|session| out.output(session)) {
                Some(mut output) => step(&mut output),
                None => step(&mut unread),
            };
            let Step::Ask(parts) = step else {
                conversation.error().into_iter().for_each(|text| self.errors.count(text));
                let writes = conversation.writes();
                if is_later || writes && self.engine.keeps_log() {
                    return self.log_talk(task, writes, unread, out);
                }
                return self.end_task(task, out);
            };
            let claim = self.claim_of(task);
            let mut got: Vec<Option<Answer>> = Vec::new();
            got.resize_with(parts.len(), || None);
            let mut awaited = 0;
            for (index, (shard, part)) in parts.into_iter().enumerate() {
                if shard == self.index {
                    got[index] = Some(self.engine.carry_out(part, now));
                    continue;
                }
                match part.try_map_bufs(CarriedBuf::new) {
                    Ok(part) => {
                        let (index, part): (_, Box<Part<CarriedBuf>>) = (index as u32, Box::new(part));
                        self.tell(shard, Peer::Part { claim, index, part }, out);
                        awaited += 1;
                    }
                    Err(Exhausted) => got[index] = Some(Answer::Exhausted),
                }
            }
            if awaited > 0 {
                if let Work::Talk { answers, awaited: wanted, .. } = &mut self.tasks[task as usize].work {
                    (*answers, *wanted) = (got, awaited);
                }
                return;
            }
            answers = Some(got.into_iter().flatten().collect());
        }
    }

    fn on_answered(&mut self, task: u32, index: u32, answer: Answer<CarriedBuf>, out: &mut Outbox<'_, Shard>) {
        let Work::Talk { answers, awaited, .. } = &mut self.tasks[task as usize].work else { return };
        let answer = answer.try_map_bufs(|buf| buf.land(out.heap())).unwrap_or(Answer::Exhausted);
        answers[index as usize] = Some(answer);
        *awaited -= 1;
        if *awaited == 0 {
            let answers = std::mem::take(answers).into_iter().flatten().collect();
            self.talk(task, Some(answers), out);
        }
    }

    /// A command over several shards is carried out: each writes down its part, under one name; with `always` they stay held
    /// until all parts are durable.
    fn log_talk(&mut self, task: u32, writes: bool, mut unread: Output, out: &mut Outbox<'_, Shard>) {
        let (claim, is_later) = (self.claim_of(task), self.persistence.is_always());
        let hold = self.tasks[task as usize].hold.clone();
        let joint = writes.then(|| {
            self.persistence.next_joint += 1;
            let shards = hold.iter().map(|&shard| shard as u16).collect();
            Joint { id: self.persistence.next_joint, shards }
        });
        if is_later {
            let reply = unread.take().ok();
            self.tasks[task as usize].work = Work::Logging { reply, awaited: hold.len(), is_fine: true };
        }
        let me = self.index;
        for shard in hold.into_iter().filter(|&shard| shard != me) {
            let joint = joint.clone().map(Box::new);
            self.tell(shard, Peer::Log { claim, joint, answer: is_later }, out);
        }
        if self.tasks[task as usize].hold.contains(&self.index) {
            self.log_for(claim, joint.as_ref(), is_later, out);
        }
        if !is_later {
            self.end_task(task, out);
        }
    }

    fn log_for(&mut self, claim: Claim, joint: Option<&Joint>, answer: bool, out: &mut Outbox<'_, Shard>) {
        debug_assert_eq!(self.hold.holder, Some(claim), "only who holds a shard has changed it");
        self.append_joint(joint, out);
        if answer {
            self.when_answerable(Waiter::Logged(claim, joint.is_some()), out);
        }
    }

    /// The part of a shard is durable, or could not be made so.
    pub(crate) fn on_logged(&mut self, task: u32, failure: Option<Failure>, out: &mut Outbox<'_, Shard>) {
        if let Some(failure) = failure {
            self.tell_of_failure(task, failure, out);
        }
        let Some(Task { client, muted, work: Work::Logging { reply, awaited, is_fine }, .. }) =
            self.tasks.get_mut(task as usize)
        else {
            return;
        };
        *is_fine &= failure.is_none();
        *awaited -= 1;
        if *awaited > 0 {
            return;
        }
        let (reply, is_fine) = (reply.take(), *is_fine);
        let client = client.filter(|_| !*muted).and_then(|client| self.clients.get_mut(client));
        if let Some((id, session)) = client.map(|client| (client.session.id(), client.session)) {
            match reply.filter(|_| is_fine) {
                Some(reply) => {
                    if let Some(mut output) = out.output(session) {
                        reply.into_iter().for_each(|buf| output.put_buf(buf));
                    }
                }
                // Whether it is done nobody knows.
                None => out.abort(id),
            }
        }
        self.end_task(task, out);
    }

    /// The log of one shard has failed, and with it a command over several: the others hear of it from whoever gives them
    /// back, as they are not to acknowledge anything that follows: neither what comes, nor what has waited behind it, and so on
    /// to the shards of that. (Its own word may come later.)
    #[cold]
    fn tell_of_failure(&mut self, task: u32, failure: Failure, out: &mut Outbox<'_, Shard>) {
        let Some(task) = self.tasks.get(task as usize) else { return };
        self.persistence.on_log_state(failure.into());
        for shard in task.hold.clone() {
            if shard != self.index {
                self.tell(shard, Peer::LogState(failure.into()), out);
            }
        }
    }

    pub(crate) fn on_found(&mut self, task: u32, finding: Finding, out: &mut Outbox<'_, Shard>) {
        if let Work::Survey { awaited, .. } = &mut self.tasks[task as usize].work {
            *awaited -= 1;
        }
        self.note_finding(task, finding, out);
    }

    /// The time of a task is up.
    pub(crate) fn on_task_timer(&mut self, task: u32, out: &mut Outbox<'_, Shard>) {
        let Some(Task { work: Work::Survey { findings, awaited: 0, .. }, .. }) = self.tasks.get_mut(task as usize)
        else {
            return;
        };
        if let Some(finding) = findings.pop() {
            self.note_finding(task, finding, out);
        }
    }

    fn note_finding(&mut self, task: u32, finding: Finding, out: &mut Outbox<'_, Shard>) {
        let Task { work: Work::Survey { ending, findings, awaited, .. }, .. } = &mut self.tasks[task as usize] else {
            return;
        };
        findings.push(finding);
        if *awaited > 0 {
            return;
        }
        let (findings, ending) = (std::mem::take(findings), std::mem::replace(ending, Ending::Ok));
        if let Ending::Saving { generation, way } = ending {
            if self.conclude_saving(task, (generation, way), &findings, out) {
                self.end_task(task, out);
            }
            return;
        }
        if let Ending::Durable { in_vain_ms: Some(after) } = ending {
            // There are no replicas: it waits for them in vain.
            if let Work::Survey { ending, findings: kept, .. } = &mut self.tasks[task as usize].work {
                (*ending, *kept) = (Ending::Durable { in_vain_ms: None }, findings);
            }
            if after > 0 {
                out.set_timer(Duration::from_millis(after), TIMER_TASK | u64::from(task));
            }
            return;
        }
        let Task { client, muted, .. } = &self.tasks[task as usize];
        let client = client.and_then(|client| self.clients.get_mut(client)).filter(|_| !*muted);
        let session = client.map(|client| (client.session, client.connection.session().protocol));
        let now = out.wall();
        if let Some((session, protocol)) = session
            && let Some(mut output) = out.output(session)
        {
            self.conclude(&ending, findings, &mut Reply::new(&mut output, protocol), now);
        }
        self.end_task(task, out);
    }

    /// It is done: releases what was held, and its connection goes on.
    pub(crate) fn end_task(&mut self, task: u32, out: &mut Outbox<'_, Shard>) {
        let claim = self.claim_of(task);
        let Task { client, hold, .. } = self.tasks.remove(task as usize);
        for shard in hold {
            if shard == self.index {
                self.release(claim, out);
            } else {
                self.tell(shard, Peer::Release(claim), out);
            }
        }
        let Some(client) = client else { return };
        if let Some(client) = self.clients.get_mut(client).filter(|client| client.connection.is_closing()) {
            out.close(client.session.id());
        }
        self.go_on(client, out);
    }

    /// The shard is given back, and goes on with those who wait, up to the next who wants it whole.
    fn release(&mut self, claim: Claim, out: &mut Outbox<'_, Shard>) {
        debug_assert_eq!(self.hold.holder, Some(claim), "only who holds a shard gives it back");
        self.hold.holder = None;
        while self.hold.is_free()
            && let Some(waiting) = self.hold.waiting.pop_front()
        {
            self.end_wait(waiting, out);
        }
    }

    /// What has waited, or has just come, is done; or waits for the next thing that stands in its way.
    pub(crate) fn end_wait(&mut self, waiting: Waiting, out: &mut Outbox<'_, Shard>) {
        match waiting {
            Waiting::Run(run) if !self.hold.is_free() => self.hold.wait(Waiting::Run(run)),
            Waiting::Run(run) if self.persistence.is_behind() => self.persistence.line_up(Waiting::Run(run)),
            Waiting::Run(run) => self.run_for(*run, out),
            Waiting::Client(id) => self.go_on(id, out),
            Waiting::Hold(claim) if !self.hold.is_free() => self.hold.wait(Waiting::Hold(claim)),
            // Who holds this shard writes to it, whatever its disk has to do: so that is looked at before.
            Waiting::Hold(claim) if self.persistence.is_behind() => self.persistence.line_up(Waiting::Hold(claim)),
            Waiting::Hold(claim) => {
                self.hold.holder = Some(claim);
                self.commit_before_hold(out);
                if usize::from(claim.core) == self.index {
                    self.on_held(claim.task, out);
                } else {
                    self.tell_held(claim, out);
                }
            }
        }
    }
}
