//! Our server of network block devices, with clients that nobody here wrote (qemu-io, qemu-img, nbdinfo), with clients that
//! break the rules, and with clients that go away.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use margay_guest::disk::Disk;
use margay_guest::nbd::{CONNECTIONS_MAX, Server};
use pdpix::Rng;

const SIZE: usize = 4 << 20;

fn socket() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::SeqCst);
    std::env::temp_dir().join(format!("margay-nbd-{}-{number}", std::process::id()))
}

fn serve() -> (Disk, Server) {
    let disk = Disk::new(vec![0; SIZE], 1);
    let server = Server::start(socket(), disk.clone()).expect("a server");
    (disk, server)
}

/// What a program says, if it is there.
fn says(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("timeout");
    command.args(["-s", "KILL", "20", program]).args(arguments).stdin(Stdio::null());
    let output = command.output().expect("a program");
    let says = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(127) {
        println!("SKIP nbd_{program}: there is no {program} in the path (Debian: qemu-utils, libnbd-bin)");
        return None;
    }
    assert!(output.status.success(), "{program} {arguments:?}: {says}");
    Some(says)
}

#[test]
fn nbdinfo_sees_what_we_serve() {
    let (_, server) = serve();
    let Some(says) = says("nbdinfo", &[&server.uri()]) else { return };
    for line in
        ["newstyle-fixed without TLS", "export-size: 4194304", "can_flush: true", "can_fua: true", "can_trim: true"]
    {
        assert!(says.contains(line), "no `{line}` in {says}");
    }
    for line in ["can_zero: true", "is_read_only: false", "block_size_minimum: 512", "block_size_maximum: 33554432"] {
        assert!(says.contains(line), "no `{line}` in {says}");
    }
    assert_eq!(server.dropped(), 0, "it said good-bye");
}

#[test]
fn nbdinfo_lists_one_export() {
    let (_, server) = serve();
    let Some(says) = says("nbdinfo", &["--list", &server.uri()]) else { return };
    assert!(says.contains("export=\"\""), "{says}");
}

#[test]
fn qemu_io_reads_what_it_wrote() {
    let (disk, server) = serve();
    let uri = server.uri();
    let io = |commands: &[&str]| {
        let mut arguments = vec!["-f", "raw"];
        commands.iter().for_each(|command| arguments.extend(["-c", command]));
        arguments.push(&uri);
        says("qemu-io", &arguments)
    };
    // Patterns are verified by qemu-io, and told in its output.
    let Some(told) = io(&["write -P 0x5a 4096 65536", "read -P 0x5a 4096 65536", "read -P 0 0 4096"]) else { return };
    assert!(!told.contains("Pattern verification failed"), "{told}");
    assert!(disk.seen()[4096..4096 + 65536].iter().all(|byte| *byte == 0x5a));
    assert_eq!(disk.seen()[4096 + 65536], 0);
    // Less than a sector: the client reads, changes and writes.
    let told = io(&["write -P 0x11 5000 10", "read -P 0x11 5000 10", "read -P 0x5a 5010 100"]).expect("it was there");
    assert!(!told.contains("Pattern verification failed"), "{told}");
    // A hole, zeros, and a trim.
    let told = io(&["write -z 8192 4096", "read -P 0 8192 4096", "discard 16384 4096", "read -P 0 16384 4096"]);
    let told = told.expect("it was there");
    assert!(!told.contains("Pattern verification failed"), "{told}");
    let (_, before) = disk.counts();
    io(&["write -P 1 0 512", "flush"]).expect("it was there");
    assert!(disk.counts().1 > before, "a flush reached the disk");
    assert_eq!(disk.cut()[0], 1);
}

#[test]
fn forced_unit_access_reaches_the_disk_as_such() {
    let disk = Disk::new(vec![0; SIZE], 1);
    disk.ignore_flushes(true); // whatever is flushed at the end of the client shall not count
    let server = Server::start(socket(), disk.clone()).expect("a server");
    let arguments = ["-f", "raw", "-c", "write -P 7 0 4096", &server.uri()];
    let Some(_) = says("qemu-io", &arguments) else { return };
    assert!((0..40).any(|_| disk.cut()[0] == 0), "a write without a flush is there in each of 40 cuts");
    drop(server);
    let disk = Disk::new(vec![0; SIZE], 1);
    let server = Server::start(socket(), disk.clone()).expect("a server");
    let flushes = std::sync::Arc::new(AtomicU32::new(0));
    let seen = flushes.clone();
    // At the first flush after the write, what was forced must be there without it.
    disk.watch(move |done, medium| {
        if done > 0 && medium.seen()[0] == 7 {
            assert!((0..40).all(|_| medium.cut()[0] == 7), "a forced write is there in every cut");
            seen.fetch_add(1, Ordering::SeqCst);
        }
    });
    let arguments = ["-f", "raw", "-c", "write -f -P 7 0 4096", "-c", "read -P 7 0 4096", &server.uri()];
    says("qemu-io", &arguments).expect("it was there");
    assert!(flushes.load(Ordering::SeqCst) > 0, "nothing came after the write");
}

#[test]
fn qemu_img_copies_a_whole_disk_through_it() {
    let (disk, server) = serve();
    let file = socket().with_extension("raw");
    let mut rng = Rng::new(7);
    let image: Vec<u8> = (0..SIZE / 8).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
    std::fs::write(&file, &image).expect("a file");
    let path = file.display().to_string();
    let copied = says("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &path, &server.uri()]);
    if copied.is_some() {
        assert!(disk.seen() == image, "another image arrived");
        let same = says("qemu-img", &["compare", "-f", "raw", "-F", "raw", &path, &server.uri()]).expect("there");
        assert!(same.contains("Images are identical"), "{same}");
        assert!(disk.cut() == image, "qemu-img flushes at its end");
    }
    let _ = std::fs::remove_file(file);
}

/// A client of the test's own, which can break the rules.
struct Client(UnixStream);

impl Client {
    fn connect(server: &Server) -> Client {
        let stream = UnixStream::connect(server.path()).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
        let mut client = Client(stream);
        let hello: [u8; 18] = client.take().expect("a greeting");
        assert!(hello.starts_with(b"NBDMAGICIHAVEOPT"), "{hello:?}");
        client
    }

    /// As far as requests.
    fn ready(server: &Server) -> Client {
        let mut client = Client::connect(server);
        client.send(&[&3u32.to_be_bytes(), b"IHAVEOPT", &1u32.to_be_bytes(), &0u32.to_be_bytes()]);
        let export: [u8; 10] = client.take().expect("an export");
        assert_eq!(u64::from_be_bytes(export[..8].try_into().unwrap()), SIZE as u64);
        client
    }

    fn send(&mut self, parts: &[&[u8]]) {
        let _ = self.0.write_all(&parts.concat());
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes).ok().map(|()| bytes)
    }

    fn request(&mut self, flags: u16, kind: u16, offset: u64, len: u32, payload: &[u8]) {
        let head = [&0x2560_9513u32.to_be_bytes()[..], &flags.to_be_bytes(), &kind.to_be_bytes(), b"a cookie"].concat();
        self.send(&[&head, &offset.to_be_bytes(), &len.to_be_bytes(), payload]);
    }

    /// The error of the answer.
    fn error(&mut self) -> Option<u32> {
        let answer: [u8; 16] = self.take()?;
        assert_eq!(answer[..4], 0x6744_6698u32.to_be_bytes());
        assert_eq!(&answer[8..], b"a cookie");
        Some(u32::from_be_bytes(answer[4..8].try_into().unwrap()))
    }

    fn option(&mut self, name: u32, data: &[u8]) -> u32 {
        self.send(&[b"IHAVEOPT", &name.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data]);
        let answer: [u8; 20] = self.take().expect("an answer");
        u32::from_be_bytes(answer[12..16].try_into().unwrap())
    }
}

const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;

#[test]
fn what_is_out_of_bounds_is_refused_and_the_connection_goes_on() {
    let (_, server) = serve();
    let mut client = Client::ready(&server);
    let end = SIZE as u64;
    for (what, kind, offset, len, error) in [
        ("a read across the end", 0, end - 512, 1024, EINVAL),
        ("a write across the end", 1, end - 512, 1024, ENOSPC),
        ("a trim that wraps", 4, u64::MAX - 511, 512, ENOSPC),
        ("a read of half a sector", 0, 256, 512, EINVAL),
        ("a read of more than may be", 0, 0, 33 << 20, EINVAL),
        ("a read of nothing", 0, 0, 0, EINVAL),
        ("a command that does not exist", 99, 0, 512, EINVAL),
        ("a flush with a place", 3, 512, 512, EINVAL),
    ] {
        let payload = if kind == 1 { vec![1; len as usize] } else { Vec::new() };
        client.request(0, kind, offset, len, &payload);
        assert_eq!(client.error(), Some(error), "{what}");
    }
    client.request(1 << 9, 0, 0, 512, &[]);
    assert_eq!(client.error(), Some(EINVAL), "a flag that does not exist");
    client.request(0, 1, 0, 512, &[9; 512]);
    assert_eq!(client.error(), Some(0));
    client.request(0, 0, 0, 512, &[]);
    assert_eq!(client.error(), Some(0));
    assert_eq!(client.take::<512>(), Some([9; 512]));
    assert_eq!(server.dropped(), 0);
}

#[test]
fn options_that_we_do_not_have_are_refused_by_name() {
    let (_, server) = serve();
    let mut client = Client::connect(&server);
    client.send(&[&3u32.to_be_bytes()]);
    assert_eq!(client.option(5, &[]), (1 << 31) + 1, "TLS");
    assert_eq!(client.option(8, &[]), (1 << 31) + 1, "structured replies");
    assert_eq!(client.option(7, &[0, 0, 0, 9, 1]), (1 << 31) + 3, "a name that is longer than its option");
    assert_eq!(client.option(6, &[0xff; 20]), (1 << 31) + 3, "no name at all");
    assert_eq!(client.option(3, &[1]), (1 << 31) + 3, "a list of something");
    assert_eq!(client.option(6, &vec![0; 64 << 10]), (1 << 31) + 9, "a name beyond all measure");
    assert_eq!(client.option(2, &[]), 1, "an end");
    assert_eq!(client.take::<1>(), None);
    assert_eq!(server.dropped(), 0);
}

#[test]
fn a_client_that_does_not_speak_the_protocol_is_dropped_and_others_go_on() {
    let (_, server) = serve();
    let mut good = Client::ready(&server);
    let mut rng = Rng::new(11);
    for round in 0..60 {
        let mut client = if round % 2 == 0 { Client::connect(&server) } else { Client::ready(&server) };
        let noise: Vec<u8> = (0..64).map(|_| rng.next_u64() as u8 | 4).collect();
        client.send(&[&noise]);
        assert_eq!(client.take::<1>(), None, "round {round}: an answer to noise");
    }
    let mut client = Client::ready(&server);
    client.request(0, 1, 0, u32::MAX, &[]);
    assert_eq!(client.error(), None, "a write of 4 GiB is not waited for");
    assert_eq!(server.dropped(), 61);
    good.request(0, 3, 0, 0, &[]);
    assert_eq!(good.error(), Some(0));
}

#[test]
fn a_client_that_goes_away_takes_nothing_with_it() {
    let (disk, server) = serve();
    let mut rng = Rng::new(5);
    for _ in 0..40 {
        let mut client = Client::ready(&server);
        // Cut off anywhere in the head or the payload.
        let mut bytes =
            [&0x2560_9513u32.to_be_bytes()[..], &[0, 0, 0, 1], b"a cookie", &[0; 8], &512u32.to_be_bytes()].concat();
        bytes.resize(28 + 512, 0xee);
        bytes.truncate(rng.below(bytes.len() as u64) as usize);
        client.send(&[&bytes]);
    }
    let mut client = Client::ready(&server);
    client.request(0, 3, 0, 0, &[]);
    assert_eq!(client.error(), Some(0));
    assert!(disk.seen().iter().all(|byte| *byte == 0), "half a write was done");
}

#[test]
fn there_are_so_many_clients_and_no_more() {
    let (_, server) = serve();
    let clients: Vec<Client> = (0..CONNECTIONS_MAX).map(|_| Client::ready(&server)).collect();
    let mut one_more = UnixStream::connect(server.path()).expect("a connection");
    assert_eq!(one_more.read(&mut [0; 8]).expect("its end"), 0);
    drop(clients);
    let deadline = Instant::now() + Duration::from_secs(10);
    while UnixStream::connect(server.path()).expect("a connection").read(&mut [0; 8]).unwrap_or(0) == 0 {
        assert!(Instant::now() < deadline, "no room again");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn without_power_nobody_is_answered_and_the_server_can_be_ended() {
    let (disk, server) = serve();
    let mut client = Client::ready(&server);
    client.request(0, 1, 0, 512, &[9; 512]);
    assert_eq!(client.error(), Some(0));
    disk.cut();
    client.0.set_read_timeout(Some(Duration::from_millis(50))).expect("a limit");
    client.request(0, 3, 0, 0, &[]);
    assert_eq!(client.error(), None);
    client.0.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
    let path = server.path().to_path_buf();
    std::fs::remove_file(&path).expect("a socket"); // somebody has tidied up
    drop(server);
    assert!(!path.exists());
    assert_eq!(client.0.read(&mut [0; 1]).expect("an end"), 0, "the connection is closed");
    assert_eq!(disk.counts(), (1, 0), "what came without power was not done");
}
