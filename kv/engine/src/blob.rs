//! A stored string of bytes: a short one inside the value itself, a longer one in a buffer of the core's heap, from where
//! it is sent.

use std::ops::Range;

use libos_mem::{CopyPath, KEEP_COPY_MAX, PUSH_COPY_MAX};
use pdpix::{Buf, Exhausted, Heap, Output};

use crate::number::IntegerText;
use crate::resp::Reply;

/// Bytes that fit inside. They take the place that a `Buf` has, but for the word by which the two are told apart.
pub const SHORT_MAX: usize = 19;

/// An immutable string of bytes. A clone of a long one shares its memory.
#[derive(Clone)]
pub struct Blob(Form);

#[derive(Clone)]
enum Form {
    Short { len: u8, bytes: [u8; SHORT_MAX] },
    Long(Buf),
}

const _: () = assert!(size_of::<Blob>() == 24 && size_of::<Option<Blob>>() == 24);

impl Blob {
    /// A copy of `bytes`, if they are few enough to need no memory of their own.
    #[inline]
    pub fn short(bytes: &[u8]) -> Option<Blob> {
        let mut inside = [0; SHORT_MAX];
        inside.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Blob(Form::Short { len: bytes.len() as u8, bytes: inside }))
    }

    /// A copy of `bytes`.
    ///
    /// # Errors
    /// [`Exhausted`].
    #[inline]
    pub fn copy(bytes: &[u8], heap: &Heap) -> Result<Blob, Exhausted> {
        match Blob::short(bytes) {
            Some(short) => Ok(short),
            None => Ok(Blob(Form::Long(heap.copy(bytes)?))),
        }
    }

    /// What `part` of a received buffer says, fit to be held for long: copied (counted) when it is short or less than
    /// half of what it would pin.
    ///
    /// # Errors
    /// [`Exhausted`].
    #[inline]
    pub fn keep(part: &[u8], slice: impl FnOnce() -> Buf, heap: &Heap) -> Result<Blob, Exhausted> {
        if part.len() <= KEEP_COPY_MAX {
            heap.count_copied(CopyPath::Keep, part.len());
            return Blob::copy(part, heap);
        }
        Ok(Blob(Form::Long(slice().keep()?)))
    }

    /// The same bytes, in memory that is held anyway.
    #[inline]
    pub fn from_buf(buf: Buf) -> Blob {
        match Blob::short(&buf) {
            Some(short) => short,
            None => Blob(Form::Long(buf)),
        }
    }

    /// Bytes in it.
    #[inline]
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::Short { len, .. } => usize::from(*len),
            Form::Long(buf) => buf.len(),
        }
    }

    /// Whether there are none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As a buffer: the one that it lies in, or a new one.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn to_buf(&self, heap: &Heap) -> Result<Buf, Exhausted> {
        match &self.0 {
            Form::Short { .. } => heap.copy(self),
            Form::Long(buf) => Ok(buf.clone()),
        }
    }

    /// The buffer that it lies in, or itself back if it is short.
    pub fn into_buf(self) -> Result<Buf, Blob> {
        match self.0 {
            Form::Long(buf) => Ok(buf),
            short => Err(Blob(short)),
        }
    }

    /// Appends it to `out`: by reference if it is long enough to be worth it.
    #[inline]
    pub fn put(&self, out: &mut Output) {
        match &self.0 {
            Form::Long(buf) if buf.len() > PUSH_COPY_MAX => out.put_buf(buf.clone()),
            Form::Long(buf) => {
                out.heap().count_copied(CopyPath::Push, buf.len());
                out.put(buf);
            }
            Form::Short { .. } => out.put(self),
        }
    }

    /// Appends a part of it to `out`, in the same way.
    pub fn put_part(&self, out: &mut Output, range: Range<usize>) {
        match &self.0 {
            Form::Long(buf) => out.put_buf(buf.slice(range)),
            Form::Short { .. } => out.put(&self[range]),
        }
    }

    /// Bytes of the heap that it pins.
    pub fn pinned(&self) -> usize {
        match &self.0 {
            Form::Short { .. } => 0,
            Form::Long(buf) => buf.pinned(),
        }
    }
}

/// A stored string where it lies, whatever form it has there.
#[derive(Clone, Copy, Debug)]
pub enum Stored<'a> {
    /// Packed among others.
    Packed(&'a [u8]),
    /// An integer, of which the string is the decimal text.
    Integer(i64),
    /// On its own.
    Blob(&'a Blob),
    /// On its own, and long.
    Buf(&'a Buf),
}

impl<'a> Stored<'a> {
    /// As a bulk string, from where it lies.
    #[inline]
    pub fn put(self, reply: &mut Reply<'_>) {
        match self {
            Stored::Packed(bytes) => reply.bulk(bytes),
            Stored::Integer(value) => reply.bulk_integer(value),
            Stored::Blob(blob) => reply.blob(blob),
            Stored::Buf(buf) => reply.buf(buf.clone()),
        }
    }

    /// Its bytes, from where it lies.
    pub fn put_to(self, out: &mut Output) {
        match self {
            Stored::Packed(bytes) => out.put(bytes),
            Stored::Integer(value) => out.put(&IntegerText::new(value)),
            Stored::Blob(blob) => blob.put(out),
            Stored::Buf(buf) => out.put_buf(buf.clone()),
        }
    }

    /// Its bytes, to be looked at.
    #[inline]
    pub fn with<R>(self, look: impl FnOnce(&[u8]) -> R) -> R {
        match self {
            Stored::Packed(bytes) => look(bytes),
            Stored::Integer(value) => look(&IntegerText::new(value)),
            Stored::Blob(blob) => look(blob),
            Stored::Buf(buf) => look(buf),
        }
    }

    /// As a string of its own. One that is on its own already is shared.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn to_blob(self, heap: &Heap) -> Result<Blob, Exhausted> {
        match self {
            Stored::Packed(bytes) => Blob::copy(bytes, heap),
            Stored::Integer(value) => Blob::copy(&IntegerText::new(value), heap),
            Stored::Blob(blob) => Ok(blob.clone()),
            Stored::Buf(buf) => Ok(Blob::from_buf(buf.clone())),
        }
    }

    /// As a buffer. One that lies in a buffer already is shared.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub fn to_buf(self, heap: &Heap) -> Result<Buf, Exhausted> {
        match self {
            Stored::Packed(bytes) => heap.copy(bytes),
            Stored::Integer(value) => heap.copy(&IntegerText::new(value)),
            Stored::Blob(blob) => blob.to_buf(heap),
            Stored::Buf(buf) => Ok(buf.clone()),
        }
    }
}

impl std::ops::Deref for Blob {
    type Target = [u8];

    #[inline(always)]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Form::Short { len, bytes } => &bytes[..usize::from(*len).min(SHORT_MAX)],
            Form::Long(buf) => buf,
        }
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Blob) -> bool {
        **self == **other
    }
}

impl Eq for Blob {}

impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.escape_ascii())
    }
}
