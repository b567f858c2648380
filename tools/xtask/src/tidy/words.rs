//! Words in the source that are not allowed where they stand: forbidden calls, `unsafe` elsewhere than in its places,
//! paths of somebody's machine, names that say nothing.

use std::path::Path;

use super::lists::{BANS, Ban, EMPTY_NAMES, GIVEN_NAMES, UNSAFE};
use super::source::{Source, is_test_path};
use super::{Problem, Tree};

pub fn check(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for source in &tree.sources {
        BANS.iter().for_each(|ban| problems.extend(banned(source, ban)));
        problems.extend(misplaced_unsafe(source));
    }
    for (path, text) in &tree.texts {
        problems.extend(machine_paths(path, text));
        problems.extend(empty_name(path));
    }
    problems
}

fn banned(source: &Source, ban: &Ban) -> Vec<Problem> {
    let may = ban.but.iter().any(|(file, _)| source.path == Path::new(file));
    if may || !ban.folders.iter().any(|folder| source.path.starts_with(folder)) {
        return Vec::new();
    }
    let place = source.path.display().to_string();
    let mut problems = Vec::new();
    for (line, code) in source.product() {
        let found = ban.words.iter().filter(|word| has_word(code, word));
        problems.extend(found.map(|word| Problem::new(&place, line, format!("`{word}`: {}", ban.instead))));
    }
    // A list of imports names its path once.
    for (line, import) in imports(source) {
        let found = ban.words.iter().filter(|word| is_imported(&import, word) && !has_word(&import, word));
        problems.extend(found.map(|word| Problem::new(&place, line, format!("`{word}`: {}", ban.instead))));
    }
    problems
}

/// Whether a word stands in a line, and not as a part of a longer one.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let from = |at: usize| !line[..at].ends_with(is_part);
    let to = |at: usize| word.ends_with(|c| !is_part(c)) || !line[at + word.len()..].starts_with(is_part);
    line.match_indices(word).any(|(at, _)| from(at) && to(at))
}

/// The `use` declarations, each on one line.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut imports: Vec<(usize, String)> = Vec::new();
    let mut open = false;
    for (line, code) in source.product() {
        let text = code.trim();
        if open {
            if let Some((_, import)) = imports.last_mut() {
                import.push_str(text);
            }
        } else if text.starts_with("use ") || text.starts_with("pub use ") {
            imports.push((line, text.to_string()));
        } else {
            continue;
        }
        open = !text.ends_with(';');
    }
    imports
}

/// Whether `use path::{a, name}` brings in `path::name`.
fn is_imported(import: &str, word: &str) -> bool {
    let Some((path, name)) = word.rsplit_once("::") else { return false };
    let list = import.split_once(&format!("{path}::{{")).map(|(_, list)| list.split('}').next().unwrap_or(list));
    let items = list.into_iter().flat_map(|list| list.split(','));
    items.map(|item| item.split_whitespace().next().unwrap_or_default()).any(|item| item == name)
}

fn misplaced_unsafe(source: &Source) -> Vec<Problem> {
    if UNSAFE.iter().any(|place| source.path.starts_with(place)) {
        return Vec::new();
    }
    let what = "`unsafe` outside of its places (tools/xtask/src/tidy/lists.rs): wrap it where the others are";
    let place = source.path.display().to_string();
    let lines = source.product().filter(|(_, code)| has_word(code, "unsafe"));
    lines.map(|(line, _)| Problem::new(&place, line, what)).collect()
}

/// Folders of one machine. Put together here, so that this file has none.
fn machine_folders() -> [String; 4] {
    ["work", "root", "home", "tmp"].map(|name| format!("/{name}/"))
}

fn machine_paths(path: &Path, text: &str) -> Vec<Problem> {
    let place = path.display().to_string();
    let mut problems = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for folder in machine_folders() {
            // What is shown or tried out may be anywhere that every machine has.
            if folder.contains("tmp") && (is_test_path(path) || path.extension().is_none_or(|kind| kind != "rs")) {
                continue;
            }
            let is_path = |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_-.}~".contains(c));
            if line.match_indices(&folder).any(|(at, _)| is_path(at)) {
                problems.push(Problem::new(&place, index + 1, format!("a path of one machine (`{folder}`)")));
            }
        }
    }
    problems
}

fn empty_name(path: &Path) -> Option<Problem> {
    if GIVEN_NAMES.iter().any(|given| path == Path::new(given)) {
        return None;
    }
    let mut names = path.iter().map(Path::new).map(|name| name.with_extension(""));
    let found = names.find(|name| EMPTY_NAMES.iter().any(|empty| name == Path::new(empty)))?;
    let what = format!("`{}` says nothing: put it next to the noun that it serves", found.display());
    Some(Problem::new(path.display().to_string(), 0, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(path: &str, text: &str) -> Vec<String> {
        let source = Source::new(Path::new(path), text);
        let mut problems: Vec<Problem> = BANS.iter().flat_map(|ban| banned(&source, ban)).collect();
        problems.extend(misplaced_unsafe(&source));
        problems.iter().map(|problem| format!("{}: {}", problem.line, problem.what)).collect()
    }

    #[test]
    fn clocks_and_chance_are_refused_where_they_are_not_given() {
        for (text, word) in [
            ("let a = std::time::Instant::now();", "Instant::now"),
            ("use std::time::{Duration, SystemTime};", "SystemTime"),
            ("use std::collections::hash_map::{Entry, RandomState};", "RandomState"),
            ("let a: std::collections::HashMap<u8, u8> = x;", "std::collections::HashMap"),
            ("use std::collections::{\n    BTreeMap, HashSet,\n};", "std::collections::HashSet"),
            ("std::thread::spawn(|| ());", "thread::spawn"),
            ("std::fs::read(path)", "std::fs"),
            ("use std::net::TcpStream;", "TcpStream"),
            ("thread_local! { static A: u8 = 1; }", "thread_local!"),
            ("fn a() { todo!() }", "todo!"),
            ("unsafe { a() }", "unsafe"),
        ] {
            let found = problems("kv/engine/src/a.rs", text);
            assert!(found.iter().any(|problem| problem.contains(&format!("`{word}`"))), "{text}: {found:?}");
        }
    }

    #[test]
    fn what_is_allowed_is_not_refused() {
        let fine = "use std::collections::{BTreeMap, VecDeque};\n// Instant::now, todo!\nlet s = \"dbg!\";\n\
                    let now_instant = my_todo!(); let f = use_thread_locals;\n#[cfg(test)]\nmod tests {\n std::fs::read(a)\n}\n";
        assert_eq!(problems("kv/engine/src/a.rs", fine), [""; 0]);
        assert_eq!(problems("libos/runtime/src/clock.rs", "Instant::now()"), [""; 0]);
        assert_eq!(problems("libos/posix/src/ffi.rs", "unsafe { a() }"), [""; 0]);
        assert_eq!(problems("libos/boot/src/a.rs", "std::thread::Builder::new(); RandomState::new()"), [""; 0]);
    }

    #[test]
    fn paths_of_a_machine_are_refused() {
        let [work, root, home, tmp] = machine_folders();
        let bad = |path: &str, text: String| machine_paths(Path::new(path), &text).len();
        assert_eq!(bad("docs/a.md", format!("see {work}a")), 1);
        assert_eq!(bad("docs/a.md", format!("see `{root}a` and {home}b")), 2);
        assert_eq!(bad("docs/a.md", format!("https://a.org/net{work}x, {tmp}a")), 0);
        assert_eq!((bad("a/src/a.rs", format!("\"{tmp}a\"")), bad("a/tests/a.rs", format!("\"{tmp}a\""))), (1, 0));
    }

    #[test]
    fn names_that_say_nothing_are_refused() {
        assert!(empty_name(Path::new("libos/posix/src/util.rs")).is_some());
        assert!(empty_name(Path::new("libos/common/src/a.rs")).is_some());
        assert!(empty_name(Path::new("libos/posix/src/utility_of_sockets.rs")).is_none());
        assert!(empty_name(Path::new("libos/demi/include/demi/types.h")).is_none());
        assert!(empty_name(Path::new("libos/demi/src/types.rs")).is_some());
    }
}
