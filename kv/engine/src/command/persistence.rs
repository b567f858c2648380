//! Commands on what is kept on disk: the server does what they say ([`Persist`]).

use super::row::{ALWAYS, FAST};
use super::{Categories, Command, Flags, Group, Result, Run};
use crate::connection::{Effect, Persist, Visit};
use crate::number::parse_i64;
use crate::refusal::Refusal;

const fn row(name: &'static str, arity: i16, flags: Flags, run: fn(&mut Visit<'_>) -> Result) -> Command {
    Command::row(Group::Server, name, arity, flags, Run::Connection(run))
}

const SAVES: Flags = Flags::ADMIN.and(Flags::NOSCRIPT).and(Flags::NO_ASYNC_LOADING);

pub(super) const ROWS: &[Command] = &[
    row("save", 1, SAVES.and(Flags::NO_MULTI), save).doc("1.0.0", "O(N)", "Writes a snapshot, and waits for it"),
    row("bgsave", -1, SAVES, bgsave).doc("1.0.0", "O(1)", "Begins to write a snapshot"),
    row("bgrewriteaof", 1, SAVES, bgrewriteaof).doc(
        "1.0.0",
        "O(1)",
        "Begins to write a snapshot, after which the log is as short as it can be",
    ),
    row("lastsave", 1, FAST.and(ALWAYS), lastsave)
        .doc("1.0.0", "O(1)", "Gets when the last snapshot was written")
        .category(Categories::ADMIN)
        .category(Categories::DANGEROUS)
        .tips(&["nondeterministic_output"]),
    row("shutdown", -1, SHUTDOWN, shutdown).doc("1.0.0", "O(N) when saving", "Ends the server, and saves before it"),
    row("waitaof", 4, Flags::BLOCKING, waitaof)
        .doc("7.2.0", "O(1)", "Waits until what this client has written is durable")
        .category(Categories::CONNECTION)
        .about(Group::Generic),
];

const SHUTDOWN: Flags = Flags::ADMIN.and(Flags::NOSCRIPT).and(ALWAYS).and(Flags::NO_MULTI).and(Flags::ALLOW_BUSY);

fn save(visit: &mut Visit<'_>) -> Result {
    visit.effect = Effect::Persist(Persist::Save);
    Ok(())
}

fn bgsave(visit: &mut Visit<'_>) -> Result {
    match visit.request.len() {
        1 => {}
        2 if visit.is_word(1, "schedule") => {}
        _ => return Err(Refusal::Syntax),
    }
    visit.effect = Effect::Persist(Persist::SaveBehind);
    Ok(())
}

fn bgrewriteaof(visit: &mut Visit<'_>) -> Result {
    visit.effect = Effect::Persist(Persist::RewriteBehind);
    Ok(())
}

fn lastsave(visit: &mut Visit<'_>) -> Result {
    visit.effect = Effect::Persist(Persist::LastSave);
    Ok(())
}

fn shutdown(visit: &mut Visit<'_>) -> Result {
    if visit.request.len() == 2 && visit.is_word(1, "abort") {
        // It begins at once, and cannot be taken back.
        return Err(Refusal::NoShutdown);
    }
    let mut save = None;
    for index in 1..visit.request.len() {
        if visit.is_word(index, "nosave") && save != Some(true) {
            save = Some(false);
        } else if visit.is_word(index, "save") && save != Some(false) {
            save = Some(true);
        } else if !(visit.is_word(index, "now") || visit.is_word(index, "force")) {
            return Err(Refusal::Syntax);
        }
    }
    visit.effect = Effect::Persist(Persist::Shutdown { save });
    Ok(())
}

fn waitaof(visit: &mut Visit<'_>) -> Result {
    let number = |index: usize| parse_i64(visit.arg(index));
    let local = number(1).ok_or(Refusal::NotInteger)?;
    if !(0..=1).contains(&local) {
        return Err(Refusal::NotZeroOrOne);
    }
    let replicas = number(2).filter(|replicas| *replicas >= 0).ok_or(Refusal::MustBePositive)?;
    let timeout = number(3).ok_or(Refusal::TimeoutNotInteger)?;
    let timeout = u64::try_from(timeout).map_err(|_| Refusal::TimeoutNegative)?;
    visit.effect = Effect::Persist(Persist::Wait { local: local == 1, replicas: replicas as u64, timeout_ms: timeout });
    Ok(())
}

/// DEBUG: of its subcommands the one that takes the data apart and puts it together again.
pub(super) fn debug(visit: &mut Visit<'_>) -> Result {
    if !visit.is_word(1, "reload") {
        return Err(Refusal::Debug);
    }
    let is_known = |index| ["merge", "noflush", "nosave"].iter().any(|word| visit.is_word(index, word));
    if !(2..visit.request.len()).all(is_known) {
        return Err(Refusal::ReloadOptions);
    }
    visit.effect = Effect::Persist(Persist::Reload);
    Ok(())
}
