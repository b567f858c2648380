//! Skips: what tests did not do for want of something, and whether docs/skips.md knows of it.
//!
//! A test that needs hardware, rights or a package looks for it, and if it is not there prints `SKIP name: reason`.

use std::collections::BTreeSet;

use anyhow::{Context, Result};

pub const LIST: &str = "docs/skips.md";

/// Something that was not tested.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Skip {
    pub name: String,
    pub reason: String,
}

/// Finds the lines `SKIP name: reason` in what a command printed. Each is given once.
pub fn find(output: &str) -> Vec<Skip> {
    let skips: BTreeSet<Skip> = output.lines().filter_map(parse).collect();
    skips.into_iter().collect()
}

fn parse(line: &str) -> Option<Skip> {
    // What libtest prints before a test's output may stand on the same line.
    let at = line.find("SKIP ").filter(|&at| at == 0 || line[..at].ends_with([' ', '\t']))?;
    let (name, reason) = line[at + "SKIP ".len()..].split_once(": ")?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_-:./<>".contains(c);
    let is_skip = !name.is_empty() && name.chars().all(is_name) && !reason.trim().is_empty();
    is_skip.then(|| Skip { name: name.to_string(), reason: reason.trim().to_string() })
}

/// The names in docs/skips.md: what stands in backquotes in the first column of its tables. `*` stands for anything.
pub fn listed(text: &str) -> Vec<String> {
    let rows = text.lines().filter_map(|line| line.trim().strip_prefix('|')?.split('|').next());
    rows.filter_map(|cell| Some(cell.trim().strip_prefix('`')?.strip_suffix('`')?.to_string())).collect()
}

/// Those of the skips that are not in the list.
pub fn unlisted<'a>(skips: &'a [Skip], listed: &[String]) -> Vec<&'a Skip> {
    skips.iter().filter(|skip| !listed.iter().any(|pattern| matches(pattern, &skip.name))).collect()
}

fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        last = Some(part);
        rest = &rest[at + part.len()..];
    }
    rest.is_empty() || last.is_some_and(|last| name.ends_with(last))
}

/// Prints the skips and says whether all of them are listed.
pub fn report(skips: &[Skip]) -> Result<bool> {
    let list = listed(&std::fs::read_to_string(LIST).context(LIST)?);
    let unlisted = unlisted(skips, &list);
    println!("\n{} skipped", if skips.is_empty() { "Nothing was".into() } else { format!("{}", skips.len()) });
    for skip in skips {
        let mark = if unlisted.contains(&skip) { "  <- not in docs/skips.md" } else { "" };
        println!("  SKIP {}: {}{mark}", skip.name, skip.reason);
    }
    Ok(unlisted.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(name: &str, reason: &str) -> Skip {
        Skip { name: name.into(), reason: reason.into() }
    }

    #[test]
    fn skips_are_found_wherever_a_runner_puts_them_and_once() {
        let output = "    SKIP uring::zero_copy: kernel 5.4\ntest a ... SKIP redis: no redis-server in PATH\n\
                      SKIP redis: no redis-server in PATH\n        SKIP [   ] (1/2) crate test\nREPLY (ON|OFF|SKIP) x: y\n";
        let found = [skip("redis", "no redis-server in PATH"), skip("uring::zero_copy", "kernel 5.4")];
        assert_eq!(find(output), found);
    }

    #[test]
    fn a_skip_that_is_not_listed_is_told() {
        let text =
            "# Skips\n\n| name | when |\n| --- | --- |\n| `miri` | no nightly |\n| `*::sleeps_*` | no descriptor |\n";
        let list = listed(text);
        assert_eq!(list, ["miri", "*::sleeps_*"]);
        let skips = [skip("miri", "x"), skip("sim::sleeps_well", "x"), skip("epoll::sleeps", "x")];
        assert_eq!(unlisted(&skips, &list), [&skips[2]]);
    }

    /// What a test would print is in the list, on whatever machine it is that lacks something.
    #[test]
    fn every_skip_in_the_source_is_listed() {
        let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
        let list = listed(&std::fs::read_to_string(root.join(LIST)).unwrap());
        let is_name = |c: char| c.is_ascii_alphanumeric() || "_-:./*".contains(c);
        for name in &list {
            assert!(name.chars().all(is_name), "`{name}` is not one name");
        }
        let (mut folders, mut seen) = (vec![root.to_path_buf()], 0);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                let is_ours = !entry.ends_with("target") && !entry.ends_with("tools/xtask");
                if entry.is_dir() && is_ours {
                    folders.push(entry);
                } else if entry.extension().is_some_and(|extension| extension == "rs") {
                    let text = std::fs::read_to_string(&entry).unwrap();
                    for name in text.split("\"SKIP ").skip(1).filter_map(|rest| Some(rest.split_once(": ")?.0)) {
                        // What is filled in is any name; nothing else is known of one that is all of that.
                        let parts: Vec<&str> = name.split(['{', '}']).collect();
                        let shown: String =
                            parts.iter().enumerate().map(|(i, part)| if i % 2 == 0 { part } else { "any" }).collect();
                        if shown != "any" && shown != "any::any" {
                            seen += 1;
                            assert!(list.iter().any(|pattern| matches(pattern, &shown)), "{}: {name}", entry.display());
                        }
                    }
                }
            }
        }
        assert!(seen > 40, "{seen} skips in the source");
    }

    #[test]
    fn stars_stand_for_anything() {
        assert!(matches("a*c", "abc") && matches("a*c", "acc") && matches("*", "") && matches("a", "a"));
        assert!(!matches("a*c", "ab") && !matches("a", "ab") && !matches("*b", "ba"));
    }
}
