//! Codecs: what makes messages of a stream's bytes, and bytes of messages.

use std::marker::PhantomData;

use pdpix::{Heap, Input, Output, Sga};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::session::SessionId;

/// Why a stream cannot be understood any further. The session is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CodecError {
    /// Not of this protocol.
    Malformed(&'static str),
    /// A message longer than is allowed.
    TooLong,
    /// No memory for it now. The session is kept, and it is tried again when more arrives or memory was freed.
    NoMemory,
}

/// Makes messages of bytes, and bytes of messages. One value a session: it keeps what it needs to know of the stream.
pub trait Codec: 'static {
    /// What comes in.
    type In: 'static;
    /// What goes out.
    type Out;

    /// The session that it belongs to is open. For codecs that share something with their actor.
    fn opened(&mut self, _session: SessionId) {}

    /// Takes the next message off `input`, if all of it is there.
    ///
    /// # Errors
    /// [`CodecError`].
    fn decode(&mut self, input: &mut Input, heap: &Heap) -> Result<Option<Self::In>, CodecError>;

    /// Whether it has taken bytes off the input that it has not looked at: then it is asked again, whether there is more
    /// input or not.
    #[inline]
    fn has_unread(&self) -> bool {
        false
    }

    /// Writes a message.
    fn encode(item: Self::Out, output: &mut Output);
}

/// Bytes as they come: each message is what a pop gave.
#[derive(Clone, Copy, Default, Debug)]
pub struct Raw;

impl Codec for Raw {
    type In = Sga;
    type Out = Sga;

    #[inline]
    fn decode(&mut self, input: &mut Input, _: &Heap) -> Result<Option<Sga>, CodecError> {
        if input.is_empty() { Ok(None) } else { Ok(Some(input.take_all())) }
    }

    #[inline]
    fn encode(item: Sga, output: &mut Output) {
        for buf in item {
            output.put_buf(buf);
        }
    }
}

/// Length-prefixed values, for control messages: four bytes of length, little-endian, then the value by bincode.
///
/// Bound: [`Framed::LEN_MAX`] bytes a value.
pub struct Framed<In, Out>(PhantomData<fn(Out) -> In>);

impl<In, Out> Framed<In, Out> {
    /// The longest value.
    pub const LEN_MAX: usize = 16 << 20;

    /// A codec.
    pub fn new() -> Framed<In, Out> {
        Framed(PhantomData)
    }
}

impl<In, Out> Default for Framed<In, Out> {
    fn default() -> Framed<In, Out> {
        Framed::new()
    }
}

const PREFIX: usize = 4;

impl<In: DeserializeOwned + 'static, Out: Serialize + 'static> Codec for Framed<In, Out> {
    type In = In;
    type Out = Out;

    fn decode(&mut self, input: &mut Input, heap: &Heap) -> Result<Option<In>, CodecError> {
        let mut prefix = [0; PREFIX];
        if input.peek(0, &mut prefix) < PREFIX {
            return Ok(None);
        }
        let len = u32::from_le_bytes(prefix) as usize;
        if len > Self::LEN_MAX {
            return Err(CodecError::TooLong);
        }
        if input.len() < PREFIX + len {
            return Ok(None);
        }
        let frame = input.take(PREFIX + len, heap).map_err(|_| CodecError::NoMemory)?;
        match bincode::serde::decode_from_slice(&frame[PREFIX..], bincode::config::standard()) {
            Ok((value, used)) if used == len => Ok(Some(value)),
            Ok(_) => Err(CodecError::Malformed("a frame is longer than its value")),
            Err(_) => Err(CodecError::Malformed("a frame holds no value of its type")),
        }
    }

    fn encode(item: Out, output: &mut Output) {
        // Control messages are small and rare enough for a vector in between.
        match bincode::serde::encode_to_vec(&item, bincode::config::standard()) {
            Ok(bytes) if bytes.len() <= Self::LEN_MAX => {
                output.put(&(bytes.len() as u32).to_le_bytes());
                output.put(&bytes);
            }
            // What cannot be encoded is a bug of ours; what is too long must not be cut.
            _ => output.fail(),
        }
    }
}

#[cfg(test)]
mod tests {
    use quickcheck::quickcheck;

    use super::*;
    use crate::harness::test_heap;

    type Value = (u32, String, Vec<u8>);

    quickcheck! {
        /// Any values, cut anywhere, come out as they went in.
        fn frames_survive_any_cut(values: Vec<Value>, cuts: Vec<u8>) -> bool {
            let heap = test_heap();
            let mut output = Output::new(heap.clone());
            values.iter().cloned().for_each(|value| Framed::<Value, Value>::encode(value, &mut output));
            let mut bytes = output.take().unwrap().to_vec();
            let (mut codec, mut input, mut decoded) = (Framed::<Value, Value>::new(), Input::new(), Vec::new());
            let mut cuts = cuts.into_iter().cycle();
            while !bytes.is_empty() {
                let at = (cuts.next().unwrap_or(7) as usize + 1).min(bytes.len());
                input.push(Sga::copy(&heap, &bytes.drain(..at).collect::<Vec<_>>()).unwrap());
                while let Some(value) = codec.decode(&mut input, &heap).unwrap() {
                    decoded.push(value);
                }
            }
            decoded == values && input.is_empty()
        }

        fn garbage_never_panics(bytes: Vec<u8>) -> bool {
            let heap = test_heap();
            let mut input = Input::new();
            input.push(Sga::copy(&heap, &bytes).unwrap());
            while let Ok(Some(_)) = Framed::<Value, Value>::new().decode(&mut input, &heap) {}
            true
        }
    }

    #[test]
    fn a_frame_that_lies_about_its_length_is_malformed() {
        let heap = test_heap();
        let decode = |bytes: &[u8]| {
            let mut input = Input::new();
            input.push(Sga::copy(&heap, bytes).unwrap());
            Framed::<u8, u8>::new().decode(&mut input, &heap)
        };
        assert_eq!(decode(&[1, 0, 0, 0, 9]), Ok(Some(9)));
        assert_eq!(decode(&[1, 0, 0]), Ok(None));
        assert!(matches!(decode(&[2, 0, 0, 0, 9, 9]), Err(CodecError::Malformed(_))));
        assert!(matches!(decode(&[0, 0, 0, 0]), Err(CodecError::Malformed(_))));
        assert_eq!(decode(&[255; 8]), Err(CodecError::TooLong));
    }
}
