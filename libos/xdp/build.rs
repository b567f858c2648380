//! Compiles the XDP program where there is a clang that can, and says so where there is none: AF_XDP is left out then.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo::rustc-check-cfg=cfg(has_program)");
    println!("cargo::rerun-if-changed=bpf/steer.bpf.c");
    println!("cargo::rerun-if-env-changed=CLANG");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("set by cargo")).join("steer.bpf.o");
    match compile(&out) {
        Ok(()) => println!("cargo::rustc-cfg=has_program"),
        Err(why) => println!(
            "cargo::warning=AF_XDP is left out: {why}. To have it: clang, and libbpf's headers (Debian: apt-get install clang libbpf-dev), and then cargo clean -p libos-xdp"
        ),
    }
}

fn compile(out: &std::path::Path) -> Result<(), String> {
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").expect("set by cargo");
    let compiled = Command::new(&clang)
        .args(["-O2", "-g", "-Wall", "-target", "bpf", "-c", "bpf/steer.bpf.c"])
        // Where Debian keeps asm/types.h.
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .arg("-o")
        .arg(out)
        .output()
        .map_err(|error| format!("{clang} does not run ({error})"))?;
    if compiled.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&compiled.stderr);
    let reason = said.lines().find(|line| line.contains("error")).unwrap_or("it failed without a word");
    Err(format!("{clang} does not compile its program ({reason})"))
}
