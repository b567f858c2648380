//! Where the time of a run went, and how each part ended.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::skips::Skip;

/// How a part ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Passed,
    Failed(String),
    /// It could not be done here; the skip says why.
    Skipped,
}

/// How a part ended, and what it skipped.
#[derive(Clone, Debug)]
pub struct Ended {
    pub verdict: Verdict,
    pub skips: Vec<Skip>,
}

impl Ended {
    pub fn passed() -> Ended {
        Ended { verdict: Verdict::Passed, skips: Vec::new() }
    }

    pub fn failed(why: impl Into<String>) -> Ended {
        Ended { verdict: Verdict::Failed(why.into()), skips: Vec::new() }
    }

    pub fn skipped(name: &str, reason: impl Into<String>) -> Ended {
        let skip = Skip { name: name.into(), reason: reason.into() };
        Ended { verdict: Verdict::Skipped, skips: vec![skip] }
    }
}

/// A part of a run, when it is over.
pub struct Part {
    pub name: &'static str,
    pub ended: Ended,
    pub took: Duration,
}

impl Part {
    /// Does it; an error is a failure.
    pub fn run(name: &'static str, body: impl FnOnce() -> Result<Ended>) -> Part {
        println!("\n== {name}");
        let start = Instant::now();
        let ended = body().unwrap_or_else(|error| Ended::failed(format!("{error:#}")));
        if let Verdict::Failed(why) = &ended.verdict {
            println!("  {name} failed: {why}");
        }
        Part { name, ended, took: start.elapsed() }
    }

    pub fn has_failed(&self) -> bool {
        matches!(self.ended.verdict, Verdict::Failed(_))
    }

    pub fn result(&self) -> String {
        match &self.ended.verdict {
            Verdict::Passed if self.ended.skips.is_empty() => "ok".into(),
            Verdict::Passed => format!("ok, {} skipped", self.ended.skips.len()),
            Verdict::Skipped => "skipped".into(),
            Verdict::Failed(why) => format!("FAILED: {why}"),
        }
    }
}

/// The table of a run.
pub fn table(parts: &[Part]) -> String {
    let width = parts.iter().map(|part| part.name.len()).max().unwrap_or(0).max("step".len());
    let mut table = format!("\n{:<width$}  {:>8}  result\n", "step", "seconds");
    for part in parts {
        table += &format!("{:<width$}  {:>8.1}  {}\n", part.name, part.took.as_secs_f64(), part.result());
    }
    let whole: f64 = parts.iter().map(|part| part.took.as_secs_f64()).sum();
    table + &format!("{:<width$}  {whole:>8.1}\n", "all")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_took_how_long_and_how_it_ended() {
        let error = Part::run("b", || anyhow::bail!("it broke"));
        assert!(error.has_failed());
        let skipped = Part::run("longer", || Ok(Ended::skipped("miri", "no nightly")));
        let passed = Part { name: "a", ended: Ended::passed(), took: Duration::from_millis(1500) };
        let table = table(&[passed, error, skipped]);
        assert!(table.contains("a            1.5  ok\n"), "{table}");
        assert!(table.contains("FAILED: it broke") && table.contains("skipped\n"), "{table}");
    }
}
