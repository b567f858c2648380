//! Links between documents lead somewhere, and documents that are named anywhere exist.

use std::path::{Component, Path, PathBuf};

use super::{Problem, Tree};

pub fn check(tree: &Tree) -> Vec<Problem> {
    let documents = tree.texts.iter().filter(|(path, _)| path.extension().is_some_and(|kind| kind == "md"));
    let dead = documents.flat_map(|(path, text)| dead(path, text, Path::exists));
    // Not in the rules themselves, which have examples.
    let named = tree.texts.iter().filter(|(path, _)| !path.starts_with("tools/xtask/src/tidy"));
    dead.chain(named.flat_map(|(path, text)| unwritten(path, text, Path::exists))).collect()
}

fn dead(path: &Path, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for target in targets(line) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !exists(&joined(path.parent().unwrap_or(Path::new("")), file)) {
                let what = format!("the link to `{target}` leads nowhere");
                problems.push(Problem::new(path.display().to_string(), index + 1, what));
            }
        }
    }
    problems
}

/// Names such as `docs/contract.md` in a text.
fn unwritten(path: &Path, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for (at, _) in line.match_indices("docs/") {
            let is_part = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
            let name = line[at..].split(|c| !is_part(c)).next().unwrap_or_default().trim_end_matches('.');
            let is_link = line.contains("](");
            if name.ends_with(".md") && !is_link && !line[..at].ends_with(is_part) && !exists(Path::new(name)) {
                problems.push(Problem::new(path.display().to_string(), index + 1, format!("there is no {name}")));
            }
        }
    }
    problems
}

/// What stands in the round brackets of `[text](target)`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|target| !target.contains(' '))
}

fn joined(folder: &Path, target: &str) -> PathBuf {
    let mut path = PathBuf::new();
    for part in folder.join(target).components() {
        match part {
            Component::ParentDir => _ = path.pop(),
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_leads_nowhere_is_told() {
        let exists = |path: &Path| path == Path::new("README.md") || path == Path::new("docs/guide.md");
        let text = "[a](../README.md) [b](guide.md#start) [c](https://x.y) [d](#e) `a[i](x y)`\n[f](gone.md)\n";
        let problems = dead(Path::new("docs/contract.md"), text, exists);
        assert_eq!(problems, [Problem::new("docs/contract.md", 2, "the link to `gone.md` leads nowhere")]);
    }

    #[test]
    fn a_document_that_is_named_and_not_written_is_told() {
        let exists = |path: &Path| path == Path::new("docs/contract.md");
        let text = "//! docs/contract.md says why, docs/gone.md. And https://a.b/docs/x.md\n";
        let problems = unwritten(Path::new("a.rs"), text, exists);
        assert_eq!(problems, [Problem::new("a.rs", 1, "there is no docs/gone.md")]);
    }
}
