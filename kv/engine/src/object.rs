//! What a key holds.

use crate::blob::Blob;

/// A stored value. As large as a [`Blob`]; what is larger lies elsewhere.
#[derive(Debug)]
pub enum Object {
    /// A string that is an integer.
    Integer(i64),
    /// Any other string.
    Text(Blob),
}

const _: () = assert!(size_of::<Object>() == 24);
