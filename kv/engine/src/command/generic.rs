//! Commands on keys of any type.

use super::row::{ALWAYS, FAST, GROWS, READONLY, WRITE};
use super::scan::scan;
use super::{Call, Categories, Command, Flags, Group, KeySpec, Result, Run, Spread};
use crate::engine::{At, DATABASES};
use crate::glob::Glob;
use crate::keyspace::{Entry, NEVER, access_time};
use crate::number::parse_i64;
use crate::object::Object;
use crate::refusal::Refusal;
use crate::resp::Reply;
use crate::table::Item;

const fn row(name: &'static str, arity: i16, flags: Flags, run: fn(&mut Call<'_>) -> Result) -> Command {
    Command::row(Group::Generic, name, arity, flags, Run::Shard(run))
}

const fn container(name: &'static str, arity: i16, flags: Flags) -> Command {
    Command::row(Group::Generic, name, arity, flags, Run::Container)
}

pub(super) const ROWS: &[Command] = &[
    row("del", -2, WRITE, del)
        .doc("1.0.0", "O(N)", "Deletes keys")
        .keys(&[KeySpec::REMOVE_ALL])
        .tips(&["request_policy:multi_shard", "response_policy:agg_sum"])
        .spread(Spread::Count),
    row("unlink", -2, WRITE.and(FAST), unlink)
        .doc("4.0.0", "O(1)", "Deletes keys and frees their values later")
        .keys(&[KeySpec::REMOVE_ALL])
        .tips(&["request_policy:multi_shard", "response_policy:agg_sum"])
        .spread(Spread::Count),
    row("exists", -2, READONLY.and(FAST), exists)
        .doc("1.0.0", "O(N)", "Counts keys that are there")
        .keys(&[KeySpec::PEEK_ALL])
        .tips(&["request_policy:multi_shard", "response_policy:agg_sum"])
        .spread(Spread::Count),
    row("touch", -2, READONLY.and(FAST), touch)
        .doc("3.2.1", "O(N)", "Accesses keys and counts those that are there")
        .keys(&[KeySpec::PEEK_ALL])
        .tips(&["request_policy:multi_shard", "response_policy:agg_sum"])
        .spread(Spread::Count),
    row("type", 2, READONLY.and(FAST), type_of).doc("1.0.0", "O(1)", "Gets the type of a value").keys(&[KeySpec::PEEK]),
    row("keys", 2, READONLY, keys)
        .doc("1.0.0", "O(N)", "Lists the keys that match a pattern")
        .tips(&["request_policy:all_shards", "nondeterministic_output_order"])
        .category(Categories::DANGEROUS)
        .spread(Spread::Names),
    row("scan", -2, READONLY, scan)
        .doc("2.8.0", "O(1)", "Walks over the keys")
        .tips(&["nondeterministic_output", "request_policy:special"])
        .spread(Spread::Cursor),
    row("randomkey", 1, READONLY, randomkey)
        .doc("1.0.0", "O(1)", "Gets any key")
        .tips(&["request_policy:all_shards", "nondeterministic_output"])
        .spread(Spread::Random),
    row("rename", 3, WRITE, rename)
        .doc("1.0.0", "O(1)", "Gives a key another name")
        .keys(&[KeySpec::TAKE, KeySpec::OVERWRITE.second()]),
    row("renamenx", 3, WRITE.and(FAST), renamenx)
        .doc("1.0.0", "O(1)", "Gives a key another name unless that one is taken")
        .keys(&[KeySpec::TAKE, KeySpec::CREATE.second()]),
    row("copy", -3, GROWS, copy)
        .doc("6.2.0", "O(N)", "Copies a value to another key")
        .keys(&[KeySpec::READ, KeySpec::OVERWRITE.second()]),
    row("move", 3, WRITE.and(FAST), move_to)
        .doc("1.0.0", "O(1)", "Moves a key to another database")
        .keys(&[KeySpec::EXCHANGE]),
    row("expire", -3, WRITE.and(FAST), expire)
        .doc("1.0.0", "O(1)", "Sets in how many seconds a key expires")
        .keys(&[KeySpec::UPDATE]),
    row("pexpire", -3, WRITE.and(FAST), pexpire)
        .doc("2.6.0", "O(1)", "Sets in how many milliseconds a key expires")
        .keys(&[KeySpec::UPDATE]),
    row("expireat", -3, WRITE.and(FAST), expireat)
        .doc("1.2.0", "O(1)", "Sets at which second a key expires")
        .keys(&[KeySpec::UPDATE]),
    row("pexpireat", -3, WRITE.and(FAST), pexpireat)
        .doc("2.6.0", "O(1)", "Sets at which millisecond a key expires")
        .keys(&[KeySpec::UPDATE]),
    row("ttl", 2, READONLY.and(FAST), ttl)
        .doc("1.0.0", "O(1)", "Gets in how many seconds a key expires")
        .keys(&[KeySpec::READ])
        .tips(&["nondeterministic_output"]),
    row("pttl", 2, READONLY.and(FAST), pttl)
        .doc("2.6.0", "O(1)", "Gets in how many milliseconds a key expires")
        .keys(&[KeySpec::READ])
        .tips(&["nondeterministic_output"]),
    row("expiretime", 2, READONLY.and(FAST), expiretime)
        .doc("7.0.0", "O(1)", "Gets at which second a key expires")
        .keys(&[KeySpec::READ]),
    row("pexpiretime", 2, READONLY.and(FAST), pexpiretime)
        .doc("7.0.0", "O(1)", "Gets at which millisecond a key expires")
        .keys(&[KeySpec::READ]),
    row("persist", 2, WRITE.and(FAST), persist)
        .doc("2.2.0", "O(1)", "Makes a key expire no more")
        .keys(&[KeySpec::UPDATE]),
    container("object", -2, Flags::NONE)
        .doc("2.2.3", "Depends on subcommand", "Looks at how values are kept")
        .subcommands(&[
            row("object|encoding", 3, READONLY, object_encoding)
                .doc("2.2.3", "O(1)", "Gets how a value is kept")
                .keys(&[KeySpec::PEEK.second()])
                .tips(&["nondeterministic_output"]),
            row("object|freq", 3, READONLY, object_freq)
                .doc("4.0.0", "O(1)", "Gets how often a key is accessed")
                .keys(&[KeySpec::PEEK.second()])
                .tips(&["nondeterministic_output"]),
            row("object|help", 2, ALWAYS, object_help).doc("6.2.0", "O(1)", "Lists the subcommands"),
            row("object|idletime", 3, READONLY, object_idletime)
                .doc("2.2.3", "O(1)", "Gets how many seconds ago a key was accessed")
                .keys(&[KeySpec::PEEK.second()])
                .tips(&["nondeterministic_output"]),
            row("object|refcount", 3, READONLY, object_refcount)
                .doc("2.2.3", "O(1)", "Gets how often a value is referred to")
                .keys(&[KeySpec::PEEK.second()])
                .tips(&["nondeterministic_output"]),
        ]),
    row("dbsize", 1, READONLY.and(FAST), dbsize)
        .doc("1.0.0", "O(1)", "Counts the keys of the database")
        .tips(&["request_policy:all_shards", "response_policy:agg_sum"])
        .about(Group::Server)
        .spread(Spread::Size),
    row("flushdb", -1, WRITE, flushdb)
        .doc("1.0.0", "O(N)", "Deletes all keys of the database")
        .tips(&["request_policy:all_shards", "response_policy:all_succeeded"])
        .category(Categories::DANGEROUS)
        .about(Group::Server)
        .spread(Spread::Everywhere),
    row("flushall", -1, WRITE, flushall)
        .doc("1.0.0", "O(N)", "Deletes all keys of all databases")
        .tips(&["request_policy:all_shards", "response_policy:all_succeeded"])
        .category(Categories::DANGEROUS)
        .about(Group::Server)
        .spread(Spread::Everywhere),
    row("swapdb", 3, WRITE.and(FAST), swapdb)
        .doc("4.0.0", "O(N)", "Exchanges two databases")
        .category(Categories::DANGEROUS)
        .about(Group::Server)
        .spread(Spread::Everywhere),
];

fn del(call: &mut Call<'_>) -> Result {
    let mut count = 0;
    for index in 1..call.request.len() {
        let key = call.key(index);
        count += usize::from(call.engine.delete(call.at, &key));
    }
    call.changed(count);
    call.reply.count(count);
    Ok(())
}

/// What is large is freed later anyway.
fn unlink(call: &mut Call<'_>) -> Result {
    del(call)
}

fn exists(call: &mut Call<'_>) -> Result {
    let mut count = 0;
    for index in 1..call.request.len() {
        let key = call.key(index);
        count += usize::from(call.engine.peek(call.at, &key).is_some());
    }
    call.reply.count(count);
    Ok(())
}

fn touch(call: &mut Call<'_>) -> Result {
    let mut count = 0;
    for index in 1..call.request.len() {
        let key = call.key(index);
        count += usize::from(call.engine.read(call.at, &key).is_some());
    }
    call.reply.count(count);
    Ok(())
}

fn type_of(call: &mut Call<'_>) -> Result {
    let key = call.key(1);
    call.reply.simple(call.engine.peek(call.at, &key).map_or("none", |entry| entry.object.type_name()));
    Ok(())
}

fn keys(call: &mut Call<'_>) -> Result {
    let glob = Glob::new(call.arg(1));
    let entries = call.engine.database(call.at).entries();
    let matching =
        |entry: &&Entry| !entry.has_expired(call.at.now) && (glob.is_everything() || glob.matches(entry.key()));
    let found: Vec<&Entry> = entries.iter().filter(matching).collect();
    call.reply.array(found.len());
    found.iter().for_each(|entry| call.reply.blob(entry.name()));
    Ok(())
}

fn randomkey(call: &mut Call<'_>) -> Result {
    match call.engine.random_key(call.at) {
        Some(entry) => call.reply.blob(entry.name()),
        None => call.reply.null(),
    }
    Ok(())
}

fn rename(call: &mut Call<'_>) -> Result {
    rename_to(call, false).map(|_| call.reply.ok())
}

fn renamenx(call: &mut Call<'_>) -> Result {
    let done = rename_to(call, true)?;
    call.reply.integer(i64::from(done));
    Ok(())
}

/// Gives a key another name. False if `only_new` and the other name is taken.
fn rename_to(call: &mut Call<'_>, only_new: bool) -> Result<bool> {
    let (from, to, at) = (call.key(1), call.key(2), call.at);
    call.engine.find(at, &from).ok_or(Refusal::NoSuchKey)?;
    if from.bytes == to.bytes {
        return Ok(!only_new);
    }
    if only_new && call.engine.locate(at, &to).is_some() {
        return Ok(false);
    }
    let name = call.blob(2)?;
    call.engine.delete(at, &to);
    if let Some(entry) = call.engine.remove(at, &from) {
        call.engine.database_mut(at).insert(entry.renamed(name, to.hash));
    }
    call.changed(1);
    Ok(true)
}

/// The number of a database in argument `index`.
fn database_arg(call: &Call<'_>, index: usize) -> Result<usize> {
    let number = call.integer(index)?;
    i32::try_from(number).map_err(|_| Refusal::NotInt32)?;
    usize::try_from(number).ok().filter(|&number| number < DATABASES).ok_or(Refusal::DatabaseRange)
}

fn copy(call: &mut Call<'_>) -> Result {
    let (mut replace, mut to_at) = (false, call.at);
    call.options(3).each(|options| {
        if options.take("replace") {
            replace = true;
        } else if options.take_with("db", 1) {
            to_at.database = database_arg(call, options.take_any())?;
        } else {
            return Ok(false);
        }
        Ok(true)
    })?;
    let (from, to, at) = (call.key(1), call.key(2), call.at);
    if to_at.database == at.database && from.bytes == to.bytes {
        return Err(Refusal::SameObject);
    }
    let heap = call.engine.tools.heap.clone();
    if call.engine.read(at, &from).is_none() || !replace && call.engine.locate(to_at, &to).is_some() {
        call.reply.integer(0);
        return Ok(());
    }
    let name = call.blob(2)?;
    let Some(source) = call.engine.find(at, &from) else { return Ok(()) };
    let (object, expires, built) = (source.object.try_clone(&heap)?, source.expires(), source.built);
    call.engine.delete(to_at, &to);
    let mut entry = Entry::new(name, to.hash, object, at.now);
    entry.built = built;
    call.engine.database_mut(to_at).insert_expiring(entry, expires);
    call.changed(1);
    call.reply.integer(1);
    Ok(())
}

fn move_to(call: &mut Call<'_>) -> Result {
    let to_at = At { database: database_arg(call, 2)?, ..call.at };
    let (key, at) = (call.key(1), call.at);
    if to_at.database == at.database {
        return Err(Refusal::SameObject);
    }
    let moves = call.engine.find(at, &key).is_some() && call.engine.locate(to_at, &key).is_none();
    if moves && let Some(entry) = call.engine.remove(at, &key) {
        call.engine.database_mut(to_at).insert(entry);
        call.changed(1);
    }
    call.reply.integer(i64::from(moves));
    Ok(())
}

fn expire(call: &mut Call<'_>) -> Result {
    set_expiry(call, 1000, true)
}

fn pexpire(call: &mut Call<'_>) -> Result {
    set_expiry(call, 1, true)
}

fn expireat(call: &mut Call<'_>) -> Result {
    set_expiry(call, 1000, false)
}

fn pexpireat(call: &mut Call<'_>) -> Result {
    set_expiry(call, 1, false)
}

fn set_expiry(call: &mut Call<'_>, unit: i64, relative: bool) -> Result {
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for index in 3..call.request.len() {
        let known = [("nx", &mut nx), ("xx", &mut xx), ("gt", &mut gt), ("lt", &mut lt)];
        let found = known.into_iter().find(|(word, _)| call.is_word(index, word));
        *found.ok_or(Refusal::ExpireOption(index))?.1 = true;
    }
    if nx && (xx || gt || lt) {
        return Err(Refusal::ExpireNxWith);
    }
    if gt && lt {
        return Err(Refusal::ExpireGtLt);
    }
    let base = if relative { call.at.now as i64 } else { 0 };
    let expires = call.integer(2)?.checked_mul(unit).filter(|&time| time <= i64::MAX - base);
    let expires = expires.ok_or(Refusal::ExpireTime)?.wrapping_add(base);
    let (key, at) = (call.key(1), call.at);
    let Some(place) = call.engine.locate(at, &key) else {
        call.reply.integer(0);
        return Ok(());
    };
    let entry = call.engine.database_mut(at).at_mut(place);
    entry.accessed.set(access_time(at.now));
    let current = entry.expires().map(|current| current as i64);
    // Without an expiry a key lives forever: nothing is greater, everything less.
    let refused = nx && current.is_some()
        || xx && current.is_none()
        || gt && current.is_none_or(|current| expires <= current)
        || lt && current.is_some_and(|current| expires >= current);
    if refused {
        call.reply.integer(0);
        return Ok(());
    }
    if expires <= at.now as i64 {
        call.engine.delete(at, &key);
    } else {
        call.engine.database_mut(at).set_expiry(place, expires as u64);
    }
    call.changed(1);
    call.reply.integer(1);
    Ok(())
}

fn ttl(call: &mut Call<'_>) -> Result {
    tell_expiry(call, |expires, now| (expires.saturating_sub(now) + 500) / 1000)
}

fn pttl(call: &mut Call<'_>) -> Result {
    tell_expiry(call, |expires, now| expires.saturating_sub(now))
}

fn expiretime(call: &mut Call<'_>) -> Result {
    tell_expiry(call, |expires, _| expires.wrapping_add(500) / 1000)
}

fn pexpiretime(call: &mut Call<'_>) -> Result {
    tell_expiry(call, |expires, _| expires)
}

fn tell_expiry(call: &mut Call<'_>, tell: impl FnOnce(u64, u64) -> u64) -> Result {
    let (key, at) = (call.key(1), call.at);
    let answer = match call.engine.peek(at, &key).map(Entry::expires) {
        None => -2,
        Some(None) => -1,
        Some(Some(expires)) => tell(expires, at.now) as i64,
    };
    call.reply.integer(answer);
    Ok(())
}

fn persist(call: &mut Call<'_>) -> Result {
    let (key, at) = (call.key(1), call.at);
    let place = call.engine.locate(at, &key);
    let place = place.filter(|&place| call.engine.database_mut(at).at_mut(place).expires().is_some());
    if let Some(place) = place {
        call.engine.database_mut(at).set_expiry(place, NEVER);
        call.changed(1);
    }
    call.reply.integer(i64::from(place.is_some()));
    Ok(())
}

/// What OBJECT tells of an entry; null if there is none.
fn tell(call: &mut Call<'_>, tell: impl FnOnce(&mut Reply<'_>, &Entry)) -> Result {
    let key = call.key(2);
    match call.engine.peek(call.at, &key) {
        Some(entry) => tell(&mut call.reply, entry),
        None => call.reply.null(),
    }
    Ok(())
}

fn object_encoding(call: &mut Call<'_>) -> Result {
    tell(call, |reply, entry| reply.bulk(entry.object.encoding(entry.built).as_bytes()))
}

fn object_refcount(call: &mut Call<'_>) -> Result {
    // Redis shares small integers, and says that these are referred to without end.
    tell(call, |reply, entry| match entry.object {
        Object::Integer(0..10_000) => reply.integer(i64::from(i32::MAX)),
        _ => reply.integer(1),
    })
}

fn object_idletime(call: &mut Call<'_>) -> Result {
    let now = access_time(call.at.now);
    tell(call, |reply, entry| reply.integer(i64::from(now.saturating_sub(entry.accessed.get())) * 1024 / 1000))
}

fn object_freq(call: &mut Call<'_>) -> Result {
    let key = call.key(2);
    if call.engine.peek(call.at, &key).is_some() {
        return Err(Refusal::NoFrequency);
    }
    call.reply.null();
    Ok(())
}

fn object_help(call: &mut Call<'_>) -> Result {
    call.reply.help(
        "OBJECT",
        &[
            ("ENCODING <key>", "How the value of <key> is kept."),
            ("FREQ <key>", "How often <key> is accessed, where that is counted."),
            ("IDLETIME <key>", "How many seconds ago <key> was accessed."),
            ("REFCOUNT <key>", "How often the value of <key> is referred to."),
        ],
    );
    Ok(())
}

fn dbsize(call: &mut Call<'_>) -> Result {
    call.reply.count(call.engine.database(call.at).live_len(call.at.now));
    Ok(())
}

/// Whether the options of FLUSHDB and FLUSHALL are ones. (Freeing goes on in the background either way.)
fn check_flush(call: &Call<'_>) -> Result {
    let fine =
        call.request.len() == 1 || call.request.len() == 2 && (call.is_word(1, "sync") || call.is_word(1, "async"));
    if fine { Ok(()) } else { Err(Refusal::Syntax) }
}

fn flushdb(call: &mut Call<'_>) -> Result {
    check_flush(call)?;
    let count = call.engine.flush(call.at.database);
    call.changed(count);
    call.reply.ok();
    Ok(())
}

fn flushall(call: &mut Call<'_>) -> Result {
    check_flush(call)?;
    let count = (0..DATABASES).map(|database| call.engine.flush(database)).sum();
    call.changed(count);
    call.reply.ok();
    Ok(())
}

fn swapdb(call: &mut Call<'_>) -> Result {
    let number = |index: usize, refusal: Refusal| {
        parse_i64(call.arg(index)).and_then(|number| i32::try_from(number).ok()).ok_or(refusal)
    };
    let (one, other) = (number(1, Refusal::FirstDatabase)?, number(2, Refusal::SecondDatabase)?);
    let range = 0..DATABASES as i32;
    if !range.contains(&one) || !range.contains(&other) {
        return Err(Refusal::DatabaseRange);
    }
    call.engine.swap(one as usize, other as usize);
    call.changed(1);
    call.reply.ok();
    Ok(())
}
