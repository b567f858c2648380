//! Who depends on whom: only along the arrows of the design, which point down.

use std::collections::BTreeSet;

use super::lists::{ANYTHING, ARROWS, ARROWS_OF_TESTS, Arrows, FOR_TESTS};
use super::{Problem, Tree};
use crate::workspace::Package;

pub fn check(tree: &Tree) -> Vec<Problem> {
    let ours: Vec<&Package> = tree.metadata.ours().collect();
    ours.iter().flat_map(|package| against(package, &ours, ARROWS)).collect()
}

fn against(package: &Package, ours: &[&Package], arrows: &[Arrows]) -> Vec<Problem> {
    let Some(own) = arrows.iter().find(|arrows| arrows.from == package.name) else {
        let what = "a crate without arrows: say in tools/xtask/src/tidy/lists.rs what it may depend on, and why";
        return vec![Problem::new(&package.name, 0, what)];
    };
    if own.to == ANYTHING {
        return Vec::new();
    }
    let below = below(own, arrows);
    let is_ours = |name: &str| ours.iter().any(|other| other.name == name);
    let is_for_tests = |name: &str| FOR_TESTS.contains(&name) || ARROWS_OF_TESTS.contains(&(own.from, name));
    let is_allowed = |name: &str, is_dev| below.contains(name) || is_dev && is_for_tests(name);
    let wrong = package.dependencies.iter().filter(|to| is_ours(&to.name) && !is_allowed(&to.name, to.is_dev));
    let describe = |name: &str| format!("may not depend on {name}: {} (tools/xtask/src/tidy/lists.rs)", own.why);
    wrong.map(|to| Problem::new(&package.name, 0, describe(&to.name))).collect()
}

/// What can be reached along the arrows.
fn below<'a>(from: &'a Arrows, arrows: &'a [Arrows]) -> BTreeSet<&'a str> {
    let mut below = BTreeSet::new();
    let mut open: Vec<&str> = from.to.to_vec();
    while let Some(name) = open.pop() {
        if below.insert(name)
            && let Some(next) = arrows.iter().find(|arrows| arrows.from == name)
        {
            open.extend(next.to);
        }
    }
    below
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    fn package(name: &str, dependencies: &[(&str, bool)]) -> Package {
        let dependencies = dependencies.iter().map(|&(name, is_dev)| Dependency { name: name.into(), is_dev });
        Package { name: name.into(), is_ours: true, dependencies: dependencies.collect(), ..Package::default() }
    }

    fn problems(name: &str, dependencies: &[(&str, bool)]) -> usize {
        let all: Vec<Package> = ARROWS.iter().map(|arrows| package(arrows.from, &[])).collect();
        against(&package(name, dependencies), &all.iter().collect::<Vec<_>>(), ARROWS).len()
    }

    #[test]
    fn arrows_allow_what_lies_below_them_and_nothing_else() {
        assert_eq!(problems("services", &[("framework", false), ("libos-mem", false), ("serde", false)]), 0);
        assert_eq!(problems("services", &[("libos-posix", false)]), 1, "a backend");
        assert_eq!(problems("pdpix", &[("libos-runtime", false)]), 1, "an arrow that points up");
        assert_eq!(problems("kv-engine", &[("framework", false), ("libos-runtime", false)]), 2, "a pure core");
    }

    #[test]
    fn tests_may_use_the_simulator_and_programs_may_not() {
        assert_eq!(problems("services", &[("libos-sim", true)]), 0);
        assert_eq!(problems("services", &[("libos-sim", false)]), 1);
        assert_eq!(problems("framework", &[("libos-posix", true)]), 1, "a real backend is for tools/margay/tests");
        assert_eq!(problems("kv-server", &[("kv-client", true)]), 0);
        assert_eq!(problems("kv-server", &[("kv-client", false)]), 1, "the arrow is one of tests alone");
    }

    #[test]
    fn a_crate_that_nobody_thought_of_is_told() {
        assert_eq!(problems("libos-quantum", &[]), 1);
    }

    #[test]
    fn the_arrows_have_no_circle() {
        for arrows in ARROWS {
            assert!(!below(arrows, ARROWS).contains(arrows.from), "{} depends on itself", arrows.from);
        }
    }
}
