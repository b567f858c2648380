//! What concerns all cores: each is asked, and the answers are put together.

use framework::Outbox;
use framework::pdpix::WallTime;
use kv_engine::config::Change;
use kv_engine::connection::{ClientFilter, KillForm};
use kv_engine::info::Section;
use kv_engine::refusal::Refusal;
use kv_engine::resp::{Reply, Request};

use crate::persistence::{Durability, Way};
use crate::report::Report;
use crate::shard::{Pause, Shard};

/// What every core is asked.
#[derive(Clone, Debug)]
pub enum Question {
    /// What there is to be told by INFO.
    Report,
    Configure(Vec<Change>),
    ResetStats,
    /// Which connections match.
    List(ClientFilter),
    /// To close those that match, but not this one, which its own core closes.
    Kill(ClientFilter),
    Pause {
        until: u64,
        writes_only: bool,
    },
    Unpause,
    /// To begin a snapshot.
    Save {
        generation: u64,
        leader: usize,
        /// The service ends when it is whole.
        is_for_the_end: bool,
    },
    /// To make its data anew.
    Reload,
    /// When all that it has changed is durable.
    Durable,
}

/// What a core answers.
#[derive(Debug)]
pub enum Finding {
    Report(Box<Report>),
    Lines(String),
    Count(usize),
    Done,
    Refused(Refusal),
}

/// What is made of the answers.
#[derive(Clone, Debug)]
pub(crate) enum Ending {
    Info(Vec<Section>),
    List,
    Kill(KillForm),
    Ok,
    Saving {
        generation: u64,
        way: Way,
    },
    /// WAITAOF; with replicas that there are not, after this time.
    Durable {
        in_vain_ms: Option<u64>,
    },
}

impl Finding {
    fn refusal(&self) -> Option<Refusal> {
        if let Finding::Refused(refusal) = self { Some(*refusal) } else { None }
    }
}

impl Shard {
    /// This core's answer. `me` is the connection that asks, if it is one of this core's.
    pub(crate) fn find_out(&mut self, question: &Question, me: Option<u64>, out: &mut Outbox<'_, Shard>) -> Finding {
        match question {
            Question::Report => return Finding::Report(Box::new(self.report(out))),
            Question::List(filter) => {
                let (at, now) = (self.listens_at, out.now());
                let mut lines = String::new();
                for client in self.clients.iter() {
                    let facts = client.facts(at, now);
                    if filter.matches(&client.connection, &facts) {
                        lines.push_str(&client.connection.describe(&facts));
                        lines.push('\n');
                    }
                }
                return Finding::Lines(lines);
            }
            Question::Kill(filter) => return Finding::Count(self.kill(filter, me, out)),
            Question::Configure(changes) => {
                self.config.apply(changes);
                self.configured();
            }
            Question::ResetStats => self.reset_stats(),
            Question::Pause { until, writes_only } => self.pause_clients(*until, *writes_only, out),
            Question::Unpause => self.unpause_clients(out),
            Question::Save { generation, leader, is_for_the_end } => {
                if let Err(refusal) = self.begin_snapshot(*generation, (*leader, *is_for_the_end), out) {
                    return Finding::Refused(refusal);
                }
            }
            Question::Reload if self.persistence.saving.is_some() => return Finding::Refused(Refusal::SavingAlready),
            Question::Reload => {
                if self.engine.reload().is_err() {
                    return Finding::Refused(Refusal::OutOfMemory);
                }
            }
            // Answered later, by those who ask for it.
            Question::Durable => {}
        }
        Finding::Done
    }

    fn kill(&mut self, filter: &ClientFilter, me: Option<u64>, out: &mut Outbox<'_, Shard>) -> usize {
        let (at, now) = (self.listens_at, out.now());
        let mut count = 0;
        for client in self.clients.iter_mut().filter(|client| !client.connection.is_closing()) {
            if !filter.matches(&client.connection, &client.facts(at, now)) {
                continue;
            }
            count += 1;
            client.connection.close();
            if me != Some(client.connection.id()) {
                out.close(client.session.id());
            }
        }
        count
    }

    /// Carries out nothing (or no writes) until then.
    fn pause_clients(&mut self, until: u64, writes_only: bool, out: &mut Outbox<'_, Shard>) {
        // As Redis does: of two pauses the later end and the wider one.
        let (until, writes_only) = match self.pause {
            Some(pause) => (until.max(pause.until), writes_only && pause.writes_only),
            None => (until, writes_only),
        };
        self.pause = Some(Pause { until, writes_only });
        self.set_unpause_timer(out);
    }

    pub(crate) fn unpause_clients(&mut self, out: &mut Outbox<'_, Shard>) {
        self.pause = None;
        for id in std::mem::take(&mut self.paused) {
            self.go_on(id, out);
        }
    }

    /// Writes what has come of it.
    pub(crate) fn conclude(&self, ending: &Ending, findings: Vec<Finding>, reply: &mut Reply<'_>, now: WallTime) {
        match ending {
            Ending::Info(sections) => {
                let reports = findings.into_iter().filter_map(|finding| match finding {
                    Finding::Report(report) => Some(*report),
                    _ => None,
                });
                self.info(reports, now).put(sections, reply);
            }
            Ending::List => {
                let lines = findings.into_iter().map(|finding| match finding {
                    Finding::Lines(lines) => lines,
                    _ => String::new(),
                });
                reply.verbatim("txt", lines.collect::<String>().as_bytes());
            }
            Ending::Kill(form) => {
                let counts =
                    findings.iter().map(|finding| if let Finding::Count(count) = finding { *count } else { 0 });
                form.put(counts.sum(), reply);
            }
            Ending::Ok => match findings.iter().find_map(Finding::refusal) {
                Some(refusal) => reply.error(&refusal.text(None, &Request::default())),
                None => reply.ok(),
            },
            Ending::Durable { .. } => {
                let is_durable = findings.iter().all(|finding| finding.refusal().is_none());
                let is_kept = self.persistence.durability != Durability::None;
                reply.array(2);
                reply.integer(i64::from(is_durable && is_kept));
                reply.integer(0);
            }
            // Answered by whoever leads it.
            Ending::Saving { .. } => {}
        }
    }
}
