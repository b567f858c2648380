//! One TCP stream over a veth pair without segmentation offloads: ours to the kernel, the kernel to ours, and the kernel to
//! itself. `cargo bench -p libos-xdp --bench kernel_stream`; takes root, iproute2 and ethtool. Prints Gbit/s of
//! payload: the median of five rounds, and the spread.

#[path = "../tests/link/mod.rs"]
mod link;

#[path = "../tests/kernel/mod.rs"]
mod kernel;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kernel::*;
use pdpix::{Network, Op, Outcome, Sga};

/// How long a stream runs.
const TIME: Duration = Duration::from_secs(2);
const ROUNDS: usize = 5;
const PIECE: usize = 64 << 10;

fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 * 8.0 / took.as_secs_f64() / 1e9
}

/// Reads until the end. Gives the rate.
fn drain(mut stream: TcpStream) -> f64 {
    let (mut bytes, mut all) = (vec![0; 256 << 10], 0);
    let start = Instant::now();
    loop {
        match stream.read(&mut bytes).unwrap() {
            0 => return rate(all, start.elapsed()),
            len => all += len as u64,
        }
    }
}

/// Writes as long as the time lasts.
fn fill(mut stream: TcpStream) {
    let (bytes, start) = (vec![7; PIECE], Instant::now());
    while start.elapsed() < TIME {
        stream.write_all(&bytes).unwrap();
    }
    stream.shutdown(Shutdown::Write).unwrap();
}

fn plain(namespace: &str, interface: &str) {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, "ethtool", "-K", interface, "tso", "off", "gso", "off", "gro", "off"]);
    assert!(command.stdout(Stdio::null()).status().is_ok_and(|status| status.success()), "ethtool");
}

fn lab(kind: Kind) -> (Lab, Host) {
    let (lab, host) = Lab::open("stream", Setup { kind, ..Setup::default() }).expect("a link");
    plain(&lab.link.far, "far0");
    plain(&lab.link.near, "near0");
    (lab, host)
}

fn ours_to_kernel(kind: Kind) -> f64 {
    let (lab, mut host) = lab(kind);
    let listener = lab.listener(false);
    let h = host.connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let thread = lab.meanwhile(move || drain(stream));
    let bytes = host.heap.copy(&vec![7; PIECE]).unwrap();
    let start = Instant::now();
    let mut push = None;
    while start.elapsed() < TIME {
        host.step();
        loop {
            if let Some(op) = push {
                let Some(result) = host.take(op) else { break };
                result.unwrap();
            }
            push = Some(host.begin(h, Op::Push(Sga::from(bytes.clone()))).unwrap());
        }
    }
    host.net.finish(h).unwrap();
    host.until("the end", |_| thread.is_finished().then_some(()));
    if std::env::var_os("MARGAY_TEST_COUNTERS").is_some() {
        println!("{:?}", host.busy_counters());
    }
    thread.join().unwrap()
}

fn kernel_to_ours(kind: Kind) -> f64 {
    let (lab, mut host) = lab(kind);
    let listener = lab.listener(false);
    let h = host.connect(listener.local_addr().unwrap()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let thread = lab.meanwhile(move || fill(stream));
    let (start, mut all) = (Instant::now(), 0);
    'all: loop {
        let op = host.begin(h, Op::Pop { len_max: 1 << 20 }).unwrap();
        let result = loop {
            if let Some(result) = host.take(op) {
                break result;
            }
            host.step();
        };
        let Ok(Outcome::Popped(popped)) = result else { panic!("{result:?}") };
        if popped.sga.is_empty() {
            break 'all;
        }
        all += popped.sga.len() as u64;
    }
    let rate = rate(all, start.elapsed());
    host.net.close(h);
    host.until("the end", |_| thread.is_finished().then_some(()));
    rate
}

fn kernel_to_kernel() -> f64 {
    let link = Link::veth("stream").expect("a link");
    ip(&format!("-n {} addr add {OURS}/24 dev near0", link.near));
    plain(&link.far, "far0");
    plain(&link.near, "near0");
    let listener = inside(&link.far, || TcpListener::bind((KERNELS, 0)).unwrap());
    let to = listener.local_addr().unwrap();
    let near = link.near.clone();
    let thread = std::thread::spawn(move || {
        enter(&near);
        fill(connect(to).unwrap());
    });
    let rate = drain(listener.accept().unwrap().0);
    thread.join().unwrap();
    rate
}

/// Processor time that this process has used, the kernel's work for it included.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A rate, and the same of each second of processor time: the first depends on who else is on the machine.
fn measured(stream: impl FnOnce() -> f64) -> (f64, f64) {
    let (start, before) = (Instant::now(), processor_time());
    let rate = stream();
    let busy = (processor_time() - before).as_secs_f64() / start.elapsed().as_secs_f64();
    (rate, rate / busy)
}

fn main() {
    // Only those whose name has this in it.
    let filter = std::env::args().skip(1).find(|word| !word.starts_with("--")).unwrap_or_default();
    let mut rows: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for round in 0..ROUNDS {
        let mut row = 0;
        let mut measure = |name: String, stream: &dyn Fn() -> f64| {
            if name.contains(&filter) {
                if round == 0 {
                    rows.push((name, Vec::new()));
                }
                rows[row].1.push(measured(stream));
                row += 1;
            }
        };
        measure("kernel to kernel".into(), &kernel_to_kernel);
        for kind in [Kind::Packet { offload: false }, Kind::Packet { offload: true }, Kind::Xsk] {
            measure(format!("ours to kernel, {kind:?}"), &|| ours_to_kernel(kind));
            measure(format!("kernel to ours, {kind:?}"), &|| kernel_to_ours(kind));
        }
    }
    let middle = |mut rates: Vec<f64>| {
        rates.sort_by(f64::total_cmp);
        (rates[ROUNDS / 2], rates[0], rates[ROUNDS - 1])
    };
    for (name, rates) in rows {
        let (rates, per_second): (Vec<f64>, Vec<f64>) = rates.into_iter().unzip();
        let ((rate, least, most), (busy, ..)) = (middle(rates), middle(per_second));
        println!("{name:42} {rate:.2} Gbit/s ({least:.2} to {most:.2}), {busy:.2} Gbit a processor second");
    }
}
