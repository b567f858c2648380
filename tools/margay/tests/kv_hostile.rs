//! Clients that are no friends, on `margay kv` over real sockets: each gets a clear error or a closed connection, takes a
//! bounded amount of memory, and the others notice nothing.
//!
//! Both backends, one and two cores. `MARGAY_SEED` chooses what is sent by chance; `MARGAY_LONG=1` waits until a client
//! that never reads is given up.

mod kv_process;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use kv_differential::case::{first_seed, is_long};
use kv_differential::scripts::broken;
use kv_differential::{Redis, Reply, Subject, Target, generate::words};
use pdpix::Rng;

use kv_process::{Form, Kv};

const MIB: u64 = 1 << 20;

/// One test at a time: they measure memory and time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn line(kind: u8, text: &str) -> Option<Reply> {
    Some(Reply::Line(kind, text.into()))
}

/// Median and longest time of a GET, asked `count` times one after the other on a new connection.
fn response_times(kv: &Kv, count: usize) -> (Duration, Duration) {
    let mut peer = kv.connect();
    assert_eq!(peer.ask(&words("SET probe 1")), line(b'+', "OK"), "{:?}", kv.form);
    let mut times: Vec<Duration> = (0..count)
        .map(|_| {
            let start = Instant::now();
            let reply = peer.ask(&words("GET probe"));
            assert_eq!(reply, Some(Reply::Text(b'$', b"1".to_vec())), "{:?}", kv.form);
            start.elapsed()
        })
        .collect();
    times.sort();
    (times[count / 2], times[count - 1])
}

/// Everything until the connection is closed, which must be before the time is over.
fn read_to_end(stream: &mut impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return all,
            Ok(len) => all.extend(&chunk[..len]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return all,
            Err(error) => panic!("after {:?}: it stays open: {error}", all.escape_ascii().to_string()),
        }
    }
}

#[test]
fn half_a_command_and_silence_hold_up_nobody() {
    let _alone = alone();
    let halves: [&[u8]; 6] = [
        b"*3\r\n$3\r\nSET\r\n$6\r\nsil",
        b"*2\r\n$3\r\nGE",
        b"*1000000\r\n$1\r\na\r\n",
        b"GET ke",
        b"*",
        b"*2\r\n$3\r\nGET\r\n$400000000\r\nx",
    ];
    let servers: Vec<Kv> = Form::available("kv_hostile").iter().map(|form| Kv::start(form, &[])).collect();
    let mut silent: Vec<Vec<TcpStream>> = Vec::new();
    for kv in &servers {
        let open = |half: &[u8]| {
            let mut stream = kv.socket();
            stream.write_all(half).expect("to be taken");
            stream
        };
        silent.push(halves.iter().map(|half| open(half)).collect());
    }
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        for kv in &servers {
            let (median, _) = response_times(kv, 100);
            assert!(median < Duration::from_millis(5), "{:?}: {median:?} beside silent clients", kv.form);
        }
    }
    for (kv, streams) in servers.into_iter().zip(silent) {
        assert!(kv.rss() < 100 * MIB, "{:?}: an announced length takes memory: {} MiB", kv.form, kv.rss() / MIB);
        // The first goes on where it stopped.
        let mut first = &streams[0];
        first.write_all(b"ent\r\n$1\r\n1\r\n").expect("to be taken");
        let mut reply = [0; 5];
        first.read_exact(&mut reply).expect("a reply");
        assert_eq!(&reply, b"+OK\r\n");
        kv.stop();
    }
}

/// What is no request, behind one that is.
fn broken_requests() -> Vec<Vec<u8>> {
    let broken: [&[u8]; 9] = [
        b"*1\r\n$536870913\r\n",
        b"*1\r\n$99999999999999999999\r\n",
        b"*1\r\n$-7\r\n",
        b"*2147483648\r\n",
        b"*99999999999999999999\r\n",
        b"*x\r\n",
        b"*1\r\n!4\r\n",
        b"ECHO \"unbalanced\r\n",
        b"ECHO 'a'b\r\n",
    ];
    let mut all: Vec<Vec<u8>> = broken.iter().map(|broken| [b"PING\r\n", *broken].concat()).collect();
    // Just more than fits: a line, and the lengths themselves.
    all.push([&b"PING\r\n"[..], &[b'a'; 65_537]].concat());
    all.push([&b"PING\r\n*"[..], &[b'1'; 65_537]].concat());
    all.push([&b"PING\r\n*1\r\n$"[..], &[b'1'; 65_537]].concat());
    all
}

#[test]
fn a_request_that_is_none_is_told_so_and_the_connection_closed() {
    let _alone = alone();
    let redis = Redis::start();
    if redis.is_none() {
        println!("SKIP kv_hostile_compared: no redis-server of version 7.0");
    }
    for form in Form::available("kv_hostile") {
        let kv = Kv::start(&form, &[]);
        for request in broken_requests() {
            let shown = request[..request.len().min(60)].escape_ascii().to_string();
            let mut stream = kv.socket();
            stream.write_all(&request).expect("to be taken");
            let ours = read_to_end(&mut stream);
            let ours = ours.escape_ascii().to_string();
            assert!(ours.starts_with("+PONG\\r\\n-ERR Protocol error: "), "{form:?}: {shown}: {ours}");
            if let Some(redis) = &redis
                && let Target::Unix(path) = redis.target()
            {
                let mut stream = UnixStream::connect(path).expect("redis-server to listen");
                stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
                stream.write_all(&request).expect("to be taken");
                assert_eq!(ours, read_to_end(&mut stream).escape_ascii().to_string(), "{form:?}: {shown}");
            }
        }
        response_times(&kv, 10);
        kv.stop();
    }
}

#[test]
fn a_client_that_never_reads_takes_bounded_memory_and_nobody_s_time() {
    let _alone = alone();
    for form in Form::available("kv_hostile") {
        let kv = Kv::start(&form, &[]);
        let big = vec![b"SET".to_vec(), b"big".to_vec(), vec![b'x'; MIB as usize]];
        assert_eq!(kv.connect().ask(&big), line(b'+', "OK"));
        let (before, _) = response_times(&kv, 2000);
        let rss = kv.rss();
        // A gigabyte of answers each, nobody takes them. What does not fit into the sockets stays with the client.
        let mut greedy: Vec<TcpStream> = (0..3).map(|_| kv.socket()).collect();
        for stream in &mut greedy {
            stream.set_nonblocking(true).expect("not to wait");
            let _ = stream.write(&b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n".repeat(1000));
        }
        let deadline = Instant::now() + Duration::from_millis(1500);
        let (mut during, mut most) = (Duration::MAX, 0);
        while Instant::now() < deadline {
            during = during.min(response_times(&kv, 500).0);
            most = most.max(kv.rss().saturating_sub(rss));
        }
        println!("{form:?}: p50 {before:?} before, {during:?} beside clients that never read; {} KiB more", most >> 10);
        assert!(most < 100 * MIB, "{form:?}: {} MiB for clients that never read", most / MIB);
        // The machine may be busy: far more than its noise, far less than a wait for somebody else.
        assert!(during < before * 4 + Duration::from_micros(300), "{form:?}: {before:?} became {during:?}");
        if is_long() {
            thread::sleep(Duration::from_secs(75));
            for mut stream in greedy.drain(..) {
                stream.set_nonblocking(false).expect("to wait");
                let taken = read_to_end(&mut stream).len() as u64;
                assert!(taken < 1000 * MIB, "{form:?}: it was given up");
            }
        }
        // A stop waits for them as long as for others that are slow, and no longer.
        if form.backend == "epoll" && form.cores == 1 && !is_long() {
            let (mut kv, start) = (kv, Instant::now());
            kv.terminate();
            let ended = kv.wait(Duration::from_secs(10));
            assert_eq!(ended.and_then(|status| status.code()), Some(0), "{form:?}: after {:?}", start.elapsed());
            assert!(start.elapsed() < Duration::from_secs(7), "{form:?}: {:?} to stop", start.elapsed());
            continue;
        }
        drop(greedy);
        kv.stop();
    }
}

/// Short requests for long replies, all in what the server takes at once.
#[test]
fn requests_for_far_more_than_is_read_take_bounded_memory() {
    let _alone = alone();
    for form in Form::available("kv_hostile") {
        let kv = Kv::start(&form, &[]);
        let mut peer = kv.connect();
        let push: Vec<Vec<u8>> =
            words("RPUSH list").into_iter().chain((0..10_000).map(|n| format!("{n:050}").into_bytes())).collect();
        assert_eq!(peer.ask(&push), line(b':', "10000"), "{form:?}");
        let rss = kv.rss();
        let mut greedy = kv.socket();
        // Two gigabytes of replies.
        greedy.write_all(&b"LRANGE list 0 -1\r\n".repeat(3500)).expect("to be taken");
        let deadline = Instant::now() + Duration::from_millis(700);
        let (mut most, mut longest) = (0, Duration::ZERO);
        while Instant::now() < deadline {
            let start = Instant::now();
            assert_eq!(peer.ask(&words("LLEN list")), line(b':', "10000"), "{form:?}");
            longest = longest.max(start.elapsed());
            most = most.max(kv.rss().saturating_sub(rss));
            thread::sleep(Duration::from_millis(2));
        }
        println!("{form:?}: {} MiB for replies that nobody takes; others waited {longest:?} at most", most / MIB);
        // What one shard asks another for is not bounded by bytes, but by the number of requests that wait.
        let bound = if form.cores == 1 { 100 } else { 250 };
        assert!(most < bound * MIB, "{form:?}: {} MiB for replies that nobody takes", most / MIB);
        assert!(longest < Duration::from_secs(1), "{form:?}: others waited {longest:?}");
        // All of it comes when it is wanted after all.
        let mut received = 0;
        let mut chunk = vec![0; MIB as usize];
        while received < 100 * MIB as usize {
            match greedy.read(&mut chunk) {
                Ok(len) if len > 0 => received += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => panic!("{form:?}: after {received} bytes: {other:?}"),
            }
        }
        drop(greedy);
        kv.stop();
    }
}

#[test]
fn more_clients_than_there_may_be_are_turned_away() {
    let _alone = alone();
    for form in Form::available("kv_hostile") {
        let kv = Kv::start(&form, &["--option", "maxclients=50"]);
        let mut within: Vec<_> = (0..50).map(|_| kv.connect()).collect();
        for peer in &mut within {
            assert_eq!(peer.ask(&words("PING")), line(b'+', "PONG"), "{form:?}");
        }
        let mut beyond: Vec<TcpStream> = (0..200).map(|_| kv.socket()).collect();
        for stream in &mut beyond {
            let told = read_to_end(stream);
            assert_eq!(told.escape_ascii().to_string(), "-ERR max number of clients reached\\r\\n", "{form:?}");
        }
        for peer in &mut within {
            assert_eq!(peer.ask(&words("PING")), line(b'+', "PONG"), "{form:?}");
        }
        // Who leaves makes room; when the server has noticed it.
        within.truncate(40);
        let deadline = Instant::now() + Duration::from_secs(5);
        while kv.connect().ask(&words("PING")) != line(b'+', "PONG") {
            assert!(Instant::now() < deadline, "{form:?}: ten have left, and nobody is let in");
        }
        kv.stop();
    }
}

const IDLE: usize = 10_000;

/// Asks the system for as many descriptors as it gives: for this process, and for those that it starts.
fn descriptors() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[test]
fn ten_thousand_idle_clients_take_little_memory_and_nobody_s_time() {
    let _alone = alone();
    let descriptors = descriptors();
    if descriptors < IDLE as u64 + 200 {
        println!("SKIP kv_ten_thousand_idle: only {descriptors} descriptors a process");
        return;
    }
    for form in Form::available("kv_hostile") {
        let kv = Kv::start(&form, &["--option", "maxclients=20000"]);
        response_times(&kv, 1000);
        let before = kv.rss();
        // Each is served once: what a connection that was never used takes is less.
        let idle: Vec<TcpStream> = (0..IDLE)
            .map(|number| {
                let mut stream = TcpStream::connect(kv.address)
                    .unwrap_or_else(|error| panic!("{form:?}: connection {number}: {error}"));
                stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
                stream.write_all(b"*1\r\n$4\r\nPING\r\n").expect("to be taken");
                let mut reply = [0; 7];
                stream.read_exact(&mut reply).unwrap_or_else(|error| panic!("{form:?}: a reply: {error}"));
                assert_eq!(&reply, b"+PONG\r\n");
                stream
            })
            .collect();
        let each = kv.rss().saturating_sub(before) / IDLE as u64;
        let (median, longest) = response_times(&kv, 1000);
        println!("{form:?}: {each} B for each idle client; beside them p50 {median:?}, longest {longest:?}");
        assert!(each <= 4096, "{form:?}: {each} B for each idle client");
        assert!(median < Duration::from_millis(2), "{form:?}: {median:?} beside idle clients");
        drop(idle);
        kv.stop();
    }
}

#[test]
fn random_bytes_never_end_the_server() {
    let _alone = alone();
    let first = first_seed();
    for form in Form::available("kv_hostile") {
        let kv = Kv::start(&form, &[]);
        let mut open = Vec::new();
        for number in 0..if is_long() { 20_000 } else { 200 } {
            let seed = first + number;
            let mut rng = Rng::new(seed);
            let bytes: Vec<u8> = match number % 3 {
                0 => (0..rng.below(5000)).map(|_| rng.below(256) as u8).collect(),
                1 => {
                    (0..rng.below(500)).map(|_| b"\r\n\r\n*$-0123456789 \"'SETGPING"[rng.below(28) as usize]).collect()
                }
                _ => broken(seed),
            };
            let mut stream = kv.socket();
            // In pieces, to which the server may have answered by closing.
            for piece in bytes.chunks(1 + rng.below(700) as usize) {
                if stream.write_all(piece).is_err() {
                    break;
                }
            }
            // Some end well, some are cut, some stay.
            match number % 4 {
                0 => _ = stream.shutdown(std::net::Shutdown::Write),
                1 => drop(stream),
                _ => open.push(stream),
            }
            if open.len() > 100 {
                open.clear();
            }
        }
        response_times(&kv, 10);
        println!("{form:?}: MARGAY_SEED={first:#x}");
        kv.stop();
    }
}

#[test]
fn a_reset_in_the_middle_of_big_replies_leaves_nothing_behind() {
    let _alone = alone();
    for form in Form::available("kv_hostile") {
        let kv = Kv::start(&form, &[]);
        let big = vec![b"SET".to_vec(), b"big".to_vec(), vec![b'x'; 8 * MIB as usize]];
        assert_eq!(kv.connect().ask(&big), line(b'+', "OK"));
        let mut after_first = 0;
        for round in 0..100 {
            let mut stream = kv.socket();
            stream.write_all(&b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n".repeat(4)).expect("to be taken");
            let mut some = [0; 1000];
            stream.read_exact(&mut some).expect("a part");
            assert!(some.starts_with(b"$8388608\r\nxxx"), "{form:?}");
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("to reset");
            drop(stream);
            if round == 20 {
                after_first = kv.rss();
            }
        }
        let reply = kv.connect().ask(&words("STRLEN big"));
        assert_eq!(reply, line(b':', "8388608"), "{form:?}");
        response_times(&kv, 100);
        let more = kv.rss().saturating_sub(after_first);
        assert!(more < 24 * MIB, "{form:?}: {} MiB more after eighty resets", more / MIB);
        kv.stop();
    }
}
