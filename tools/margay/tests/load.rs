//! `margay load` against services of ours, and against none.

#[path = "support/service.rs"]
mod service;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;
use service::Service;

fn load(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_margay"));
    command.arg("load").args(arguments).args(["--set", "memory.size=64MiB", "--idle", "adaptive"]);
    command
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("margay-load-{}-{name}", std::process::id()))
}

/// The figures of a run, and what it said.
fn measured(name: &str, arguments: &str) -> (Value, Output) {
    let json = scratch(name);
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    let output = load(&arguments).arg("--json").arg(&json).output().expect("it runs");
    let text = std::fs::read_to_string(&json).unwrap_or_else(|_| panic!("no figures: {output:?}"));
    std::fs::remove_file(&json).unwrap();
    (serde_json::from_str(&text).expect("JSON"), output)
}

fn number(figures: &Value, name: &str) -> u64 {
    figures[name].as_u64().unwrap_or_else(|| panic!("{name} in {figures}"))
}

fn errors(figures: &Value) -> u64 {
    figures["errors"].as_object().expect("errors").values().map(|many| many.as_u64().unwrap()).sum()
}

fn check_figures(figures: &Value) {
    assert_eq!(number(figures, "asked"), number(figures, "answered") + errors(figures), "{figures}");
    let latency = &figures["latency_ns"];
    let quantiles = ["p50", "p90", "p99", "p99.9", "max"].map(|name| number(latency, name));
    assert!(quantiles[0] > 0 && quantiles.is_sorted(), "{latency}");
}

#[test]
fn an_open_loop_asks_an_echo_at_its_rate() {
    let service = Service::start(&["echo"]);
    let svg = scratch("svg");
    let arguments = format!(
        "--connect {} --protocol echo --rate 2000 --connections 5 \
         --duration 1s --warm-up 100ms --size 100 --svg {}",
        service.at,
        svg.display()
    );
    let (figures, output) = measured("echo", &arguments);
    assert!(output.status.success(), "{output:?}");
    check_figures(&figures);
    assert_eq!(errors(&figures), 0, "{figures}");
    // Poisson: 2000, give or take five deviations.
    assert!((1776..=2224).contains(&number(&figures, "asked")), "{figures}");
    let drawn = std::fs::read_to_string(&svg).unwrap();
    std::fs::remove_file(&svg).unwrap();
    assert!(drawn.starts_with("<svg ") && drawn.ends_with("</svg>\n") && drawn.contains("<polyline"), "{drawn}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("p99.9") && text.contains(" 0 errors"), "{text}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains('\r'), "a progress bar where nobody sees it");
}

#[test]
fn reads_find_what_was_set_before_over_two_cores() {
    let service = Service::start(&["kv"]);
    let arguments = format!(
        "--connect {} --rate 1000 --arrivals fixed --connections 6 \
         --duration 500ms --warm-up 200ms --keys 500 --reads 0.5 --cores 2",
        service.at
    );
    let (figures, output) = measured("kv", &arguments);
    assert!(output.status.success(), "{output:?}");
    check_figures(&figures);
    assert_eq!((errors(&figures), number(&figures, "missing")), (0, 0), "{figures}");
    assert!((498..=502).contains(&number(&figures, "asked")), "evenly: {figures}");
    let found = number(&figures, "found");
    assert!((150..=350).contains(&found), "half of them are reads: {found}");
}

#[test]
fn a_closed_loop_tells_the_throughput() {
    let service = Service::start(&["kv"]);
    let arguments = format!(
        "--connect {} --rate max --pipeline 8 --connections 4 \
         --duration 500ms --warm-up 100ms --reads 0",
        service.at
    );
    let (figures, output) = measured("max", &arguments);
    assert!(output.status.success(), "{output:?}");
    check_figures(&figures);
    assert_eq!((errors(&figures), number(&figures, "found")), (0, 0));
    let rate = figures["rate_achieved"].as_f64().unwrap();
    let answered = number(&figures, "answered") as f64;
    assert!(rate > 1000.0 && (rate * 0.5 / answered - 1.0).abs() < 0.2, "{rate}/s, {answered} in half a second");
}

#[test]
fn a_service_that_dies_gives_errors_and_no_hang() {
    let mut service = Service::start(&["echo"]);
    let at = service.at.clone();
    let arguments = format!(
        "--connect {} --protocol echo --rate 1000 --connections 3 \
         --duration 2s --warm-up 0s",
        at
    );
    let began = Instant::now();
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(800));
        service.kill();
    });
    let (figures, output) = measured("dies", &arguments);
    killer.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    check_figures(&figures);
    assert!(number(&figures, "answered") > 0 && errors(&figures) > 500, "{figures} {output:?}");
    assert!(number(&figures["errors"], "not connected") > 0, "{figures}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("warning: only"), "{output:?}");
}

#[test]
fn nobody_there_is_an_error_at_once() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let began = Instant::now();
    let output = load(&["--connect", &format!("127.0.0.1:{port}"), "--connections", "3"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(String::from_utf8_lossy(&output.stdout).contains("refused"), "{output:?}");
}

#[test]
fn a_service_that_never_answers_is_no_hang() {
    // Connections are made by the kernel; nobody reads what comes.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = mute.local_addr().unwrap().to_string();
    let began = Instant::now();
    let output = load(&["--connect", &at, "--connections", "3", "--duration", "1s"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("no answer while the keys were set"), "{output:?}");
    let (figures, output) = measured(
        "mute",
        &format!("--connect {at} --protocol echo --connections 3 --rate 100 --duration 500ms --warm-up 0s"),
    );
    assert_eq!((output.status.code(), number(&figures, "answered")), (Some(1), 0), "{figures}");
    assert_eq!(number(&figures["errors"], "no answer"), number(&figures, "asked"), "{figures}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn senseless_arguments_are_refused_with_a_reason() {
    for (arguments, reason) in [
        (["--rate", "0"], "number of requests"),
        (["--rate", "fast"], "number of requests"),
        (["--reads", "1.5"], "between 0 and 1"),
        (["--duration", "10 parsecs"], "no unit"),
        (["--connections", "0"], "at least 1"),
        (["--cores", "51"], "at least 51 connections"),
    ] {
        let output = load(&arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(reason), "{arguments:?}: {text}");
    }
}
