//! `cargo xtask tidy`: what a compiler does not check.
//!
//! One file a rule. Each gives [`Problem`]s, in a form that says what to do, and each has a test with an example that it
//! refuses.

mod arrows;
mod guide;
mod licences;
mod links;
mod lists;
mod manifests;
mod ratchet;
mod source;
mod words;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::report::{Ended, Part};
use crate::workspace::{self, Metadata};
use source::Source;

/// Something to be put in order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Problem {
    /// The file, or the crate.
    pub place: String,
    /// From 1; 0: all of it.
    pub line: usize,
    pub what: String,
}

impl Problem {
    fn new(place: impl Into<String>, line: usize, what: impl Into<String>) -> Problem {
        Problem { place: place.into(), line, what: what.into() }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.place, self.what),
            line => write!(f, "{}:{line}: {}", self.place, self.what),
        }
    }
}

/// What the rules look at.
struct Tree {
    metadata: Metadata,
    root: PathBuf,
    /// Rust files.
    sources: Vec<Source>,
    /// All files that are text, with their contents.
    texts: Vec<(PathBuf, String)>,
}

impl Tree {
    fn read() -> Result<Tree> {
        let mut tree =
            Tree { metadata: Metadata::load()?, root: workspace::root(), sources: Vec::new(), texts: Vec::new() };
        for path in workspace::files()? {
            let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
            let Ok(text) = String::from_utf8(bytes) else { continue };
            if path.extension().is_some_and(|extension| extension == "rs") {
                tree.sources.push(Source::new(&path, &text));
            }
            tree.texts.push((path, text));
        }
        Ok(tree)
    }

    fn text(&self, path: &Path) -> Option<&str> {
        self.texts.iter().find(|(other, _)| other == path).map(|(_, text)| text.as_str())
    }
}

pub fn run(fix: bool) -> Result<bool> {
    if fix {
        let tree = Tree::read()?;
        ratchet::lower(&tree)?;
        guide::fill(&tree)?;
    }
    let part = Part::run("tidy", step);
    println!("\ntidy: {} in {:.1} s", part.result(), part.took.as_secs_f64());
    Ok(!part.has_failed())
}

/// All rules, as a step of the tests.
pub fn step() -> Result<Ended> {
    let tree = Tree::read()?;
    let mut problems = arrows::check(&tree);
    problems.extend(words::check(&tree));
    problems.extend(licences::check(&tree));
    problems.extend(manifests::check(&tree));
    problems.extend(ratchet::check(&tree)?);
    problems.extend(guide::check(&tree));
    problems.extend(links::check(&tree));
    problems.sort();
    problems.dedup();
    problems.iter().for_each(|problem| println!("  {problem}"));
    Ok(match problems.len() {
        0 => Ended::passed(),
        1 => Ended::failed("one problem"),
        count => Ended::failed(format!("{count} problems")),
    })
}
