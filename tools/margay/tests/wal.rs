//! `margay wal` as a process: what it acknowledged is there, whatever ends it; and what it says when it cannot write.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use framework::Codec;
use framework::pdpix::{Error, Heap, Input, Output as Written, Rng, Sga};
use framework::rpc::{CallId, ClientCodec, ToClient, ToServer};
use services::wal::{Answer, Request};

type Theirs = ClientCodec<Request, Answer>;

/// A directory that goes with the test, on a disk.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("wal-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Directory(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Service {
    child: Child,
    at: String,
}

/// The command that starts a service on this directory.
fn margay(directory: &Path, size: &str, more: &[&str]) -> Vec<String> {
    let fixed = ["wal", "--size", size, "--listen", "127.0.0.1:0", "--set", "memory.size=64MiB", "--set"];
    let mut command = vec![env!("CARGO_BIN_EXE_margay").to_string()];
    command.extend(fixed.map(str::to_string));
    command.extend(["cores.pin=false".into(), "--dir".into(), directory.display().to_string()]);
    command.extend(more.iter().map(|argument| argument.to_string()));
    command
}

impl Service {
    fn try_start(command: &[String]) -> Result<Service, Output> {
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let (mut line, mut stdout) = (String::new(), BufReader::new(child.stdout.take().expect("piped")));
        stdout.read_line(&mut line).expect("it says where it listens");
        match line.trim().strip_prefix("listening on ") {
            Some(at) => Ok(Service { child, at: at.into() }),
            None => Err(child.wait_with_output().expect("it ends")),
        }
    }

    fn start(directory: &Path, size: &str, more: &[&str]) -> Service {
        Service::try_start(&margay(directory, size, more)).unwrap_or_else(|output| panic!("{output:?}"))
    }

    /// Ends it by a signal; what it said.
    fn end(mut self, signal: rustix::process::Signal) -> (std::process::ExitStatus, String) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
        let status = self.child.wait().unwrap();
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status, said)
    }

    fn client(&self) -> Client {
        Client::new(&self.at)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection with many calls under way.
struct Client {
    stream: TcpStream,
    heap: Heap,
    input: Input,
    calls: u64,
}

impl Client {
    fn new(at: &str) -> Client {
        Client::over(TcpStream::connect(at).unwrap())
    }

    fn over(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Client { stream, heap: Heap::alone(16 << 20).unwrap(), input: Input::new(), calls: 0 }
    }

    /// Asks; `None` if the service is gone.
    fn ask(&mut self, body: Request) -> Option<u64> {
        self.calls += 1;
        let mut output = Written::new(self.heap.clone());
        Theirs::encode(ToServer::Call { id: CallId(self.calls), key: None, timeout_us: 10_000_000, body }, &mut output);
        self.stream.write_all(&output.take().unwrap().to_vec()).ok()?;
        Some(self.calls)
    }

    /// The next answer; `None` if the service is gone.
    fn answer(&mut self) -> Option<(u64, Answer)> {
        loop {
            match Theirs::new().decode(&mut self.input, &self.heap).unwrap() {
                Some(ToClient::Answer(CallId(id), answer)) => return Some((id, answer)),
                Some(refused) => panic!("{refused:?}"),
                None => {}
            }
            let mut bytes = [0; 16384];
            match self.stream.read(&mut bytes) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.input.push(Sga::copy(&self.heap, &bytes[..count]).unwrap()),
            }
        }
    }

    fn call(&mut self, body: Request) -> Answer {
        let id = self.ask(body).expect("the service is there");
        let (of, answer) = self.answer().expect("an answer");
        assert_eq!(of, id);
        answer
    }

    fn append(&mut self, record: &[u8]) -> Answer {
        self.call(Request::Append(record.to_vec()))
    }

    /// All there is, by number.
    fn all(&mut self) -> BTreeMap<u64, Vec<u8>> {
        let (mut from, mut all) = (0, BTreeMap::new());
        loop {
            match self.call(Request::Read { from, count: 1000 }) {
                Answer::Records(records) if records.is_empty() => return all,
                Answer::Records(records) => {
                    from = records.last().expect("some").0 + 1;
                    all.extend(records);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

/// What is known of records after they were sent.
#[derive(Default)]
struct Books {
    sent: BTreeSet<Vec<u8>>,
    acknowledged: BTreeMap<u64, Vec<u8>>,
}

impl Books {
    /// Everything acknowledged is there under its number; nothing is there that nobody sent, or twice.
    fn check(&self, found: &BTreeMap<u64, Vec<u8>>, round: u32) {
        for (number, record) in &self.acknowledged {
            assert_eq!(found.get(number), Some(record), "round {round}: record {number} was acknowledged");
        }
        let numbers: Vec<u64> = found.keys().copied().collect();
        assert!(numbers.iter().zip(1..).all(|(number, expected)| *number == expected), "round {round}: {numbers:?}");
        let distinct: BTreeSet<_> = found.values().collect();
        assert_eq!(distinct.len(), found.len(), "round {round}: a record is there twice");
        assert!(found.values().all(|record| self.sent.contains(record)), "round {round}: a record that nobody sent");
    }

    fn add(&mut self, more: Books) {
        self.sent.extend(more.sent);
        self.acknowledged.extend(more.acknowledged);
    }
}

/// Appends, with several under way, until the service is gone. When `quiet` is set, it waits for answers only.
fn append_until_it_ends(mut client: Client, name: String, seed: u64, quiet: &AtomicBool) -> Books {
    let (mut books, mut rng, mut open) = (Books::default(), Rng::new(seed), BTreeMap::new());
    for number in 0.. {
        while open.len() >= 8 || quiet.load(Ordering::Relaxed) {
            match client.answer() {
                Some((id, Answer::Appended(sequence))) => {
                    let record = open.remove(&id).expect("a call of ours");
                    assert_eq!(books.acknowledged.insert(sequence, record), None, "one number for two records");
                }
                Some(other) => panic!("{other:?}"),
                None => return books,
            }
        }
        let mut record = format!("{name}-{number}-").into_bytes();
        let longer = record.len() + [0, 10, 600, 5000][rng.below(4) as usize];
        record.resize(longer, b'a' + (number % 26) as u8);
        books.sent.insert(record.clone());
        match client.ask(Request::Append(record.clone())) {
            Some(id) => _ = open.insert(id, record),
            None => return books,
        }
    }
    books
}

/// Several clients append until `end` has ended the service. What they know then.
fn appended_until(service: Service, round: u32, end: impl FnOnce(Service, &AtomicBool)) -> Books {
    let quiet = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..3)
        .map(|client| {
            let (stream, name) = (TcpStream::connect(&service.at).unwrap(), format!("r{round}c{client}"));
            let (seed, quiet) = (u64::from(round * 7 + client), quiet.clone());
            std::thread::spawn(move || append_until_it_ends(Client::over(stream), name, seed, &quiet))
        })
        .collect();
    end(service, &quiet);
    let mut books = Books::default();
    clients.into_iter().for_each(|client| books.add(client.join().expect("a client's own checks")));
    books
}

#[test]
fn what_was_acknowledged_is_there_after_kill_9_at_any_moment() {
    let (directory, mut books, mut rng) = (Directory::new("kill"), Books::default(), Rng::new(0x9111));
    for round in 0..20 {
        // The forms in turn; what one has written the other reads.
        let more: &[&str] = match round % 4 {
            1 => &["--set", "storage.engine=thread"],
            2 => &["--set", "storage.flush=dsync"],
            3 => &["--set", "storage.direct=false"],
            _ => &[],
        };
        let service = Service::start(&directory.0, "64MiB", more);
        books.check(&service.client().all(), round);
        let after = Duration::from_micros(rng.range(0..=40_000));
        books.add(appended_until(service, round, |service, _| {
            std::thread::sleep(after);
            service.end(rustix::process::Signal::KILL);
        }));
    }
    let service = Service::start(&directory.0, "64MiB", &[]);
    books.check(&service.client().all(), 20);
    let count = books.acknowledged.len();
    assert!(count > 200, "only {count} records were acknowledged in 20 rounds");
    println!("{count} records acknowledged, {} sent, 20 kills", books.sent.len());
}

#[test]
fn a_service_that_is_stopped_answers_what_it_has_taken() {
    let directory = Directory::new("stop");
    let mut books = Books::default();
    for round in 0..3 {
        let service = Service::start(&directory.0, "64MiB", &[]);
        books.add(appended_until(service, round, |service, quiet| {
            std::thread::sleep(Duration::from_millis(30));
            // Who goes on sending to one that stops is reset, and loses what was on its way to him: TCP's doing.
            quiet.store(true, Ordering::Relaxed);
            let (status, said) = service.end(rustix::process::Signal::TERM);
            assert!(status.success(), "{status}: {said}");
        }));
    }
    let found = Service::start(&directory.0, "64MiB", &[]).client().all();
    books.check(&found, 3);
    assert_eq!(found.len(), books.acknowledged.len(), "records are there whose clients were told nothing");
}

#[test]
fn a_log_that_is_full_says_so_keeps_what_it_has_and_goes_on_after_a_truncation() {
    let directory = Directory::new("full");
    let service = Service::start(&directory.0, "4MiB", &[]);
    let mut client = service.client();
    let record = |number: u64| format!("{number}-{}", "x".repeat(30_000)).into_bytes();
    let mut count = 0;
    let refused = loop {
        match client.append(&record(count + 1)) {
            Answer::Appended(sequence) => {
                count += 1;
                assert_eq!(sequence, count);
                assert!(count < 200, "{count} records of 30 kB in 4 MiB");
            }
            Answer::Failed(errno) => break Error::from_errno(errno),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refused, Error::NoSpace);
    assert!(count > 30, "only {count} records of 30 kB fit into 4 MiB");
    let check = |client: &mut Client, first: u64, last: u64| {
        let all = client.all();
        assert_eq!(all.keys().copied().collect::<Vec<_>>(), (first..=last).collect::<Vec<_>>());
        assert!(all.iter().all(|(number, bytes)| *bytes == record(*number)), "a record has changed");
    };
    check(&mut client, 1, count);
    assert_eq!(client.call(Request::Truncate(count - 5)), Answer::Truncated(count - 5));
    for number in count + 1..=count + 20 {
        assert_eq!(client.append(&record(number)), Answer::Appended(number), "space was freed");
    }
    check(&mut client, count - 5, count + 20);
    drop(client);
    service.end(rustix::process::Signal::KILL);
    let service = Service::start(&directory.0, "4MiB", &[]);
    let mut client = service.client();
    check(&mut client, count - 5, count + 20);
    assert_eq!(client.call(Request::Extent), Answer::Extent { first: count - 5, next: count + 21 });
}

#[test]
fn a_file_that_cannot_be_made_is_refused_with_a_sentence() {
    let directory = Directory::new("limit");
    let limited = |limit: &str, command: &[String]| {
        let mut shell = vec!["sh".to_string(), "-c".into(), format!("ulimit -f {limit}; exec \"$@\""), "sh".into()];
        shell.extend_from_slice(command);
        shell
    };
    // 8 MiB, in blocks of 512 bytes.
    let output = Service::try_start(&limited("16384", &margay(&directory.0, "64MiB", &[]))).err().expect("refused");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("cannot open the storage") && said.contains("ulimit -f"), "{said}");
    assert_eq!(output.status.code(), Some(1));
    assert!(!directory.0.join("core-0.log").exists(), "a file was left");
    let first = Service::start(&directory.0, "8MiB", &[]);
    let second = Service::try_start(&margay(&directory.0, "8MiB", &[])).err().expect("refused");
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains("another process uses"), "{said}");
    drop(first);
    let nowhere = Service::try_start(&margay(Path::new("/proc/none"), "8MiB", &[])).err().expect("refused");
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("cannot make /proc/none"), "{nowhere:?}");
}

/// Runs a script as root of a mount namespace of its own, where `$1` is a directory to mount on. `None`: it cannot be.
fn in_mounts(test: &str, script: &str, directory: &Path, command: &[String]) -> Option<Vec<String>> {
    let probe = Command::new("unshare").args(["-m", "sh", "-c", "mount -t tmpfs none /mnt"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIP {test}: not root, or no unshare (util-linux)");
        return None;
    }
    let mut all = ["unshare", "-m", "sh", "-c"].map(str::to_string).to_vec();
    all.extend([format!("d=$1; shift; {script}"), "sh".into(), directory.display().to_string()]);
    all.extend_from_slice(command);
    Some(all)
}

#[test]
fn a_full_file_system_is_refused_before_anything_is_written() {
    let directory = Directory::new("mount");
    let script = "mount -t tmpfs -o size=8m none $d && \"$@\"; code=$?; ls $d; exit $code";
    let command = margay(&directory.0, "64MiB", &[]);
    let Some(command) = in_mounts("wal_full_file_system", script, &directory.0, &command) else { return };
    let output = Service::try_start(&command).err().expect("refused");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("cannot take the space for") && said.contains("No space left"), "{said}");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]), "a file was left");
}

#[test]
fn a_read_only_log_is_read_and_not_written() {
    let directory = Directory::new("read-only");
    let service = Service::start(&directory.0, "8MiB", &[]);
    assert_eq!(service.client().append(b"kept"), Answer::Appended(1));
    service.end(rustix::process::Signal::KILL);
    let before = std::fs::read(directory.0.join("core-0.log")).unwrap();
    let read = |service: &Service| {
        let mut client = service.client();
        assert_eq!(client.all(), BTreeMap::from([(1, b"kept".to_vec())]));
        assert_eq!(client.append(b"more"), Answer::Failed(Error::ReadOnly.errno()));
        assert_eq!(client.call(Request::Truncate(1)), Answer::Failed(Error::ReadOnly.errno()));
    };
    read(&Service::start(&directory.0, "8MiB", &["--set", "storage.read_only=true"]));
    assert!(std::fs::read(directory.0.join("core-0.log")).unwrap() == before, "reading has changed the file");
    // And where the file system refuses it: told with a sentence, or read if that is what is asked for.
    let script = "mount --bind $d $d && mount -o remount,bind,ro $d && exec \"$@\"";
    let told =
        |more: &[&str]| in_mounts("wal_read_only_mount", script, &directory.0, &margay(&directory.0, "8MiB", more));
    let Some(command) = told(&[]) else { return };
    let output = Service::try_start(&command).err().expect("refused");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("read-only file system") && said.contains("cannot open the log: read only"), "{said}");
    let command = told(&["--set", "storage.read_only=true"]).expect("as before");
    read(&Service::try_start(&command).unwrap_or_else(|output| panic!("{output:?}")));
}

#[test]
fn the_command_line_appends_reads_follows_and_truncates() {
    let directory = Directory::new("client");
    let service = Service::start(&directory.0, "8MiB", &[]);
    let client = |arguments: &[&str], lines: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_margay"))
            .arg("wal")
            .args(arguments)
            .args(["--connect", &service.at, "--set", "memory.size=64MiB", "--set", "cores.pin=false"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(client(&["append"], "one\ntwo\n\nthree\n"), "1\n2\n3\n");
    assert_eq!(client(&["read"], ""), "1\tone\n2\ttwo\n3\tthree\n");
    assert_eq!(client(&["read", "--from", "2", "--count", "1"], ""), "2\ttwo\n");
    assert_eq!(client(&["truncate", "2"], ""), "first 2\n");
    assert_eq!(client(&["extent"], ""), "first 2 next 4\n");
    assert_eq!(client(&["read"], ""), "2\ttwo\n3\tthree\n");
    // Who follows sees what comes.
    let mut tail = Command::new(env!("CARGO_BIN_EXE_margay"))
        .args(["wal", "tail", "--from", "3", "--connect", &service.at])
        .args(["--set", "memory.size=64MiB", "--set", "cores.pin=false"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "3\tthree");
    assert_eq!(client(&["append"], "four\n"), "4\n");
    assert_eq!(lines.next().unwrap().unwrap(), "4\tfour");
    tail.kill().unwrap();
    tail.wait().unwrap();
}
