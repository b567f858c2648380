//! What the table says of a command, and how a row is written.

use super::key_spec::KeySpec;
use super::{Call, Result};
use crate::connection::Visit;

/// A command, as the table describes it.
#[derive(Debug)]
pub struct Command {
    /// In lower case; of a subcommand `container|name`.
    pub name: &'static str,
    /// How many arguments it takes, its name included; at least so many if negative.
    pub arity: i16,
    /// What is special about it.
    pub flags: Flags,
    /// Its ACL categories.
    pub categories: Categories,
    /// What it is about.
    pub group: Group,
    /// Which of its arguments are keys.
    pub keys: &'static [KeySpec],
    /// Hints to clients.
    pub tips: &'static [&'static str],
    /// The version of Redis that had it first.
    pub since: &'static str,
    /// How long it takes.
    pub complexity: &'static str,
    /// What it does.
    pub summary: &'static str,
    /// The version since which something else should be used, and what.
    pub replaced: Option<(&'static str, &'static str)>,
    /// Its subcommands, if it is but a container of them.
    pub subcommands: &'static [Command],
    pub(crate) run: Run,
    pub(crate) spread: Spread,
}

/// What carries a command out.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    /// The engine that has its keys.
    Shard(fn(&mut Call<'_>) -> Result),
    /// The connection that it came by.
    Connection(fn(&mut Visit<'_>) -> Result),
    /// Nothing: its subcommands do.
    Container,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Run::Shard(_) => "Shard",
            Run::Connection(_) => "Connection",
            Run::Container => "Container",
        })
    }
}

/// How a command is carried out when its keys lie on several shards. (On one shard it runs there, whatever it is.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Spread {
    /// The values of its keys are brought together, and what it changes is brought back.
    Values,
    /// MGET: each shard gives its strings.
    Strings,
    /// MSET: each shard takes its strings.
    Store,
    /// MSETNX: the same if none of the keys is there.
    StoreNew,
    /// DEL and its like: the sum of what each shard counts.
    Count,
    /// SMOVE.
    MoveMember,
    /// LMOVE and RPOPLPUSH.
    MoveElement,
    /// It has no keys and goes to all shards: KEYS.
    Names,
    /// DBSIZE.
    Size,
    /// RANDOMKEY.
    Random,
    /// FLUSHALL, FLUSHDB, SWAPDB: the same everywhere.
    Everywhere,
    /// SCAN: the cursor says where.
    Cursor,
}

/// What is special about a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flags(u32);

macro_rules! flags {
    ($type:ident { $($(#[$doc:meta])* $name:ident = $bit:literal $text:literal,)* }) => {
        impl $type {
            $($(#[$doc])* pub const $name: $type = $type(1 << $bit);)*

            /// Each that is set, by the name that Redis gives it, in Redis's order.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                [$(($type::$name, $text)),*].into_iter().filter(move |(flag, _)| self.contains(*flag)).map(|(_, text)| text)
            }
        }

        impl $type {
            /// None.
            pub const NONE: $type = $type(0);

            /// Whether all of `flags` are set.
            #[inline]
            pub const fn contains(self, flags: $type) -> bool {
                self.0 & flags.0 == flags.0
            }

            /// Both.
            pub const fn and(self, more: $type) -> $type {
                $type(self.0 | more.0)
            }
        }
    };
}
pub(super) use flags;

flags! { Flags {
    /// It may change something.
    WRITE = 0 "write",
    /// It changes nothing.
    READONLY = 1 "readonly",
    /// It may need memory, and is refused when that is short.
    DENYOOM = 2 "denyoom",
    /// For administrators.
    ADMIN = 3 "admin",
    /// Not from scripts.
    NOSCRIPT = 6 "noscript",
    /// It waits for something.
    BLOCKING = 7 "blocking",
    /// Also while data is being loaded.
    LOADING = 8 "loading",
    /// Also on a replica that has lost its master.
    STALE = 9 "stale",
    /// Constant or logarithmic time.
    FAST = 13 "fast",
    /// Before authentication.
    NO_AUTH = 14 "no_auth",
    /// Not while data of another server is loaded beside one's own.
    NO_ASYNC_LOADING = 17 "no_async_loading",
    /// Not in transactions.
    NO_MULTI = 18 "no_multi",
    /// Its keys are not at fixed places.
    MOVABLE_KEYS = 19 "movablekeys",
    /// While a script runs for long.
    ALLOW_BUSY = 20 "allow_busy",
} }

/// ACL categories.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Categories(u32);

flags! { Categories {
    /// The keys themselves.
    KEYSPACE = 0 "@keyspace",
    /// Reads values.
    READ = 1 "@read",
    /// Changes values.
    WRITE = 2 "@write",
    /// Sets.
    SET = 3 "@set",
    /// Sorted sets.
    SORTEDSET = 4 "@sortedset",
    /// Lists.
    LIST = 5 "@list",
    /// Hashes.
    HASH = 6 "@hash",
    /// Strings.
    STRING = 7 "@string",
    /// For administrators.
    ADMIN = 13 "@admin",
    /// Constant or logarithmic time.
    FAST = 14 "@fast",
    /// Not so.
    SLOW = 15 "@slow",
    /// What can do harm.
    DANGEROUS = 17 "@dangerous",
    /// The connection.
    CONNECTION = 18 "@connection",
} }

/// What a command is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// Strings.
    String,
    /// Keys of any type.
    Generic,
    /// Lists.
    List,
    /// Sets.
    Set,
    /// Sorted sets.
    SortedSet,
    /// Hashes.
    Hash,
    /// Connections.
    Connection,
    /// The server.
    Server,
}

impl Group {
    /// What COMMAND DOCS calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Group::String => "string",
            Group::Generic => "generic",
            Group::List => "list",
            Group::Set => "set",
            Group::SortedSet => "sorted-set",
            Group::Hash => "hash",
            Group::Connection => "connection",
            Group::Server => "server",
        }
    }

    const fn categories(self) -> Categories {
        match self {
            Group::String => Categories::STRING,
            Group::Generic => Categories::KEYSPACE,
            Group::List => Categories::LIST,
            Group::Set => Categories::SET,
            Group::SortedSet => Categories::SORTEDSET,
            Group::Hash => Categories::HASH,
            Group::Connection => Categories::CONNECTION,
            Group::Server => Categories::NONE,
        }
    }
}

pub(super) const WRITE: Flags = Flags::WRITE;
pub(super) const READONLY: Flags = Flags::READONLY;
/// A write that may need memory.
pub(super) const GROWS: Flags = WRITE.and(Flags::DENYOOM);
pub(super) const FAST: Flags = Flags::FAST;
/// At any time.
pub(super) const ALWAYS: Flags = Flags::LOADING.and(Flags::STALE);

impl Command {
    /// A row for a command of `group`.
    pub(super) const fn row(group: Group, name: &'static str, arity: i16, flags: Flags, run: Run) -> Command {
        let implied = Categories(
            (if flags.contains(WRITE) { Categories::WRITE.0 } else { 0 })
                | (if flags.contains(READONLY) { Categories::READ.0 } else { 0 })
                | (if flags.contains(Flags::ADMIN) { Categories::ADMIN.0 | Categories::DANGEROUS.0 } else { 0 })
                | (if flags.contains(FAST) { Categories::FAST.0 } else { Categories::SLOW.0 }),
        );
        let own = if matches!(run, Run::Container) { Categories::NONE } else { group.categories() };
        Command {
            name,
            arity,
            flags,
            categories: own.and(implied),
            group,
            keys: &[],
            tips: &[],
            since: "1.0.0",
            complexity: "O(1)",
            summary: "",
            replaced: None,
            subcommands: &[],
            run,
            spread: Spread::Values,
        }
    }

    /// Which arguments are keys. If one of these sets is not at a fixed place, the command is marked so.
    pub(super) const fn keys(mut self, keys: &'static [KeySpec]) -> Command {
        self.keys = keys;
        let mut index = 0;
        while index < keys.len() {
            if keys[index].is_counted() {
                self.flags = self.flags.and(Flags::MOVABLE_KEYS);
            }
            index += 1;
        }
        self
    }

    /// What COMMAND DOCS says.
    pub(super) const fn doc(mut self, since: &'static str, complexity: &'static str, summary: &'static str) -> Command {
        (self.since, self.complexity, self.summary) = (since, complexity, summary);
        self
    }

    /// What it is about, where its category says something else.
    pub(super) const fn about(mut self, group: Group) -> Command {
        self.group = group;
        self
    }

    /// Since when something else should be used, and what.
    pub(super) const fn replaced(mut self, since: &'static str, by: &'static str) -> Command {
        self.replaced = Some((since, by));
        self
    }

    /// Hints to clients.
    pub(super) const fn tips(mut self, tips: &'static [&'static str]) -> Command {
        self.tips = tips;
        self
    }

    /// More categories than its group and its flags give.
    pub(super) const fn category(mut self, more: Categories) -> Command {
        self.categories = self.categories.and(more);
        self
    }

    /// How it is carried out over several shards.
    pub(super) const fn spread(mut self, spread: Spread) -> Command {
        self.spread = spread;
        self
    }

    /// Its subcommands.
    pub(super) const fn subcommands(mut self, subcommands: &'static [Command]) -> Command {
        self.subcommands = subcommands;
        self
    }

    /// The name without that of its container.
    pub fn own_name(&self) -> &'static str {
        self.name.rsplit('|').next().unwrap_or(self.name)
    }

    /// Whether it takes so many arguments, its name included.
    #[inline]
    pub fn takes(&self, count: usize) -> bool {
        let (count, arity) = (count as i64, i64::from(self.arity));
        if arity >= 0 { count == arity } else { count >= -arity }
    }
}
