//! Commands on the connection and the server, other than CLIENT (`clients.rs`) and COMMAND (`introspection.rs`).

use super::row::{ALWAYS, FAST, READONLY};
use super::{Categories, Command, Flags, Group, Result, Run, clients, introspection, persistence};
use crate::connection::{Effect, Visit};
use crate::engine::DATABASES;
use crate::info::{REDIS_VERSION, Section};
use crate::number::parse_i64;
use crate::refusal::Refusal;
use crate::resp::Protocol;

const fn row(name: &'static str, arity: i16, flags: Flags, run: fn(&mut Visit<'_>) -> Result) -> Command {
    Command::row(Group::Connection, name, arity, flags, Run::Connection(run))
}

const fn server(name: &'static str, arity: i16, flags: Flags, run: fn(&mut Visit<'_>) -> Result) -> Command {
    Command::row(Group::Server, name, arity, flags, Run::Connection(run))
}

const fn container(group: Group, name: &'static str, subcommands: &'static [Command]) -> Command {
    Command::row(group, name, -2, Flags::NONE, Run::Container).subcommands(subcommands)
}

/// Before the client has proved who it is.
const UNPROVED: Flags = OWN.and(FAST).and(Flags::NO_AUTH).and(Flags::ALLOW_BUSY);

/// At any time, but not from scripts.
pub(super) const OWN: Flags = Flags::NOSCRIPT.and(ALWAYS);

/// For administrators, at any time, but not from scripts.
pub(super) const ADMIN: Flags = Flags::ADMIN.and(OWN);

pub(super) const ROWS: &[Command] = &[
    row("ping", -1, FAST, ping)
        .doc("1.0.0", "O(1)", "Answers")
        .tips(&["request_policy:all_shards", "response_policy:all_succeeded"]),
    row("echo", 2, FAST.and(ALWAYS), echo).doc("1.0.0", "O(1)", "Answers with what was said"),
    row("hello", -1, UNPROVED, hello).doc("6.0.0", "O(1)", "Chooses the version of the protocol"),
    row("auth", -2, UNPROVED, auth).doc("1.0.0", "O(N)", "Authenticates the client"),
    row("select", 2, FAST.and(ALWAYS), select).doc("1.0.0", "O(1)", "Selects a database"),
    row("quit", -1, UNPROVED, quit).doc("1.0.0", "O(1)", "Closes the connection"),
    row("reset", 1, UNPROVED, reset).doc("6.2.0", "O(1)", "Puts the connection back into its first state"),
    container(Group::Connection, "client", clients::ROWS).doc("2.4.0", "Depends on subcommand", "Looks at connections"),
    server("command", -1, ALWAYS, introspection::infos)
        .doc("2.8.13", "O(N)", "Describes commands")
        .category(Categories::CONNECTION)
        .tips(&["nondeterministic_output_order"])
        .subcommands(introspection::ROWS),
    container(Group::Server, "config", CONFIG).doc("2.0.0", "Depends on subcommand", "Looks at the configuration"),
    server("time", 1, FAST.and(ALWAYS), time).doc("2.6.0", "O(1)", "Gets the time").tips(&["nondeterministic_output"]),
    server("lolwut", -1, READONLY.and(FAST), lolwut).doc("5.0.0", "O(1)", "Shows the version, and something nice"),
    server("info", -1, ALWAYS, info)
        .doc("1.0.0", "O(1)", "Describes the server")
        .tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"])
        .category(Categories::DANGEROUS),
    server("debug", -2, ADMIN, persistence::debug).doc("1.0.0", "Depends on subcommand", "Looks at internals"),
];

const CONFIG: &[Command] = &[
    server("config|get", -3, ADMIN, config_get).doc("2.0.0", "O(N)", "Gets parameters"),
    server("config|help", 2, ALWAYS, config_help).doc("5.0.0", "O(1)", "Lists the subcommands"),
    server("config|resetstat", 2, ADMIN, config_resetstat).doc("2.0.0", "O(1)", "Forgets what was counted"),
    server("config|rewrite", 2, ADMIN, config_rewrite).doc("2.8.0", "O(1)", "Writes the configuration to its file"),
    server("config|set", -4, ADMIN, config_set)
        .doc("2.0.0", "O(N)", "Sets parameters")
        .tips(&["request_policy:all_nodes", "response_policy:all_succeeded"]),
];

fn ping(visit: &mut Visit<'_>) -> Result {
    match visit.request.len() {
        1 => visit.reply.simple("PONG"),
        2 => visit.reply.buf(visit.request.buf(1)),
        _ => return Err(Refusal::Arity),
    }
    Ok(())
}

fn echo(visit: &mut Visit<'_>) -> Result {
    visit.reply.buf(visit.request.buf(1));
    Ok(())
}

fn hello(visit: &mut Visit<'_>) -> Result {
    let request = visit.request;
    let protocol = match request.len() {
        1 => None,
        _ => Some(match parse_i64(request.arg(1)).ok_or(Refusal::ProtocolNotInteger)? {
            2 => Protocol::Resp2,
            3 => Protocol::Resp3,
            _ => return Err(Refusal::NoProtocol),
        }),
    };
    let mut index = 2;
    while index < request.len() {
        if visit.is_word(index, "auth") && index + 2 < request.len() {
            if !visit.connection.authenticate(request.arg(index + 1), request.arg(index + 2), visit.config) {
                return Err(Refusal::WrongPassword);
            }
            index += 3;
        } else if visit.is_word(index, "setname") && index + 1 < request.len() {
            if !visit.connection.set_name(request.arg(index + 1)) {
                return Err(Refusal::ClientName);
            }
            index += 2;
        } else {
            return Err(Refusal::HelloOption(index));
        }
    }
    if !visit.connection.is_authenticated() {
        return Err(Refusal::HelloNoAuth);
    }
    if let Some(protocol) = protocol {
        visit.connection.set_protocol(protocol);
        visit.reply.set_protocol(protocol);
    }
    let (id, protocol) = (visit.connection.id(), visit.connection.session().protocol);
    let reply = &mut visit.reply;
    reply.map(7);
    reply.bulk(b"server");
    reply.bulk(b"redis");
    reply.bulk(b"version");
    reply.bulk(REDIS_VERSION.as_bytes());
    reply.bulk(b"proto");
    reply.integer(if protocol == Protocol::Resp2 { 2 } else { 3 });
    reply.bulk(b"id");
    reply.integer(id as i64);
    reply.bulk(b"mode");
    reply.bulk(b"standalone");
    reply.bulk(b"role");
    reply.bulk(b"master");
    reply.bulk(b"modules");
    reply.array(0);
    Ok(())
}

fn auth(visit: &mut Visit<'_>) -> Result {
    let (user, password) = match visit.request.len() {
        2 if visit.config.password().is_none() => return Err(Refusal::NoPasswordSet),
        2 => (&b"default"[..], visit.arg(1)),
        3 => (visit.arg(1), visit.arg(2)),
        _ => return Err(Refusal::Syntax),
    };
    if !visit.connection.authenticate(user, password, visit.config) {
        return Err(Refusal::WrongPassword);
    }
    visit.reply.ok();
    Ok(())
}

fn select(visit: &mut Visit<'_>) -> Result {
    let index = i32::try_from(visit.integer(1)?).map_err(|_| Refusal::NotInt32)?;
    let index = u8::try_from(index).ok().filter(|&index| usize::from(index) < DATABASES);
    visit.connection.session.database = index.ok_or(Refusal::DatabaseRange)?;
    visit.reply.ok();
    Ok(())
}

fn quit(visit: &mut Visit<'_>) -> Result {
    visit.reply.ok();
    visit.effect = Effect::Close;
    Ok(())
}

fn reset(visit: &mut Visit<'_>) -> Result {
    visit.connection.reset(visit.config);
    visit.reply.simple("RESET");
    Ok(())
}

fn time(visit: &mut Visit<'_>) -> Result {
    let nanos = visit.now.as_nanos();
    visit.reply.array(2);
    visit.reply.bulk_integer((nanos / 1_000_000_000) as i64);
    visit.reply.bulk_integer((nanos / 1000 % 1_000_000) as i64);
    Ok(())
}

fn lolwut(visit: &mut Visit<'_>) -> Result {
    // A margay, from behind a branch.
    let text = format!("  /\\_/\\\n ( o.o )  ,-.\n==( \"  )=='  `-\nMargay, as Redis ver. {REDIS_VERSION}\n");
    visit.reply.verbatim("txt", text.as_bytes());
    Ok(())
}

fn info(visit: &mut Visit<'_>) -> Result {
    visit.effect = Effect::Info(Section::asked_for(visit.request));
    Ok(())
}

fn config_get(visit: &mut Visit<'_>) -> Result {
    let found = visit.config.matching(visit.request.args_from(2));
    visit.reply.map(found.len());
    for (name, value) in found {
        visit.reply.bulk(name);
        visit.reply.bulk(value);
    }
    Ok(())
}

fn config_set(visit: &mut Visit<'_>) -> Result {
    match visit.config.check(visit.request.args_from(2)) {
        Ok(changes) => {
            visit.effect = Effect::Configure(changes);
            visit.reply.ok();
        }
        Err(error) => visit.refuse(&error.text()),
    }
    Ok(())
}

fn config_resetstat(visit: &mut Visit<'_>) -> Result {
    visit.effect = Effect::ResetStats;
    visit.reply.ok();
    Ok(())
}

fn config_rewrite(_: &mut Visit<'_>) -> Result {
    Err(Refusal::NoConfigFile)
}

fn config_help(visit: &mut Visit<'_>) -> Result {
    visit.reply.help(
        "CONFIG",
        &[
            ("GET <pattern> [<pattern> ...]", "The parameters whose names match."),
            ("SET <name> <value> [<name> <value> ...]", "Changes parameters, all of them or none."),
            ("RESETSTAT", "Forgets what was counted."),
            ("REWRITE", "Not here: there is no file to write to."),
        ],
    );
    Ok(())
}
