//! Runs one case on one subject.

use std::io::Write;

use crate::scene::{Scene, Skip, Verdict};
use crate::subject::Subject;

/// One case of the suite.
#[derive(Clone, Copy)]
pub struct Case {
    /// What it is about: a module of [`cases`](crate::cases).
    pub group: &'static str,
    /// The fact that it states.
    pub name: &'static str,
    /// It panics if the fact does not hold.
    pub run: fn(&mut Scene) -> Verdict,
}

/// A subject, or why this machine has none of its kind.
pub type Made = Result<Box<dyn Subject>, String>;

/// Runs a case on a subject made for it, from a test in the module `module`. Prints `SKIP name: reason` if the subject
/// has not what the case is about.
///
/// # Panics
/// If the fact does not hold, or something was not given back.
pub fn run(module: &str, case: Case, make: impl FnOnce() -> Made) {
    // The test program's own crate is not part of the name that it knows a test by.
    let path = module.split_once("::").map_or(module, |(_, path)| path);
    let test = format!("{path}::{}", case.name);
    let verdict = make().map_err(Skip).and_then(|mut subject| run_on(&mut *subject, case, &test));
    if let Err(Skip(reason)) = verdict {
        say(&format!("SKIP {test}: {reason}"));
    }
}

/// Runs a case on a subject.
///
/// # Errors
/// The case is about what the subject has not.
///
/// # Panics
/// As [`run`].
pub fn run_on(subject: &mut dyn Subject, case: Case, test: &str) -> Verdict {
    let mut scene = Scene::new(subject, test);
    (case.run)(&mut scene)?;
    scene.check_returned();
    Ok(())
}

/// A line that the test harness does not swallow.
pub fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
