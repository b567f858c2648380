//! A value on its way to another shard: a string as it is, anything else written into one buffer (a counted copy).

use libos_mem::CopyPath;
use pdpix::{Buf, BufMut, Exhausted, Heap};

use crate::blob::{Blob, Stored};
use crate::data::hash::Hash;
use crate::data::list::{End, List, Piece};
use crate::data::set::Set;
use crate::data::zset::Zset;
use crate::engine::Tools;
use crate::keyspace::{Entry, NEVER};
use crate::number::parse_i64;
use crate::object::{Object, Stores};

/// A value with all that belongs to it but its key.
#[derive(Debug)]
pub struct Package<B = Buf> {
    content: Content<B>,
    /// Milliseconds since 1970, or never.
    expires: u64,
    built: bool,
}

#[derive(Debug)]
enum Content<B> {
    /// Nothing but that there is a value.
    Presence,
    Integer(i64),
    Text(B),
    /// A collection in some form, its elements one behind the other.
    Elements(Form, B),
}

/// What is made of the elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    List,
    IntegerSet,
    Set,
    PackedHash,
    Hash,
    PackedZset,
    Zset,
}

impl<B> Package<B> {
    pub(super) fn try_map_buf<C, E>(self, map: &mut impl FnMut(B) -> Result<C, E>) -> Result<Package<C>, E> {
        let content = match self.content {
            Content::Presence => Content::Presence,
            Content::Integer(value) => Content::Integer(value),
            Content::Text(text) => Content::Text(map(text)?),
            Content::Elements(form, bytes) => Content::Elements(form, map(bytes)?),
        };
        Ok(Package { content, expires: self.expires, built: self.built })
    }
}

impl Package {
    /// A string that a client has sent.
    pub(super) fn of_arg(arg: Buf) -> Package {
        let integer = Some(&*arg).filter(|arg| arg.len() <= 20).and_then(parse_i64);
        let content = integer.map_or(Content::Text(arg), Content::Integer);
        Package { content, expires: NEVER, built: false }
    }

    /// What a key holds, or only that it holds something.
    pub(super) fn of(entry: &Entry, whole: bool, heap: &Heap) -> Result<Package, Exhausted> {
        let content = if whole { content_of(&entry.object, heap)? } else { Content::Presence };
        Ok(Package { content, expires: entry.expires().unwrap_or(NEVER), built: entry.built })
    }

    /// As the entry of a key.
    pub(super) fn unpack(self, key: Blob, hash: u64, tools: &Tools, now: u64) -> Result<Entry, Exhausted> {
        let object = match self.content {
            Content::Presence => Object::Integer(0),
            Content::Integer(value) => Object::Integer(value),
            Content::Text(text) => Object::Text(Blob::keep(&text, || text.clone(), &tools.heap)?),
            Content::Elements(form, bytes) => unpack_elements(form, &bytes, tools)?,
        };
        let mut entry = Entry::new(key, hash, object, now);
        entry.built = self.built;
        entry.set_expires(self.expires);
        Ok(entry)
    }
}

fn content_of(object: &Object, heap: &Heap) -> Result<Content<Buf>, Exhausted> {
    let mut writer = Writer::default();
    let form = match object {
        Object::Integer(value) => return Ok(Content::Integer(*value)),
        Object::Text(text) => return Ok(Content::Text(text.to_buf(heap)?)),
        Object::List(list) => {
            list.iter_from(0).for_each(|element| writer.element(element));
            Form::List
        }
        Object::Set(set) => {
            set.iter().for_each(|name| writer.element(name));
            if matches!(**set, Set::Integers(_)) { Form::IntegerSet } else { Form::Set }
        }
        Object::Hash(hash) => {
            for (name, value) in hash.iter() {
                writer.element(name);
                writer.element(value);
            }
            if matches!(**hash, Hash::Pack(_)) { Form::PackedHash } else { Form::Hash }
        }
        Object::Zset(zset) => {
            for (name, score) in zset.iter_from(0) {
                writer.element(name);
                writer.parts.push(WriterPart::Score(score));
            }
            if matches!(**zset, Zset::Pack(_)) { Form::PackedZset } else { Form::Zset }
        }
    };
    let bytes = writer.write(heap)?;
    heap.count_copied(CopyPath::Loan, bytes.len());
    Ok(Content::Elements(form, bytes))
}
