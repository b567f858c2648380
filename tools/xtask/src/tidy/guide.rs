//! The code in documents is the code that is compiled: a block under `<!-- code: FILE#REGION -->` is word for word the
//! lines of FILE between `// guide: REGION` and `// guide: end` (`#` in TOML); without a region it is the whole file.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Problem, Tree};

pub fn check(tree: &Tree) -> Vec<Problem> {
    let documents = tree.texts.iter().filter(|(path, _)| path.extension().is_some_and(|kind| kind == "md"));
    documents.flat_map(|(path, text)| document(&path.display().to_string(), text, |file| tree.text(file))).collect()
}

fn document<'a>(place: &str, text: &str, file: impl Fn(&Path) -> Option<&'a str>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let Some(name) = marked(line) else { continue };
        let (path, part) = split(name);
        let expected = file(Path::new(path)).and_then(|text| region(text, part));
        let what = match (expected, block(&lines[index + 1..])) {
            (None, _) => format!("there is no `{name}`"),
            (_, None) => format!("no block of code follows `{name}`"),
            (Some(expected), Some(shown)) if expected != shown => {
                format!("the block differs from `{name}`: run `cargo xtask tidy --fix`")
            }
            _ => continue,
        };
        problems.push(Problem::new(place, index + 1, what));
    }
    problems
}

/// Fills the blocks of all documents with the code that they show.
pub fn fill(tree: &Tree) -> Result<()> {
    for (path, text) in tree.texts.iter().filter(|(path, _)| path.extension().is_some_and(|kind| kind == "md")) {
        let filled = filled(text, |file| tree.text(file));
        if filled != *text {
            std::fs::write(path, filled).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

fn filled<'a>(text: &str, file: impl Fn(&Path) -> Option<&'a str>) -> String {
    let (mut filled, mut lines) = (String::new(), text.lines().peekable());
    while let Some(line) = lines.next() {
        filled += &format!("{line}\n");
        let Some(name) = marked(line) else { continue };
        let (path, part) = split(name);
        let Some(code) = file(Path::new(path)).and_then(|text| region(text, part)) else { continue };
        let Some(fence) = lines.next_if(|line| line.starts_with("```")) else { continue };
        filled += &format!("{fence}\n{code}\n");
        while lines.next_if(|line| !line.starts_with("```")).is_some() {}
    }
    filled
}

/// The name in `<!-- code: FILE#REGION -->`.
fn marked(line: &str) -> Option<&str> {
    line.trim().strip_prefix("<!-- code: ")?.strip_suffix(" -->")
}

fn split(name: &str) -> (&str, Option<&str>) {
    name.split_once('#').map_or((name, None), |(path, part)| (path, Some(part)))
}

/// The block that begins in the first of these lines, perhaps after an empty one.
fn block(lines: &[&str]) -> Option<String> {
    let start = lines.iter().position(|line| !line.trim().is_empty())?;
    lines[start].starts_with("```").then_some(())?;
    let body: Vec<&str> = lines[start + 1..].iter().take_while(|line| !line.starts_with("```")).copied().collect();
    Some(body.join("\n"))
}

/// A part of a file, moved left as far as it goes, without the marks.
fn region(text: &str, name: Option<&str>) -> Option<String> {
    let mark =
        |line: &str| line.trim().trim_start_matches(['/', '#']).trim().strip_prefix("guide: ").map(str::to_string);
    let lines: Vec<&str> = match name {
        None => text.lines().filter(|line| mark(line).is_none()).collect(),
        Some(name) => {
            let mut from = text.lines().skip_while(|line| mark(line).as_deref() != Some(name));
            from.next()?;
            from.take_while(|line| mark(line).is_none()).collect()
        }
    };
    let indented = lines.iter().filter(|line| !line.trim().is_empty());
    let indent = indented.map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
    let moved: Vec<&str> = lines.iter().map(|line| line.get(indent..).unwrap_or("")).collect();
    Some(moved.join("\n").trim_matches('\n').to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "//! Head.\n// guide: actor\nmod a {\n    // guide: inner\n    fn b() {\n    }\n    // guide: end\n}\n";

    fn problems(text: &str) -> Vec<String> {
        let file = |path: &Path| (path == Path::new("a.rs")).then_some(FILE);
        document("docs/guide.md", text, file).into_iter().map(|problem| problem.what).collect()
    }

    #[test]
    fn a_block_that_is_the_region_passes_and_any_other_is_told() {
        assert_eq!(problems("x\n<!-- code: a.rs#inner -->\n```rust\nfn b() {\n}\n```\n"), [""; 0]);
        assert_eq!(
            problems("<!-- code: a.rs#inner -->\n```rust\nfn c() {\n}\n```\n"),
            ["the block differs from `a.rs#inner`: run `cargo xtask tidy --fix`"]
        );
        assert_eq!(problems("<!-- code: a.rs#other -->\n```rust\n```\n"), ["there is no `a.rs#other`"]);
        assert_eq!(problems("<!-- code: b.rs -->\n```rust\n```\n"), ["there is no `b.rs`"]);
        assert_eq!(problems("<!-- code: a.rs#inner -->\ntext\n"), ["no block of code follows `a.rs#inner`"]);
    }

    #[test]
    fn without_a_region_the_whole_file_is_meant() {
        assert_eq!(region("# guide: a\n[package]\n", None).unwrap(), "[package]");
    }

    #[test]
    fn blocks_are_filled_and_the_text_around_them_stays() {
        let file = |path: &Path| (path == Path::new("a.rs")).then_some(FILE);
        let text = "x\n<!-- code: a.rs#inner -->\n```rust\nold\n```\ny\n<!-- code: b.rs -->\n```rust\nkept\n```\n";
        let expected = text.replace("old", "fn b() {\n}");
        assert_eq!(filled(text, file), expected);
        assert_eq!(filled(&expected, file), expected);
    }
}
