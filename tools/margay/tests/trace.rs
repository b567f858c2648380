//! `margay trace` reads what a `margay echo` wrote that is still running, and after it was killed.

#[path = "support/service.rs"]
mod service;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use service::Service;

fn trace(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_margay")).arg("trace").args(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// How many times something happened.
fn count(text: &str, event: &str) -> usize {
    text.lines().filter(|line| line.split_whitespace().any(|word| word == event)).count()
}

#[test]
fn an_echo_is_seen_from_the_accept_to_the_close() {
    let dir = std::env::temp_dir().join(format!("margay-trace-test-{}", std::process::id()));
    let path = dir.to_str().unwrap();
    let mut service = Service::start(&["echo", "--cores", "2", "--set", &format!("trace.dir={path}")]);
    let mut stream = TcpStream::connect(&service.at).unwrap();
    for size in [5, 77] {
        stream.write_all(&vec![1; size]).unwrap();
        stream.read_exact(&mut vec![0; size]).unwrap();
    }
    // The second core may come up later, and the last event a moment after the bytes.
    let begun = Instant::now();
    let text = loop {
        let text = trace(&[path]);
        let is_whole = count(&text, "accept") >= 3 && text.contains("core 1") && text.contains("len 77");
        if is_whole || begun.elapsed() > Duration::from_secs(10) {
            break text;
        }
    };
    assert!(count(&text, "accept") >= 3 && text.contains("core 0") && text.contains("core 1"), "{text}");
    assert!(count(&text, "push") + count(&text, "push_at_once") >= 2, "{text}");
    assert!(text.lines().any(|line| line.ends_with("len 77")), "the second echo: {text}");
    let times = text.lines().skip(1).map(|line| line.split_whitespace().next().unwrap().parse::<f64>().unwrap());
    let times: Vec<f64> = times.collect();
    assert!(times.len() > 10 && times[0] == 0.0 && times.is_sorted(), "{text}");

    service.kill();
    let files: Vec<String> = (0..2).map(|core| format!("{path}/core-{core}.trace")).collect();
    let both = trace(&[&files[0], &files[1]]);
    let one = trace(&[&files[1]]);
    assert!(!one.contains("core 0") && one.lines().count() < both.lines().count());
    let chosen = trace(&[&files[0], &files[1], "--core", "1"]);
    assert_eq!(chosen.lines().count(), one.lines().count());
    // An operation from its beginning to its end.
    let accepted = both.lines().find(|line| line.contains("  accept  ")).unwrap();
    let token = accepted.split_whitespace().skip_while(|word| *word != "token").nth(1).unwrap();
    let story = trace(&[path, "--token", token]);
    assert!(count(&story, "accept") == 1 && story.lines().skip(1).all(|line| line.contains(token)), "{story}");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn what_is_no_trace_is_refused_by_name() {
    let file = std::env::temp_dir().join(format!("margay-no-trace-{}", std::process::id()));
    std::fs::write(&file, "something else").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_margay")).arg("trace").arg(&file).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && text.contains("margay-no-trace") && text.contains("not a margay trace"),
        "{text}"
    );
}
