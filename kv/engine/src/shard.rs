//! Which shard a key belongs to, where a command runs, and how one runs on several shards as if they were one.
//!
//! A command whose keys are all on one shard runs there whole. Any other is a [`Conversation`]: the server holds the
//! shards that it names, in ascending order, and passes parts and answers to and fro until it is done. While they are
//! held the shards do nothing else, so the command is atomic, and the intermediate states of its rounds are seen by
//! nobody.

mod conversation;
mod package;
mod part;
mod scratch;

pub use conversation::{Conversation, Step};
pub use package::Package;
pub(crate) use part::Staged;
pub use part::{Answer, Change, Part, Want, Wanted};

use smallvec::SmallVec;

use crate::command::{Command, Run, Spread, keys_of, shard_of_scan, single_key_of};
use crate::engine::Session;
use crate::resp::Request;

/// The shard of a key among `shards`. The same for all servers and all times: the hash knows no seed.
pub fn shard_of(key: &[u8], shards: usize) -> usize {
    const FACTOR: u64 = 0xA076_1D64_78BD_642F;
    let mix = |hash: u64, word: u64| {
        let product = u128::from(hash ^ word) * u128::from(FACTOR);
        (product >> 64) as u64 ^ product as u64
    };
    let mut words = key.chunks_exact(8);
    let mut hash = 0x9E37_79B9_7F4A_7C15 ^ key.len() as u64;
    for word in &mut words {
        hash = mix(hash, word.first_chunk().map_or(0, |word| u64::from_le_bytes(*word)));
    }
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    hash = mix(mix(hash, u64::from_le_bytes(last)), FACTOR);
    ((u128::from(hash) * shards as u128) >> 64) as usize
}

/// Where a command runs.
#[derive(Debug)]
pub enum Plan {
    /// Where the connection lives: [`Connection::answer`](crate::connection::Connection::answer).
    Connection,
    /// Whole on this shard: [`Engine::execute`](crate::engine::Engine::execute).
    Shard(usize),
    /// On several shards.
    Conversation(Box<Conversation>),
}

/// Where a command runs when there are so many shards.
#[inline]
pub fn plan(command: &'static Command, request: &Request, session: Session, shards: usize) -> Plan {
    match command.run {
        Run::Shard(_) if shards == 1 => Plan::Shard(0),
        Run::Shard(_) => match single_key_of(command, request) {
            Some(key) => Plan::Shard(shard_of(key, shards)),
            None => plan_shards(command, request, session, shards),
        },
        Run::Connection(_) | Run::Container => Plan::Connection,
    }
}

fn plan_shards(command: &'static Command, request: &Request, session: Session, shards: usize) -> Plan {
    let hold = match command.spread {
        Spread::Cursor => {
            // A cursor that names no shard is at its end: any shard says so.
            let shard = shard_of_scan(request);
            return Plan::Shard(if shard < shards { shard } else { 0 });
        }
        Spread::Names | Spread::Size | Spread::Random | Spread::Everywhere => (0..shards).collect(),
        Spread::Store | Spread::StoreNew if request.len().is_multiple_of(2) => return Plan::Shard(0), // is refused there
        _ => {
            // What says that there are keys where there are none is refused on any shard.
            let keys = keys_of(command, request).unwrap_or_default();
            let mut hold: SmallVec<[usize; 8]> =
                keys.iter().map(|(index, _)| shard_of(request.arg(*index), shards)).collect();
            hold.sort_unstable();
            hold.dedup();
            hold
        }
    };
    match *hold.as_slice() {
        [] => Plan::Shard(0),
        [shard] => Plan::Shard(shard),
        _ => Plan::Conversation(Box::new(Conversation::new(command, request, session, shards, hold.into_vec()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shard_of_a_key_never_changes() {
        // Data that is stored by shard depends on these.
        let keys: [&[u8]; 6] = [b"", b"a", b"key:1", b"key:12345", b"a longer key than eight bytes", &[255; 64]];
        assert_eq!(keys.map(|key| shard_of(key, 1)), [0; 6]);
        assert_eq!(keys.map(|key| shard_of(key, 64)), EXPECTED);
    }

    const EXPECTED: [usize; 6] = [47, 7, 24, 56, 17, 36];

    #[test]
    fn keys_are_spread_evenly() {
        for shards in [2, 3, 7, 16] {
            let mut counts = vec![0; shards];
            (0..20_000).for_each(|n| counts[shard_of(format!("user:{n}").as_bytes(), shards)] += 1);
            let expected = 20_000 / shards;
            assert!(counts.iter().all(|&n| n * 10 > expected * 9 && n * 10 < expected * 11), "{counts:?}");
        }
    }
}
