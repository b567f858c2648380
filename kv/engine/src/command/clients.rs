//! CLIENT and its subcommands. Connections are not tracked for client-side caching, and none waits for anything yet; what
//! asks for either is told so.

use super::connections::{ADMIN, OWN};
use super::row::ALWAYS;
use super::{Command, Flags, Group, Result, Run};
use crate::connection::{ClientFilter, ClientKind, Effect, KillForm, Replies, Visit};
use crate::number::parse_i64;
use crate::refusal::Refusal;

const fn row(name: &'static str, arity: i16, flags: Flags, run: fn(&mut Visit<'_>) -> Result) -> Command {
    Command::row(Group::Connection, name, arity, flags, Run::Connection(run))
}

pub(super) const ROWS: &[Command] = &[
    row("client|caching", 3, OWN, caching).doc("6.0.0", "O(1)", "Says whether to track the next keys"),
    row("client|getname", 2, OWN, getname).doc("2.6.9", "O(1)", "Gets the name of the connection"),
    row("client|getredir", 2, OWN, getredir).doc("6.0.0", "O(1)", "Gets where invalidations go"),
    row("client|help", 2, ALWAYS, help).doc("5.0.0", "O(1)", "Lists the subcommands"),
    row("client|id", 2, OWN, id).doc("5.0.0", "O(1)", "Gets the number of the connection"),
    row("client|info", 2, OWN, info)
        .doc("6.2.0", "O(1)", "Describes the connection")
        .tips(&["nondeterministic_output"]),
    row("client|kill", -3, ADMIN, kill).doc("2.4.0", "O(N)", "Closes connections"),
    row("client|list", -2, ADMIN, list)
        .doc("2.4.0", "O(N)", "Lists the connections")
        .tips(&["nondeterministic_output"]),
    row("client|no-evict", 3, ADMIN, no_evict).doc("7.0.0", "O(1)", "Keeps the connection from being evicted"),
    row("client|pause", -3, ADMIN, pause).doc("2.9.50", "O(1)", "Suspends the commands of clients"),
    row("client|reply", 3, OWN, reply).doc("3.2.0", "O(1)", "Turns replies on or off"),
    row("client|setname", 3, OWN, setname).doc("2.6.9", "O(1)", "Names the connection"),
    row("client|tracking", -3, OWN, tracking).doc("6.0.0", "O(1)", "Turns client-side caching on or off"),
    row("client|trackinginfo", 2, OWN, trackinginfo).doc("6.2.0", "O(1)", "Describes client-side caching"),
    row("client|unblock", -3, ADMIN, unblock).doc("5.0.0", "O(log N)", "Wakes a client that waits"),
    row("client|unpause", 2, ADMIN, unpause).doc("6.2.0", "O(N)", "Resumes the commands of clients"),
];

fn id(visit: &mut Visit<'_>) -> Result {
    visit.reply.integer(visit.connection.id() as i64);
    Ok(())
}

fn getname(visit: &mut Visit<'_>) -> Result {
    if visit.connection.name.is_empty() {
        visit.reply.null();
    } else {
        visit.reply.bulk(&visit.connection.name);
    }
    Ok(())
}

fn setname(visit: &mut Visit<'_>) -> Result {
    if !visit.connection.set_name(visit.request.arg(2)) {
        return Err(Refusal::ClientName);
    }
    visit.reply.ok();
    Ok(())
}

fn info(visit: &mut Visit<'_>) -> Result {
    let ids = Some(vec![visit.connection.id() as i64]);
    visit.effect = Effect::ListClients(ClientFilter { ids, ..ClientFilter::default() });
    Ok(())
}

fn list(visit: &mut Visit<'_>) -> Result {
    let (request, mut filter) = (visit.request, ClientFilter::default());
    if request.len() == 4 && visit.is_word(2, "type") {
        filter.kind = Some(ClientKind::named(request.arg(3)).ok_or(Refusal::ClientKind(3))?);
    } else if request.len() > 3 && visit.is_word(2, "id") {
        let ids = request.args_from(3).map(|arg| parse_i64(arg).ok_or(Refusal::ClientId));
        filter.ids = Some(ids.collect::<Result<_>>()?);
    } else if request.len() != 2 {
        return Err(Refusal::Syntax);
    }
    visit.effect = Effect::ListClients(filter);
    Ok(())
}

fn kill(visit: &mut Visit<'_>) -> Result {
    let request = visit.request;
    if request.len() == 3 {
        let filter = ClientFilter { address: Some(request.arg(2).to_vec()), ..ClientFilter::default() };
        visit.effect = Effect::KillClients(filter, KillForm::Address);
        return Ok(());
    }
    let mut filter = ClientFilter { not_id: Some(visit.connection.id()), ..ClientFilter::default() };
    for index in (2..request.len()).step_by(2) {
        if index + 1 == request.len() {
            return Err(Refusal::Syntax);
        }
        let value = request.arg(index + 1);
        if visit.is_word(index, "id") {
            let id = parse_i64(value).filter(|&id| id > 0).ok_or(Refusal::ClientIdPositive)?;
            filter.ids = Some(vec![id]);
        } else if visit.is_word(index, "type") {
            filter.kind = Some(ClientKind::named(value).ok_or(Refusal::ClientKind(index + 1))?);
        } else if visit.is_word(index, "addr") {
            filter.address = Some(value.to_vec());
        } else if visit.is_word(index, "laddr") {
            filter.local_address = Some(value.to_vec());
        } else if visit.is_word(index, "user") {
            if value != b"default" {
                return Err(Refusal::NoSuchUser(index + 1));
            }
        } else if visit.is_word(index, "skipme") && visit.is_word(index + 1, "yes") {
            filter.not_id = Some(visit.connection.id());
        } else if visit.is_word(index, "skipme") && visit.is_word(index + 1, "no") {
            filter.not_id = None;
        } else {
            return Err(Refusal::Syntax);
        }
    }
    visit.effect = Effect::KillClients(filter, KillForm::Filters);
    Ok(())
}

fn reply(visit: &mut Visit<'_>) -> Result {
    if visit.is_word(2, "on") {
        visit.connection.replies = Replies::On;
        visit.reply.ok();
    } else if visit.is_word(2, "off") {
        visit.connection.replies = Replies::Off;
    } else if visit.is_word(2, "skip") {
        if visit.connection.replies != Replies::Off {
            visit.connection.replies = Replies::SkipNext;
        }
    } else {
        return Err(Refusal::Syntax);
    }
    Ok(())
}

fn no_evict(visit: &mut Visit<'_>) -> Result {
    let on = visit.is_word(2, "on");
    if !on && !visit.is_word(2, "off") {
        return Err(Refusal::Syntax);
    }
    visit.connection.no_evict = on;
    visit.reply.ok();
    Ok(())
}

fn pause(visit: &mut Visit<'_>) -> Result {
    let request = visit.request;
    if request.len() > 4 {
        return Err(Refusal::SubcommandSyntax);
    }
    let writes_only = request.len() == 4 && visit.is_word(3, "write");
    if request.len() == 4 && !writes_only && !visit.is_word(3, "all") {
        return Err(Refusal::PauseMode);
    }
    let millis = parse_i64(request.arg(2)).ok_or(Refusal::TimeoutNotInteger)?;
    let millis = u64::try_from(millis).map_err(|_| Refusal::TimeoutNegative)?;
    // As in Redis, where the sum is negative then: a time after all times is before now.
    let until = visit.now.as_millis().checked_add(millis).filter(|&until| until <= i64::MAX as u64);
    visit.effect = Effect::Pause { until: until.unwrap_or(0), writes_only };
    visit.reply.ok();
    Ok(())
}

fn unpause(visit: &mut Visit<'_>) -> Result {
    visit.effect = Effect::Unpause;
    visit.reply.ok();
    Ok(())
}

fn unblock(visit: &mut Visit<'_>) -> Result {
    match visit.request.len() {
        3 => {}
        4 if visit.is_word(3, "timeout") || visit.is_word(3, "error") => {}
        4 => return Err(Refusal::UnblockReason),
        _ => return Err(Refusal::SubcommandSyntax),
    }
    visit.integer(2)?;
    visit.reply.integer(0);
    Ok(())
}

fn tracking(visit: &mut Visit<'_>) -> Result {
    if visit.is_word(2, "on") {
        return Err(Refusal::NoTracking);
    }
    if !visit.is_word(2, "off") {
        return Err(Refusal::Syntax);
    }
    visit.reply.ok();
    Ok(())
}

fn caching(_: &mut Visit<'_>) -> Result {
    Err(Refusal::NotTracking)
}

fn getredir(visit: &mut Visit<'_>) -> Result {
    visit.reply.integer(-1);
    Ok(())
}

fn trackinginfo(visit: &mut Visit<'_>) -> Result {
    let reply = &mut visit.reply;
    reply.map(3);
    reply.bulk(b"flags");
    reply.set(1);
    reply.bulk(b"off");
    reply.bulk(b"redirect");
    reply.integer(-1);
    reply.bulk(b"prefixes");
    reply.array(0);
    Ok(())
}

fn help(visit: &mut Visit<'_>) -> Result {
    visit.reply.help(
        "CLIENT",
        &[
            ("GETNAME", "The name of this connection."),
            ("GETREDIR", "Where its invalidations go: nowhere."),
            ("ID", "The number of this connection."),
            ("INFO", "The line of this connection in the list."),
            ("KILL <ip:port>", "Closes the connection from there."),
            ("KILL <option> <value> [...]", "Closes those that match: ID, TYPE, ADDR, LADDR, USER, SKIPME."),
            ("LIST [TYPE <type> | ID <id> ...]", "A line for each connection."),
            ("NO-EVICT (ON|OFF)", "Keeps this connection when memory is short."),
            ("PAUSE <milliseconds> [WRITE|ALL]", "Suspends commands, or writes only."),
            ("REPLY (ON|OFF|SKIP)", "Whether replies are sent."),
            ("SETNAME <name>", "Names this connection."),
            ("TRACKING (ON|OFF)", "Client-side caching: only OFF is supported."),
            ("TRACKINGINFO", "The state of that."),
            ("UNBLOCK <id> [TIMEOUT|ERROR]", "Wakes a connection that waits."),
            ("UNPAUSE", "Resumes commands."),
        ],
    );
    Ok(())
}
