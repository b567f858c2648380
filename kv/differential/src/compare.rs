//! One command to both, and whether the replies are as good as each other.

use crate::Subject;
use crate::generate::{Args, words as command};
use crate::peer::Peer;
use crate::redis::Redis;
use crate::resp::{self, Reply};

/// How far apart times may be, in milliseconds: the commands do not run at the same instant.
const TIME_TOLERANCE_MS: i64 = 2000;

/// A redis-server and ours, in the same state.
pub struct Pair<'a> {
    theirs: Peer,
    ours: Box<dyn Subject + 'a>,
}

/// A command as a person would write it.
pub fn shown(args: &[Vec<u8>]) -> String {
    let word = |arg: &Vec<u8>| match arg.len() {
        0..=100 => format!("{:?}", arg.escape_ascii().to_string()),
        len => format!("({len} bytes of {:?})", char::from(arg[0])),
    };
    args.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// What makes a server as it was at first.
const RESET: [&str; 2] = [
    "FLUSHALL",
    "CONFIG SET hash-max-listpack-entries 512 hash-max-listpack-value 64 zset-max-listpack-entries 128 \
     zset-max-listpack-value 64 set-max-intset-entries 512 timeout 0 maxclients 10000 maxmemory 0",
];

impl<'a> Pair<'a> {
    /// Both as they are at first, whatever there was before.
    pub fn new(redis: &Redis, ours: impl Subject + 'a) -> Pair<'a> {
        let mut pair = Pair::beside(redis, ours);
        for line in RESET {
            let ok = Some(Reply::Line(b'+', b"OK".to_vec()));
            assert_eq!(pair.both(&command(line)), (ok.clone(), ok), "{line}");
        }
        pair
    }

    /// The same without a change of what they hold: for several at a time.
    pub fn beside(redis: &Redis, ours: impl Subject + 'a) -> Pair<'a> {
        Pair { theirs: redis.connect(), ours: Box::new(ours) }
    }

    /// Runs a command on both. How the replies differ, if they do more than they may.
    pub fn difference(&mut self, args: &[Vec<u8>]) -> Option<String> {
        let name = args[0].to_ascii_lowercase();
        match name.as_slice() {
            b"spop" => self.difference_of_pop(args),
            b"scan" | b"sscan" | b"hscan" | b"zscan" => self.difference_of_walk(args),
            b"dbsize" if args.len() == 1 => {
                // Redis counts what has expired until it is taken out, sooner or later.
                let (theirs, ours) = (self.ask_theirs(&command("KEYS *")), self.ask_ours(args));
                let count = theirs.map(|theirs| theirs.items().len() as i64);
                (count != ours.and_then(|ours| ours.integer())).then(|| "DBSIZE is not the number of keys".into())
            }
            b"srandmember" | b"hrandfield" | b"zrandmember" | b"randomkey" => self.difference_of_choice(args),
            _ => {
                let (theirs, ours) = self.both(args);
                self.judge(args, theirs, ours)
            }
        }
    }

    fn ask_theirs(&mut self, args: &[Vec<u8>]) -> Option<Reply> {
        self.theirs.ask(args)
    }

    fn ask_ours(&mut self, args: &[Vec<u8>]) -> Option<Reply> {
        self.ours.ask(args)
    }

    /// The replies of both, unjudged: Redis's, ours.
    pub fn both(&mut self, args: &[Vec<u8>]) -> (Option<Reply>, Option<Reply>) {
        (self.ask_theirs(args), self.ask_ours(args))
    }

    /// The reply of both, which must be the same.
    fn ask_same(&mut self, args: &[Vec<u8>]) -> Result<Reply, String> {
        let (theirs, ours) = self.both(args);
        if unordered(theirs.clone()) != unordered(ours.clone()) {
            return Err(differ(args, &theirs, &ours));
        }
        theirs.ok_or_else(|| "closed".to_string())
    }

    /// Sends all these commands at once to both. Which is the first whose replies differ, and how.
    /// For commands that leave nothing to chance ([`leaves_to_chance`]) and do not close the connection.
    pub fn difference_of_batch(&mut self, commands: &[Args]) -> Option<(usize, String)> {
        let bytes: Vec<u8> = commands.iter().flat_map(|args| resp::write(args)).collect();
        self.theirs.send(&bytes);
        self.ours.send(&bytes);
        commands.iter().enumerate().find_map(|(index, args)| {
            let (theirs, ours) = (self.theirs.reply(), self.ours.reply());
            let alike = theirs == ours || are_alike(args, theirs.as_ref(), ours.as_ref());
            (!alike).then(|| (index, differ(args, &theirs, &ours)))
        })
    }

    fn judge(&mut self, args: &[Vec<u8>], theirs: Option<Reply>, ours: Option<Reply>) -> Option<String> {
        let alike = theirs == ours || are_alike(args, theirs.as_ref(), ours.as_ref());
        // A connection may also be closed behind a reply: CLIENT KILL.
        if theirs.is_none() || ours.is_none() || args[0].eq_ignore_ascii_case(b"client") {
            let closed = (self.theirs.is_closed(), self.ours.is_closed());
            if closed.0 != closed.1 {
                return Some(format!("{}: redis closed: {}, ours: {}", shown(args), closed.0, closed.1));
            }
            if closed.0 {
                self.theirs.reconnect();
                self.ours.reconnect();
            }
        }
        (!alike).then(|| differ(args, &theirs, &ours))
    }

    /// SPOP: as many as in Redis, all of them members, and gone. Then both continue with what is left in Redis.
    fn difference_of_pop(&mut self, args: &[Vec<u8>]) -> Option<String> {
        self.try_pop(args).err()
    }

    fn try_pop(&mut self, args: &[Vec<u8>]) -> Result<(), String> {
        let key = args.get(1).cloned().unwrap_or_default();
        let members = command("SMEMBERS").into_iter().chain([key.clone()]).collect::<Args>();
        let before = self.ask_same(&members)?;
        let (theirs, ours) = self.both(args);
        let shapes = (theirs.as_ref().map(Reply::shape), ours.as_ref().map(Reply::shape));
        let is_error = theirs.as_ref().is_some_and(Reply::is_error);
        if shapes.0 != shapes.1 || is_error && theirs != ours {
            return Err(differ(args, &theirs, &ours));
        }
        let (left_there, left_here) = (self.ask_theirs(&members), self.ask_ours(&members));
        let popped: Vec<Reply> =
            ours.iter().flat_map(Reply::leaves).filter(|leaf| !matches!(leaf, Reply::Null(_))).cloned().collect();
        let mut all: Vec<Reply> = left_here.iter().flat_map(|left| left.items().to_vec()).collect();
        if !is_error {
            all.extend(popped);
        }
        all.sort();
        let mut expected = before.items().to_vec();
        expected.sort();
        if all != expected {
            return Err(format!("{}: popped and left are not what was there", shown(args)));
        }
        let Some(left) = left_there.filter(|_| !is_error) else { return Ok(()) };
        let mut names: Args = left.items().iter().map(|name| name.bytes().to_vec()).collect();
        names.sort();
        if before.items().len() > names.len() && !names.is_empty() {
            self.ask_same(&[b"DEL".to_vec(), key.clone()])?;
            self.ask_same(&[vec![b"SADD".to_vec(), key], names].concat())?;
        }
        Ok(())
    }

    /// A walk from its beginning to its end: the same elements, each of them at least once.
    fn difference_of_walk(&mut self, args: &[Vec<u8>]) -> Option<String> {
        let cursor_at = if args[0].eq_ignore_ascii_case(b"scan") { 1 } else { 2 };
        let (theirs, ours) = self.both(args);
        let is_error = |reply: &Option<Reply>| reply.as_ref().is_none_or(Reply::is_error);
        if is_error(&theirs) || is_error(&ours) || args.get(cursor_at).is_none_or(|cursor| cursor != b"0") {
            let wrong = if is_error(&theirs) || is_error(&ours) { theirs != ours } else { false };
            return wrong.then(|| differ(args, &theirs, &ours));
        }
        let theirs = walk(args, cursor_at, theirs, |args| self.ask_theirs(args));
        let ours = walk(args, cursor_at, ours, |args| self.ask_ours(args));
        (theirs != ours)
            .then(|| format!("{}\n  redis walked over {theirs:?}\n  ours         over {ours:?}", shown(args)))
    }

    /// What is chosen by chance: as much as in Redis, of the same types, and out of what is there.
    fn difference_of_choice(&mut self, args: &[Vec<u8>]) -> Option<String> {
        let (theirs, ours) = self.both(args);
        let shapes = (theirs.as_ref().map(Reply::shape), ours.as_ref().map(Reply::shape));
        if shapes.0 != shapes.1 || theirs.as_ref().is_some_and(Reply::is_error) && theirs != ours {
            return Some(differ(args, &theirs, &ours));
        }
        let key = args.get(1).cloned().unwrap_or_default();
        let all = match args[0].to_ascii_lowercase().as_slice() {
            b"srandmember" => vec![b"SMEMBERS".to_vec(), key],
            b"hrandfield" => vec![b"HGETALL".to_vec(), key],
            b"zrandmember" => [vec![b"ZRANGE".to_vec(), key], command("0 -1 WITHSCORES")].concat(),
            _ => command("KEYS *"),
        };
        let all = match self.ask_same(&all) {
            Ok(all) => all,
            Err(difference) => return Some(difference),
        };
        let known = all.leaves();
        let ours = ours.filter(|reply| !reply.is_error())?;
        let strange = ours.leaves().into_iter().find(|leaf| !matches!(leaf, Reply::Null(_)) && !known.contains(leaf));
        strange.map(|leaf| format!("{}: {leaf:?} is not there", shown(args)))
    }
}

/// Whether a command chooses by chance, or counts what chance has chosen: then only a [`Pair::difference`] can judge it.
/// So it is with one that may close the connection.
pub fn leaves_to_chance(args: &[Vec<u8>]) -> bool {
    let names: [&[u8]; 11] = [
        b"spop",
        b"scan",
        b"sscan",
        b"hscan",
        b"zscan",
        b"dbsize",
        b"srandmember",
        b"hrandfield",
        b"zrandmember",
        b"randomkey",
        b"client",
    ];
    names.contains(&args[0].to_ascii_lowercase().as_slice())
}

/// All that a walk returns, sorted, without repetitions.
fn walk(
    args: &[Vec<u8>],
    cursor_at: usize,
    first: Option<Reply>,
    mut ask: impl FnMut(&[Vec<u8>]) -> Option<Reply>,
) -> Vec<Vec<Reply>> {
    let width = if matches!(args[0].to_ascii_lowercase().as_slice(), b"hscan" | b"zscan") { 2 } else { 1 };
    let (mut reply, mut found, mut args) = (first, Vec::new(), args.to_vec());
    for _ in 0..100_000 {
        let Some(Reply::Many(_, parts)) = reply else { panic!("a walk that breaks off: {}", shown(&args)) };
        found.extend(parts[1].items().chunks(width).map(<[Reply]>::to_vec));
        if parts[0].bytes() == b"0" {
            found.sort();
            found.dedup();
            return found;
        }
        args[cursor_at] = parts[0].bytes().to_vec();
        reply = ask(&args);
    }
    panic!("a walk without end: {}", shown(&args));
}

fn differ(args: &[Vec<u8>], theirs: &Option<Reply>, ours: &Option<Reply>) -> String {
    let text = |reply: &Option<Reply>| {
        let text = reply.as_ref().map_or("(closed)".into(), told);
        if text.len() > 600 { format!("{}...", &text[..600]) } else { text }
    };
    format!("{}\n  redis: {}\n  ours:  {}", shown(args), text(theirs), text(ours))
}

/// A reply in short.
pub fn told(reply: &Reply) -> String {
    match reply {
        Reply::Line(kind, text) | Reply::Text(kind, text) => format!("{}{}", char::from(*kind), text.escape_ascii()),
        Reply::Null(kind) => format!("{}null", char::from(*kind)),
        Reply::Many(kind, items) => {
            format!("{}[{}]", char::from(*kind), items.iter().map(told).collect::<Vec<_>>().join(" "))
        }
    }
}

/// A reply whose elements have no order.
fn unordered(reply: Option<Reply>) -> Option<Reply> {
    reply.map(|mut reply| {
        if let Reply::Many(_, items) = &mut reply {
            items.sort();
        }
        reply
    })
}

/// The same of pairs that lie one behind the other.
fn pairs(reply: Option<&Reply>) -> Option<Vec<Vec<Reply>>> {
    let mut pairs: Vec<Vec<Reply>> = reply?.items().chunks(2).map(<[Reply]>::to_vec).collect();
    pairs.sort();
    Some(pairs)
}

/// Whether two replies that are not the same are as good as each other.
fn are_alike(args: &[Vec<u8>], theirs: Option<&Reply>, ours: Option<&Reply>) -> bool {
    let shape = |reply: Option<&Reply>| reply.map(Reply::shape);
    let same_kind = shape(theirs) == shape(ours) && theirs.is_some_and(|theirs| !theirs.is_error());
    let word = |index: usize| args.get(index).map(|arg| arg.to_ascii_lowercase()).unwrap_or_default();
    let is_help = word(1) == b"help"
        && matches!(theirs, Some(Reply::Many(b'*', _)))
        && matches!(ours, Some(Reply::Many(b'*', _)));
    let near = |unit_ms: i64| match (theirs.and_then(Reply::integer), ours.and_then(Reply::integer)) {
        (Some(theirs), Some(ours)) => theirs >= 0 && ours >= 0 && (theirs - ours).abs() * unit_ms <= TIME_TOLERANCE_MS,
        _ => false,
    };
    match word(0).as_slice() {
        b"smembers" | b"sinter" | b"sunion" | b"sdiff" | b"keys" | b"hkeys" | b"hvals" => {
            same_kind_unordered(theirs, ours)
        }
        b"hgetall" => same_kind_first(theirs, ours) && pairs(theirs) == pairs(ours),
        b"ttl" | b"expiretime" => near(1000),
        b"pttl" | b"pexpiretime" => near(1),
        // In Redis equal small integers are one object, as idle as the last key that has it.
        b"object" if word(1) == b"idletime" => same_kind,
        b"time" => same_kind,
        // Ours are fewer; `fields.rs` looks at them.
        b"command" if args.len() == 1 => true,
        b"hello" => same_kind && theirs.map(|theirs| &theirs.items()[..7]) == ours.map(|ours| &ours.items()[..7]),
        b"config" if word(1) == b"get" => same_kind_first(theirs, ours) && pairs(theirs) == pairs(ours),
        b"client" if matches!(word(1).as_slice(), b"list" | b"info") => {
            matches!((theirs, ours), (Some(Reply::Text(a, _)), Some(Reply::Text(b, _))) if a == b)
        }
        // To us equal small integers are always one.
        b"object" if word(1) == b"refcount" => same_kind,
        b"client" if word(1) == b"id" => same_kind,
        // Which the system refuses to redis-server; to us it is a matter of the server.
        b"config" if word(2) == b"maxclients" => {
            theirs.is_some_and(|reply| reply.bytes().windows(16).any(|words| words == b"operating system"))
        }
        _ => is_help,
    }
}

fn same_kind_first(theirs: Option<&Reply>, ours: Option<&Reply>) -> bool {
    matches!((theirs, ours), (Some(Reply::Many(a, _)), Some(Reply::Many(b, _))) if a == b)
}

fn same_kind_unordered(theirs: Option<&Reply>, ours: Option<&Reply>) -> bool {
    unordered(theirs.cloned()) == unordered(ours.cloned())
}
