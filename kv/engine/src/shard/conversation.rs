//! A command on several shards, as a state machine: it asks for rounds of parts, and writes the reply when it is done.
//!
//! Always: the server holds the shards of [`Conversation::hold`] from before the first round until it is done, so what
//! one round has learned is still true in the next. Changes that need memory are first made ready everywhere
//! ([`Part::Stage`]) and then made everywhere, or forgotten everywhere: a command that answers with an error has changed
//! nothing.

use pdpix::{Buf, Exhausted, Output, Rng, WallTime};

use super::part::{Answer, Change, Part, Want, Wanted};
use super::scratch::Scratch;
use super::{Package, shard_of};
use crate::command::{Command, Flags, Spread, end_of};
use crate::data::list::End;
use crate::engine::{Limits, Session};
use crate::number::parse_i64;
use crate::refusal::Refusal;
use crate::resp::{Reply, Request};

/// What a conversation wants next.
#[derive(Debug)]
pub enum Step {
    /// These parts carried out, each on its shard. Different shards may do theirs at the same time; one that is named
    /// more than once does its parts in this order. Then [`Conversation::step`] with the answers, in this order.
    Ask(Vec<(usize, Part)>),
    /// Nothing: the reply is written, and the shards may go.
    Done,
}

/// A command on several shards.
#[derive(Debug)]
pub struct Conversation {
    command: &'static Command,
    request: Request,
    session: Session,
    shards: usize,
    hold: Vec<usize>,
    state: State,
    error: Option<Vec<u8>>,
}

/// What the answers will be to.
#[derive(Debug)]
enum State {
    /// Nothing was asked.
    New,
    /// The strings of MGET.
    Strings,
    /// Counts, of which the sum is the reply.
    Sum,
    /// Names, which are the reply one behind the other.
    Names,
    /// The same everywhere.
    Alike,
    /// How many keys each shard has.
    Sizes,
    /// A name from this shard.
    Name { shard: usize, tried: usize },
    /// Whether any of the keys of MSETNX is there.
    Presence,
    /// What the keys hold.
    Values(Scratch),
    /// Changes being made ready; then they are made, and this is the reply.
    Staging { shards: Vec<usize>, reply: Vec<Buf> },
    /// Changes being made.
    Committing { reply: Vec<Buf> },
    /// Changes being forgotten.
    Aborting,
    /// SMOVE: how many members the source has, whether one of them is meant, and whether the destination is a set.
    FindMember,
    /// Its being added.
    AddMember,
    /// Its being removed.
    RemoveMember,
    /// LMOVE: the element, and whether the destination is a list.
    FindElement { from: End, to: End },
    /// Its being pushed.
    PushElement { from: End },
    /// Its being popped.
    PopElement,
    /// The reply is written.
    Over,
}

type Done<T> = Result<T, Failure>;

/// Why a command comes to nothing.
enum Failure {
    /// No memory here or on a shard.
    Exhausted,
    /// As it would be refused on one shard.
    Refused(Refusal),
    /// A shard has answered with this error.
    Replied(Vec<Buf>),
}

impl From<Exhausted> for Failure {
    fn from(_: Exhausted) -> Failure {
        Failure::Exhausted
    }
}

impl Conversation {
    pub(super) fn new(
        command: &'static Command,
        request: &Request,
        session: Session,
        shards: usize,
        hold: Vec<usize>,
    ) -> Conversation {
        Conversation { command, request: request.clone(), session, shards, hold, state: State::New, error: None }
    }

    /// The shards that it needs, in the order in which they are to be held.
    pub fn hold(&self) -> &[usize] {
        &self.hold
    }

    /// Begins, when the shards are held.
    pub fn start(&mut self, out: &mut Output) -> Step {
        debug_assert!(matches!(self.state, State::New), "begun already");
        let step = self.begin(out);
        self.settle(step, out)
    }

    /// Goes on with the answers to what it has asked. `limits` are those of the configuration.
    pub fn step(&mut self, answers: Vec<Answer>, limits: &Limits, now: WallTime, out: &mut Output) -> Step {
        let step = self.go_on(answers, limits, now, out);
        self.settle(step, out)
    }

    /// The command.
    pub fn command(&self) -> &'static Command {
        self.command
    }

    /// Whether it may change something.
    pub fn writes(&self) -> bool {
        self.command.flags.contains(Flags::WRITE)
    }

    /// The error that it has answered with, to be counted.
    pub fn error(&self) -> Option<&[u8]> {
        self.error.as_deref()
    }

    /// A failure ends it with an error.
    fn settle(&mut self, step: Done<Step>, out: &mut Output) -> Step {
        let failure = match step {
            Ok(step) => return step,
            Err(failure) => failure,
        };
        let refusal = match failure {
            Failure::Replied(reply) => return self.put(reply, out),
            Failure::Refused(refusal) => refusal,
            Failure::Exhausted => Refusal::OutOfMemory,
        };
        let text = refusal.text(Some(self.command), &self.request);
        Reply::new(out, self.session.protocol).error(&text);
        self.error = Some(text.into_owned());
        Step::Done
    }

    fn begin(&mut self, out: &mut Output) -> Done<Step> {
        match self.command.spread {
            Spread::Strings => {
                Ok(self.ask_for_keys(State::Strings, (1..self.request.len()).collect(), Want::Text, true))
            }
            Spread::Count => self.ask_each_for_its_keys(out),
            Spread::Store => self.store(b"+OK\r\n", out),
            Spread::StoreNew => {
                let keys = (1..self.request.len()).step_by(2).collect();
                Ok(self.ask_for_keys(State::Presence, keys, Want::Presence, false))
            }
            Spread::Values | Spread::Cursor => {
                let scratch = Scratch::new(self.command, &self.request, self.session);
                let mut parts = Vec::new();
                for &shard in &self.hold {
                    let here = scratch.keys().filter(|(key, _)| shard_of(key, self.shards) == shard);
                    let keys: Vec<Wanted> = here.map(|(_, wanted)| wanted).collect();
                    if !keys.is_empty() {
                        parts.push((shard, Part::Fetch { keys }));
                    }
                }
                Ok(self.ask(State::Values(scratch), parts))
            }
            Spread::Names => Ok(self.ask_all(State::Names)),
            Spread::Size => Ok(self.ask_all(State::Sum)),
            Spread::Everywhere => Ok(self.ask_all(State::Alike)),
            Spread::Random => {
                let size = self.request_of(&[b"DBSIZE"], out)?;
                let parts = self.hold.iter().map(|&shard| (shard, self.run(size.clone()))).collect();
                Ok(self.ask(State::Sizes, parts))
            }
            Spread::MoveMember => self.find_member(out),
            Spread::MoveElement => self.find_element(out),
        }
    }

    fn go_on(&mut self, answers: Vec<Answer>, limits: &Limits, now: WallTime, out: &mut Output) -> Done<Step> {
        let state = std::mem::replace(&mut self.state, State::Over);
        let exhausted = answers.iter().any(|answer| matches!(answer, Answer::Exhausted));
        if let State::Staging { shards, .. } = &state
            && exhausted
        {
            let parts = shards.iter().map(|&shard| (shard, Part::Abort)).collect();
            return Ok(self.ask(State::Aborting, parts));
        }
        // FLUSHALL was carried out wherever a reply says so.
        if exhausted && !matches!(state, State::Alike) {
            return Err(Failure::Exhausted);
        }
        match state {
            State::Strings => self.put_strings(answers, out),
            State::Sum => self.put_sum(answers, out),
            State::Names => self.put_names(answers, out),
            State::Alike => {
                let reply = answers.into_iter().find_map(reply_of).ok_or(Failure::Exhausted)?;
                Ok(self.put(reply, out))
            }
            State::Sizes => self.choose_shard(answers, now, out),
            State::Name { shard, tried } => {
                let reply = only(answers)?;
                // Its last keys may have expired since they were counted.
                if is_null(&reply) && tried < self.shards {
                    return Ok(self.ask_for_name((shard + 1) % self.shards, tried + 1));
                }
                Ok(self.put(reply, out))
            }
            State::Presence => {
                let is_any = answers.into_iter().filter_map(fetched_of).flatten().any(|package| package.is_some());
                if is_any { Ok(self.put_text(b":0\r\n", out)) } else { self.store(b":1\r\n", out) }
            }
            State::Values(scratch) => self.compute(scratch, answers, limits, now, out),
            State::Staging { shards, reply } => {
                let parts = shards.into_iter().map(|shard| (shard, Part::Commit)).collect();
                Ok(self.ask(State::Committing { reply }, parts))
            }
            State::Committing { reply } => Ok(self.put(reply, out)),
            State::Aborting => Err(Failure::Exhausted),
            State::FindMember => self.add_member(answers, out),
            State::AddMember => {
                fine(answers)?;
                let part = self.run(self.request_of(&[b"SREM", self.request.arg(1), self.request.arg(3)], out)?);
                Ok(self.ask(State::RemoveMember, vec![(self.shard_of_arg(1), part)]))
            }
            State::RemoveMember => {
                fine(answers)?;
                Ok(self.put_text(b":1\r\n", out))
            }
            State::FindElement { from, to } => self.push_element(answers, from, to, out),
            State::PushElement { from } => {
                fine(answers)?;
                let pop: &[u8] = if from == End::Left { b"LPOP" } else { b"RPOP" };
                let part = self.run(self.request_of(&[pop, self.request.arg(1)], out)?);
                Ok(self.ask(State::PopElement, vec![(self.shard_of_arg(1), part)]))
            }
            State::PopElement => Ok(self.put(only(answers)?, out)),
            State::New | State::Over => {
                debug_assert!(false, "answers to nothing");
                Err(Failure::Exhausted)
            }
        }
    }

    fn ask(&mut self, state: State, parts: Vec<(usize, Part)>) -> Step {
        self.state = state;
        Step::Ask(parts)
    }

    /// The whole command of each shard.
    fn ask_all(&mut self, state: State) -> Step {
        let parts = self.hold.iter().map(|&shard| (shard, self.run(self.request.clone()))).collect();
        self.ask(state, parts)
    }

    fn run(&self, request: Request) -> Part {
        Part::Run { request, session: self.session, whole: false }
    }

    fn request_of(&self, args: &[&[u8]], out: &Output) -> Result<Request, Exhausted> {
        Request::of(args.iter().copied(), out.heap())
    }

    fn shard_of_arg(&self, index: usize) -> usize {
        shard_of(self.request.arg(index), self.shards)
    }

    /// Those of the arguments `keys` that lie on `shard`.
    fn keys_on(&self, shard: usize, keys: &[usize]) -> Vec<usize> {
        keys.iter().copied().filter(|&index| self.shard_of_arg(index) == shard).collect()
    }

    fn ask_for_keys(&mut self, state: State, keys: Vec<usize>, want: Want, counts: bool) -> Step {
        let (request, database) = (&self.request, self.session.database);
        let wanted = |index: usize| Wanted { database, key: request.buf(index), want, counts };
        let part = |&shard: &usize| {
            let keys = self.keys_on(shard, &keys).into_iter().map(wanted).collect();
            (shard, Part::Fetch { keys })
        };
        let parts = self.hold.iter().map(part).collect();
        self.ask(state, parts)
    }

    /// The same command of each shard, on those keys that lie there.
    fn ask_each_for_its_keys(&mut self, out: &Output) -> Done<Step> {
        let keys: Vec<usize> = (1..self.request.len()).collect();
        let mut parts = Vec::with_capacity(self.hold.len());
        for &shard in &self.hold {
            let mut args = vec![self.request.arg(0)];
            args.extend(self.keys_on(shard, &keys).into_iter().map(|index| self.request.arg(index)));
            parts.push((shard, self.run(self.request_of(&args, out)?)));
        }
        Ok(self.ask(State::Sum, parts))
    }

    fn put(&mut self, reply: Vec<Buf>, out: &mut Output) -> Step {
        if let Some(error) = error_of(&reply) {
            self.error = Some(error);
        }
        reply.into_iter().for_each(|buf| out.put_buf(buf));
        Step::Done
    }

    fn put_text(&self, reply: &[u8], out: &mut Output) -> Step {
        out.put(reply);
        Step::Done
    }

    fn put_strings(&self, answers: Vec<Answer>, out: &mut Output) -> Done<Step> {
        let mut packages: Vec<_> = answers.into_iter().filter_map(fetched_of).map(Vec::into_iter).collect();
        let mut reply = Reply::new(out, self.session.protocol);
        reply.array(self.request.len() - 1);
        for key in self.request.args_from(1) {
            let shard = shard_of(key, self.shards);
            let of_shard = self.hold.binary_search(&shard).ok().and_then(|index| packages.get_mut(index));
            match of_shard.and_then(Iterator::next).flatten() {
                Some(package) => package.put_text(&mut reply),
                None => reply.null(),
            }
        }
        Ok(Step::Done)
    }

    fn put_sum(&self, answers: Vec<Answer>, out: &mut Output) -> Done<Step> {
        let sum = counts(answers)?.into_iter().sum();
        Reply::new(out, self.session.protocol).integer(sum);
        Ok(Step::Done)
    }

    fn put_names(&self, answers: Vec<Answer>, out: &mut Output) -> Done<Step> {
        let mut arrays = Vec::with_capacity(answers.len());
        let mut total = 0;
        for reply in answers.into_iter().filter_map(reply_of) {
            let (len, header_len) = array_header(&reply).ok_or(Failure::Exhausted)?;
            total += len;
            arrays.push((reply, header_len));
        }
        Reply::new(out, self.session.protocol).array(total);
        for (reply, header_len) in arrays {
            let mut skip = header_len;
            for buf in reply {
                let skipped = skip.min(buf.len());
                skip -= skipped;
                out.put_buf(buf.slice(skipped..buf.len()));
            }
        }
        Ok(Step::Done)
    }

    /// RANDOMKEY: any key is as likely as any other.
    fn choose_shard(&mut self, answers: Vec<Answer>, now: WallTime, out: &mut Output) -> Done<Step> {
        let sizes = counts(answers)?;
        let total: i64 = sizes.iter().sum();
        if total == 0 {
            Reply::new(out, self.session.protocol).null();
            return Ok(Step::Done);
        }
        let mut pick = Rng::new(now.as_nanos()).below(total as u64) as i64;
        let chosen = sizes.iter().position(|&size| {
            pick -= size;
            pick < 0
        });
        Ok(self.ask_for_name(self.hold[chosen.unwrap_or(0)], 1))
    }

    fn ask_for_name(&mut self, shard: usize, tried: usize) -> Step {
        let part = self.run(self.request.clone());
        self.ask(State::Name { shard, tried }, vec![(shard, part)])
    }

    /// MSET and MSETNX: each shard takes its strings.
    fn store(&mut self, reply: &[u8], out: &Output) -> Done<Step> {
        let database = self.session.database;
        let put = |index: usize| {
            let package = Package::of_arg(self.request.buf(index + 1));
            (self.shard_of_arg(index), Change::Put { database, key: self.request.buf(index), package })
        };
        let changes = (1..self.request.len()).step_by(2).map(put).collect();
        let reply = vec![out.heap().copy(reply)?];
        Ok(self.stage(changes, reply))
    }

    fn stage(&mut self, changes: Vec<(usize, Change)>, reply: Vec<Buf>) -> Step {
        let bounded = self.command.flags.contains(Flags::DENYOOM);
        let mut parts: Vec<(usize, Part)> = Vec::new();
        for (shard, change) in changes {
            match parts.iter_mut().find(|(known, _)| *known == shard) {
                Some((_, Part::Stage { changes, .. })) => changes.push(change),
                _ => parts.push((shard, Part::Stage { changes: vec![change], bounded })),
            }
        }
        let shards = parts.iter().map(|(shard, _)| *shard).collect();
        self.ask(State::Staging { shards, reply }, parts)
    }

    /// Carries the command out on what the shards gave, and brings back what it has changed.
    fn compute(
        &mut self,
        scratch: Scratch,
        answers: Vec<Answer>,
        limits: &Limits,
        now: WallTime,
        out: &mut Output,
    ) -> Done<Step> {
        let mut packages: Vec<_> = answers.into_iter().filter_map(fetched_of).map(Vec::into_iter).collect();
        // Only shards that have keys were asked; the answers are in the order of the shards.
        let mut asked: Vec<usize> = scratch.keys().map(|(key, _)| shard_of(key, self.shards)).collect();
        asked.sort_unstable();
        asked.dedup();
        let shards = self.shards;
        let next = |key: &[u8]| {
            let index = asked.binary_search(&shard_of(key, shards)).ok()?;
            packages.get_mut(index)?.next().flatten()
        };
        let (reply, changes) = scratch.carry_out(next, *limits, now, out.heap())?;
        if changes.is_empty() {
            return Ok(self.put(reply, out));
        }
        let changes = changes.into_iter().map(|change| (shard_of(change.key(), shards), change)).collect();
        Ok(self.stage(changes, reply))
    }

    fn find_member(&mut self, out: &Output) -> Done<Step> {
        let (source, destination, member) = (self.request.arg(1), self.request.arg(2), self.request.arg(3));
        let parts = vec![
            (self.shard_of_arg(1), self.run(self.request_of(&[b"SCARD", source], out)?)),
            (self.shard_of_arg(1), self.run(self.request_of(&[b"SISMEMBER", source, member], out)?)),
            (self.shard_of_arg(2), self.run(self.request_of(&[b"SCARD", destination], out)?)),
        ];
        Ok(self.ask(State::FindMember, parts))
    }

    fn add_member(&mut self, answers: Vec<Answer>, out: &mut Output) -> Done<Step> {
        let mut replies = answers.into_iter().filter_map(reply_of);
        let mut next = || count(replies.next().ok_or(Failure::Exhausted)?);
        // Without the source the type of the destination does not matter.
        if next()? == 0 {
            return Ok(self.put_text(b":0\r\n", out));
        }
        let (found, _) = (next()?, next()?);
        if found == 0 {
            return Ok(self.put_text(b":0\r\n", out));
        }
        let part = self.run(self.request_of(&[b"SADD", self.request.arg(2), self.request.arg(3)], out)?);
        Ok(self.ask(State::AddMember, vec![(self.shard_of_arg(2), part)]))
    }

    fn find_element(&mut self, out: &Output) -> Done<Step> {
        let (from, to) = match self.request.len() {
            5 => {
                let end = |index: usize| end_of(self.request.arg(index)).map_err(Failure::Refused);
                (end(3)?, end(4)?)
            }
            _ => (End::Right, End::Left), // RPOPLPUSH
        };
        let index: &[u8] = if from == End::Left { b"0" } else { b"-1" };
        let parts = vec![
            (self.shard_of_arg(1), self.run(self.request_of(&[b"LINDEX", self.request.arg(1), index], out)?)),
            (self.shard_of_arg(2), self.run(self.request_of(&[b"LLEN", self.request.arg(2)], out)?)),
        ];
        Ok(self.ask(State::FindElement { from, to }, parts))
    }

    fn push_element(&mut self, answers: Vec<Answer>, from: End, to: End, out: &mut Output) -> Done<Step> {
        let mut replies = answers.into_iter().filter_map(reply_of);
        let mut next = || no_error(replies.next().ok_or(Failure::Exhausted)?);
        let element = next()?;
        if is_null(&element) {
            return Ok(self.put(element, out));
        }
        next()?;
        let element = bulk(&element).ok_or(Failure::Exhausted)?;
        let push: &[u8] = if to == End::Left { b"LPUSH" } else { b"RPUSH" };
        let part = self.run(self.request_of(&[push, self.request.arg(2), &element], out)?);
        Ok(self.ask(State::PushElement { from }, vec![(self.shard_of_arg(2), part)]))
    }
}

/// The text of a reply that is an error.
fn error_of(reply: &[Buf]) -> Option<Vec<u8>> {
    let bytes: Vec<u8> = match reply.first()?.first()? {
        b'-' => reply.iter().flat_map(|buf| buf.iter().copied()).collect(),
        _ => return None,
    };
    bytes[1..].strip_suffix(b"\r\n").map(<[u8]>::to_vec)
}

fn reply_of(answer: Answer) -> Option<Vec<Buf>> {
    if let Answer::Reply(reply) = answer { Some(reply) } else { None }
}

fn fetched_of(answer: Answer) -> Option<Vec<Option<Package>>> {
    if let Answer::Fetched(packages) = answer { Some(packages) } else { None }
}

fn no_error(reply: Vec<Buf>) -> Done<Vec<Buf>> {
    if error_of(&reply).is_some() { Err(Failure::Replied(reply)) } else { Ok(reply) }
}

fn only(answers: Vec<Answer>) -> Done<Vec<Buf>> {
    no_error(answers.into_iter().find_map(reply_of).ok_or(Failure::Exhausted)?)
}

/// Whether nothing has gone wrong.
fn fine(answers: Vec<Answer>) -> Done<()> {
    only(answers).map(drop)
}

/// Whether a reply is that there is nothing, in either version of the protocol.
fn is_null(reply: &[Buf]) -> bool {
    matches!(reply.first().map(|buf| &**buf), Some([b'_', ..] | [b'$' | b'*', b'-', ..]))
}

/// The beginning of a reply, as much as a number with its kind and its end may take.
fn front(reply: &[Buf]) -> Vec<u8> {
    reply.iter().flat_map(|buf| buf.iter().copied()).take(24).collect()
}

/// The number behind the kind of a reply, and how many bytes it takes with both ends.
fn number(reply: &[Buf], kind: u8) -> Option<(i64, usize)> {
    let front = front(reply);
    let line = front.strip_prefix(&[kind])?.split(|&byte| byte == b'\r').next()?;
    Some((parse_i64(line)?, line.len() + 3))
}

fn array_header(reply: &[Buf]) -> Option<(usize, usize)> {
    number(reply, b'*').and_then(|(len, size)| Some((usize::try_from(len).ok()?, size)))
}

fn count(reply: Vec<Buf>) -> Done<i64> {
    let reply = no_error(reply)?;
    number(&reply, b':').map(|(count, _)| count).ok_or(Failure::Exhausted)
}

fn counts(answers: Vec<Answer>) -> Done<Vec<i64>> {
    answers.into_iter().filter_map(reply_of).map(count).collect()
}

/// What a bulk string says.
fn bulk(reply: &[Buf]) -> Option<Vec<u8>> {
    let (len, header_len) = number(reply, b'$')?;
    let bytes = reply.iter().flat_map(|buf| buf.iter().copied());
    Some(bytes.skip(header_len).take(usize::try_from(len).ok()?).collect())
}
