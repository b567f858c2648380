//! What the C interface costs: instructions of user space for 64 bytes there and back, in C and in Rust.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::child::{Scratch, installed};
use crate::instructions::Callgrind;
use crate::{result, skip};

/// Rounds of a run, in the two runs whose difference counts.
pub const COUNTS: [u64; 2] = [2_000, 12_000];

pub fn run() -> Result<()> {
    let (Some(callgrind), Some(cc)) = (Callgrind::find()?, installed("cc")) else {
        skip("demi", "valgrind or a C compiler is not installed");
        return Ok(());
    };
    let scratch = Scratch::new()?;
    let library = library()?;
    let program = compile(&cc, &scratch.0, &library)?;
    for kind in ["tcp", "udp"] {
        let in_c = callgrind.each_of(COUNTS, &[], &program, &[kind], |command| {
            command.env("LD_LIBRARY_PATH", &library).env("LIBOS", "epoll").env("MARGAY_MEMORY_SIZE", "64MiB");
        })?;
        let kernel = format!("{kind}_demi_rounds");
        let in_rust = callgrind.each_of(COUNTS, &[], &std::env::current_exe()?, &["kernel", &kernel], |_| {})?;
        compare(&format!("demi_{kind}"), in_c, in_rust);
    }
    over_ports(&callgrind)
}

fn compare(name: &str, in_c: f64, in_rust: f64) {
    result(&format!("{name}_c"), in_c, "instructions");
    result(&format!("{name}_rust"), in_rust, "instructions");
    result(&format!("{name}_beyond"), (in_c / in_rust - 1.0) * 100.0, "%");
}

/// The server's side of an echo over two of DPDK's ports, which rings join.
fn over_ports(callgrind: &Callgrind) -> Result<()> {
    let names = ["tcp", "udp"];
    if let Err(why) = libos_dpdk::is_built() {
        names.iter().for_each(|kind| skip(&format!("demi_dpdk_{kind}"), why));
        return Ok(());
    }
    build(&["build", "--quiet", "--release", "-p", "libos-demi", "--example", "instructions"])?;
    let program = released()?.join("examples/instructions");
    for kind in names {
        let each = |language: &str| {
            callgrind.each_of(COUNTS, &["--toggle-collect=*serves_in*"], &program, &[kind, language], |_| {})
        };
        compare(&format!("demi_dpdk_{kind}"), each("c")?, each("rust")?);
    }
    Ok(())
}

fn build(words: &[&str]) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(words).current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."));
    ensure!(cargo.status().context("cargo")?.success(), "cargo {} fails", words.join(" "));
    Ok(())
}

/// Where cargo puts what it builds for release.
fn released() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().context("a folder")?.with_file_name("release"))
}

/// The folder of the library, built as it is installed: optimised as a whole.
fn library() -> Result<PathBuf> {
    build(&["rustc", "--quiet", "--release", "-p", "libos-demi", "--lib", "--crate-type", "cdylib"])?;
    let folder = released()?;
    ensure!(folder.join("libdemikernel.so").is_file(), "{} has no library", folder.display());
    Ok(folder)
}

fn compile(cc: &Path, folder: &Path, library: &Path) -> Result<PathBuf> {
    const SOURCE: &str = include_str!("../../../c/demi_rounds.c");
    let headers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../libos/demi/include");
    let (source, program) = (folder.join("demi_rounds.c"), folder.join("demi_rounds"));
    std::fs::write(&source, SOURCE)?;
    let mut command = Command::new(cc);
    command.args(["-std=c99", "-O2", "-I"]).arg(headers).arg(&source).arg("-o").arg(&program).arg("-L").arg(library);
    ensure!(command.arg("-ldemikernel").status()?.success(), "cannot compile demi_rounds.c");
    Ok(program)
}
