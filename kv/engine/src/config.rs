//! The parameters that CONFIG GET tells and CONFIG SET changes: those of Redis that mean something here, or that clients
//! ask for. What cannot be had has one value, and says so when another is asked for.

use crate::data::hash::PackLimits;
use crate::engine::Limits;
use crate::glob::Glob;
use crate::number::parse_i64;
use crate::refusal::c_text;

/// A parameter, as the table describes it.
#[derive(Debug)]
struct Parameter {
    name: &'static str,
    /// What older versions of Redis called it.
    alias: Option<&'static str>,
    kind: Kind,
    default: &'static str,
    /// Whether it may be changed while the server runs.
    mutable: bool,
}

/// What its value may be.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Number {
        min: i64,
        max: i64,
    },
    /// Bytes, perhaps with a unit.
    Memory {
        min: i64,
        max: i64,
    },
    Choice(&'static [&'static str]),
    Text,
}

const BOOLEAN: Kind = Kind::Choice(&["yes", "no"]);
const ANY: Kind = Kind::Number { min: 0, max: i64::MAX };
const INT: Kind = Kind::Number { min: 0, max: i32::MAX as i64 };
const MEMORY: Kind = Kind::Memory { min: 0, max: i64::MAX };

const fn fixed(name: &'static str, kind: Kind, default: &'static str) -> Parameter {
    Parameter { name, alias: None, kind, default, mutable: false }
}

const fn mutable(name: &'static str, kind: Kind, default: &'static str) -> Parameter {
    Parameter { name, alias: None, kind, default, mutable: true }
}

const fn aliased(name: &'static str, alias: &'static str, kind: Kind, default: &'static str) -> Parameter {
    Parameter { name, alias: Some(alias), kind, default, mutable: true }
}

static PARAMETERS: [Parameter; 34] = [
    fixed("appendfsync", Kind::Choice(&["everysec", "always", "no"]), "everysec"),
    fixed("appendonly", BOOLEAN, "no"),
    fixed("bind", Kind::Text, "* -::*"),
    fixed(
        "client-output-buffer-limit",
        Kind::Text,
        "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
    ),
    fixed("cluster-enabled", BOOLEAN, "no"),
    fixed("daemonize", BOOLEAN, "no"),
    fixed("databases", Kind::Number { min: 1, max: 16 }, "16"),
    mutable("dir", Kind::Text, "."),
    aliased("hash-max-listpack-entries", "hash-max-ziplist-entries", ANY, "512"),
    aliased("hash-max-listpack-value", "hash-max-ziplist-value", MEMORY, "64"),
    mutable("hz", Kind::Number { min: 1, max: 500 }, "10"),
    fixed("io-threads", Kind::Number { min: 1, max: 128 }, "1"),
    mutable("list-compress-depth", INT, "0"),
    aliased(
        "list-max-listpack-size",
        "list-max-ziplist-size",
        Kind::Number { min: i32::MIN as i64, max: i32::MAX as i64 },
        "-2",
    ),
    fixed("logfile", Kind::Text, ""),
    mutable("loglevel", Kind::Choice(&["debug", "verbose", "notice", "warning"]), "notice"),
    mutable("maxclients", Kind::Number { min: 1, max: u32::MAX as i64 }, "10000"),
    mutable("maxmemory", MEMORY, "0"),
    mutable("maxmemory-policy", Kind::Choice(&["noeviction"]), "noeviction"),
    mutable("maxmemory-samples", Kind::Number { min: 1, max: i32::MAX as i64 }, "5"),
    mutable("notify-keyspace-events", Kind::Choice(&[""]), ""),
    fixed("port", Kind::Number { min: 0, max: 65_535 }, "6379"),
    mutable("protected-mode", Kind::Choice(&["no"]), "no"),
    mutable("proto-max-bulk-len", Kind::Memory { min: 1 << 20, max: 2 << 30 }, "536870912"),
    mutable("requirepass", Kind::Text, ""),
    mutable("save", Kind::Choice(&[""]), ""),
    mutable("set-max-intset-entries", ANY, "512"),
    fixed("supervised", Kind::Choice(&["no"]), "no"),
    fixed("tcp-backlog", INT, "511"),
    mutable("tcp-keepalive", INT, "300"),
    mutable("timeout", INT, "0"),
    fixed("unixsocket", Kind::Text, ""),
    aliased("zset-max-listpack-entries", "zset-max-ziplist-entries", ANY, "128"),
    aliased("zset-max-listpack-value", "zset-max-ziplist-value", MEMORY, "64"),
];

/// A change of one parameter, found to be allowed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    parameter: usize,
    value: Vec<u8>,
}

/// Why a change is not allowed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConfigError {
    /// Names without values.
    Syntax,
    /// No such parameter.
    Unknown(Vec<u8>),
    /// This parameter cannot be changed so, for this reason.
    Refused(Vec<u8>, String),
}

impl ConfigError {
    /// What Redis answers.
    pub fn text(&self) -> Vec<u8> {
        match self {
            ConfigError::Syntax => b"ERR syntax error".to_vec(),
            ConfigError::Unknown(name) => {
                [b"ERR Unknown option or number of arguments for CONFIG SET - '", c_text(name), b"'"].concat()
            }
            ConfigError::Refused(name, why) => {
                let before = b"ERR CONFIG SET failed (possibly related to argument '";
                [&before[..], name, b"') - ", why.as_bytes()].concat()
            }
        }
    }
}

/// The values of all parameters.
#[derive(Clone, Debug)]
pub struct Config {
    values: Vec<Vec<u8>>,
}

impl Default for Config {
    fn default() -> Config {
        Config { values: PARAMETERS.iter().map(|parameter| parameter.default.as_bytes().to_vec()).collect() }
    }
}

impl Config {
    /// Sets a parameter before the server runs, when all may be set.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn set_at_start(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let index = index_of(name.as_bytes()).ok_or_else(|| ConfigError::Unknown(name.into()))?;
        let value = check(&PARAMETERS[index], value.as_bytes());
        self.values[index] = value.map_err(|why| ConfigError::Refused(name.into(), why))?;
        Ok(())
    }

    /// What CONFIG SET with these names and values is to change: all of it or nothing.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn check<'a>(&self, args: impl ExactSizeIterator<Item = &'a [u8]>) -> Result<Vec<Change>, ConfigError> {
        if args.len() % 2 == 1 {
            return Err(ConfigError::Syntax);
        }
        let args: Vec<&[u8]> = args.collect();
        let pairs = || args.chunks_exact(2).map(|pair| (pair[0], pair[1]));
        let refused = |name: &[u8], why: &str| Err(ConfigError::Refused(name.to_vec(), why.into()));
        let mut changes: Vec<Change> = Vec::new();
        for (name, value) in pairs() {
            let parameter = index_of(name).ok_or_else(|| ConfigError::Unknown(name.to_vec()))?;
            if !PARAMETERS[parameter].mutable {
                return refused(name, "can't set immutable config");
            }
            if changes.iter().any(|change| change.parameter == parameter) {
                return refused(name, "duplicate parameter");
            }
            changes.push(Change { parameter, value: value.to_vec() });
        }
        for change in &mut changes {
            let parameter = &PARAMETERS[change.parameter];
            let value = check(parameter, &change.value);
            change.value = value.map_err(|why| ConfigError::Refused(parameter.name.into(), why))?;
        }
        Ok(changes)
    }

    /// Makes changes that were found to be allowed.
    pub fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            self.values[change.parameter].clone_from(&change.value);
        }
    }

    /// The parameters that CONFIG GET with these patterns tells, by the names by which it tells them.
    pub fn matching<'a>(&'a self, patterns: impl Iterator<Item = &'a [u8]>) -> Vec<(&'a [u8], &'a [u8])> {
        let mut found: Vec<(&[u8], &[u8])> = Vec::new();
        let mut add = |name: &'a [u8], value: &'a [u8]| {
            if !found.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
                found.push((name, value));
            }
        };
        for pattern in patterns {
            if !pattern.iter().any(|byte| b"[*?".contains(byte)) {
                if let Some(index) = index_of(pattern) {
                    add(pattern, &self.values[index]); // by the name as it was written
                }
                continue;
            }
            let glob = Glob::any_case(pattern);
            for (parameter, value) in PARAMETERS.iter().zip(&self.values) {
                for name in [Some(parameter.name), parameter.alias].into_iter().flatten() {
                    if glob.matches(name.as_bytes()) {
                        add(name.as_bytes(), value);
                    }
                }
            }
        }
        found
    }

    fn text(&self, name: &str) -> &[u8] {
        index_of(name.as_bytes()).map_or(&[], |index| &self.values[index])
    }

    fn number(&self, name: &str) -> usize {
        parse_i64(self.text(name)).and_then(|number| usize::try_from(number).ok()).unwrap_or(0)
    }

    /// How values are kept.
    pub fn limits(&self) -> Limits {
        let pack = |entries, value| PackLimits { entries: self.number(entries), value: self.number(value) };
        Limits {
            set_integers: self.number("set-max-intset-entries").min(1 << 30),
            hash: pack("hash-max-listpack-entries", "hash-max-listpack-value"),
            zset: pack("zset-max-listpack-entries", "zset-max-listpack-value"),
            bulk_len: self.bulk_len_max(),
            memory: Some(self.number("maxmemory")).filter(|&bytes| bytes > 0),
            spans_left: 0,
        }
    }

    /// `proto-max-bulk-len`
    pub fn bulk_len_max(&self) -> usize {
        self.number("proto-max-bulk-len")
    }

    /// `requirepass`, if there is one.
    pub fn password(&self) -> Option<&[u8]> {
        Some(self.text("requirepass")).filter(|password| !password.is_empty())
    }

    /// `maxclients`
    pub fn clients_max(&self) -> usize {
        self.number("maxclients")
    }

    /// `timeout`: after how many seconds an idle connection is closed, if ever.
    pub fn idle_seconds_max(&self) -> Option<usize> {
        Some(self.number("timeout")).filter(|&seconds| seconds > 0)
    }

    /// `tcp-keepalive`: seconds, if it is on.
    pub fn keepalive_seconds(&self) -> Option<usize> {
        Some(self.number("tcp-keepalive")).filter(|&seconds| seconds > 0)
    }
}

fn index_of(name: &[u8]) -> Option<usize> {
    let is_it = |other: &str| other.as_bytes().eq_ignore_ascii_case(name);
    PARAMETERS.iter().position(|parameter| is_it(parameter.name) || parameter.alias.is_some_and(is_it))
}

/// The value in the form in which it is told, or why it is none.
fn check(parameter: &Parameter, value: &[u8]) -> Result<Vec<u8>, String> {
    let in_range = |number: i64, min: i64, max: i64| {
        if (min..=max).contains(&number) {
            Ok(number.to_string().into_bytes())
        } else {
            Err(format!("argument must be between {min} and {max} inclusive"))
        }
    };
    match parameter.kind {
        Kind::Number { min, max } => {
            let number = parse_i64(value).ok_or("argument couldn't be parsed into an integer")?;
            in_range(number, min, max)
        }
        Kind::Memory { min, max } => {
            let bytes = parse_memory(value).ok_or("argument must be a memory value")?;
            in_range(i64::try_from(bytes).unwrap_or(-1), min, max)
        }
        Kind::Choice(choices) => {
            let found = choices.iter().find(|choice| choice.as_bytes().eq_ignore_ascii_case(value));
            found.map(|choice| choice.as_bytes().to_vec()).ok_or_else(|| match choices {
                ["yes", "no"] => "argument must be 'yes' or 'no'".into(),
                _ => format!("argument(s) must be one of the following: {}", choices.join(", ")),
            })
        }
        Kind::Text => Ok(value.to_vec()),
    }
}

/// Bytes: digits, and perhaps b, k, kb, m, mb, g or gb, of which those with a b mean powers of two. As in Redis no digits
/// are zero, and too many the largest number.
fn parse_memory(text: &[u8]) -> Option<u64> {
    let text = c_text(text);
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let unit = match unit.to_ascii_lowercase().as_slice() {
        b"" | b"b" => 1,
        b"k" => 1000,
        b"kb" => 1 << 10,
        b"m" => 1_000_000,
        b"mb" => 1 << 20,
        b"g" => 1_000_000_000,
        b"gb" => 1 << 30,
        _ => return None,
    };
    let digit = |value: u64, &byte: &u8| value.checked_mul(10)?.checked_add(u64::from(byte - b'0'));
    Some(digits.iter().try_fold(0, digit).unwrap_or(u64::MAX).wrapping_mul(unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_all(config: &Config, args: &[&str]) -> Result<Vec<Change>, String> {
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        config.check(args.into_iter()).map_err(|error| String::from_utf8(error.text()).unwrap())
    }

    fn matching(config: &Config, patterns: &[&str]) -> Vec<String> {
        let patterns: Vec<&[u8]> = patterns.iter().map(|pattern| pattern.as_bytes()).collect();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        config.matching(patterns.into_iter()).into_iter().map(|(n, v)| format!("{}={}", text(n), text(v))).collect()
    }

    #[test]
    fn every_default_is_a_value() {
        for parameter in &PARAMETERS {
            assert_eq!(check(parameter, parameter.default.as_bytes()).as_deref(), Ok(parameter.default.as_bytes()));
        }
        let names = PARAMETERS.iter().map(|parameter| parameter.name);
        assert!(names.is_sorted(), "in alphabetical order");
    }

    #[test]
    fn changes_are_all_or_nothing() {
        let mut config = Config::default();
        let changes = check_all(&config, &["MAXMEMORY", "1gb", "hash-max-ziplist-entries", "7"]).unwrap();
        config.apply(&changes);
        assert_eq!(config.limits().memory, Some(1 << 30));
        assert_eq!(config.limits().hash, PackLimits { entries: 7, value: 64 });
        for (args, expected) in [
            (&["maxmemory"][..], "ERR syntax error"),
            (&["nope", "1"], "ERR Unknown option or number of arguments for CONFIG SET - 'nope'"),
            (
                &["port", "1"],
                "ERR CONFIG SET failed (possibly related to argument 'port') - can't set immutable config",
            ),
            (
                &["timeout", "1", "timeout", "2"],
                "ERR CONFIG SET failed (possibly related to argument 'timeout') - duplicate parameter",
            ),
            (
                &["maxmemory", "x"],
                "ERR CONFIG SET failed (possibly related to argument 'maxmemory') - argument must be a memory value",
            ),
            (
                &["timeout", "x"],
                "ERR CONFIG SET failed (possibly related to argument 'timeout') - argument couldn't be parsed into an integer",
            ),
            (
                &["maxclients", "0"],
                "ERR CONFIG SET failed (possibly related to argument 'maxclients') - argument must be between 1 and \
                 4294967295 inclusive",
            ),
        ] {
            assert_eq!(check_all(&config, args), Err(expected.into()));
        }
    }

    #[test]
    fn patterns_and_names() {
        let config = Config::default();
        assert_eq!(matching(&config, &["MaxMemory", "maxmemory", "nope"]), ["MaxMemory=0"]);
        assert_eq!(matching(&config, &["max*y"]), ["maxmemory=0", "maxmemory-policy=noeviction"]);
        assert_eq!(matching(&config, &["set-max-[a-j]*"]), ["set-max-intset-entries=512"]);
        assert_eq!(matching(&config, &["*"]).len(), PARAMETERS.len() + 5, "with the old names");
    }
}
