//! `cargo xtask install --prefix DIR`: the binary, the C library with its headers and its pkg-config file, and the manual
//! pages, built for speed and put where a system looks for them. With `DESTDIR` set all of it goes below that folder, as
//! packagers want it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::Options;
use crate::command::{self, Show, cargo};
use crate::workspace::{self, Metadata};

/// What is built: each for itself, as only so the library is optimised as a whole.
const BUILDS: [&str; 2] = ["build --release -p margay", "rustc --release -p libos-demi --lib --crate-type cdylib"];

pub fn run(options: &Options) -> Result<bool> {
    let prefix = options.prefix.as_deref().context("say where: cargo xtask install --prefix DIR")?;
    ensure!(prefix.is_absolute(), "the prefix is to be an absolute path, not {}", prefix.display());
    for words in BUILDS {
        ensure!(command::run(&mut cargo(words), Show::All)?.success, "`cargo {words}` failed");
    }
    let below = std::env::var_os("DESTDIR").map(PathBuf::from);
    let built = Metadata::load()?.target_folder.join("release");
    let installed = place(&workspace::root(), &built, prefix, below.as_deref())?;
    installed.iter().for_each(|path| println!("  {}", path.display()));
    println!("{} files installed below {}", installed.len(), prefix.display());
    Ok(true)
}

/// Copies everything, and says what went where.
fn place(root: &Path, built: &Path, prefix: &Path, below: Option<&Path>) -> Result<Vec<PathBuf>> {
    let target = match below {
        Some(below) => below.join(prefix.strip_prefix("/").unwrap_or(prefix)),
        None => prefix.to_path_buf(),
    };
    let mut installed = Vec::new();
    let mut copy = |from: &Path, to: PathBuf, mode: u32| {
        let text = fs::read(from).with_context(|| from.display().to_string())?;
        write(&target.join(to), &text, mode).map(|path| installed.push(path))
    };
    copy(&built.join("margay"), "bin/margay".into(), 0o755)?;
    copy(&built.join("libdemikernel.so"), "lib/libdemikernel.so".into(), 0o755)?;
    for header in files(&root.join("libos/demi/include/demi"), &["h"])? {
        copy(&header, Path::new("include/demi").join(name(&header)), 0o644)?;
    }
    for page in files(&root.join("docs/man"), &["1", "3", "7"])? {
        let section = page.extension().unwrap_or_default().to_string_lossy().into_owned();
        copy(&page, Path::new("share/man").join(format!("man{section}")).join(name(&page)), 0o644)?;
    }
    let template = root.join("libos/demi/demikernel.pc.in");
    let template = fs::read_to_string(&template).with_context(|| template.display().to_string())?;
    let text =
        template.replace("@prefix@", &prefix.display().to_string()).replace("@version@", env!("CARGO_PKG_VERSION"));
    installed.push(write(&target.join("lib/pkgconfig/demikernel.pc"), text.as_bytes(), 0o644)?);
    Ok(installed)
}

/// By a new file that takes the old one's place: a program that runs keeps what it has.
fn write(to: &Path, bytes: &[u8], mode: u32) -> Result<PathBuf> {
    let folder = to.parent().context("a file in a folder")?;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let new = folder.join(format!(".{}.new", name(to).display()));
    fs::write(&new, bytes).with_context(|| new.display().to_string())?;
    fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
    fs::rename(&new, to).with_context(|| to.display().to_string())?;
    Ok(to.to_path_buf())
}

fn name(path: &Path) -> &Path {
    path.file_name().map(Path::new).unwrap_or(path)
}

/// The files of a folder that end like this, by name.
fn files(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|end| endings.iter().any(|ending| end == *ending)));
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_where_a_system_looks_for_it() {
        let scratch = std::env::temp_dir().join(format!("xtask-install-{}", std::process::id()));
        let built = scratch.join("built");
        fs::create_dir_all(&built).unwrap();
        fs::write(built.join("margay"), "program").unwrap();
        fs::write(built.join("libdemikernel.so"), "library").unwrap();
        let below = scratch.join("below");
        for _again in 0..2 {
            let installed = place(&workspace::root(), &built, Path::new("/usr/some"), Some(&below)).unwrap();
            let is_there = |path: &str| installed.contains(&below.join("usr/some").join(path));
            for path in ["bin/margay", "lib/libdemikernel.so", "include/demi/libos.h", "share/man/man3/demi_wait.3"] {
                assert!(is_there(path), "{path}");
            }
            assert!(is_there("share/man/man7/demikernel.7") && is_there("lib/pkgconfig/demikernel.pc"));
            assert!(installed.iter().all(|path| path.is_file()));
        }
        let at = |path: &str| below.join("usr/some").join(path);
        let mode = |path: &str| fs::metadata(at(path)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("bin/margay"), mode("include/demi/sga.h")), (0o755, 0o644));
        let text = fs::read_to_string(at("lib/pkgconfig/demikernel.pc")).unwrap();
        assert!(text.starts_with("prefix=/usr/some\n") && !text.contains('@'), "{text}");
        fs::remove_dir_all(scratch).unwrap();
    }

    /// A page for each call, and in each page the calls that it names.
    #[test]
    fn every_call_has_a_page() {
        let root = workspace::root();
        let mut calls = 0;
        for header in files(&root.join("libos/demi/include/demi"), &["h"]).unwrap() {
            let text = fs::read_to_string(&header).unwrap();
            let declared = text.split("extern ").skip(1).filter_map(|rest| rest.split('(').next());
            for call in
                declared.filter_map(|rest| rest.rsplit([' ', '*']).next()).filter(|name| name.starts_with("demi_"))
            {
                calls += 1;
                let page = root.join("docs/man").join(format!("{call}.3"));
                let mut text = fs::read_to_string(&page).unwrap_or_else(|_| panic!("{call} has no page"));
                if let Some(other) = text.strip_prefix(".so man3/") {
                    text = fs::read_to_string(root.join("docs/man").join(other.trim())).unwrap();
                }
                assert!(text.contains(&format!(".Fn {call} ")), "the page of {call} has no synopsis of it");
            }
        }
        assert_eq!(calls, 37, "calls in the headers");
    }

    /// groff knows all that the pages say.
    #[test]
    fn pages_are_well_formed() {
        for page in files(&workspace::root().join("docs/man"), &["1", "3", "7"]).unwrap() {
            let mut command = std::process::Command::new("man");
            let Ok(output) = command.args(["--warnings=w", "-l"]).arg(&page).env("LC_ALL", "C.UTF-8").output() else {
                // Printed past the harness, so that whoever reads the skips sees it.
                use std::io::Write;
                let _ = writeln!(std::io::stderr(), "SKIP man_pages: there is no man in the path (Debian: man-db)");
                return;
            };
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let is_alias = fs::read_to_string(&page).unwrap().starts_with(".so ");
            assert!(is_alias || output.status.success() && said.is_empty(), "{}: {said}", page.display());
        }
    }
}
