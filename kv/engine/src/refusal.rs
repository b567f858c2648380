//! Every error that a command answers with, in Redis's words.

use std::borrow::Cow;
use std::collections::BTreeMap;

use pdpix::Exhausted;

use crate::command::Command;
use crate::resp::Request;

/// Why a command was not carried out. It changed nothing then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No such command.
    UnknownCommand,
    /// A container has no such subcommand.
    UnknownSubcommand,
    /// A subcommand that takes other arguments.
    SubcommandSyntax,
    /// More or fewer arguments than the command takes.
    Arity,
    /// The client has to authenticate itself first.
    NoAuth,
    /// The key holds a value of another type.
    WrongType,
    /// The heap has no memory for it, or its limit is reached.
    OutOfMemory,
    /// Options that mean nothing, or not together.
    Syntax,
    /// Not an integer of 64 bits.
    NotInteger,
    /// An integer that is out of range here.
    OutOfRange,
    /// The data is being loaded.
    Loading,
    /// There is nothing to save to.
    NoStorage,
    /// A snapshot is being written.
    SavingAlready,
    /// The log cannot be written to, for this reason.
    NotWritable(pdpix::Error),
    /// A snapshot could not be written.
    SaveFailed,
    /// WAITAOF without a log.
    NoLog,
    /// A negative integer where none can be.
    MustBePositive,
    /// Not a number.
    NotFloat,
    /// The sum has more than 64 bits.
    Overflow,
    /// DECRBY of the one number that cannot be negated.
    DecrementOverflow,
    /// The sum is not a number, or infinite.
    SumNotFinite,
    /// The string would become longer than `proto-max-bulk-len`.
    StringTooLong,
    /// SETRANGE before the beginning.
    OffsetOutOfRange,
    /// A time to live that is not positive, or too long.
    ExpireTime,
    /// EXPIRE with NX and another condition.
    ExpireNxWith,
    /// EXPIRE with GT and LT.
    ExpireGtLt,
    /// EXPIRE with an option (argument number so many) that it does not know.
    ExpireOption(usize),
    /// RENAME of a key that is not there; LSET in a list that is not.
    NoSuchKey,
    /// COPY or MOVE to where it is.
    SameObject,
    /// An integer of more than 32 bits.
    NotInt32,
    /// No such database.
    DatabaseRange,
    /// SWAPDB: the first is not the number of a database.
    FirstDatabase,
    /// SWAPDB: the second is not.
    SecondDatabase,
    /// Not a cursor.
    Cursor,
    /// OBJECT FREQ, without a policy that counts.
    NoFrequency,
    /// LSET beyond the ends.
    IndexOutOfRange,
    /// LPOS with a rank of zero.
    RankZero,
    /// A count that cannot be negated.
    CountRange,
    /// HINCRBYFLOAT by infinity.
    NotFinite,
    /// LPOS with a negative count.
    CountNegative,
    /// LPOS with a negative length.
    MaxLenNegative,
    /// A hash's value is not an integer.
    HashNotInteger,
    /// A hash's value is not a number.
    HashNotFloat,
    /// A number of keys that is not positive.
    NumberOfKeys,
    /// More keys announced than there are arguments.
    TooManyKeys,
    /// SINTERCARD, ZINTERCARD: a negative limit.
    LimitNegative,
    /// At least one key is needed.
    NeedsKey,
    /// ZADD with NX and XX.
    ZaddNxXx,
    /// ZADD with two of GT, LT and NX.
    ZaddGtLtNx,
    /// ZADD INCR with several pairs.
    ZaddIncrPairs,
    /// A score would become a NaN.
    ScoreNan,
    /// A range of scores whose ends are no numbers.
    ScoreRange,
    /// A range of names whose ends are not such.
    NameRange,
    /// ZRANGE with LIMIT, by rank.
    LimitByRank,
    /// ZRANGE with WITHSCORES, by name.
    ScoresByName,
    /// ZUNIONSTORE with a weight that is no number.
    Weight,
    /// HELLO with a version that is no number.
    ProtocolNotInteger,
    /// HELLO with a version that there is not.
    NoProtocol,
    /// HELLO with an option (argument number so many) that it does not know.
    HelloOption(usize),
    /// HELLO without authentication.
    HelloNoAuth,
    /// AUTH with the wrong password, or user.
    WrongPassword,
    /// AUTH where no password is needed.
    NoPasswordSet,
    /// A name that would break the list of clients.
    ClientName,
    /// No such kind of client (argument number so many).
    ClientKind(usize),
    /// Not the number of a client.
    ClientId,
    /// The same, and it cannot be.
    ClientIdPositive,
    /// No such user (argument number so many).
    NoSuchUser(usize),
    /// CLIENT PAUSE of something else.
    PauseMode,
    /// Not a time.
    TimeoutNotInteger,
    /// A time before now.
    TimeoutNegative,
    /// WAITAOF waits for one server here, or for none.
    NotZeroOrOne,
    /// SHUTDOWN ABORT.
    NoShutdown,
    /// DEBUG RELOAD with something else.
    ReloadOptions,
    /// CLIENT UNBLOCK in some other way.
    UnblockReason,
    /// CLIENT TRACKING ON.
    NoTracking,
    /// CLIENT CACHING without it.
    NotTracking,
    /// DEBUG.
    Debug,
    /// CONFIG REWRITE without a file.
    NoConfigFile,
    /// COMMAND GETKEYS of no command.
    GetKeysCommand,
    /// COMMAND GETKEYS of one that has no keys.
    GetKeysNone,
    /// COMMAND GETKEYS of one that takes other arguments.
    GetKeysArity,
    /// COMMAND GETKEYS of arguments that mean nothing.
    GetKeysArgs,
}

impl Refusal {
    /// The text: a code in capitals, and what it says to a person.
    pub fn text<'a>(self, command: Option<&Command>, request: &Request) -> Cow<'a, [u8]> {
        let name = command.map_or("", |command| command.name);
        Cow::Borrowed(match self {
            Refusal::UnknownCommand => return unknown_command(request).into(),
            Refusal::UnknownSubcommand => return unknown_subcommand(request, "unknown subcommand '").into(),
            Refusal::SubcommandSyntax => {
                return unknown_subcommand(request, "unknown subcommand or wrong number of arguments for '").into();
            }
            Refusal::Arity => return format!("ERR wrong number of arguments for '{name}' command").into_bytes().into(),
            Refusal::ExpireTime => return format!("ERR invalid expire time in '{name}' command").into_bytes().into(),
            Refusal::NeedsKey => {
                return format!("ERR at least 1 input key is needed for '{name}' command").into_bytes().into();
            }
            Refusal::ExpireOption(index) => return [b"ERR Unsupported option ", c_text(request.arg(index))].concat().into(),
            Refusal::HelloOption(index) => {
                return [b"ERR Syntax error in HELLO option '", c_text(request.arg(index)), b"'"].concat().into();
            }
            Refusal::ClientKind(index) => {
                return [b"ERR Unknown client type '", c_text(request.arg(index)), b"'"].concat().into();
            }
            Refusal::NoSuchUser(index) => {
                return [b"ERR No such user '", c_text(request.arg(index)), b"'"].concat().into();
            }
            Refusal::NoAuth => b"NOAUTH Authentication required.",
            Refusal::WrongType => b"WRONGTYPE Operation against a key holding the wrong kind of value",
            Refusal::OutOfMemory => b"OOM command not allowed when used memory > 'maxmemory'.",
            Refusal::Syntax => b"ERR syntax error",
            Refusal::NotInteger => b"ERR value is not an integer or out of range",
            Refusal::OutOfRange => b"ERR value is out of range",
            Refusal::MustBePositive => b"ERR value is out of range, must be positive",
            Refusal::NotFloat => b"ERR value is not a valid float",
            Refusal::Overflow => b"ERR increment or decrement would overflow",
            Refusal::DecrementOverflow => b"ERR decrement would overflow",
            Refusal::SumNotFinite => b"ERR increment would produce NaN or Infinity",
            Refusal::StringTooLong => b"ERR string exceeds maximum allowed size (proto-max-bulk-len)",
            Refusal::OffsetOutOfRange => b"ERR offset is out of range",
            Refusal::ExpireNxWith => b"ERR NX and XX, GT or LT options at the same time are not compatible",
            Refusal::ExpireGtLt => b"ERR GT and LT options at the same time are not compatible",
            Refusal::NoSuchKey => b"ERR no such key",
            Refusal::SameObject => b"ERR source and destination objects are the same",
            Refusal::NotInt32 => b"ERR value is out of range, value must between -2147483648 and 2147483647",
            Refusal::DatabaseRange => b"ERR DB index is out of range",
            Refusal::FirstDatabase => b"ERR invalid first DB index",
            Refusal::SecondDatabase => b"ERR invalid second DB index",
            Refusal::Cursor => b"ERR invalid cursor",
            Refusal::NoFrequency => {
                b"ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when \
                  switching between policies at runtime LRU and LFU data will take some time to adjust."
            }
            Refusal::IndexOutOfRange => b"ERR index out of range",
            Refusal::RankZero => {
                b"ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative \
                  to start from the end of the list"
            }
            Refusal::CountRange => b"ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807",
            Refusal::CountNegative => b"ERR COUNT can't be negative",
            Refusal::MaxLenNegative => b"ERR MAXLEN can't be negative",
            Refusal::NotFinite => b"ERR value is NaN or Infinity",
            Refusal::HashNotInteger => b"ERR hash value is not an integer",
            Refusal::HashNotFloat => b"ERR hash value is not a float",
            Refusal::NumberOfKeys => b"ERR numkeys should be greater than 0",
            Refusal::TooManyKeys => b"ERR Number of keys can't be greater than number of args",
            Refusal::LimitNegative => b"ERR LIMIT can't be negative",
            Refusal::ZaddNxXx => b"ERR XX and NX options at the same time are not compatible",
            Refusal::ZaddGtLtNx => b"ERR GT, LT, and/or NX options at the same time are not compatible",
            Refusal::ZaddIncrPairs => b"ERR INCR option supports a single increment-element pair",
            Refusal::ScoreNan => b"ERR resulting score is not a number (NaN)",
            Refusal::ScoreRange => b"ERR min or max is not a float",
            Refusal::NameRange => b"ERR min or max not valid string range item",
            Refusal::LimitByRank => {
                b"ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX"
            }
            Refusal::ScoresByName => b"ERR syntax error, WITHSCORES not supported in combination with BYLEX",
            Refusal::Weight => b"ERR weight value is not a float",
            Refusal::ProtocolNotInteger => b"ERR Protocol version is not an integer or out of range",
            Refusal::NoProtocol => b"NOPROTO unsupported protocol version",
            Refusal::HelloNoAuth => {
                b"NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> \
                  <pass> option can be used to authenticate the client and select the RESP protocol version at the \
                  same time"
            }
            Refusal::WrongPassword => b"WRONGPASS invalid username-password pair or user is disabled.",
            Refusal::NoPasswordSet => {
                b"ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                  configuration is correct?"
            }
            Refusal::ClientName => b"ERR Client names cannot contain spaces, newlines or special characters.",
            Refusal::ClientId => b"ERR Invalid client ID",
            Refusal::ClientIdPositive => b"ERR client-id should be greater than 0",
            Refusal::PauseMode => b"ERR CLIENT PAUSE mode must be WRITE or ALL",
            Refusal::UnblockReason => b"ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR",
            Refusal::NoTracking => b"ERR client-side caching is not supported",
            Refusal::NotTracking => {
                b"ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode \
                  enabled"
            }
            Refusal::TimeoutNotInteger => b"ERR timeout is not an integer or out of range",
            Refusal::TimeoutNegative => b"ERR timeout is negative",
            Refusal::NotZeroOrOne => b"ERR value is out of range, value must between 0 and 1",
            Refusal::NoShutdown => b"ERR No shutdown in progress.",
            Refusal::ReloadOptions => {
                b"ERR DEBUG RELOAD only supports the MERGE, NOFLUSH and NOSAVE options."
            }
            Refusal::Loading => b"LOADING Redis is loading the dataset in memory",
            Refusal::NoStorage => b"ERR there is nothing to save to: the server was started without --dir",
            Refusal::SavingAlready => b"ERR Background save already in progress",
            Refusal::SaveFailed => b"ERR the snapshot could not be written",
            Refusal::NoLog => {
                b"ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled."
            }
            Refusal::NotWritable(error) => {
                return format!("MISCONF Errors writing to the AOF file: {error}").into_bytes().into();
            }
            Refusal::Debug => {
                b"ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it \
                  from a local connection, otherwise you need to set this option in the configuration file, and then \
                  restart the server."
            }
            Refusal::NoConfigFile => b"ERR The server is running without a config file",
            Refusal::GetKeysCommand => b"ERR Invalid command specified",
            Refusal::GetKeysNone => b"ERR The command has no key arguments",
            Refusal::GetKeysArity => b"ERR Invalid number of arguments specified for command",
            Refusal::GetKeysArgs => b"ERR Invalid arguments specified for command",
        })
    }
}

impl From<Exhausted> for Refusal {
    fn from(_: Exhausted) -> Refusal {
        Refusal::OutOfMemory
    }
}

/// How many errors were answered, by their codes, as INFO tells them.
#[derive(Clone, Default, Debug)]
pub struct ErrorCounts(BTreeMap<Vec<u8>, u64>);

impl ErrorCounts {
    /// Counts an error by its text, the first word of which is the code.
    pub fn count(&mut self, text: &[u8]) {
        let code = text.split(|&byte| byte == b' ').next().unwrap_or(text);
        match self.0.get_mut(code) {
            Some(count) => *count += 1,
            None => _ = self.0.insert(code.to_vec(), 1),
        }
    }

    /// Each code, and how often.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.0.iter().map(|(code, count)| (code.as_slice(), *count))
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Adds what another core has counted.
    pub fn add(&mut self, other: &ErrorCounts) {
        other.0.iter().for_each(|(code, count)| *self.0.entry(code.clone()).or_default() += count);
    }
}

/// What C takes for the text: up to the first zero byte.
pub(crate) fn c_text(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or(bytes)
}

/// At most this much of what a client sent is quoted.
const QUOTED_MAX: usize = 128;

fn quoted(bytes: &[u8], max: usize) -> &[u8] {
    let text = c_text(bytes);
    &text[..text.len().min(max)]
}

fn unknown_command(request: &Request) -> Vec<u8> {
    let mut args = Vec::new();
    for arg in request.args_from(1) {
        if args.len() >= QUOTED_MAX {
            break;
        }
        let room = QUOTED_MAX - args.len();
        args.extend([b"'", quoted(arg, room), b"' "].concat());
    }
    let name = quoted(request.arg(0), QUOTED_MAX);
    [b"ERR unknown command '", name, b"', with args beginning with: ", &args].concat()
}

fn unknown_subcommand(request: &Request, before: &str) -> Vec<u8> {
    let container = c_text(request.arg(0)).to_ascii_uppercase();
    let name = quoted(request.arg(1), QUOTED_MAX);
    [b"ERR ", before.as_bytes(), name, b"'. Try ", &container, b" HELP."].concat()
}
