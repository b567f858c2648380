//! A Rust file as the rules see it: its code without comments and the contents of literals, and which lines are tests.

use std::path::{Path, PathBuf};

/// A Rust file.
pub struct Source {
    pub path: PathBuf,
    /// As long as the text in lines; comments and the contents of literals are blanks.
    pub code: String,
    /// The first line that is for tests only, from 1; those after it are, too. `usize::MAX`: none.
    pub tests_from: usize,
    pub lines: usize,
}

impl Source {
    pub fn new(path: &Path, text: &str) -> Source {
        let code = code_of(text);
        let is_test_file = is_test_path(path);
        // Tests stand at the end of a file, in a module of their own.
        let tests_from = if is_test_file { 1 } else { test_module(&code).unwrap_or(usize::MAX) };
        Source { path: path.to_path_buf(), code, tests_from, lines: text.lines().count() }
    }

    /// Lines of code that are not tests, numbered from 1.
    pub fn product(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code
            .lines()
            .enumerate()
            .map(|(index, line)| (index + 1, line))
            .take_while(|(line, _)| *line < self.tests_from)
    }
}

/// The line on which a module of tests begins.
fn test_module(code: &str) -> Option<usize> {
    let is_cfg = |line: &str| line.starts_with("#[cfg(") && line.contains("test") && !line.contains("not(test");
    let is_module = |line: &str| line.starts_with("mod ") && line.ends_with('{');
    let lines: Vec<&str> = code.lines().map(str::trim_end).collect();
    lines.windows(2).position(|pair| is_cfg(pair[0]) && is_module(pair[1])).map(|index| index + 1)
}

/// Whether a path is one of tests or benchmarks.
pub fn is_test_path(path: &Path) -> bool {
    let is_folder = |part: &std::ffi::OsStr| part == "tests" || part == "benches";
    path.parent().is_some_and(|folder| folder.iter().any(is_folder))
        || path.file_name().is_some_and(|n| n == "tests.rs")
}

/// Blanks out comments and the contents of string and character literals.
fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => line_end(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => comment_end(bytes, at),
            b'"' => string_end(bytes, at + 1),
            b'r' if !is_word(code.last().copied()) && raw_hashes(bytes, at).is_some() => raw_end(bytes, at),
            b'\'' => char_end(bytes, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            code.push(bytes[at]);
            at += 1;
        } else {
            code.extend(bytes[at..end].iter().map(|&byte| if byte == b'\n' { b'\n' } else { b' ' }));
            at = end;
        }
    }
    String::from_utf8_lossy(&code).into_owned()
}

fn is_word(byte: Option<u8>) -> bool {
    byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |len| at + len)
}

/// Block comments nest.
fn comment_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if bytes[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// How many hashes the raw string has that begins here.
fn raw_hashes(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at + 1..].iter().take_while(|&&byte| byte == b'#').count();
    (bytes.get(at + 1 + hashes) == Some(&b'"')).then_some(hashes)
}

fn raw_end(bytes: &[u8], at: usize) -> usize {
    let hashes = raw_hashes(bytes, at).unwrap_or(0);
    let close = [b"\"".as_slice(), &vec![b'#'; hashes]].concat();
    let from = at + 2 + hashes;
    let found = bytes[from..].windows(close.len()).position(|window| window == close);
    found.map_or(bytes.len(), |len| from + len + close.len())
}

/// The end of a character literal; `None` for a lifetime.
fn char_end(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at + 1) == Some(&b'\\') {
        let from = at + 3;
        return bytes.get(from..)?.iter().position(|&byte| byte == b'\'').map(|len| from + len + 1);
    }
    let len = std::str::from_utf8(&bytes[at + 1..bytes.len().min(at + 5)])
        .or_else(|error| std::str::from_utf8(&bytes[at + 1..at + 1 + error.valid_up_to()]))
        .ok()
        .and_then(|text| text.chars().next())
        .map(char::len_utf8)?;
    (bytes.get(at + 1 + len) == Some(&b'\'')).then_some(at + 2 + len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_no_code() {
        let text = "let a = \"todo!() \\\" x\"; // dbg!\n/* a /* b */ dbg! */ let c = '\"'; let d = 'é'; fn e<'a>() {}\n\
                    let r = r#\"todo! \" \"#; let n = '\\''; after";
        let code = code_of(text);
        assert!(!code.contains("todo") && !code.contains("dbg"), "{code}");
        assert!(code.contains("let c =") && code.contains("fn e<'a>() {}") && code.contains("after"), "{code}");
        assert_eq!(code.lines().count(), text.lines().count());
    }

    #[test]
    fn tests_stand_at_the_end_or_in_files_of_their_own() {
        let text = "fn a() {}\n#[cfg(all(test, not(loom)))]\nmod tests {\n}\n";
        let source = Source::new(Path::new("kv/engine/src/a.rs"), text);
        assert_eq!(source.product().map(|(line, _)| line).collect::<Vec<_>>(), [1]);
        assert_eq!(Source::new(Path::new("kv/engine/tests/a.rs"), text).product().count(), 0);
        assert_eq!(Source::new(Path::new("kv/engine/src/a/tests.rs"), text).product().count(), 0);
        assert_eq!(Source::new(Path::new("a.rs"), "#[cfg(not(test))]\nmod a {\n").product().count(), 2);
        assert_eq!(Source::new(Path::new("a.rs"), "#[cfg(test)]\nmod tests;\nfn a() {}\n").product().count(), 3);
    }
}
