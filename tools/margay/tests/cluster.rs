//! `margay test`: worlds by their names, verdicts, and files; and a cluster of processes in network namespaces.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cluster_tests::history::{History, Kind};
use cluster_tests::worlds::World;

/// `margay test`, with its files in a folder of the test's own.
fn margay_test(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_margay"));
    command.arg("test").args(words).arg("--out").arg(folder).stdin(Stdio::null());
    command
}

/// A folder that is empty now.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Its code, and what it says.
fn run(folder: &Path, words: &[&str]) -> (Option<i32>, String) {
    let output = margay_test(folder, words).output().expect("margay to start");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

fn history(path: &Path) -> History {
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    History::read(std::io::BufReader::new(file)).expect("a history")
}

#[test]
fn a_world_is_run_by_its_name_and_a_seed_is_the_same_run() {
    let folder = folder("cluster-by-name");
    let again = || {
        let (code, text) = run(&folder, &["sim-all-2", "--seed", "0x2a"]);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.starts_with("sim-all-2 seed 0x2a: valid; "), "{text}");
        history(&folder.join("sim-all-2-0x2a.jsonl"))
    };
    let first = again();
    assert_eq!(first.header.configuration["world"], "sim-all-2");
    assert!((first.header.seed, first.header.revision.is_empty()) == (42, false), "{:?}", first.header);
    assert_eq!(first, again());
    let (code, text) = run(&folder, &["sim-calm", "--seed", "1", "--count", "5"]);
    assert_eq!((code, text.matches(": valid; ").count()), (Some(0), 5), "{text}");
}

#[test]
fn names_are_listed_and_others_refused() {
    let folder = folder("cluster-names");
    let (code, text) = run(&folder, &["--list"]);
    assert!(code == Some(0) && text.contains("sim-all-1 ") && text.contains("ns-all-2 "), "{text}");
    let (code, text) = run(&folder, &["sim-nothing"]);
    assert!(code == Some(2) && text.contains("there is no world `sim-nothing`"), "{text}");
}

/// A history in which a write that was acknowledged is not read.
const STALE: &str = r#"{"revision":"","seed":1,"configuration":{}}
{"index":0,"process":0,"type":"invoke","f":"set","value":["k","a"],"time":10}
{"index":1,"process":0,"type":"ok","f":"set","value":["k",null],"time":20}
{"index":2,"process":1,"type":"invoke","f":"get","value":["k",null],"time":30}
{"index":3,"process":1,"type":"ok","f":"get","value":["k",null],"time":40}
"#;

#[test]
fn a_wrong_history_fails_and_is_drawn() {
    let folder = folder("cluster-wrong");
    let path = folder.join("stale.jsonl");
    let check = |text: &str| {
        std::fs::write(&path, text).expect("a file");
        run(&folder, &["--check", path.to_str().expect("a path")])
    };
    let (code, text) = check(STALE);
    assert!(code == Some(1) && text.contains("key k is not linearizable up to event 3"), "{text}");
    let picture = std::fs::read_to_string(folder.join("stale.svg")).expect("a picture");
    assert!(picture.contains("this cannot be explained"), "{picture}");
    let (code, text) = check(&STALE.replace("[\"k\",null],\"time\":40", "[\"k\",\"a\"],\"time\":40"));
    assert!(code == Some(0) && text.contains("valid"), "{text}");
    let (code, text) = check(&STALE.replace("\"time\":20", "\"time\":\"soon\""));
    assert!(code == Some(2) && text.contains("line 3 is no event"), "{text}");
}

/// Whether namespaces can be made here, and this world in them; else says that it is not tested.
fn has_namespaces(world: &str) -> bool {
    match World::find(world).expect("it is there").is_missing() {
        None => true,
        Some(reason) => {
            println!("SKIP cluster_namespaces: {reason}");
            false
        }
    }
}

#[test]
fn processes_in_namespaces_are_linearizable_under_all_faults() {
    assert_linearizable_under_all_faults("ns-all-2");
}

#[test]
fn over_our_tcp_and_our_wire_they_are_linearizable_too() {
    assert_linearizable_under_all_faults("wire-all-2");
}

fn assert_linearizable_under_all_faults(world: &str) {
    if !has_namespaces(world) {
        return;
    }
    let folder = folder(&format!("cluster-{world}"));
    let seed = format!("{:#x}", seed_with_all_faults(World::find(world).expect("it is there")));
    let (code, text) = run(&folder, &[world, "--seed", &seed]);
    assert_eq!(code, Some(0), "{text}");
    let history = history(&folder.join(format!("{world}-{seed}.jsonl")));
    let ended = |kind| history.operations().iter().filter(|operation| operation.end == kind).count();
    assert!(ended(Kind::Ok) > 100 && ended(Kind::Info) > 0, "{text}");
    assert_eq!(ended(Kind::Fail), 0, "{text}");
}

/// A seed that brings every kind of fault, and lets the server live.
fn seed_with_all_faults(world: &World) -> u64 {
    let has_all = |seed: &u64| {
        let schedule = world.schedule(*seed);
        let has = |name| schedule.windows.iter().any(|window| window.fault.name() == name);
        !schedule.kills_server && ["cut", "kill", "loss", "pause"].into_iter().all(has)
    };
    (1..1000).find(has_all).expect("one of a thousand")
}

/// The names of the namespaces that a process has made.
fn namespaces_of(pid: u32) -> Vec<String> {
    let output = Command::new("ip").args(["netns", "list"]).output().expect("ip to start");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = text.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| name.starts_with(&format!("margay-{pid}-"))).map(str::to_string).collect()
}

/// Processes that run in these namespaces.
fn processes_in(namespaces: &[String]) -> usize {
    let pids = |name: &String| Command::new("ip").args(["netns", "pids", name]).output().expect("ip to start").stdout;
    namespaces.iter().map(|name| String::from_utf8_lossy(&pids(name)).lines().count()).sum()
}

#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A run whose nodes are all up.
fn a_run_under_way(folder: &Path, says: Stdio) -> Child {
    let child = margay_test(folder, &["ns-calm"]).stdout(says).spawn().expect("margay to start");
    // A server and three clients.
    wait_until("its processes run", || processes_in(&namespaces_of(child.id())) >= 4);
    child
}

#[test]
fn a_server_that_crashes_fails_the_run() {
    if !has_namespaces("ns-calm") {
        return;
    }
    let folder = folder("cluster-crashed");
    let run = a_run_under_way(&folder, Stdio::piped());
    // The first node is the server.
    let server = namespaces_of(run.id()).into_iter().find(|name| name.ends_with("-0")).expect("a server's namespace");
    let pids = Command::new("ip").args(["netns", "pids", &server]).output().expect("ip to start").stdout;
    let pid = String::from_utf8_lossy(&pids).trim().parse().ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("one process"), rustix::process::Signal::ABORT).expect("it to be there");
    let output = run.wait_with_output().expect("its end");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(1) && text.contains("the server has ended by itself: signal: 6"), "{text}");
    assert!(text.contains("to make this again: margay test ns-calm --seed 0x"), "{text}");
}

#[test]
fn a_run_that_is_interrupted_or_killed_leaves_nothing_behind() {
    if !has_namespaces("ns-calm") {
        return;
    }
    let folder = folder("cluster-killed");
    let signal = |child: &Child, signal| {
        let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("a process");
        rustix::process::kill_process(pid, signal).expect("it to be there");
    };
    let mut interrupted = a_run_under_way(&folder, Stdio::null());
    signal(&interrupted, rustix::process::Signal::INT);
    assert_eq!(interrupted.wait().expect("its end").code(), Some(130));
    assert_eq!(namespaces_of(interrupted.id()), [""; 0]);

    let mut killed = a_run_under_way(&folder, Stdio::null());
    let left = namespaces_of(killed.id());
    signal(&killed, rustix::process::Signal::KILL);
    killed.wait().expect("its end");
    // Nobody is there to remove the namespaces.
    wait_until("its processes die with it", || processes_in(&left) == 0);
    // The next one finds them.
    assert!(has_namespaces("ns-calm"));
    assert_eq!(namespaces_of(killed.id()), [""; 0]);
}
