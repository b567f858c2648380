//! Every error that a command answers with, in Redis's words.

use libos_mem::Exhausted;

use crate::command::Command;
use crate::resp::Request;

/// Why a command was not carried out. It changed nothing then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The key holds a value of another type.
    WrongType,
    /// The heap has no memory for it, or its limit is reached.
    OutOfMemory,
    /// Options that mean nothing together or at all.
    Syntax,
    /// Not an integer of 64 bits.
    NotInteger,
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
    /// More or fewer arguments than the command takes.
    Arity,
}

impl Refusal {
    /// Appends the text: a code in capitals, and what it says to a person.
    pub(crate) fn put(self, command: &Command, _request: &Request, text: &mut Vec<u8>) {
        let fixed = match self {
            Refusal::WrongType => "WRONGTYPE Operation against a key holding the wrong kind of value",
            Refusal::OutOfMemory => "OOM command not allowed when used memory > 'maxmemory'.",
            Refusal::Syntax => "ERR syntax error",
            Refusal::NotInteger => "ERR value is not an integer or out of range",
            Refusal::NotFloat => "ERR value is not a valid float",
            Refusal::Overflow => "ERR increment or decrement would overflow",
            Refusal::DecrementOverflow => "ERR decrement would overflow",
            Refusal::SumNotFinite => "ERR increment would produce NaN or Infinity",
            Refusal::StringTooLong => "ERR string exceeds maximum allowed size (proto-max-bulk-len)",
            Refusal::OffsetOutOfRange => "ERR offset is out of range",
            Refusal::ExpireTime => {
                return text.extend(format!("ERR invalid expire time in '{}' command", command.name).bytes());
            }
            Refusal::Arity => {
                return text.extend(format!("ERR wrong number of arguments for '{}' command", command.name).bytes());
            }
        };
        text.extend(fixed.bytes());
    }
}

impl From<Exhausted> for Refusal {
    fn from(_: Exhausted) -> Refusal {
        Refusal::OutOfMemory
    }
}
