//! Values: skipped, or built in the form in which the engine keeps them.

use std::collections::BTreeSet;

use super::bytes::{Bytes, Read, Stop, Text};
use super::{kind, packed};
use crate::blob::Blob;
use crate::data::hash::{Hash, Pairs};
use crate::data::list::{End, List, Piece};
use crate::data::ranks::Ranked;
use crate::data::set::Set;
use crate::data::zset::Zset;
use crate::engine::Tools;
use crate::number::{parse_f64, parse_i64};
use crate::object::{Object, Stores};
use libos_mem::PUSH_COPY_MAX;

/// Goes over a value of a type that kv has, without a look into what is packed.
pub fn skip(kind: u8, bytes: &mut Bytes<'_>) -> Read<()> {
    let strings = match kind {
        kind::LIST | kind::SET => bytes.length()?,
        kind::LIST_QUICKLIST => bytes.length()?,
        kind::HASH => bytes.length()?.checked_mul(2).ok_or(Stop::Bad("a length that nothing has"))?,
        kind::ZSET | kind::ZSET_2 => {
            for _ in 0..bytes.length()? {
                bytes.skip_text()?;
                skip_score(kind, bytes)?;
            }
            return Ok(());
        }
        kind::LIST_QUICKLIST_2 => {
            for _ in 0..bytes.length()? {
                bytes.length()?;
                bytes.skip_text()?;
            }
            return Ok(());
        }
        _ => 1,
    };
    for _ in 0..strings {
        bytes.skip_text()?;
    }
    Ok(())
}

fn skip_score(kind: u8, bytes: &mut Bytes<'_>) -> Read<()> {
    if kind == kind::ZSET_2 {
        return bytes.array::<8>().map(drop);
    }
    let len = bytes.byte()?;
    if len < 253 { bytes.take(usize::from(len)).map(drop) } else { Ok(()) }
}

/// The value. `None`: a collection without elements, which no key has.
pub fn build(kind: u8, bytes: &mut Bytes<'_>, tools: &Tools) -> Read<Option<Object>> {
    let object = match kind {
        kind::STRING => return string(&bytes.text()?, tools).map(Some),
        kind::LIST => {
            let mut list = List::default();
            for _ in 0..bytes.length()? {
                push(&mut list, &bytes.text()?, tools)?;
            }
            list.into_object()
        }
        kind::LIST_ZIPLIST => list_of(&packed::ziplist(&bytes.text()?)?, List::default(), tools)?.into_object(),
        kind::LIST_QUICKLIST => {
            let mut list = List::default();
            for _ in 0..bytes.length()? {
                list = list_of(&packed::ziplist(&bytes.text()?)?, list, tools)?;
            }
            list.into_object()
        }
        kind::LIST_QUICKLIST_2 => {
            let mut list = List::default();
            for _ in 0..bytes.length()? {
                match bytes.length()? {
                    1 => push(&mut list, &bytes.text()?, tools)?,
                    2 => list = list_of(&packed::listpack(&bytes.text()?)?, list, tools)?,
                    _ => return Err(Stop::Bad("a node of a list of no known form")),
                }
            }
            list.into_object()
        }
        kind::SET => set_of(&texts(bytes, 1)?, tools)?.into_object(),
        kind::SET_INTSET => {
            let members = packed::intset(&bytes.text()?)?;
            let members: Vec<Text<'_>> = members.into_iter().map(Text::integer).collect();
            set_of(&members, tools)?.into_object()
        }
        kind::HASH => hash_of(&texts(bytes, 2)?, tools)?.into_object(),
        kind::HASH_ZIPMAP => hash_of(&packed::zipmap(&bytes.text()?)?, tools)?.into_object(),
        kind::HASH_ZIPLIST => hash_of(&packed::ziplist(&bytes.text()?)?, tools)?.into_object(),
        kind::HASH_LISTPACK => hash_of(&packed::listpack(&bytes.text()?)?, tools)?.into_object(),
        kind::ZSET | kind::ZSET_2 => {
            let mut members = Vec::new();
            for _ in 0..bytes.length()? {
                let name = bytes.text()?;
                members.push((name, score(kind, bytes)?));
            }
            zset_of(&members, tools)?.into_object()
        }
        kind::ZSET_ZIPLIST => zset_of(&scored(packed::ziplist(&bytes.text()?)?)?, tools)?.into_object(),
        kind::ZSET_LISTPACK => zset_of(&scored(packed::listpack(&bytes.text()?)?)?, tools)?.into_object(),
        _ => return Err(Stop::Bad("a value of no known type")),
    };
    Ok(Some(object).filter(|object| object.weight() > 0))
}

fn string(text: &[u8], tools: &Tools) -> Read<Object> {
    Ok(match parse_i64(text) {
        Some(value) => Object::Integer(value),
        None => Object::Text(Blob::copy(text, &tools.heap)?),
    })
}

/// So many strings for each of as many things as are announced. Nothing is allocated for what has not come.
fn texts<'a>(bytes: &mut Bytes<'a>, each: u64) -> Read<Vec<Text<'a>>> {
    let count = bytes.length()?.checked_mul(each).ok_or(Stop::Bad("a length that nothing has"))?;
    let mut texts = Vec::new();
    for _ in 0..count {
        texts.push(bytes.text()?);
    }
    Ok(texts)
}

fn push(list: &mut List, element: &[u8], tools: &Tools) -> Read<()> {
    let own = if element.len() > PUSH_COPY_MAX { Some(tools.heap.copy(element)?) } else { None };
    let piece = own.as_ref().map_or(Ok(Piece::Short(element)), Piece::of_buf)?;
    Ok(list.push(End::Right, piece, &tools.heap)?)
}

fn list_of(elements: &[Text<'_>], mut list: List, tools: &Tools) -> Read<List> {
    for element in elements {
        push(&mut list, element, tools)?;
    }
    Ok(list)
}

fn set_of(members: &[Text<'_>], tools: &Tools) -> Read<Set> {
    let keep = |index: usize| Blob::copy(&members[index], &tools.heap);
    let names = members.iter().map(|member| &**member);
    let mut set = Set::new_for(members.first().map_or(&b"0"[..], |first| first), &tools.heap)?;
    let added = set.add_all(names, keep, tools.limits.set_integers, (&tools.heap, &tools.seed))?;
    if added == members.len() { Ok(set) } else { Err(Stop::Bad("a set with a member that is there twice")) }
}

/// Fields and values, in turn.
struct Fields<'a> {
    texts: &'a [Text<'a>],
    tools: &'a Tools,
}

impl Pairs for Fields<'_> {
    fn count(&self) -> usize {
        self.texts.len() / 2
    }

    fn name(&self, index: usize) -> &[u8] {
        &self.texts[index * 2]
    }

    fn value(&self, index: usize) -> &[u8] {
        &self.texts[index * 2 + 1]
    }

    fn keep_name(&self, index: usize) -> Result<Blob, pdpix::Exhausted> {
        Blob::copy(self.name(index), &self.tools.heap)
    }

    fn keep_value(&self, index: usize) -> Result<Blob, pdpix::Exhausted> {
        Blob::copy(self.value(index), &self.tools.heap)
    }
}

fn hash_of(texts: &[Text<'_>], tools: &Tools) -> Read<Hash> {
    if texts.len() % 2 == 1 {
        return Err(Stop::Bad("a hash with a field that has no value"));
    }
    let mut hash = Hash::new(&tools.heap)?;
    let fields = Fields { texts, tools };
    let set = hash.set_all(&fields, tools.limits.hash, (&tools.heap, &tools.seed))?;
    if set == fields.count() { Ok(hash) } else { Err(Stop::Bad("a hash with a field that is there twice")) }
}

fn score(kind: u8, bytes: &mut Bytes<'_>) -> Read<f64> {
    let score = if kind == kind::ZSET_2 {
        f64::from_le_bytes(bytes.array()?)
    } else {
        match bytes.byte()? {
            255 => f64::NEG_INFINITY,
            254 => f64::INFINITY,
            253 => f64::NAN,
            len => parse_f64(bytes.take(usize::from(len))?).ok_or(Stop::Bad("a score that is no number"))?,
        }
    };
    if score.is_nan() { Err(Stop::Bad("a score that is no number")) } else { Ok(score) }
}

/// Members and scores, in turn.
fn scored(texts: Vec<Text<'_>>) -> Read<Vec<(Text<'_>, f64)>> {
    if texts.len() % 2 == 1 {
        return Err(Stop::Bad("a sorted set with a member that has no score"));
    }
    let mut members = Vec::with_capacity(texts.len() / 2);
    let mut texts = texts.into_iter();
    while let (Some(name), Some(score)) = (texts.next(), texts.next()) {
        members.push((name, parse_f64(&score).ok_or(Stop::Bad("a score that is no number"))?));
    }
    Ok(members)
}

fn zset_of(members: &[(Text<'_>, f64)], tools: &Tools) -> Read<Zset> {
    let names: BTreeSet<&[u8]> = members.iter().map(|(name, _)| &**name).collect();
    if names.len() != members.len() {
        return Err(Stop::Bad("a sorted set with a member that is there twice"));
    }
    let ranked = |(name, score): &(Text<'_>, f64)| Ok(Ranked { name: Blob::copy(name, &tools.heap)?, score: *score });
    let ranked = members.iter().map(ranked).collect::<Result<Vec<_>, pdpix::Exhausted>>()?;
    Ok(Zset::of(ranked, tools.limits.zset, (&tools.heap, &tools.seed))?)
}
