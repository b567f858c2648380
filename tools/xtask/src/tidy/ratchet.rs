//! Long files: one of more than [`LINES_MAX`] lines is in `tools/xtask/ratchet.txt` with its length, which only goes down.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use super::lists::LINES_MAX;
use super::{Problem, Tree};

const LIST: &str = "tools/xtask/ratchet.txt";
/// A file may be so much shorter than its limit before that is lowered.
const SLACK: usize = 50;

pub fn check(tree: &Tree) -> Result<Vec<Problem>> {
    let limits = parse(&std::fs::read_to_string(LIST).context(LIST)?)?;
    Ok(against(&lengths(tree), &limits))
}

/// Lowers the limits to what is needed. Never raises one.
pub fn lower(tree: &Tree) -> Result<()> {
    let text = std::fs::read_to_string(LIST).context(LIST)?;
    let (limits, lengths) = (parse(&text)?, lengths(tree));
    let head: String = text.lines().filter(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let lowered = lowered(&lengths, &limits);
    let rows: String = lowered.iter().map(|(path, limit)| format!("{limit} {path}\n")).collect();
    std::fs::write(LIST, head + &rows).context(LIST)
}

type Lines = BTreeMap<String, usize>;

fn lengths(tree: &Tree) -> Lines {
    tree.sources.iter().map(|source| (source.path.display().to_string(), source.lines)).collect()
}

fn parse(text: &str) -> Result<Lines> {
    let rows = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let row = |line: &str| {
        let (limit, path) = line.split_once(' ').with_context(|| format!("{LIST}: `{line}` is not `LINES PATH`"))?;
        Ok((path.trim().to_string(), limit.parse().with_context(|| format!("{LIST}: `{line}`"))?))
    };
    rows.map(row).collect()
}

fn against(lengths: &Lines, limits: &Lines) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (path, &lines) in lengths {
        let limit = limits.get(path).copied().unwrap_or(LINES_MAX);
        if lines > limit {
            problems.push(Problem::new(
                path,
                0,
                format!("{lines} lines, and {limit} are allowed: split it along a noun"),
            ));
        }
    }
    for (path, &limit) in limits {
        let what = match lengths.get(path) {
            None if !Path::new(path).exists() => "is gone".to_string(),
            Some(&lines) if lines <= LINES_MAX => format!("has only {lines} lines"),
            Some(&lines) if lines + SLACK < limit => format!("has only {lines} of {limit} lines"),
            _ => continue,
        };
        problems.push(Problem::new(LIST, 0, format!("{path} {what}: run `cargo xtask tidy --fix`")));
    }
    problems
}

fn lowered(lengths: &Lines, limits: &Lines) -> Lines {
    let kept = limits.iter().filter_map(|(path, &limit)| Some((path.clone(), limit.min(*lengths.get(path)?))));
    kept.filter(|(_, limit)| *limit > LINES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(rows: &[(&str, usize)]) -> Lines {
        rows.iter().map(|&(path, lines)| (path.to_string(), lines)).collect()
    }

    #[test]
    fn long_files_are_listed_and_do_not_grow() {
        let limits = lines(&[("a.rs", 700)]);
        assert_eq!(against(&lines(&[("a.rs", 700), ("b.rs", 600)]), &limits), []);
        assert_eq!(against(&lines(&[("a.rs", 701)]), &limits).len(), 1);
        assert_eq!(against(&lines(&[("a.rs", 700), ("b.rs", 601)]), &limits).len(), 1);
    }

    #[test]
    fn limits_go_down_with_the_files_and_never_up() {
        let limits = lines(&[("a.rs", 700), ("b.rs", 800), ("gone.rs", 900), ("grown.rs", 700)]);
        let now = lines(&[("a.rs", 640), ("b.rs", 500), ("grown.rs", 750)]);
        assert_eq!(against(&now, &limits).len(), 4);
        assert_eq!(lowered(&now, &limits), lines(&[("a.rs", 640), ("grown.rs", 700)]));
    }

    #[test]
    fn the_list_is_read() {
        assert_eq!(parse("# head\n\n700 a/b.rs\n").unwrap(), lines(&[("a/b.rs", 700)]));
        assert!(parse("a/b.rs 700\n").is_err());
    }
}
