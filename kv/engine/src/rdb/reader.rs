//! A file as it comes in, piece by piece.

use super::bytes::{Bytes, Read, Stop};
use super::{CHECKSUM, RdbError, VERSION, build, opcode, refused, value};
use crate::engine::{DATABASES, Tools};
use crate::object::Object;

/// What a file holds besides keys is told up to this many words.
const AUX_MAX: usize = 32;
/// Bytes of such a word and of what it says.
const AUX_LEN_MAX: usize = 256;

/// A key with its value.
#[derive(Debug)]
pub struct Item {
    /// Its database.
    pub database: u8,
    /// The key.
    pub key: Vec<u8>,
    /// Its value, if it was wanted.
    pub object: Option<Object>,
    /// When it expires, in milliseconds since 1970.
    pub expires: Option<u64>,
    /// For how many seconds nobody has looked at it, if that is known.
    pub idle_seconds: Option<u64>,
}

/// Reads a file. It is fed bytes ([`Reader::feed`]) and asked for keys ([`Reader::next`]) in turn.
pub struct Reader {
    buffer: Vec<u8>,
    /// Up to here the buffer was read.
    start: usize,
    /// So many bytes from there on must have come before it makes sense to try again.
    needed: usize,
    /// Bytes read before `start`.
    position: u64,
    /// Nothing more will come.
    ended: bool,
    checksum: crc::Digest<'static, u64, crc::Table<16>>,
    version: Option<u32>,
    database: u8,
    expires: Option<u64>,
    idle_seconds: Option<u64>,
    announced: u64,
    aux: Vec<(Vec<u8>, Vec<u8>)>,
    over: bool,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader::new()
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reader(byte {}, {} B buffered)", self.position, self.buffer.len() - self.start)
    }
}

/// What stands next.
enum Next {
    /// A key, or one without elements that is left out.
    Key(Option<Item>),
    /// Something of the file itself.
    Note,
    /// The end, with its checksum if there is one.
    End(Option<u64>),
}

impl Reader {
    /// At the beginning.
    pub fn new() -> Reader {
        Reader {
            buffer: Vec::new(),
            start: 0,
            needed: 0,
            position: 0,
            ended: false,
            checksum: CHECKSUM.digest(),
            version: None,
            database: 0,
            expires: None,
            idle_seconds: None,
            announced: 0,
            aux: Vec::new(),
            over: false,
        }
    }

    /// Takes more bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.start > self.buffer.len() / 2 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Nothing more will come.
    pub fn finish(&mut self) {
        self.ended = true;
    }

    /// Bytes that were understood.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How many keys it says it has, in what was read so far; zero if it does not say.
    pub fn announced(&self) -> u64 {
        self.announced
    }

    /// Whether its end was read, and was right.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// What the file says of itself by this name.
    pub fn aux(&self, name: &str) -> Option<&[u8]> {
        self.aux.iter().find(|(other, _)| other == name.as_bytes()).map(|(_, says)| says.as_slice())
    }

    /// Goes on without building anything, as far as the bytes reach: whether the end was reached.
    ///
    /// # Errors
    /// [`RdbError`]: this file cannot be loaded.
    pub fn check(&mut self) -> Result<bool, RdbError> {
        while self.next(|_| false, None)?.is_some() {}
        Ok(self.over)
    }

    /// The next key. Its value is built if it is `wanted`, with these tools. `None`: more bytes are needed, or it is
    /// over ([`Reader::is_over`]).
    ///
    /// # Errors
    /// [`RdbError`]; then there is no use in going on.
    pub(crate) fn next(
        &mut self,
        mut wanted: impl FnMut(&[u8]) -> bool,
        tools: Option<&Tools>,
    ) -> Result<Option<Item>, RdbError> {
        while !self.over {
            let available = self.buffer.len() - self.start;
            if available < self.needed && !self.ended {
                return Ok(None);
            }
            self.needed = 0;
            let mut key = None;
            let buffer = std::mem::take(&mut self.buffer);
            let mut bytes = Bytes::new(&buffer[self.start..]);
            let next = self.read(&mut bytes, &mut key, &mut wanted, tools);
            let used = bytes.at();
            self.buffer = buffer;
            match next {
                Ok(Next::End(checksum)) => {
                    // The end is covered by the checksum, which itself is not.
                    let covered = used - if checksum.is_some() { 8 } else { 0 };
                    self.advance(covered);
                    let expected = self.checksum.clone().finalize();
                    self.start += used - covered;
                    self.position += (used - covered) as u64;
                    if checksum.is_some_and(|checksum| checksum != 0 && checksum != expected) {
                        return Err(RdbError::Checksum);
                    }
                    self.over = true;
                }
                Ok(next) => {
                    self.advance(used);
                    if let Next::Key(Some(item)) = next {
                        return Ok(Some(item));
                    }
                }
                Err(Stop::Short(_)) if self.ended => return Err(RdbError::Truncated),
                Err(Stop::Short(needed)) => {
                    // What is long is not begun anew with each small piece of it.
                    self.needed = needed.max(available * 2);
                    return Ok(None);
                }
                Err(Stop::Bad(why)) => return Err(self.refuse(key, why, used)),
                Err(Stop::Exhausted) => return Err(RdbError::Exhausted),
            }
        }
        Ok(None)
    }

    fn advance(&mut self, count: usize) {
        self.checksum.update(&self.buffer[self.start..self.start + count]);
        self.start += count;
        self.position += count as u64;
    }

    #[cold]
    fn refuse(&self, refused: Option<RdbError>, why: &'static str, used: usize) -> RdbError {
        refused.unwrap_or(RdbError::Corrupt { at: self.position + used as u64, why })
    }

    /// Reads what stands next. Whatever is not only damaged but to be refused by name is left in `refusal`.
    fn read(
        &mut self,
        bytes: &mut Bytes<'_>,
        refusal: &mut Option<RdbError>,
        wanted: &mut impl FnMut(&[u8]) -> bool,
        tools: Option<&Tools>,
    ) -> Read<Next> {
        let Some(version) = self.version else {
            self.version = Some(head(bytes, refusal)?);
            return Ok(Next::Note);
        };
        let mut refuse = |error: RdbError| {
            *refusal = Some(error);
            Stop::Bad("refused")
        };
        match bytes.byte()? {
            opcode::END => {
                let checksum = if version >= 5 { Some(u64::from_le_bytes(bytes.array()?)) } else { None };
                return Ok(Next::End(checksum));
            }
            opcode::SELECT => {
                let database = bytes.length()?;
                let database = u8::try_from(database).ok().filter(|&database| usize::from(database) < DATABASES);
                self.database = database.ok_or(Stop::Bad("a database beyond the sixteenth"))?;
            }
            opcode::EXPIRES => {
                let seconds = i64::from(i32::from_le_bytes(bytes.array()?));
                self.expires = Some(u64::try_from(seconds * 1000).unwrap_or(0));
            }
            opcode::EXPIRES_MS => {
                self.expires = Some(u64::try_from(i64::from_le_bytes(bytes.array()?)).unwrap_or(0));
            }
            opcode::RESIZE => {
                let keys = bytes.length()?;
                bytes.length()?;
                self.announced = self.announced.saturating_add(keys);
            }
            opcode::AUX => {
                let (name, says) = (bytes.text()?, bytes.text()?);
                if self.aux.len() < AUX_MAX && name.len() <= AUX_LEN_MAX && says.len() <= AUX_LEN_MAX {
                    self.aux.push((name.to_vec(), says.to_vec()));
                }
            }
            opcode::FREQUENCY => drop(bytes.byte()?),
            opcode::IDLE => self.idle_seconds = Some(bytes.length()?),
            opcode::MODULE_AUX => return Err(refuse(RdbError::Section("data of a module"))),
            opcode::FUNCTION | opcode::FUNCTION_EARLY => {
                return Err(refuse(RdbError::Section("functions (FUNCTION FLUSH deletes them)")));
            }
            kind => {
                let key = bytes.text()?;
                if let Some(name) = refused(kind) {
                    return Err(refuse(RdbError::Type { name, key: key.to_vec() }));
                }
                let object = match tools.filter(|_| wanted(&key)) {
                    Some(tools) => match build(kind, bytes, tools)? {
                        Some(object) => Some(object),
                        None => {
                            (self.expires, self.idle_seconds) = (None, None);
                            return Ok(Next::Key(None));
                        }
                    },
                    None => {
                        value::skip(kind, bytes)?;
                        None
                    }
                };
                let (expires, idle_seconds) = (self.expires.take(), self.idle_seconds.take());
                return Ok(Next::Key(Some(Item {
                    database: self.database,
                    key: key.to_vec(),
                    object,
                    expires,
                    idle_seconds,
                })));
            }
        }
        Ok(Next::Note)
    }
}

/// The first nine bytes.
fn head(bytes: &mut Bytes<'_>, refusal: &mut Option<RdbError>) -> Read<u32> {
    let head = bytes.array::<9>()?;
    let version = head.strip_prefix(b"REDIS").and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    *refusal = match version {
        Some(1..=VERSION) => None,
        Some(other) => Some(RdbError::Version(other)),
        None => Some(RdbError::NotRdb),
    };
    version.filter(|_| refusal.is_none()).ok_or(Stop::Bad("refused"))
}
