//! A life of `margay kv`: how it refuses to start, what it takes while nobody asks, and how it ends.

mod kv_process;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use kv_differential::Subject;
use kv_differential::generate::words;
use kv_differential::resp::Reply;

use kv_process::{Form, Kv, margay_kv, run};

/// One test at a time: they measure time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn an_address_that_is_taken_is_told_with_what_to_do() {
    let _alone = alone();
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    for form in Form::available("kv_life") {
        let kv = Kv::start(&form, &[]);
        for taken in [other.local_addr().expect("an address"), kv.address] {
            for cores in ["1", "2"] {
                let mut command = margay_kv();
                command.args(["--backend", form.backend, "--cores", cores, "--listen", &taken.to_string()]);
                let (code, output, errors) = run(&mut command, LIMIT);
                assert_eq!((code, output.as_str()), (Some(1), ""), "{form:?}, {cores} more: {errors}");
                assert!(errors.contains("already: choose another port, or stop it"), "{form:?}: {errors}");
            }
        }
        kv.stop();
    }
}

/// Flags that are wrong, and what the answer must name.
const WRONG: &[(&[&str], &[&str])] = &[
    (&["--listen", "nonsense"], &["nonsense", "--listen"]),
    (&["--listen", "127.0.0.1:99999"], &["127.0.0.1:99999", "--listen"]),
    (&["--listen", "192.0.2.1:0"], &["no such address"]),
    (&["--cores", "0"], &["cores", "0 is not between 1 and"]),
    (&["--cores", "many"], &["many", "--cores"]),
    (&["--cores", "100000"], &["cores", "is not between 1 and"]),
    (&["--backend", "pigeon"], &["pigeon", "io_uring, epoll"]),
    (&["--idle", "never"], &["never", "adaptive, spin"]),
    (&["--listn", "127.0.0.1:0"], &["--listn", "--listen"]),
    (&["--option", "maxclients"], &["maxclients", "NAME=VALUE"]),
    (&["--option", "maxclients=many"], &["maxclients=many"]),
    (&["--option", "nosuch=1"], &["nosuch"]),
    (&["--set", "memory.sise=1GiB"], &["memory.sise", "memory.size"]),
    (&["--set", "memory"], &["memory", "KEY=VALUE"]),
    (&["--config", "/nonexistent/margay.toml"], &["/nonexistent/margay.toml", "No such file"]),
];

#[test]
fn flags_that_are_wrong_are_answered_with_a_sentence() {
    let _alone = alone();
    for (flags, named) in WRONG {
        let (code, output, errors) = run(margay_kv().args(*flags), LIMIT);
        assert!(matches!(code, Some(1 | 2)) && output.is_empty(), "{flags:?}: {code:?} {output}{errors}");
        for word in *named {
            assert!(errors.contains(word), "{flags:?}: the answer does not name {word}: {errors}");
        }
        assert!(!errors.contains("panicked") && !errors.contains("RUST_BACKTRACE"), "{flags:?}: {errors}");
    }
}

#[test]
fn an_idle_server_sleeps_and_wakes_at_once() {
    let _alone = alone();
    let servers: Vec<Kv> = Form::available("kv_life").iter().map(|form| Kv::start(form, &[])).collect();
    let mut peers: Vec<_> = servers.iter().map(Kv::connect).collect();
    for peer in &mut peers {
        assert!(peer.ask(&words("SET probe 1")).is_some());
    }
    thread::sleep(Duration::from_millis(200));
    let span = Duration::from_secs(3);
    let before: Vec<Duration> = servers.iter().map(Kv::cpu_time).collect();
    thread::sleep(span);
    for (kv, before) in servers.iter().zip(before) {
        let share = (kv.cpu_time() - before).as_secs_f64() / span.as_secs_f64() * 100.0;
        println!("{:?}: {share:.2} % of a core while idle", kv.form);
        assert!(share < 2.0 * kv.form.cores as f64, "{:?}: {share:.2} % of a core while idle", kv.form);
    }
    for (kv, mut peer) in servers.into_iter().zip(peers) {
        let mut times: Vec<Duration> = (0..101)
            .map(|_| {
                thread::sleep(Duration::from_millis(10));
                let start = Instant::now();
                assert!(peer.ask(&words("GET probe")).is_some());
                start.elapsed()
            })
            .collect();
        times.sort();
        println!("{:?}: after 10 ms of silence a reply in {:?} at p50, {:?} at p90", kv.form, times[50], times[90]);
        assert!(times[50] < Duration::from_millis(1), "{:?}: {:?} at p50 after a silence", kv.form, times[50]);
        kv.stop();
    }
}

#[test]
fn a_stop_with_idle_clients_is_at_once() {
    let _alone = alone();
    for form in Form::available("kv_life") {
        for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
            let mut kv = Kv::start(&form, &[]);
            let mut idle: Vec<_> = (0..50).map(|_| kv.connect()).collect();
            for peer in &mut idle {
                assert!(peer.ask(&words("PING")).is_some());
            }
            let start = Instant::now();
            kv.signal(signal);
            let ended = kv.wait(LIMIT);
            assert_eq!(ended.and_then(|status| status.code()), Some(0), "{form:?}, {signal:?}");
            assert!(
                start.elapsed() < Duration::from_secs(1),
                "{form:?}: {:?} to stop with idle clients",
                start.elapsed()
            );
            for peer in &mut idle {
                assert!(peer.is_closed(), "{form:?}: a client is told");
            }
            // Its address is free again, and another may follow at once.
            let again = TcpListener::bind(kv.address);
            assert!(again.is_ok(), "{form:?}: {again:?}");
        }
    }
}

/// Reads whole lines until the connection ends.
fn lines(stream: &mut impl Read) -> Vec<String> {
    let mut all = Vec::new();
    let mut chunk = [0; 65536];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(len) => all.extend(&chunk[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => panic!("after {} bytes: {error}", all.len()),
        }
    }
    String::from_utf8_lossy(&all).split_terminator("\r\n").map(str::to_string).collect()
}

#[test]
fn what_was_sent_before_a_stop_is_answered() {
    let _alone = alone();
    const SENT: usize = 5000;
    const READS: usize = 200;
    const LEN: usize = 100_000;
    for form in Form::available("kv_life") {
        for round in 0..3 {
            let mut kv = Kv::start(&form, &[]);
            let value = vec![b"SET".to_vec(), b"value".to_vec(), vec![b'x'; LEN]];
            assert!(kv.connect().ask(&value).is_some());
            // One counts, over keys of both shards; one asks for twenty megabytes, and takes them when all is sent.
            let (mut counting, mut reading) = (kv.socket(), kv.socket());
            for stream in [&mut counting, &mut reading] {
                // Both are accepted: the server knows of them.
                stream.write_all(b"PING\r\n").expect("to be taken");
                let mut pong = [0; 7];
                stream.read_exact(&mut pong).expect("a reply");
            }
            let increments: String = (0..SENT).map(|n| format!("INCR n{}\r\n", n % 10)).collect();
            reading.write_all(&b"GET value\r\n".repeat(READS)).expect("to be taken");
            counting.write_all(increments.as_bytes()).expect("to be taken");
            thread::sleep(Duration::from_millis(round * 3));
            let start = Instant::now();
            kv.terminate();
            let reader = thread::spawn(move || lines(&mut reading));
            let counted = lines(&mut counting);
            let read = reader.join().expect("what was read");
            let expected: Vec<String> = (0..SENT).map(|n| format!(":{}", n / 10 + 1)).collect();
            assert_eq!(counted.len(), SENT, "{form:?}, round {round}: of {SENT} commands so many are answered");
            assert_eq!(counted, expected, "{form:?}");
            assert_eq!(read.len(), READS * 2, "{form:?}, round {round}: so many lines of big replies");
            assert!(read.iter().skip(1).step_by(2).all(|text| text.len() == LEN), "{form:?}: whole values");
            let ended = kv.wait(LIMIT);
            assert_eq!(ended.and_then(|status| status.code()), Some(0), "{form:?}");
            assert!(start.elapsed() < Duration::from_secs(5), "{form:?}: {:?} to stop", start.elapsed());
        }
    }
}

#[test]
fn who_has_sent_all_and_says_so_gets_every_answer() {
    let _alone = alone();
    for form in Form::available("kv_life") {
        let kv = Kv::start(&form, &[]);
        for number in 0..60 {
            let mut stream = kv.socket();
            // From one command to more than wait at a time, over keys of both shards.
            let count = 1 + number * 61;
            let increments: String = (0..count).map(|n| format!("INCR c{number}:{}\r\n", n % 10)).collect();
            stream.write_all(increments.as_bytes()).expect("to be taken");
            stream.shutdown(std::net::Shutdown::Write).expect("to say so");
            let expected: Vec<String> = (0..count).map(|n| format!(":{}", n / 10 + 1)).collect();
            assert_eq!(lines(&mut stream), expected, "{form:?}: {count} commands");
        }
        kv.stop();
    }
}

/// What one field of INFO says.
fn info(peer: &mut kv_differential::Peer, field: &str) -> u64 {
    let Some(Reply::Text(_, info)) = peer.ask(&words("INFO memory")) else { panic!("no text") };
    let info = String::from_utf8(info).expect("text");
    let after = info.split(&format!("{field}:")).nth(1).unwrap_or_else(|| panic!("no {field} in {info}"));
    after.chars().take_while(char::is_ascii_digit).collect::<String>().parse().expect("a number")
}

/// Keys, tables and short values count as much as long ones, and all of it comes back.
#[test]
fn maxmemory_counts_what_is_small_too() {
    let _alone = alone();
    for form in Form::available("kv_life") {
        let kv = Kv::start(&form, &["--option", "maxmemory=4mb"]);
        let mut peer = kv.connect();
        let before = info(&mut peer, "used_memory");
        assert!(before < 3 << 20, "{form:?}: {before} bytes are used by nothing");
        let mut stored = 0;
        let refused = (0..60_000).any(|n| {
            let reply = peer.ask(&words(&format!("SET key:{n:07} value:{n}")));
            let refused = matches!(reply, Some(Reply::Line(b'-', text)) if text.starts_with(b"OOM "));
            stored += u64::from(!refused);
            refused
        });
        let used = info(&mut peer, "used_memory");
        assert!(refused && stored > 5_000, "{form:?}: {stored} keys are stored in 4 MiB, and {used} bytes are used");
        assert!(used < before + (5 << 20), "{form:?}: {used} bytes are used, and 4 MiB are allowed beyond {before}");
        assert!(peer.ask(&words("FLUSHALL")).is_some());
        thread::sleep(Duration::from_millis(500));
        let after = info(&mut peer, "used_memory");
        assert!(after < before + (1 << 20), "{form:?}: {after} bytes are used by nothing, and {before} before");
        kv.stop();
    }
}
