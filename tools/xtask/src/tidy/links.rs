//! Links between documents lead somewhere.

use std::path::{Component, Path, PathBuf};

use super::{Problem, Tree};

pub fn check(tree: &Tree) -> Vec<Problem> {
    let documents = tree.texts.iter().filter(|(path, _)| path.extension().is_some_and(|kind| kind == "md"));
    documents
        .flat_map(|(path, text)| dead(path, text, |target| target.as_os_str().is_empty() || target.exists()))
        .collect()
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
}
