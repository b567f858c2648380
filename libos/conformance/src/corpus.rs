//! What fuzzing keeps, run again by tests: a crate with fuzz targets has the inputs of each in `fuzz/corpus/TARGET`.
//!
//! ```ignore
//! const CORPUS: Corpus = Corpus { crate_dir: env!("CARGO_MANIFEST_DIR"), targets: &TARGETS };
//! ```

use std::fs;
use std::path::{Path, PathBuf};

/// Of one file, and of one folder: a corpus is kept minimised.
const LEN_MAX: usize = 2048;
const FILES_MAX: usize = 60;
const FILES_MIN: usize = 5;

/// The inputs of a crate's fuzz targets.
pub struct Corpus {
    /// Where the crate's manifest is.
    pub crate_dir: &'static str,
    /// All of them.
    pub targets: &'static [Target],
}

/// A fuzz target's name, and what runs one input.
pub type Target = (&'static str, fn(&[u8]));

impl Corpus {
    /// Runs every input.
    ///
    /// # Panics
    ///
    /// As an input does; its name is the last line of the output. And if a target has hardly any.
    pub fn run(&self) {
        for (target, run) in self.targets {
            let files = self.inputs(target);
            assert!(files.len() >= FILES_MIN, "{target} has a corpus of {} files", files.len());
            for file in files {
                println!("{}", file.display());
                run(&read(&file));
            }
        }
    }

    /// # Panics
    ///
    /// If there are many inputs, or long ones: the tests run all of them each time.
    pub fn assert_small(&self) {
        for (target, _) in self.targets {
            let files = self.inputs(target);
            assert!(files.len() <= FILES_MAX, "{target} has {} files: cargo fuzz cmin {target}", files.len());
            for file in files {
                assert!(read(&file).len() <= LEN_MAX, "{} is too long", file.display());
            }
        }
    }

    /// # Panics
    ///
    /// If a target has no program in `fuzz/Cargo.toml`, or a program there has no target.
    pub fn assert_each_target_has_a_program(&self) {
        let manifest = read(&Path::new(self.crate_dir).join("fuzz/Cargo.toml"));
        let manifest = String::from_utf8(manifest).expect("a manifest is text");
        let programs = manifest.lines().filter_map(|line| line.strip_prefix("path = \"fuzz_targets/"));
        let mut programs: Vec<&str> = programs.filter_map(|name| name.strip_suffix(".rs\"")).collect();
        let mut targets: Vec<&str> = self.targets.iter().map(|(name, _)| *name).collect();
        programs.sort_unstable();
        targets.sort_unstable();
        assert_eq!(programs, targets);
    }

    fn inputs(&self, target: &str) -> Vec<PathBuf> {
        let folder = Path::new(self.crate_dir).join("fuzz/corpus").join(target);
        let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder's entry").path()).collect();
        files.sort();
        files
    }
}

fn read(file: &Path) -> Vec<u8> {
    fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}
