//! COMMAND: what commands there are, told to clients.

use smallvec::SmallVec;

use super::key_spec::guess_keys_of;
use super::key_spec::{Find, KeyFlags, KeySpec};
use super::row::ALWAYS;
use super::{Categories, Command, Flags, Group, Result, Run, all, keys_of, named};
use crate::connection::Visit;
use crate::glob::Glob;
use crate::refusal::Refusal;
use crate::resp::{Reply, Request};

const fn row(name: &'static str, arity: i16, flags: Flags, run: fn(&mut Visit<'_>) -> Result) -> Command {
    Command::row(Group::Server, name, arity, flags, Run::Connection(run))
}

pub(super) const ROWS: &[Command] = &[
    row("command|count", 2, ALWAYS, count)
        .doc("2.8.13", "O(1)", "Counts the commands")
        .category(Categories::CONNECTION),
    row("command|docs", -2, ALWAYS, docs)
        .doc("7.0.0", "O(N)", "Documents commands")
        .category(Categories::CONNECTION)
        .tips(&["nondeterministic_output_order"]),
    row("command|getkeys", -4, ALWAYS, getkeys)
        .doc("2.8.13", "O(N)", "Gets the keys in a command")
        .category(Categories::CONNECTION),
    row("command|getkeysandflags", -4, ALWAYS, getkeysandflags)
        .doc("7.0.0", "O(N)", "Gets the keys in a command and what is done with them")
        .category(Categories::CONNECTION),
    row("command|help", 2, ALWAYS, help).doc("5.0.0", "O(1)", "Lists the subcommands").category(Categories::CONNECTION),
    row("command|info", -2, ALWAYS, info)
        .doc("2.8.13", "O(N)", "Describes commands")
        .category(Categories::CONNECTION)
        .tips(&["nondeterministic_output_order"]),
    row("command|list", -2, ALWAYS, list)
        .doc("7.0.0", "O(N)", "Lists the names of commands")
        .category(Categories::CONNECTION)
        .tips(&["nondeterministic_output_order"]),
];

/// COMMAND by itself: all of them.
pub(super) fn infos(visit: &mut Visit<'_>) -> Result {
    visit.reply.array(all().len());
    all().iter().for_each(|command| put_info(&mut visit.reply, command));
    Ok(())
}

fn info(visit: &mut Visit<'_>) -> Result {
    if visit.request.len() == 2 {
        return infos(visit);
    }
    visit.reply.array(visit.request.len() - 2);
    for name in visit.request.args_from(2) {
        match by_full_name(name) {
            Some(command) => put_info(&mut visit.reply, command),
            None => visit.reply.null_array(),
        }
    }
    Ok(())
}

/// A command by its name, or a subcommand by that of its container, a bar, and its own.
fn by_full_name(name: &[u8]) -> Option<&'static Command> {
    let mut parts = name.splitn(2, |&byte| byte == b'|');
    let command = super::lookup(parts.next()?)?;
    match parts.next() {
        Some(own) => command.subcommand(own),
        None => Some(command),
    }
}

fn put_names(reply: &mut Reply<'_>, names: impl Iterator<Item = &'static str>) {
    let names: SmallVec<[&str; 16]> = names.collect();
    reply.set(names.len());
    names.into_iter().for_each(|name| reply.simple(name));
}

fn put_info(reply: &mut Reply<'_>, command: &Command) {
    reply.array(10);
    reply.bulk(command.name.as_bytes());
    reply.integer(i64::from(command.arity));
    put_names(reply, command.flags.names());
    let (first, last, step) = command.key_range();
    reply.integer(first);
    reply.integer(last);
    reply.integer(step);
    put_names(reply, command.categories.names());
    reply.set(command.tips.len());
    command.tips.iter().for_each(|tip| reply.bulk(tip.as_bytes()));
    reply.set(command.keys.len());
    command.keys.iter().for_each(|spec| put_key_spec(reply, spec));
    match command.subcommands.len() {
        0 => reply.set(0),
        count => reply.array(count),
    }
    command.subcommands.iter().for_each(|command| put_info(reply, command));
}

fn put_key_spec(reply: &mut Reply<'_>, spec: &KeySpec) {
    let pair = |reply: &mut Reply<'_>, name: &str, value: i64| {
        reply.bulk(name.as_bytes());
        reply.integer(value);
    };
    reply.map(3);
    reply.bulk(b"flags");
    put_names(reply, spec.flags.names());
    reply.bulk(b"begin_search");
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(b"index");
    reply.bulk(b"spec");
    reply.map(1);
    pair(reply, "index", spec.begin as i64);
    reply.bulk(b"find_keys");
    reply.map(2);
    reply.bulk(b"type");
    match spec.find {
        Find::Range { last, step } => {
            reply.bulk(b"range");
            reply.bulk(b"spec");
            reply.map(3);
            pair(reply, "lastkey", i64::from(last));
            pair(reply, "keystep", step as i64);
            pair(reply, "limit", 0);
        }
        Find::Counted => {
            reply.bulk(b"keynum");
            reply.bulk(b"spec");
            reply.map(3);
            pair(reply, "keynumidx", 0);
            pair(reply, "firstkey", 1);
            pair(reply, "keystep", 1);
        }
    }
}

fn count(visit: &mut Visit<'_>) -> Result {
    visit.reply.count(all().len());
    Ok(())
}

fn list(visit: &mut Visit<'_>) -> Result {
    let pattern = match visit.request.len() {
        2 => None,
        5 if visit.is_word(2, "filterby") => Some(visit.arg(4)),
        _ => return Err(Refusal::Syntax),
    };
    // There are no modules, so none has a command.
    let wanted = |command: &Command| match pattern {
        None => true,
        Some(category) if visit.is_word(3, "aclcat") => {
            command.categories.names().any(|name| name.as_bytes()[1..].eq_ignore_ascii_case(category))
        }
        Some(pattern) => visit.is_word(3, "pattern") && Glob::any_case(pattern).matches(command.name.as_bytes()),
    };
    if pattern.is_some() && !["module", "aclcat", "pattern"].iter().any(|word| visit.is_word(3, word)) {
        return Err(Refusal::Syntax);
    }
    let mut names: Vec<&str> = Vec::new();
    for command in all() {
        names.extend(Some(*command).filter(|command| wanted(command)).map(|command| command.name));
        let inner = command.subcommands.iter().filter(|command| pattern.is_some() && wanted(command));
        names.extend(inner.map(|command| command.name));
    }
    visit.reply.array(names.len());
    names.into_iter().for_each(|name| visit.reply.bulk(name.as_bytes()));
    Ok(())
}

fn docs(visit: &mut Visit<'_>) -> Result {
    let asked: Vec<&Command> = if visit.request.len() == 2 {
        all().to_vec()
    } else {
        visit.request.args_from(2).filter_map(by_full_name).collect()
    };
    visit.reply.map(asked.len());
    asked.into_iter().for_each(|command| put_docs(&mut visit.reply, command));
    Ok(())
}

fn put_docs(reply: &mut Reply<'_>, command: &Command) {
    let pair = |reply: &mut Reply<'_>, name: &str, value: &str| {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    };
    reply.bulk(command.name.as_bytes());
    let replaced = if command.replaced.is_some() { 3 } else { 0 };
    reply.map(4 + replaced + usize::from(!command.subcommands.is_empty()));
    pair(reply, "summary", command.summary);
    pair(reply, "since", command.since);
    pair(reply, "group", command.group.name());
    pair(reply, "complexity", command.complexity);
    if let Some((since, by)) = command.replaced {
        reply.bulk(b"doc_flags");
        reply.set(1);
        reply.simple("deprecated");
        pair(reply, "deprecated_since", since);
        pair(reply, "replaced_by", by);
    }
    if !command.subcommands.is_empty() {
        reply.bulk(b"subcommands");
        reply.map(command.subcommands.len());
        command.subcommands.iter().for_each(|command| put_docs(reply, command));
    }
}

/// The keys in the command that the arguments from the third on are.
fn keys_in(visit: &Visit<'_>) -> Result<(Request, super::Keys)> {
    let inner = Request::of(visit.request.args_from(2).collect::<Vec<_>>(), visit.reply.heap())?;
    let command = named(&inner).ok_or(Refusal::GetKeysCommand)?;
    if command.keys.is_empty() {
        return Err(Refusal::GetKeysNone);
    }
    if !command.takes(inner.len()) {
        return Err(Refusal::GetKeysArity);
    }
    let keys = keys_of(command, &inner).or_else(|| guess_keys_of(command, &inner)).ok_or(Refusal::GetKeysArgs)?;
    Ok((inner, keys))
}

fn getkeys(visit: &mut Visit<'_>) -> Result {
    let (inner, keys) = keys_in(visit)?;
    visit.reply.array(keys.len());
    keys.into_iter().for_each(|(index, _)| visit.reply.bulk(inner.arg(index)));
    Ok(())
}

fn getkeysandflags(visit: &mut Visit<'_>) -> Result {
    let (inner, keys) = keys_in(visit)?;
    // SET overwrites, unless it is also to give back what was there.
    let gives = inner.args_from(3).any(|arg| arg.eq_ignore_ascii_case(b"get"));
    visit.reply.array(keys.len());
    for (index, flags) in keys {
        let flags = match (flags.contains(KeyFlags::VARIABLE), gives) {
            (false, _) => flags,
            (true, true) => KeySpec::EXCHANGE.flags,
            (true, false) => KeySpec::OVERWRITE.flags,
        };
        visit.reply.array(2);
        visit.reply.bulk(inner.arg(index));
        put_names(&mut visit.reply, flags.names());
    }
    Ok(())
}

fn help(visit: &mut Visit<'_>) -> Result {
    visit.reply.help(
        "COMMAND",
        &[
            ("(no subcommand)", "Describes all commands."),
            ("COUNT", "How many there are."),
            ("DOCS [<name> ...]", "What commands do."),
            ("GETKEYS <command> [<arg> ...]", "The keys in a whole command."),
            ("GETKEYSANDFLAGS <command> [<arg> ...]", "The same, and what is done with them."),
            ("INFO [<name> ...]", "Describes commands."),
            ("LIST [FILTERBY (MODULE|ACLCAT|PATTERN) <what>]", "Their names."),
        ],
    );
    Ok(())
}
