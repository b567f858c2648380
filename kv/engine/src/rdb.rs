//! Redis's file format for a whole data set: read up to version 10 (Redis 7.0), written as version 10.
//!
//! A [`Reader`] is fed bytes as they come and gives keys with their values; a [`Writer`] writes keys one behind the other
//! and is drained as they go out. What kv has no type for (streams, modules, functions) is refused by its name: whoever
//! wants nothing loaded then reads the file once without building anything ([`Reader::check`]).
//!
//! Always: what is read is not believed. A length is not a reason to allocate; memory follows the bytes that arrived (and
//! what they unpack to, which for LZF is at most 88 times as much). A file of version 5 or later ends with a checksum,
//! and is whole only if that is right.
//! Source: rdb.h and rdb.c of Redis 7.0 as behaviour to be met, and files that redis-server 7.0.15 wrote, which the tests
//! compare (`tests/rdb.rs`). Not here: files.

mod bytes;
mod lzf;
mod packed;
mod reader;
mod value;
mod writer;

use std::borrow::Cow;

pub use reader::{Item, Reader};
pub use writer::Writer;
pub(crate) use writer::{Position, put_entry, put_length, put_value};

pub(crate) use bytes::{Bytes, Stop};
pub(crate) use value::build;

/// The newest version that is understood, and the one that is written.
pub const VERSION: u32 = 10;

/// The checksum of a file: CRC-64 with Jones's polynomial, reflected.
pub(crate) static CHECKSUM: crc::Crc<u64, crc::Table<16>> = crc::Crc::<u64, crc::Table<16>>::new(&crc::CRC_64_REDIS);

/// What stands before a part of a file that is no key.
mod opcode {
    pub const FUNCTION: u8 = 245;
    pub const FUNCTION_EARLY: u8 = 246;
    pub const MODULE_AUX: u8 = 247;
    pub const IDLE: u8 = 248;
    pub const FREQUENCY: u8 = 249;
    pub const AUX: u8 = 250;
    pub const RESIZE: u8 = 251;
    pub const EXPIRES_MS: u8 = 252;
    pub const EXPIRES: u8 = 253;
    pub const SELECT: u8 = 254;
    pub const END: u8 = 255;
}

/// How a value is written.
mod kind {
    pub const STRING: u8 = 0;
    pub const LIST: u8 = 1;
    pub const SET: u8 = 2;
    pub const ZSET: u8 = 3;
    pub const HASH: u8 = 4;
    pub const ZSET_2: u8 = 5;
    pub const MODULE: u8 = 6;
    pub const MODULE_2: u8 = 7;
    pub const HASH_ZIPMAP: u8 = 9;
    pub const LIST_ZIPLIST: u8 = 10;
    pub const SET_INTSET: u8 = 11;
    pub const ZSET_ZIPLIST: u8 = 12;
    pub const HASH_ZIPLIST: u8 = 13;
    pub const LIST_QUICKLIST: u8 = 14;
    pub const STREAM: u8 = 15;
    pub const HASH_LISTPACK: u8 = 16;
    pub const ZSET_LISTPACK: u8 = 17;
    pub const LIST_QUICKLIST_2: u8 = 18;
    pub const STREAM_2: u8 = 19;
}

/// Why a file cannot be loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RdbError {
    /// It does not begin as one does.
    NotRdb,
    /// It is of a version that is not known.
    Version(u32),
    /// A key has a value of a type that kv does not have.
    Type {
        /// What Redis calls it.
        name: Cow<'static, str>,
        /// The key.
        key: Vec<u8>,
    },
    /// It holds something other than keys that kv does not have.
    Section(&'static str),
    /// It says something that cannot be.
    Corrupt {
        /// Where, in bytes from the beginning.
        at: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// It was changed since it was written.
    Checksum,
    /// It ends too early.
    Truncated,
    /// There is no memory for it.
    Exhausted,
}

impl std::fmt::Display for RdbError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RdbError::NotRdb => f.write_str("this is no RDB file"),
            RdbError::Version(version) => write!(f, "RDB version {version} is not known: versions 1 to {VERSION} are"),
            RdbError::Type { name, key } => {
                write!(f, "key '{}' is a {name}, a type that kv does not have", key.escape_ascii())
            }
            RdbError::Section(name) => write!(f, "it holds {name}, which kv does not have"),
            RdbError::Corrupt { at, why } => write!(f, "it is damaged at byte {at}: {why}"),
            RdbError::Checksum => f.write_str("it is damaged: its checksum is wrong"),
            RdbError::Truncated => f.write_str("it is cut short"),
            RdbError::Exhausted => f.write_str("there is not enough memory for it"),
        }
    }
}

impl std::error::Error for RdbError {}

/// What Redis calls a type of value that kv does not have. `None`: it has it.
fn refused(kind: u8) -> Option<Cow<'static, str>> {
    match kind {
        kind::STREAM | kind::STREAM_2 | 21 => Some("stream".into()),
        kind::MODULE | kind::MODULE_2 => Some("value of a module".into()),
        kind::STRING..=kind::ZSET_2 | kind::HASH_ZIPMAP..=kind::LIST_QUICKLIST_2 => None,
        other => Some(format!("value of type {other}").into()),
    }
}
