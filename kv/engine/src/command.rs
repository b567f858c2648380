//! The commands: what each is called, what it takes, and what carries it out. A command's row stands in the file with its
//! code, one file a group.

mod clients;
mod connections;
mod counters;
mod generic;
mod hashes;
mod introspection;
mod key_spec;
mod lists;
mod lookup;
mod options;
mod persistence;
mod row;
mod scan;
mod sets;
mod strings;
mod zset_ranges;
mod zset_sums;
mod zsets;

pub use key_spec::{KeyFlags, KeySpec};
pub use lookup::{all, find, lookup};
pub use row::{Categories, Command, Flags, Group};

pub(crate) use key_spec::{Keys, keys_of, single_key_of};
pub(crate) use lists::end_of;
pub(crate) use lookup::named;
pub(crate) use row::{Run, Spread};
pub(crate) use scan::shard_of_scan;

use crate::blob::Blob;
use crate::engine::{At, Engine};
use crate::keyspace::Key;
use crate::number::parse_i64;
use crate::refusal::Refusal;
use crate::resp::{Reply, Request};

/// One command being carried out by an engine.
pub(crate) struct Call<'a> {
    pub engine: &'a mut Engine,
    pub request: &'a Request,
    pub at: At,
    pub reply: Reply<'a>,
}

type Result<T = ()> = std::result::Result<T, Refusal>;

impl<'a> Call<'a> {
    /// Argument `index`.
    #[inline]
    pub fn arg(&self, index: usize) -> &'a [u8] {
        self.request.arg(index)
    }

    /// Argument `index` as a key.
    #[inline]
    pub fn key(&self, index: usize) -> Key<'a> {
        self.engine.key(self.arg(index))
    }

    /// Argument `index` in the form in which it is stored.
    #[inline]
    pub fn blob(&self, index: usize) -> Result<Blob> {
        Ok(self.request.blob(index, &self.engine.tools.heap)?)
    }

    /// Argument `index` as an integer.
    #[inline]
    pub fn integer(&self, index: usize) -> Result<i64> {
        parse_i64(self.arg(index)).ok_or(Refusal::NotInteger)
    }

    /// Argument `index` as an integer that is not negative.
    pub fn natural(&self, index: usize) -> Result<usize> {
        // Redis says the same of what is no integer at all.
        let value = parse_i64(self.arg(index)).and_then(|value| usize::try_from(value).ok());
        value.ok_or(Refusal::MustBePositive)
    }

    /// Counts keys or elements that were changed.
    #[inline]
    pub fn changed(&mut self, count: usize) {
        self.engine.stats.changes += count as u64;
    }
}
