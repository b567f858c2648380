//! What `docs/tcp.md` names exists: files, and the tests that show things; and it names every packet script.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The words in backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

fn sources(at: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            into.push(path);
        }
    }
}

/// Names of all test functions of the crate.
fn functions() -> BTreeSet<String> {
    let mut files = Vec::new();
    sources(&folder().join("src"), &mut files);
    sources(&folder().join("tests"), &mut files);
    let texts = files.iter().map(|path| std::fs::read_to_string(path).unwrap());
    let name = |line: &str| Some(line.trim().strip_prefix("fn ")?.split(['(', '<']).next()?.to_string());
    texts.flat_map(|text| text.lines().filter_map(name).collect::<Vec<_>>()).collect()
}

fn scripts() -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder().join("tests/scripts")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap().replace(".pkt", "")).collect()
}

#[test]
fn files_and_tests_that_the_table_names_exist() {
    let text = std::fs::read_to_string(folder().join("../../docs/tcp.md")).unwrap();
    let (functions, scripts) = (functions(), scripts());
    let (mut rows, mut named) = (0, BTreeSet::new());
    for line in text.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        if let [item, source, file, shown] = cells[..]
            && line.starts_with("| ")
            && item != "item"
            && !item.starts_with("---")
        {
            rows += 1;
            assert!(
                source.contains('§') || source.contains("RFC") || source.contains("DESIGN") || source.contains("Fisk"),
                "{line}"
            );
            let file = quoted(file).next().unwrap_or_else(|| panic!("no file: {line}"));
            assert!(folder().join("src").join(file).is_file(), "there is no {file}: {line}");
            assert!(shown.contains('`'), "no test: {line}");
            for test in quoted(shown) {
                assert!(functions.contains(test) || scripts.contains(test), "there is no test {test}: {line}");
            }
        }
        named.extend(quoted(line).map(str::to_string));
    }
    assert!(rows > 70, "only {rows} rows were understood");
    let forgotten: Vec<&String> = scripts.difference(&named).collect();
    assert!(forgotten.is_empty(), "docs/tcp.md does not name {forgotten:?}");
}
