//! Replies, read in the plainest way: a reader of its own, so that one mistake cannot hide in both.

/// A reply.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reply {
    /// All that fit on a line: kind and text.
    Line(u8, Vec<u8>),
    /// `$`, `=`, `!`, by their kinds.
    Text(u8, Vec<u8>),
    /// `$-1`, `*-1`, `_`, by their kinds.
    Null(u8),
    /// `*`, `%`, `~`, `>`, by their kinds. A map has its keys and values in turn.
    Many(u8, Vec<Reply>),
}

impl Reply {
    /// The elements of an aggregate.
    pub fn items(&self) -> &[Reply] {
        if let Reply::Many(_, items) = self { items } else { &[] }
    }

    /// The text of what is not an aggregate.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Reply::Line(_, bytes) | Reply::Text(_, bytes) => bytes,
            _ => &[],
        }
    }

    /// Whether it is an error.
    pub fn is_error(&self) -> bool {
        matches!(self, Reply::Line(b'-', _))
    }

    /// The number, if it is one.
    pub fn integer(&self) -> Option<i64> {
        if let Reply::Line(b':', text) = self { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
    }

    /// All that is not an aggregate, in order.
    pub fn leaves(&self) -> Vec<&Reply> {
        match self {
            Reply::Many(_, items) => items.iter().flat_map(Reply::leaves).collect(),
            leaf => vec![leaf],
        }
    }

    /// The same with what it says taken out: what types, and how many.
    pub fn shape(&self) -> Reply {
        match self {
            Reply::Line(kind, _) => Reply::Line(*kind, Vec::new()),
            Reply::Text(kind, _) => Reply::Text(*kind, Vec::new()),
            Reply::Null(kind) => Reply::Null(*kind),
            Reply::Many(kind, items) => Reply::Many(*kind, items.iter().map(Reply::shape).collect()),
        }
    }
}

/// The first reply and what follows it. `None`: it is not whole.
pub fn read(bytes: &[u8]) -> Option<(Reply, &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    let (kind, line, rest) = (bytes[0], &bytes[1..end], &bytes[end + 2..]);
    let len = || std::str::from_utf8(line).ok().and_then(|line| line.parse::<i64>().ok()).expect("a length");
    match kind {
        b'$' | b'=' | b'!' => {
            let Ok(len) = usize::try_from(len()) else { return Some((Reply::Null(kind), rest)) };
            let text = rest.get(..len)?;
            Some((Reply::Text(kind, text.to_vec()), rest.get(len + 2..)?))
        }
        b'*' | b'%' | b'~' | b'>' => {
            let Ok(len) = usize::try_from(len()) else { return Some((Reply::Null(kind), rest)) };
            let (mut items, mut rest) = (Vec::new(), rest);
            for _ in 0..if kind == b'%' { len * 2 } else { len } {
                let (item, more) = read(rest)?;
                items.push(item);
                rest = more;
            }
            Some((Reply::Many(kind, items), rest))
        }
        b'_' => Some((Reply::Null(kind), rest)),
        _ => Some((Reply::Line(kind, line.to_vec()), rest)),
    }
}

/// How a client sends a command.
pub fn write(args: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        bytes.extend(format!("${}\r\n", arg.len()).into_bytes());
        bytes.extend(arg);
        bytes.extend(b"\r\n");
    }
    bytes
}
