//! The programs that people use with Redis, on `margay kv`: redis-cli, redis-benchmark, a Rust and a Python client.
//!
//! Each on one and two cores; what is not on this machine is skipped, and says so.

mod kv_process;

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use kv_differential::generate::words;
use kv_differential::resp;
use redis::{Commands, Connection};

use kv_process::{Form, Kv, run};

const LIMIT: Duration = Duration::from_secs(60);

fn exists(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Whether a program is there; if not, the test is skipped.
fn has(test: &str, program: &str) -> bool {
    if !exists(program) {
        println!("SKIP {test}: there is no {program} (Debian: redis-tools)");
    }
    exists(program)
}

/// What redis-cli prints of a command.
fn cli(kv: &Kv, args: &[&str]) -> String {
    let mut command = Command::new("redis-cli");
    let (code, output, errors) = run(command.args(["-p", &kv.port()]).args(args).stdin(Stdio::null()), LIMIT);
    assert!(errors.is_empty() && code.is_some(), "redis-cli {args:?}: {errors}");
    output.trim_end().to_string()
}

#[test]
fn redis_cli_talks_to_it() {
    if !has("redis_cli", "redis-cli") {
        return;
    }
    for form in Form::available("redis_cli") {
        let kv = Kv::start(&form, &[]);
        assert_eq!(cli(&kv, &["SET", "greeting", "hello world"]), "OK");
        assert_eq!(cli(&kv, &["GET", "greeting"]), "hello world");
        assert_eq!(cli(&kv, &["-3", "GET", "greeting"]), "hello world");
        assert_eq!(cli(&kv, &["GET", "nothing"]), "");
        assert_eq!(cli(&kv, &["HSET", "h", "a", "1", "b", "2"]), "2");
        assert_eq!(cli(&kv, &["-3", "--no-raw", "HGET", "h", "a"]), "\"1\"");
        assert!(cli(&kv, &["-3", "--no-raw", "HGETALL", "h"]).contains("1# \"a\" => \"1\""), "a map in RESP3");
        assert_eq!(cli(&kv, &["--no-raw", "ZADD", "z", "1", "one"]), "(integer) 1");
        assert_eq!(cli(&kv, &["-n", "3", "DBSIZE"]), "0");
        assert_eq!(cli(&kv, &["DBSIZE"]), "3");
        let info = cli(&kv, &["INFO"]);
        for field in ["redis_version:7.", "connected_clients:1\r", "db0:keys=3,"] {
            assert!(info.contains(field), "INFO has no {field}: {info}");
        }
        assert!(
            info.contains(&format!("process_id:{}\r", kv.pid())) && info.contains(&format!("tcp_port:{}\r", kv.port()))
        );
        // What is not supported is refused in so many words, and the connection goes on.
        let refused = cli(&kv, &["MONITOR"]);
        assert!(refused.starts_with("ERR") && refused.to_ascii_lowercase().contains("monitor"), "MONITOR: {refused}");
        // Several commands from a script, as people do.
        let mut script = Command::new("redis-cli");
        let mut child =
            script.args(["-p", &kv.port()]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it");
        child.stdin.take().expect("input").write_all(b"SET a 1\nINCR a\nnosuch\nGET a\n").expect("input");
        let output = child.wait_with_output().expect("output");
        let output = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<&str> = output.split('\n').map(str::trim_end).filter(|line| !line.is_empty()).collect();
        assert_eq!((lines[0], lines[1], lines.last().copied()), ("OK", "2", Some("2")), "{output}");
        assert!(lines[2].starts_with("ERR unknown command 'nosuch'"), "{output}");
        kv.stop();
    }
}

const MASS: usize = 100_000;

#[test]
fn redis_cli_inserts_a_hundred_thousand_keys_and_scans_them() {
    if !has("redis_cli_pipe", "redis-cli") {
        return;
    }
    let commands: Vec<u8> = (0..MASS).flat_map(|n| resp::write(&words(&format!("SET key:{n:06} value:{n}")))).collect();
    for form in Form::available("redis_cli_pipe") {
        let kv = Kv::start(&form, &[]);
        for protocol in [&["--pipe"][..], &["-3", "--pipe"]] {
            let mut command = Command::new("redis-cli");
            let command = command.args(["-p", &kv.port()]).args(protocol);
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("redis-cli");
            let mut input = child.stdin.take().expect("input");
            std::thread::scope(|scope| {
                let commands = &commands;
                scope.spawn(move || input.write_all(commands));
                let output = child.wait_with_output().expect("output");
                let output = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(output.contains(&format!("errors: 0, replies: {MASS}")), "{form:?} {protocol:?}: {output}");
            });
        }
        assert_eq!(cli(&kv, &["DBSIZE"]), MASS.to_string());
        let all = cli(&kv, &["--scan"]);
        let names: HashSet<&str> = all.lines().collect();
        assert_eq!(names.len(), MASS, "{form:?}: --scan");
        let some = cli(&kv, &["--scan", "--pattern", "key:0000?1"]);
        let names: HashSet<&str> = some.lines().collect();
        assert_eq!(names.len(), 10, "{form:?}: --scan --pattern: {some}");
        assert_eq!(cli(&kv, &["GET", "key:099999"]), "value:99999");
        kv.stop();
    }
}

/// What redis-benchmark measures if it is not told otherwise.
const BENCHMARKS: [&str; 20] = [
    "PING_INLINE",
    "PING_MBULK",
    "SET",
    "GET",
    "INCR",
    "LPUSH",
    "RPUSH",
    "LPOP",
    "RPOP",
    "SADD",
    "HSET",
    "SPOP",
    "ZADD",
    "ZPOPMIN",
    "LPUSH (needed to benchmark LRANGE)",
    "LRANGE_100 (first 100 elements)",
    "LRANGE_300 (first 300 elements)",
    "LRANGE_500 (first 500 elements)",
    "LRANGE_600 (first 600 elements)",
    "MSET (10 keys)",
];

#[test]
fn redis_benchmark_has_a_number_for_each_of_its_tests() {
    if !has("redis_benchmark", "redis-benchmark") {
        return;
    }
    for form in Form::available("redis_benchmark") {
        let kv = Kv::start(&form, &[]);
        for pipeline in ["1", "16"] {
            let mut command = Command::new("redis-benchmark");
            let command = command.args(["-p", &kv.port(), "-n", "2000", "-q", "-P", pipeline]);
            let (code, output, errors) = run(command, LIMIT);
            assert_eq!(code, Some(0), "{form:?}: {output}{errors}");
            assert!(!errors.to_lowercase().contains("err"), "{form:?}: {errors}");
            let results: HashMap<&str, f64> = output
                .split(['\r', '\n'])
                .filter_map(|line| {
                    let (name, rest) = line.trim().rsplit_once(": ")?;
                    Some((name, rest.split_once(" requests per second")?.0.parse().ok()?))
                })
                .collect();
            for name in BENCHMARKS {
                assert!(results.get(name).is_some_and(|rate| *rate > 0.0), "{form:?}: no number for {name}: {output}");
            }
        }
        kv.stop();
    }
}

fn connect(kv: &Kv, before: &str, after: &str) -> redis::RedisResult<Connection> {
    let connection = redis::Client::open(format!("redis://{before}{}{after}", kv.address))?.get_connection()?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(connection)
}

fn check_rust_client(connection: &mut Connection) -> redis::RedisResult<()> {
    connection.set::<_, _, ()>("text", "hello")?;
    assert_eq!(connection.get::<_, String>("text")?, "hello");
    assert_eq!(connection.get::<_, Option<String>>("nothing")?, None);
    connection.set::<_, _, ()>("bytes", &b"\x00\r\n\xff"[..])?;
    assert_eq!(connection.get::<_, Vec<u8>>("bytes")?, b"\x00\r\n\xff");
    assert_eq!(connection.incr::<_, _, i64>("counter", 41)?, 41);
    assert_eq!(connection.incr::<_, _, f64>("counter", 0.5)?, 41.5);
    connection.mset::<_, _, ()>(&[("a", 1), ("b", 2), ("c", 3)])?;
    assert_eq!(connection.mget::<_, Vec<Option<i64>>>(&["a", "nothing", "c"])?, [Some(1), None, Some(3)]);
    connection.hset_multiple::<_, _, _, ()>("hash", &[("x", 1), ("y", 2)])?;
    let hash: HashMap<String, i64> = connection.hgetall("hash")?;
    assert_eq!(hash, HashMap::from([("x".to_string(), 1), ("y".to_string(), 2)]));
    assert_eq!(connection.rpush::<_, _, i64>("list", &["p", "q", "r"])?, 3);
    assert_eq!(connection.lrange::<_, Vec<String>>("list", 0, -1)?, ["p", "q", "r"]);
    connection.sadd::<_, _, ()>("set", &[1, 2, 3, 2])?;
    assert_eq!(connection.smembers::<_, HashSet<i64>>("set")?, HashSet::from([1, 2, 3]));
    assert!(connection.sismember::<_, _, bool>("set", 2)?);
    connection.zadd_multiple::<_, _, _, ()>("sorted", &[(2.5, "two"), (1.0, "one")])?;
    let sorted: Vec<(String, f64)> = connection.zrange_withscores("sorted", 0, -1)?;
    assert_eq!(sorted, [("one".to_string(), 1.0), ("two".to_string(), 2.5)]);
    assert!(connection.expire::<_, bool>("text", 100)?);
    assert!((90..=100).contains(&connection.ttl::<_, i64>("text")?));
    let wrong = connection.incr::<_, _, i64>("list", 1).expect_err("a list is no number");
    assert!(wrong.to_string().contains("WRONGTYPE") || wrong.code() == Some("WRONGTYPE"), "{wrong:?}");

    let mut pipe = redis::pipe();
    for n in 0..1000 {
        pipe.set(format!("many:{n}"), n).ignore();
        pipe.get(format!("many:{n}"));
    }
    assert_eq!(pipe.query::<Vec<i64>>(connection)?, (0..1000).collect::<Vec<i64>>());
    let found: HashSet<String> = connection.scan_match("many:*")?.collect::<redis::RedisResult<_>>()?;
    assert_eq!(found.len(), 1000);
    let fields: HashSet<(String, i64)> = connection.hscan("hash")?.collect::<redis::RedisResult<_>>()?;
    assert_eq!(fields.len(), 2);
    Ok(())
}

#[test]
fn the_rust_client_uses_it() {
    for form in Form::available("rust_client") {
        let kv = Kv::start(&form, &[]);
        for protocol in ["", "?protocol=resp3"] {
            let mut connection = connect(&kv, "", &format!("/0{protocol}")).expect("a connection");
            redis::cmd("FLUSHALL").exec(&mut connection).expect("to begin empty");
            check_rust_client(&mut connection).unwrap_or_else(|error| panic!("{form:?} {protocol}: {error}"));
            // Another database of the URL.
            let mut other = connect(&kv, "", &format!("/5{protocol}")).expect("a connection");
            assert_eq!(other.get::<_, Option<String>>("text").expect("a reply"), None, "{form:?}: database 5");
        }
        kv.stop();
        let kv = Kv::start(&form, &["--option", "requirepass=se:cret"]);
        let mut connection = connect(&kv, ":se%3Acret@", "/").expect("a connection with the password");
        connection.set::<_, _, ()>("a", 1).expect("to be let in");
        let refused = |before: &str| match connect(&kv, before, "/") {
            Ok(mut connection) => connection.get::<_, Option<String>>("a").expect_err("a password is needed"),
            Err(error) => error,
        };
        let (without, wrong) = (refused("").to_string(), refused(":wrong@").to_string());
        assert!(without.contains("NOAUTH") || without.contains("Authentication required"), "{form:?}: {without}");
        assert!(wrong.contains("assword"), "{form:?}: {wrong}");
        kv.stop();
    }
}

#[test]
fn the_python_client_uses_it() {
    let can_import = |python: &&str| {
        let mut command = Command::new(python);
        command.args(["-c", "import redis"]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let Some(python) = ["python3", "/usr/bin/python3"].into_iter().find(can_import) else {
        println!("SKIP python_client: no Python with the module redis (Debian: python3-redis)");
        return;
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients.py");
    for form in Form::available("python_client") {
        let kv = Kv::start(&form, &[]);
        let (code, output, errors) = run(Command::new(python).args([script, &kv.port()]), LIMIT);
        assert_eq!(code, Some(0), "{form:?}: {output}{errors}");
        assert!(output.contains("all as expected"), "{form:?}: {output}");
        println!("{form:?}: {}", output.trim());
        kv.stop();
    }
}
