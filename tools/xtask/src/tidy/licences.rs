//! Licences of all dependencies: permissive ones only.

use super::lists::LICENCES;
use super::{Problem, Tree};

pub fn check(tree: &Tree) -> Vec<Problem> {
    let packages = tree.metadata.packages.iter();
    let problem = |package: &crate::workspace::Package| {
        let place = format!("{} {}", package.name, package.version);
        match package.licence.as_deref() {
            None => Some(Problem::new(place, 0, "no licence in its manifest")),
            Some(licence) if is_allowed(licence) => None,
            Some(licence) => Some(Problem::new(place, 0, format!("licence `{licence}` is not among the allowed ones"))),
        }
    };
    packages.filter_map(problem).collect()
}

/// Whether an SPDX expression lets us: one of alternatives, all of what is joined.
fn is_allowed(expression: &str) -> bool {
    // `/` is how alternatives were written before SPDX.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let allowed = any(&mut words);
    words.next().is_none() && allowed.unwrap_or(false)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

/// `AND` binds more than `OR`. `None`: not an expression.
fn any(words: &mut Words) -> Option<bool> {
    let mut allowed = all(words)?;
    while words.next_if_eq(&"OR").is_some() {
        allowed |= all(words)?;
    }
    Some(allowed)
}

fn all(words: &mut Words) -> Option<bool> {
    let mut allowed = one(words)?;
    while words.next_if_eq(&"AND").is_some() {
        allowed &= one(words)?;
    }
    Some(allowed)
}

fn one(words: &mut Words) -> Option<bool> {
    let word = words.next()?;
    if word == "(" {
        let allowed = any(words)?;
        return words.next_if_eq(&")").map(|_| allowed);
    }
    let name = match words.next_if_eq(&"WITH") {
        Some(_) => format!("{word} WITH {}", words.next()?),
        None => word.to_string(),
    };
    Some(LICENCES.contains(&name.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_alternative_is_enough_and_what_is_joined_must_all_be_allowed() {
        for fine in ["MIT", "MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
            assert!(is_allowed(fine), "{fine}");
        }
        assert!(is_allowed("Apache-2.0 WITH LLVM-exception OR Apache-2.0 OR MIT"));
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "AGPL-3.0 OR GPL-3.0", "", "MIT AND", "(MIT", "MIT MIT"] {
            assert!(!is_allowed(bad), "{bad}");
        }
        assert!(is_allowed("MIT OR Apache-2.0 AND GPL-3.0"), "AND binds more than OR");
        assert!(!is_allowed("(MIT OR Apache-2.0) AND GPL-3.0"));
    }
}
