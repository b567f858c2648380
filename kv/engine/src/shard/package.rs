//! A value on its way to another shard: a string as it is, anything else written into one buffer (a counted copy).

use libos_mem::{CopyPath, PUSH_COPY_MAX};
use pdpix::{Buf, BufMut, Exhausted, Heap};

use super::part::Want;
use crate::blob::{Blob, Stored};
use crate::data::hash::{Hash, PackLimits, Pairs};
use crate::data::integers::Integers;
use crate::data::list::{End, List, Piece};
use crate::data::ranks::Ranked;
use crate::data::set::Set;
use crate::data::zset::Zset;
use crate::engine::Tools;
use crate::keyspace::{Entry, NEVER};
use crate::number::parse_i64;
use crate::object::{Object, Stores};
use crate::resp::Reply;
use crate::table::Table;

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

    /// What a key holds, as much of it as is wanted.
    pub(super) fn of(entry: &Entry, want: Want, heap: &Heap) -> Result<Package, Exhausted> {
        let content = match (want, &entry.object) {
            (Want::Text, Object::Integer(_) | Object::Text(_)) | (Want::Value, _) => content_of(&entry.object, heap)?,
            _ => Content::Presence,
        };
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
        let mut entry = Entry::new(key, hash, object, now).expiring(self.expires);
        entry.built = self.built;
        Ok(entry)
    }

    /// Answers with it, if it is a string.
    pub(super) fn put_text(self, reply: &mut Reply<'_>) {
        match self.content {
            Content::Integer(value) => reply.bulk_integer(value),
            Content::Text(text) => reply.buf(text),
            Content::Presence | Content::Elements(..) => reply.null(),
        }
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

/// Elements one behind the other, each behind its length (four bytes) or, if a score, in eight.
#[derive(Default)]
struct Writer<'a> {
    parts: Vec<WriterPart<'a>>,
}

enum WriterPart<'a> {
    Element(Stored<'a>),
    Score(f64),
}

impl<'a> Writer<'a> {
    fn element(&mut self, element: Stored<'a>) {
        self.parts.push(WriterPart::Element(element));
    }

    fn write(&self, heap: &Heap) -> Result<Buf, Exhausted> {
        let len_of = |part: &WriterPart<'_>| match part {
            WriterPart::Element(element) => element.with(<[u8]>::len) + LEN_SIZE,
            WriterPart::Score(_) => SCORE_SIZE,
        };
        let mut bytes = heap.alloc(self.parts.iter().map(len_of).sum())?;
        for part in &self.parts {
            match part {
                WriterPart::Element(element) => element.with(|element| put_element(&mut bytes, element)),
                WriterPart::Score(score) => _ = bytes.put(&score.to_le_bytes()),
            }
        }
        Ok(bytes.freeze())
    }
}

const LEN_SIZE: usize = 4;
const SCORE_SIZE: usize = 8;

fn put_element(bytes: &mut BufMut, element: &[u8]) {
    // A string has at most 2^31 bytes (`RequestParser::set_bulk_len_max`).
    bytes.put(&(element.len() as u32).to_le_bytes());
    bytes.put(element);
}

/// Reads what a [`Writer`] has written. What is not whole ends it.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn element(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.0.split_first_chunk::<LEN_SIZE>()?;
        let (element, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        self.0 = rest;
        Some(element)
    }

    fn score(&mut self) -> Option<f64> {
        let (score, rest) = self.0.split_first_chunk::<SCORE_SIZE>()?;
        self.0 = rest;
        Some(f64::from_le_bytes(*score))
    }
}

fn unpack_elements(form: Form, bytes: &[u8], tools: &Tools) -> Result<Object, Exhausted> {
    let mut reader = Reader(bytes);
    Ok(match form {
        Form::List => unpack_list(reader, &tools.heap)?.into_object(),
        Form::IntegerSet | Form::Set => unpack_set(form, reader, tools)?.into_object(),
        Form::PackedHash | Form::Hash => unpack_hash(form, reader, tools)?.into_object(),
        Form::PackedZset | Form::Zset => {
            let mut members = Vec::new();
            while let Some((name, score)) = reader.element().zip(reader.score()) {
                members.push(Ranked { name: Blob::copy(name, &tools.heap)?, score });
            }
            let limits = if form == Form::PackedZset { UNLIMITED } else { NOTHING_PACKED };
            Zset::of(members, limits, (&tools.heap, &tools.seed))?.into_object()
        }
    })
}

/// The form was chosen where the value came from; it is not chosen again.
const UNLIMITED: PackLimits = PackLimits { entries: usize::MAX, value: usize::MAX };
const NOTHING_PACKED: PackLimits = PackLimits { entries: 0, value: 0 };

fn unpack_list(mut reader: Reader<'_>, heap: &Heap) -> Result<List, Exhausted> {
    let mut list = List::default();
    while let Some(element) = reader.element() {
        // A long one gets a buffer of its own: what it arrived in goes.
        let own = if element.len() > PUSH_COPY_MAX { Some(heap.copy(element)?) } else { None };
        let piece = own.as_ref().map_or(Ok(Piece::Short(element)), Piece::of_buf)?;
        list.push(End::Right, piece, heap)?;
    }
    Ok(list)
}

fn unpack_set(form: Form, mut reader: Reader<'_>, tools: &Tools) -> Result<Set, Exhausted> {
    let names: Vec<&[u8]> = std::iter::from_fn(|| reader.element()).collect();
    let mut set = match form {
        Form::IntegerSet => Set::Integers(Integers::new(&tools.heap)?),
        _ => Set::Members(Table::default()),
    };
    let keep = |index: usize| Blob::copy(names[index], &tools.heap);
    set.add_all(names.iter().copied(), keep, usize::MAX, (&tools.heap, &tools.seed))?;
    Ok(set)
}

/// Fields and values, in turn.
struct Fields<'a> {
    elements: Vec<&'a [u8]>,
    heap: &'a Heap,
}

impl Pairs for Fields<'_> {
    fn count(&self) -> usize {
        self.elements.len() / 2
    }

    fn name(&self, index: usize) -> &[u8] {
        self.elements[index * 2]
    }

    fn value(&self, index: usize) -> &[u8] {
        self.elements[index * 2 + 1]
    }

    fn keep_name(&self, index: usize) -> Result<Blob, Exhausted> {
        Blob::copy(self.name(index), self.heap)
    }

    fn keep_value(&self, index: usize) -> Result<Blob, Exhausted> {
        Blob::copy(self.value(index), self.heap)
    }
}

fn unpack_hash(form: Form, mut reader: Reader<'_>, tools: &Tools) -> Result<Hash, Exhausted> {
    let fields = Fields { elements: std::iter::from_fn(|| reader.element()).collect(), heap: &tools.heap };
    let mut hash = match form {
        Form::PackedHash => Hash::new(&tools.heap)?,
        _ => Hash::Fields(Table::default()),
    };
    hash.set_all(&fields, UNLIMITED, (&tools.heap, &tools.seed))?;
    Ok(hash)
}
