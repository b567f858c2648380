//! Round trips of 64 B over TCP on the loopback: our echo beside two in C. One client, which polls without rest, measures
//! all of them; one server runs at a time, on the first processor, and the client is on the last.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use margay_bench::sampling::{Pinned, median};
use margay_bench::served::echo_p50;

use crate::child::{Scratch, Server, installed, margay, tethered};
use crate::{result, skip};

const ROUNDS: usize = 5;
const WARM_UP: usize = 2_000;
const TRIPS: usize = 10_000;

const SOURCES: [(&str, &str); 3] = [
    ("listen.h", include_str!("../../../c/listen.h")),
    ("busy_echo.c", include_str!("../../../c/busy_echo.c")),
    ("epoll_echo.c", include_str!("../../../c/epoll_echo.c")),
];

/// A server to measure: its name, and the words that start it.
struct Subject {
    name: String,
    start: Start,
}

enum Start {
    Ours(String),
    Program(PathBuf),
}

pub fn run() -> Result<()> {
    let scratch = Scratch::new()?;
    let mut subjects = Vec::new();
    for backend in ["epoll", "io_uring"] {
        for policy in ["spin", "adaptive"] {
            let name = format!("echo_{policy}_{backend}");
            let words = format!("echo --backend {backend} --idle {policy} --set memory.size=64MiB");
            match Server::margay(&words) {
                Ok(_) => subjects.push(Subject { name, start: Start::Ours(words) }),
                Err(error) => skip(&name, &format!("{error:#}")),
            }
        }
    }
    match installed("cc") {
        Some(cc) => {
            for (name, source) in [("echo_c_busy", "busy_echo.c"), ("echo_c_epoll", "epoll_echo.c")] {
                subjects.push(Subject { name: name.into(), start: Start::Program(compile(&cc, &scratch.0, source)?) });
            }
        }
        None => ["echo_c_busy", "echo_c_epoll"].iter().for_each(|name| skip(name, "there is no C compiler")),
    }
    let mut p50s: Vec<Vec<f64>> = vec![Vec::new(); subjects.len()];
    for _ in 0..ROUNDS {
        for (subject, p50s) in subjects.iter().zip(&mut p50s) {
            p50s.push(measure(subject).with_context(|| subject.name.clone())?);
        }
    }
    for (subject, p50s) in subjects.iter().zip(p50s) {
        result(&subject.name, median(p50s) / 1e3, "us");
    }
    Ok(())
}

fn measure(subject: &Subject) -> Result<f64> {
    let mut command = match &subject.start {
        Start::Ours(words) => margay(words)?,
        Start::Program(path) => tethered(path),
    };
    let server = Server::that_says_where(&mut command)?;
    let _pinned = Pinned::to_last();
    Ok(echo_p50(server.at, 64, WARM_UP, TRIPS)?)
}

fn compile(cc: &Path, folder: &Path, source: &str) -> Result<PathBuf> {
    SOURCES.iter().try_for_each(|(name, text)| fs::write(folder.join(name), text))?;
    let program = folder.join(source.trim_end_matches(".c"));
    let status = Command::new(cc).arg("-O2").arg("-o").arg(&program).arg(folder.join(source)).status()?;
    ensure!(status.success(), "cannot compile {source}");
    Ok(program)
}
