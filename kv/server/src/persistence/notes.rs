//! The notes of a shard: few and short, read first when it begins.
//!
//! ```text
//! 1, cores u16                                 made for so many cores
//! 2, cores u16, place u8, generation, first, last, next, from
//!                                                  a whole snapshot: in which of its logs, which, its pieces, the record
//!                                                  behind it, and where in the log of commands to begin to look (u64 each)
//! 3, from, to                                  the pieces of the log of commands that do not count (to: not included)
//! ```

/// A note.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Note {
    Made { cores: u16 },
    Saved(SavedNote),
    Void { from: u64, to: u64 },
}

/// A snapshot that is whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SavedNote {
    pub cores: u16,
    /// Which of the two logs of snapshots has it.
    pub place: u8,
    pub generation: u64,
    /// Its pieces there, the last one included.
    pub first: u64,
    pub last: u64,
    /// The first record that it does not hold.
    pub next: u64,
    /// The piece of the log of commands from which on that record may be.
    pub from: u64,
}

impl Note {
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self {
            Note::Made { cores } => {
                bytes.push(1);
                bytes.extend(cores.to_le_bytes());
            }
            Note::Saved(SavedNote { cores, place, generation, first, last, next, from }) => {
                bytes.push(2);
                bytes.extend(cores.to_le_bytes());
                bytes.push(*place);
                [generation, first, last, next, from].into_iter().for_each(|number| bytes.extend(number.to_le_bytes()));
            }
            Note::Void { from, to } => {
                bytes.push(3);
                [from, to].into_iter().for_each(|number| bytes.extend(number.to_le_bytes()));
            }
        }
        bytes
    }

    pub fn read(bytes: &[u8]) -> Option<Note> {
        let (&kind, rest) = bytes.split_first()?;
        let number = |rest: &[u8], index: usize| Some(u64::from_le_bytes(*rest.get(index * 8..)?.first_chunk()?));
        let cores = || rest.first_chunk().map(|cores| u16::from_le_bytes(*cores));
        Some(match (kind, rest.len()) {
            (1, 2) => Note::Made { cores: cores()? },
            (2, 43) if rest[2] < 2 => {
                let numbers = &rest[3..];
                Note::Saved(SavedNote {
                    cores: cores()?,
                    place: rest[2],
                    generation: number(numbers, 0)?,
                    first: number(numbers, 1)?,
                    last: number(numbers, 2)?,
                    next: number(numbers, 3)?,
                    from: number(numbers, 4)?,
                })
            }
            (3, 16) => Note::Void { from: number(rest, 0)?, to: number(rest, 1)? },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_read_back() {
        let saved = SavedNote { cores: 2, place: 1, generation: 7, first: 1, last: 1 << 40, next: 3, from: u64::MAX };
        for note in [Note::Made { cores: 65_535 }, Note::Saved(saved), Note::Void { from: 5, to: 9 }] {
            let bytes = note.write();
            assert_eq!(Note::read(&bytes), Some(note));
            (0..bytes.len()).for_each(|len| assert_eq!(Note::read(&bytes[..len]), None));
        }
    }
}
