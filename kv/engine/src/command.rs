//! The commands: what each is called, what it takes, and what carries it out.

mod lookup;
mod strings;

pub use lookup::lookup;

use crate::engine::{At, Engine};
use crate::keyspace::Key;
use crate::refusal::Refusal;
use crate::resp::{Reply, Request};

/// What carries a command out.
pub(crate) type Run = fn(&mut Call<'_>) -> Result<(), Refusal>;

/// A command, as the table describes it.
pub struct Command {
    /// In lower case.
    pub name: &'static str,
    /// How many arguments it takes, its name included; at least so many if negative.
    pub arity: i16,
    pub(crate) run: Run,
}

/// One command being carried out by an engine.
pub(crate) struct Call<'a> {
    pub engine: &'a mut Engine,
    pub request: &'a Request,
    pub at: At,
    pub reply: Reply<'a>,
}

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
}
