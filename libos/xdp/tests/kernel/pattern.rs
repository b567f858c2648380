//! Bytes that are not the same anywhere, made and checked piece by piece: as good as a hash, and it says where it fails.

use pdpix::Rng;

const BLOCK: usize = 4096;

/// A stream of bytes that a seed tells.
pub struct Pattern {
    rng: Rng,
    block: Vec<u8>,
    at: usize,
    /// Bytes made or checked.
    pub done: u64,
    /// How long it is.
    pub len: u64,
}

impl Pattern {
    pub fn new(len: u64, seed: u64) -> Pattern {
        Pattern { rng: Rng::new(seed), block: vec![0; BLOCK], at: BLOCK, done: 0, len }
    }

    pub fn is_over(&self) -> bool {
        self.done == self.len
    }

    /// The next bytes, at most so many.
    pub fn take(&mut self, len_max: usize) -> Vec<u8> {
        let len = (self.len - self.done).min(len_max as u64) as usize;
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let part = self.rest().len().min(len - bytes.len());
            bytes.extend_from_slice(&self.rest()[..part]);
            self.advance(part);
        }
        bytes
    }

    /// Whether these are the next bytes.
    ///
    /// # Panics
    /// If not.
    pub fn check(&mut self, mut bytes: &[u8]) {
        assert!(self.done + bytes.len() as u64 <= self.len, "more than {} bytes", self.len);
        while !bytes.is_empty() {
            let part = self.rest().len().min(bytes.len());
            let same = self.rest()[..part] == bytes[..part];
            assert!(same, "the bytes differ within {part} from byte {} of {}", self.done, self.len);
            self.advance(part);
            bytes = &bytes[part..];
        }
    }

    fn rest(&mut self) -> &[u8] {
        if self.at == BLOCK {
            self.rng.fill(&mut self.block);
            self.at = 0;
        }
        &self.block[self.at..]
    }

    fn advance(&mut self, len: usize) {
        self.at += len;
        self.done += len as u64;
    }
}
