//! RESP, the protocol of Redis: requests as a server reads them, replies as it writes them, and as a client reads them.

mod inline;
mod length;
pub mod parser;
pub mod reply;
pub mod request;
pub mod value;

pub use parser::RequestParser;
pub use reply::{Protocol, Reply};
pub use request::{Request, RequestError};
pub use value::{Value, ValueError, ValueParser};

#[cfg(test)]
pub(crate) mod tests {
    use libos_mem::{Plan, Reservation, Reserves, Source};
    use pdpix::Heap;

    /// A heap of its own.
    pub(crate) fn heap() -> Heap {
        let plan = Plan { heaps: 1, heap_size: 16 << 20, reserves: Reserves::NONE, source: Source::Ordinary };
        Reservation::new(plan).expect("memory").heap(0).expect("the first")
    }

    /// `bytes` in pieces as long as `cuts` say, again and again.
    pub(crate) fn cut<'a>(mut bytes: &'a [u8], cuts: &[u8]) -> Vec<&'a [u8]> {
        let mut parts = Vec::new();
        let mut lengths = cuts.iter().map(|&len| usize::from(len) + 1).cycle();
        while !bytes.is_empty() {
            let len = lengths.next().unwrap_or(bytes.len()).min(bytes.len());
            let (part, rest) = bytes.split_at(len);
            parts.push(part);
            bytes = rest;
        }
        parts
    }
}
