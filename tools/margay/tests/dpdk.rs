//! `margay` over DPDK's ports, in two processes: a service and its client, and what the one sees when the other is killed.
//!
//! Each process has its own DPDK environment; without huge pages there is no zero-copy memif.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const SERVER: &str = "10.81.0.1";
const LIMIT: Duration = Duration::from_secs(30);

/// A kind of link, and who has which end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// The service is memif's server.
    Memif,
    /// The same, and the client sends from where its data lies.
    MemifZeroCopy,
    /// The service is vhost, its client virtio-user.
    Vhost,
    /// The service is virtio-user, its client vhost.
    Virtio,
}

impl Kind {
    /// The devices of the service and of its client.
    fn devices(self, folder: &std::path::Path) -> [String; 2] {
        let socket = folder.join("socket");
        let socket = socket.display();
        let memif = |role: &str| format!("net_memif0,role={role},socket={socket},socket-abstract=no");
        let vhost = format!("net_vhost0,iface={socket}");
        let virtio = format!("net_virtio_user0,path={socket},queue_size=1024");
        match self {
            Kind::Memif => [memif("server"), memif("client")],
            Kind::MemifZeroCopy => [memif("server"), memif("client") + ",zero-copy=yes"],
            Kind::Vhost => [vhost, virtio],
            Kind::Virtio => [virtio, vhost],
        }
    }

    /// Whether a client that comes later finds the service as the first one did.
    fn comes_back(self) -> bool {
        matches!(self, Kind::Memif | Kind::Vhost)
    }
}

/// Says that a test is not done.
fn skip<T>(test: &str, reason: &str) -> Option<T> {
    println!("SKIP dpdk_processes::{test}: {reason}");
    None
}

fn has_huge_pages() -> bool {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = text.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
    free.and_then(|count| count.trim().parse::<usize>().ok()).unwrap_or(0) >= 400
}

/// A process of margay's. Killed when dropped.
struct Margay {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Margay {
    fn start(words: &[&str], device: &str, address: &str) -> Margay {
        let mut command = Command::new(env!("CARGO_BIN_EXE_margay"));
        command.args(words).args(["--backend", "dpdk", "--port", device, "--address", &format!("{address}/24")]);
        command.args(["--set", "memory.size=64MiB", "--set", "cores.pin=false"]);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MARGAY_")) {
            command.env_remove(name);
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("margay to start");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        Margay { child, output }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("its output");
        line
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id() as i32).expect("a process"), signal).expect("it to be there");
    }

    fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("its state").is_none()
    }

    /// Waits for its end, and gives what it said.
    fn end(&mut self) -> (ExitStatus, String) {
        let end = Instant::now() + LIMIT;
        let status = loop {
            match self.child.try_wait().expect("its state") {
                Some(status) => break status,
                None => assert!(Instant::now() < end, "it does not end"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut said = String::new();
        let _ = self.output.read_to_string(&mut said);
        if let Some(mut errors) = self.child.stderr.take() {
            let _ = errors.read_to_string(&mut said);
        }
        (status, said)
    }

    fn stop(&mut self) -> String {
        self.signal(Signal::TERM);
        let (status, said) = self.end();
        assert_eq!(status.code(), Some(0), "a stop: {status:?}: {said}");
        said
    }
}

impl Drop for Margay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A link in a folder of its own.
struct Link {
    kind: Kind,
    folder: PathBuf,
}

impl Link {
    fn make(test: &str, kind: Kind) -> Option<Link> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if let Err(why) = libos_dpdk::is_built() {
            return skip(test, why);
        }
        if kind == Kind::MemifZeroCopy && !has_huge_pages() {
            return skip(test, "memif without copies takes huge pages (vm.nr_hugepages)");
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("margay-link-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        Some(Link { kind, folder })
    }

    /// The service, and if it listens for its client's port, before it.
    fn serve(&self, words: &[&str]) -> Margay {
        let mut service = Margay::start(words, &self.kind.devices(&self.folder)[0], SERVER);
        let line = service.line();
        if !line.starts_with("listening on ") {
            let (status, said) = service.end();
            panic!("{words:?} over {:?} does not listen: {status:?} {line}{said}", self.kind);
        }
        service
    }

    fn client(&self, words: &[&str], address: &str) -> Margay {
        Margay::start(words, &self.kind.devices(&self.folder)[1], address)
    }

    /// Until the socket of the link is there: who connects to it comes second.
    fn wait_for_socket(&self) {
        let end = Instant::now() + LIMIT;
        while !self.folder.join("socket").exists() {
            assert!(Instant::now() < end, "nobody listens");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// An echo, and round trips to it without end.
    fn echo_and_client(&self) -> (Margay, Margay) {
        let to = format!("{SERVER}:7007");
        let asks = ["pingpong", "--connect", &to, "--count", "100000000"];
        if self.kind == Kind::Virtio {
            let client = self.client(&asks, "10.81.0.2");
            self.wait_for_socket();
            return (self.serve(&["echo"]), client);
        }
        let service = self.serve(&["echo"]);
        (service, self.client(&asks, "10.81.0.2"))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Time to find each other, and to be in the middle of it.
fn in_the_middle() {
    std::thread::sleep(Duration::from_secs(4));
}

/// The service is killed: its client hears of it, as an error, and ends by itself.
fn service_killed(test: &str, kind: Kind) {
    let Some(link) = Link::make(test, kind) else { return };
    let (mut service, mut client) = link.echo_and_client();
    in_the_middle();
    assert!(client.is_running(), "{kind:?}: {:?}", client.end());
    service.signal(Signal::KILL);
    let killed = Instant::now();
    let (status, said) = client.end();
    // Not a signal (a crash), but an error that it tells.
    assert_eq!(status.code(), Some(1), "{kind:?}: {status:?}: {said}");
    assert!(killed.elapsed() < Duration::from_secs(10), "{kind:?}: after {:?}", killed.elapsed());
    assert!(said.contains("down") || said.contains("reset"), "{kind:?}: {said}");
    let _ = service.end();
}

/// The client is killed: the service lives on, stops as it should; and the next client finds it, where the driver can.
fn client_killed(test: &str, kind: Kind) {
    let Some(link) = Link::make(test, kind) else { return };
    let (mut service, mut client) = link.echo_and_client();
    for _ in 0..2 {
        in_the_middle();
        assert!(client.is_running(), "{kind:?}: {:?}", client.end());
        client.signal(Signal::KILL);
        let _ = client.end();
        if !kind.comes_back() {
            break;
        }
        client =
            link.client(&["pingpong", "--connect", &format!("{SERVER}:7007"), "--count", "100000000"], "10.81.0.3");
    }
    if kind.comes_back() {
        drop(client);
        let to = format!("{SERVER}:7007");
        let (status, said) = link.client(&["pingpong", "--connect", &to, "--count", "2000"], "10.81.0.4").end();
        assert_eq!(status.code(), Some(0), "{kind:?}: {said}");
    }
    std::thread::sleep(Duration::from_millis(1500));
    if kind == Kind::Virtio {
        return is_started_again(&link, service);
    }
    assert!(service.is_running(), "{kind:?}: {:?}", service.end());
    service.stop();
}

/// A service whose driver connects once says that its network is gone, and ends as a failure; whoever supervises it starts it
/// again, and the next client finds it.
fn is_started_again(link: &Link, mut service: Margay) {
    let (status, said) = service.end();
    assert_eq!(status.code(), Some(1), "{status:?}: {said}");
    assert!(said.contains("the network is gone"), "{said}");
    // The socket of the client that was killed is in its way, as it is in a supervisor's.
    let _ = std::fs::remove_file(link.folder.join("socket"));
    let asks = ["pingpong", "--connect", &format!("{SERVER}:7007"), "--count", "2000"];
    let mut client = link.client(&asks, "10.81.0.3");
    link.wait_for_socket();
    let mut service = link.serve(&["echo"]);
    let (status, said) = client.end();
    assert_eq!(status.code(), Some(0), "{said}");
    drop(client);
    let _ = service.end();
}

/// The cache answers a client of ours, who checks what it is answered.
fn kv(test: &str, kind: Kind) {
    let Some(link) = Link::make(test, kind) else { return };
    let to = format!("{SERVER}:7007");
    let mut service = link.serve(&["kv", "--listen", &to]);
    let mut load = link
        .client(&["load", "--connect", &to, "--rate", "max", "--connections", "8", "--duration", "2s"], "10.81.0.2");
    let (status, said) = load.end();
    assert_eq!(status.code(), Some(0), "{kind:?}: {said}");
    println!("{kind:?}: {said}");
    service.stop();
}

/// The service is memif's client here, and there before its server. The server is killed and comes again, twice; the service
/// finds it each time.
fn client_first(test: &str, kind: Kind) {
    let Some(link) = Link::make(test, kind) else { return };
    let [server, client] = kind.devices(&link.folder);
    let mut service = Margay::start(&["echo"], &client, SERVER);
    let line = service.line();
    assert!(line.starts_with("listening on "), "without its server: {line}{:?}", service.end());
    // It looks more than once.
    std::thread::sleep(Duration::from_millis(700));
    assert!(service.is_running(), "{:?}", service.end());
    let asks = |count: &str, address: &str| {
        Margay::start(&["pingpong", "--connect", &format!("{SERVER}:7007"), "--count", count], &server, address)
    };
    for round in 0..2 {
        let mut peer = asks("100000000", "10.81.0.2");
        in_the_middle();
        assert!(peer.is_running(), "round {round}: {:?}", peer.end());
        peer.signal(Signal::KILL);
        let _ = peer.end();
    }
    let (status, said) = asks("2000", "10.81.0.3").end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(service.is_running(), "{:?}", service.end());
    let said = service.stop();
    assert!(!said.contains("connect socket"), "it says each time that nobody is there: {said}");
}

macro_rules! tests {
    ($($name:ident: $what:ident($kind:expr);)*) => {
        $(#[test]
        fn $name() {
            $what(stringify!($name), $kind);
        })*
    };
}

tests! {
    memif_service_killed: service_killed(Kind::Memif);
    memif_zero_copy_service_killed: service_killed(Kind::MemifZeroCopy);
    vhost_service_killed: service_killed(Kind::Vhost);
    virtio_service_killed: service_killed(Kind::Virtio);
    memif_client_killed: client_killed(Kind::Memif);
    memif_zero_copy_client_killed: client_killed(Kind::MemifZeroCopy);
    vhost_client_killed: client_killed(Kind::Vhost);
    virtio_client_killed: client_killed(Kind::Virtio);
    memif_client_first: client_first(Kind::Memif);
    memif_kv: kv(Kind::Memif);
    vhost_kv: kv(Kind::Vhost);
}
