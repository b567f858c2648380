//! The data types other than strings, each with its small form and its large one.

pub mod hash;
pub mod integers;
pub mod list;
pub mod ranks;
pub mod set;
pub mod zset;

use crate::table::Place;

/// Which element of a collection, until it is changed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Which {
    /// The one of this number, in a small form.
    Index(usize),
    /// The one that lies there, in a table.
    At(Place),
}
