//! Each crate says what it is: a description in its manifest, a head in its root, and whether it has `unsafe`.

use super::lists::UNSAFE;
use super::{Problem, Tree};
use crate::workspace::Package;

pub fn check(tree: &Tree) -> Vec<Problem> {
    let mut problems = Vec::new();
    for package in tree.metadata.ours() {
        if package.description.as_deref().unwrap_or("").trim().is_empty() {
            problems.push(Problem::new(&package.name, 0, "its Cargo.toml has no description"));
        }
        for root in &package.roots {
            let path = root.strip_prefix(&tree.root).unwrap_or(root);
            let Some(text) = tree.text(path) else { continue };
            let may_be_unsafe =
                UNSAFE.iter().any(|place| path_of(package, tree).is_some_and(|f| place.starts_with(&f)));
            problems.extend(head(&path.display().to_string(), text, may_be_unsafe));
        }
    }
    problems
}

fn path_of(package: &Package, tree: &Tree) -> Option<String> {
    Some(format!("{}/", package.folder.strip_prefix(&tree.root).ok()?.display()))
}

fn head(place: &str, text: &str, may_be_unsafe: bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !text.starts_with("//! ") {
        problems.push(Problem::new(place, 1, "a root begins with a head (`//!`): what it is, what always holds"));
    }
    let forbids = text.lines().any(|line| line.trim() == "#![forbid(unsafe_code)]");
    if !may_be_unsafe && !forbids {
        problems.push(Problem::new(place, 1, "`#![forbid(unsafe_code)]` is missing"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_has_a_head_and_forbids_what_it_does_not_need() {
        assert_eq!(head("a", "//! What it is.\n\n#![forbid(unsafe_code)]\n", false), []);
        assert_eq!(head("a", "//! What it is.\n", true), []);
        assert_eq!(head("a", "//! What it is.\n", false).len(), 1);
        assert_eq!(head("a", "fn main() {}\n", false).len(), 2);
    }
}
