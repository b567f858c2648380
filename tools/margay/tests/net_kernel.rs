//! `margay` on our own network stack, and the programs that people use at the other end of the link, over the Linux
//! kernel's: redis-cli, redis-benchmark, socat and curl. Each backend that moves frames, in namespaces of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const OURS: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
const KERNELS: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 2);
const LIMIT: Duration = Duration::from_secs(30);

/// Says that a test is not done.
fn skip<T>(test: &str, reason: &str) -> Option<T> {
    println!("SKIP net_kernel::{test}: {reason}");
    None
}

fn succeeds(program: &str, words: &str) -> bool {
    let mut command = Command::new(program);
    command.args(words.split(' ')).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn ip(words: &str) {
    assert!(succeeds("ip", words), "ip {words}");
}

/// A namespace for margay and one for clients, or one for both. Gone when dropped.
struct Link {
    near: String,
    far: String,
}

impl Link {
    /// For this backend: a veth pair, or a TAP interface with the kernel's address.
    fn open(test: &str, backend: &str) -> Option<Link> {
        if !rustix::process::geteuid().is_root() {
            return skip(test, "network namespaces take root");
        }
        if !succeeds("ip", "-V") {
            return skip(test, "there is no ip in the path (Debian: iproute2)");
        }
        remove_stale();
        let name = |end| format!("mnet-{}-{test}-{backend}-{end}", std::process::id());
        let near = name("near");
        if !succeeds("ip", &format!("netns add {near}")) {
            return skip(test, "network namespaces cannot be made here");
        }
        let mut link = Link { far: near.clone(), near };
        let near = &link.near;
        ip(&format!("-n {near} link set lo up"));
        if backend == "dpdk-tap" {
            return Some(link);
        }
        if backend == "tap" {
            ip(&format!("-n {near} tuntap add dev near0 mode tap"));
            ip(&format!("-n {near} addr add {KERNELS}/24 dev near0"));
            ip(&format!("-n {near} link set near0 up"));
            return Some(link);
        }
        let far = name("far");
        ip(&format!("netns add {far}"));
        ip(&format!("link add near0 netns {near} type veth peer name far0 netns {far}"));
        ip(&format!("-n {near} link set near0 up"));
        ip(&format!("-n {far} addr add {KERNELS}/24 dev far0"));
        ip(&format!("-n {far} link set far0 up"));
        // DPDK's ports do not say of a frame that its sums are left out, as the kernel does on a link inside the machine.
        if backend.starts_with("dpdk-") && !succeeds("ip", &format!("netns exec {far} ethtool -K far0 tx off")) {
            return skip(test, "there is no ethtool in the path (Debian: ethtool)");
        }
        link.far = far;
        Some(link)
    }

    /// A program in the clients' namespace.
    fn client(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.far, "timeout", "-s", "KILL", "30"]).args(words);
        command
    }

    /// Runs it to its end, with this input.
    fn run(&self, words: &[&str], input: &[u8]) -> Output {
        let mut command = self.client(words);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ip to start");
        let mut stdin = child.stdin.take().expect("input");
        let input = input.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().expect("its output");
        let written = writer.join().expect("a writer");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && written.is_ok(), "{words:?}: {:?} {errors}", output.status);
        output
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        succeeds("ip", &format!("netns del {}", self.near));
        if self.far != self.near {
            succeeds("ip", &format!("netns del {}", self.far));
        }
    }
}

/// Removes the namespaces of tests that were killed.
fn remove_stale() {
    for entry in std::fs::read_dir("/var/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix("mnet-").and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()) {
            succeeds("ip", &format!("netns del {name}"));
        }
    }
}

/// A service of margay's on our stack.
struct Service(Child);

impl Service {
    /// `None`, and said: this machine cannot do it.
    fn start(test: &str, link: &Link, service: &str, backend: &str) -> Option<Service> {
        let mut command = Command::new("ip");
        // `ip netns exec` becomes the program: its process is margay's.
        let dpdk_device = backend.strip_prefix("dpdk-").map(|driver| match driver {
            // Interface and kernel's address come with the port.
            "tap" => "net_tap0,iface=near0".to_string(),
            driver => format!("net_{driver}0,iface=near0"),
        });
        let kind = if dpdk_device.is_some() { "dpdk" } else { backend };
        command.args(["netns", "exec", &link.near, env!("CARGO_BIN_EXE_margay"), service, "--backend", kind]);
        command.args(["--address", &format!("{OURS}/24"), "--listen", &format!("{OURS}:7007")]);
        match &dpdk_device {
            Some(device) => command.args(["--port", device]),
            None => command.args(["--interface", "near0"]),
        };
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MARGAY_")) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("margay to start");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("its output")).read_line(&mut line).expect("a line");
        if !line.starts_with("listening on ") {
            let ended = child.wait_with_output().expect("its end");
            let why = String::from_utf8_lossy(&ended.stderr).trim().to_string();
            assert!(
                ["xdp", "dpdk-af_xdp"].contains(&backend) || is_left_out(&why),
                "margay {service} --backend {backend} does not listen: {line}{why}"
            );
            return skip(test, &why.replace('\n', " "));
        }
        if backend == "dpdk-tap" {
            ip(&format!("-n {} addr add {KERNELS}/24 dev near0", link.near));
            ip(&format!("-n {} link set near0 up", link.near));
        }
        Some(Service(child))
    }

    /// Stops it as a user does: it ends well, and soon.
    fn stop(mut self) {
        assert_eq!(self.0.try_wait().expect("its state"), None, "it has ended");
        let pid = Pid::from_raw(self.0.id() as i32).expect("a process");
        kill_process(pid, Signal::TERM).expect("it to be there");
        let status = self.end();
        assert_eq!(status.code(), Some(0), "a stop: {status:?}");
    }

    /// Waits until it ends.
    fn end(&mut self) -> ExitStatus {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match self.0.try_wait().expect("its state") {
                Some(status) => return status,
                None if Instant::now() > end => panic!("it does not stop"),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What moves frames; of DPDK's ports those that have a kernel at the other end.
const BACKENDS: [&str; 6] = ["packet", "tap", "xdp", "dpdk-af_packet", "dpdk-tap", "dpdk-af_xdp"];

/// DPDK was not there when this was built.
fn is_left_out(why: &str) -> bool {
    why.contains("libdpdk") || why.contains("libclang") || why.contains("MARGAY_WITHOUT_DPDK")
}

/// The test's link and service for every backend that can be had here.
fn with_each(test: &str, service: &str, work: impl Fn(&Link)) {
    for backend in BACKENDS {
        let Some(link) = Link::open(test, backend) else { return };
        if let Some(service) = Service::start(test, &link, service, backend) {
            work(&link);
            service.stop();
        }
    }
}

fn has(test: &str, program: &str, package: &str) -> bool {
    let is_there = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()));
    if !is_there {
        println!("SKIP net_kernel::{test}: there is no {program} in the path (Debian: {package})");
    }
    is_there
}

/// Nobody can reach a service whose interface was taken away: it ends as a failure, and whoever supervises it starts it again.
#[test]
fn interface_taken_away() {
    for backend in ["packet", "tap", "xdp"] {
        let test = "interface_taken_away";
        let Some(link) = Link::open(test, backend) else { return };
        let Some(mut service) = Service::start(test, &link, "echo", backend) else { continue };
        ip(&format!("-n {} link del near0", link.near));
        let status = service.end();
        assert_eq!(status.code(), Some(1), "{backend}: {status:?}");
        let mut said = String::new();
        service.0.stderr.take().expect("its errors").read_to_string(&mut said).expect("text");
        assert!(said.contains("the network is gone"), "{backend}: {said}");
    }
}

#[test]
fn redis_cli() {
    if !has("redis_cli", "redis-cli", "redis-tools") {
        return;
    }
    with_each("redis_cli", "kv", |link| {
        let address = OURS.to_string();
        let base = ["redis-cli", "-h", &address, "-p", "7007"];
        let cli = |words: &[&str], input: &[u8]| link.run(&[&base[..], words].concat(), input).stdout;
        assert_eq!(cli(&["PING"], b""), b"PONG\n");
        assert_eq!(cli(&["SET", "greeting", "hello"], b""), b"OK\n");
        assert_eq!(cli(&["GET", "greeting"], b""), b"hello\n");
        // A mebibyte, which is many segments and more than a window at first.
        let value: Vec<u8> = (0..1 << 20).map(|i| b'a' + (i / 7 % 26) as u8).collect();
        assert_eq!(cli(&["-x", "SET", "long"], &value), b"OK\n");
        let back = cli(&["GET", "long"], b"");
        assert!(back.strip_suffix(b"\n") == Some(&value), "{} bytes of {} came back", back.len(), value.len());
    });
}

#[test]
fn redis_benchmark() {
    if !has("redis_benchmark", "redis-benchmark", "redis-tools") {
        return;
    }
    with_each("redis_benchmark", "kv", |link| {
        let address = OURS.to_string();
        let base = ["redis-benchmark", "-h", &address, "-p", "7007", "-t", "set,get,lpush,mset", "-q", "--csv"];
        for more in [&["-n", "2000", "-c", "50"][..], &["-n", "5000", "-c", "5", "-P", "16", "-d", "1000"]] {
            let output = link.run(&[&base[..], more].concat(), b"");
            let output = String::from_utf8_lossy(&output.stdout).into_owned();
            for name in ["SET", "GET", "LPUSH", "MSET (10 keys)"] {
                let rate =
                    output.lines().find_map(|line| line.strip_prefix(&format!("\"{name}\",\""))?.split('"').next());
                let rate: f64 = rate.and_then(|rate| rate.parse().ok()).unwrap_or_else(|| panic!("{name}: {output}"));
                assert!(rate > 100.0, "{name}: {rate} a second");
            }
        }
    });
}

#[test]
fn socat() {
    if !has("socat", "socat", "socat") {
        return;
    }
    with_each("socat", "echo", |link| {
        let text: Vec<u8> = (0..300_000).map(|i| (i * 7 / 3) as u8).collect();
        // It finishes its side when its input is over, and waits for ours to end.
        let output = link.run(&["socat", "-t", "20", "-", &format!("TCP:{OURS}:7007")], &text);
        assert!(output.stdout == text, "{} of {} bytes came back", output.stdout.len(), text.len());
    });
}

#[test]
fn curl() {
    if !has("curl", "curl", "curl") {
        return;
    }
    with_each("curl", "echo", |link| {
        // It ends when we do: it says nothing of the end of its input. So it is given a time.
        let mut command =
            link.client(&["curl", "--silent", "--no-buffer", "--max-time", "3", &format!("telnet://{OURS}:7007")]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("ip to start");
        let mut stdin = child.stdin.take().expect("input");
        let mut lines = BufReader::new(child.stdout.take().expect("output")).lines();
        for line in ["hello", "from", "curl"] {
            writeln!(stdin, "{line}").unwrap();
            assert_eq!(lines.next().expect("an echo").unwrap(), line);
        }
        drop(stdin);
        let end = Instant::now() + LIMIT;
        while child.try_wait().expect("its state").is_none() {
            assert!(Instant::now() < end, "curl does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    });
}
