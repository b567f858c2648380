//! What a key holds.

use pdpix::{Exhausted, Heap};

use crate::blob::Blob;
use crate::data::hash::Hash;
use crate::data::list::List;
use crate::data::set::Set;
use crate::data::zset::Zset;

/// A stored value. As large as a [`Blob`]; what is larger lies elsewhere.
#[derive(Debug)]
pub enum Object {
    /// A string that is an integer.
    Integer(i64),
    /// Any other string.
    Text(Blob),
    /// A list; not empty, like all that follow.
    List(Box<List>),
    /// A set.
    Set(Box<Set>),
    /// A hash.
    Hash(Box<Hash>),
    /// A sorted set.
    Zset(Box<Zset>),
}

const _: () = assert!(size_of::<Object>() == 24);

/// The longest string that Redis keeps in one piece with its header, and calls `embstr`.
const EMBEDDED_LEN_MAX: usize = 44;

impl Object {
    /// What TYPE calls it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Object::Integer(_) | Object::Text(_) => "string",
            Object::List(_) => "list",
            Object::Set(_) => "set",
            Object::Hash(_) => "hash",
            Object::Zset(_) => "zset",
        }
    }

    /// What OBJECT ENCODING calls it. `built`: it is a string that was built in place.
    pub fn encoding(&self, built: bool) -> &'static str {
        match self {
            Object::Integer(_) => "int",
            Object::Text(text) if built || text.len() > EMBEDDED_LEN_MAX => "raw",
            Object::Text(_) => "embstr",
            Object::List(_) => "quicklist",
            Object::Set(set) => set.encoding(),
            Object::Hash(hash) => hash.encoding(),
            Object::Zset(zset) => zset.encoding(),
        }
    }

    /// A copy of its own, for COPY. Long strings are shared.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn try_clone(&self, heap: &Heap) -> Result<Object, Exhausted> {
        Ok(match self {
            Object::Integer(value) => Object::Integer(*value),
            Object::Text(text) => Object::Text(text.clone()),
            Object::List(list) => Object::List(Box::new(list.try_clone(heap)?)),
            Object::Set(set) => Object::Set(Box::new(set.try_clone(heap)?)),
            Object::Hash(hash) => Object::Hash(Box::new(hash.try_clone(heap)?)),
            Object::Zset(zset) => Object::Zset(Box::new(zset.try_clone(heap)?)),
        })
    }

    /// About how many elements must be freed with it, if that is a number worth thinking about.
    pub fn weight(&self) -> usize {
        match self {
            Object::Integer(_) | Object::Text(_) => 1,
            Object::List(list) => list.len(),
            Object::Set(set) => set.len(),
            Object::Hash(hash) => hash.len(),
            Object::Zset(zset) => zset.len(),
        }
    }

    /// Frees a part of it, of some hundreds of elements. False if nothing worth mentioning is left.
    pub fn free_some(&mut self) -> bool {
        match self {
            Object::Integer(_) | Object::Text(_) => false,
            Object::List(list) => list.free_some(),
            Object::Set(set) => set.free_some(),
            Object::Hash(hash) => hash.free_some(),
            Object::Zset(zset) => zset.free_some(),
        }
    }
}

/// A type of value, where a command expects that one.
pub trait Stores: Sized {
    /// The value, if it is of this type.
    fn view(object: &Object) -> Option<&Self>;
    /// The same, to be changed.
    fn view_mut(object: &mut Object) -> Option<&mut Self>;
    /// As a value.
    fn into_object(self) -> Object;
}

macro_rules! stores {
    ($type:ident) => {
        impl Stores for $type {
            fn view(object: &Object) -> Option<&Self> {
                if let Object::$type(value) = object { Some(value) } else { None }
            }

            fn view_mut(object: &mut Object) -> Option<&mut Self> {
                if let Object::$type(value) = object { Some(value) } else { None }
            }

            fn into_object(self) -> Object {
                Object::$type(Box::new(self))
            }
        }
    };
}

stores!(List);
stores!(Set);
stores!(Hash);
stores!(Zset);
