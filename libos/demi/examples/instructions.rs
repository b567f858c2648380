//! What callgrind counts to see what the C interface costs: `instructions KIND LANGUAGE COUNT` serves so many echoes of 64
//! bytes (KIND: `tcp` or `udp`), by the functions of C or by the same calls in Rust (LANGUAGE: `c` or `rust`), over a port of
//! DPDK's. Client and server take turns in one thread, over two ports that rings join; the server's turns are inside of a
//! function whose name begins with `serves_in`. `margay-bench demi` runs it.
//!
//! The functions of C are called by their addresses, as a program's are through the linker's table.

use std::ffi::c_int;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::Duration;

use demikernel as c;
use libos_boot::{Launched, Settings, core_here};
use libos_dpdk::{Eal, EalSettings, ring_pair};
use libos_runtime::LibOs;
use pdpix::{Endpoint, Error, Outcome, Popped, QToken, Qd, Sga, SocketKind};

const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 78, 0, 1), Ipv4Addr::new(10, 78, 0, 2)];
const PORT: u16 = 7777;
/// As `demi_pop` has it.
const POP_MAX: usize = 64 << 10;
const NOW: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 0 };

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let [kind, language, count] = words[..] else { panic!("instructions tcp|udp c|rust COUNT") };
    let kind = if kind == "udp" { SocketKind::Datagram } else { SocketKind::Stream };
    let count: u64 = count.parse().expect("a count");
    let arguments = ["--no-huge", "--no-shconf", "-m", "256"].map(String::from).to_vec();
    let eal = Eal::start(&EalSettings { arguments, ..EalSettings::default() }).expect("DPDK starts");
    ring_pair(eal, ["kernel0", "kernel1"], 1024).expect("DPDK has ring ports");
    if language == "c" {
        let mut parked = c::Parked::open(&variables(0)).expect("a library OS");
        parked.exchange();
        let mut server = InC::new(kind);
        ask(kind, count, || serves_in_c(&mut server));
        parked.exchange();
    } else {
        let mut server = InRust::new(launch(0), kind);
        ask(kind, count, || serves_in_rust(&mut server));
    }
}

/// The environment of an end: the server's is 0.
fn variables(end: usize) -> Vec<(String, String)> {
    let variables = [
        ("MARGAY_NETWORK_BACKEND", "dpdk".into()),
        ("MARGAY_DPDK_PORT", format!("net_ring_kernel{end}")),
        ("MARGAY_FRAMES_ADDRESS", format!("{}/24", ADDRESSES[end])),
        ("MARGAY_FRAMES_MAC", format!("02:00:00:00:7a:0{}", end + 1)),
        ("MARGAY_FRAMES_POP_IN_ONE_PIECE", "true".into()),
        ("MARGAY_MEMORY_SIZE", "32MiB".into()),
    ];
    variables.map(|(name, value)| (name.into(), value)).into()
}

fn launch(end: usize) -> Launched {
    let settings = Settings::load(None, variables(end).into_iter(), &[]).expect("good settings");
    core_here(&settings).expect("a core")
}

/// The client asks `count` times, and lets the server serve in between.
fn ask(kind: SocketKind, count: u64, mut serve: impl FnMut()) {
    let launched = launch(1);
    let libos = launched.core.libos();
    let mut ended = |qt: QToken| {
        loop {
            match libos.wait(qt, Some(Duration::ZERO)) {
                Err(Error::TimedOut) => serve(),
                completion => break completion.expect("a token that is held").result.expect("it works"),
            }
        }
    };
    let qd = libos.socket(kind, None).expect("a queue");
    ended(libos.connect(qd, Endpoint::new(ADDRESSES[0].into(), PORT)).expect("a good address"));
    for _ in 0..count {
        let sga = Sga::copy(libos.heap(), &[7; 64]).expect("memory");
        ended(libos.push(qd, sga).expect("it is connected"));
        match ended(libos.pop(qd, POP_MAX).expect("it is connected")) {
            Outcome::Popped(Popped { sga, .. }) => assert_eq!(sga.to_vec(), [7; 64]),
            other => panic!("a pop gave {other:?}"),
        }
    }
}

#[inline(never)]
fn serves_in_c(server: &mut InC) {
    server.serve();
}

#[inline(never)]
fn serves_in_rust(server: &mut InRust) {
    server.serve().expect("an echo");
}

/// A server, as a program in C has it.
struct InC {
    is_datagram: bool,
    /// The token that it waits for.
    waits: u64,
    wait: unsafe extern "C" fn(*mut c::QResult, u64, *const libc::timespec) -> c_int,
    pop: unsafe extern "C" fn(*mut u64, c_int) -> c_int,
    push: unsafe extern "C" fn(*mut u64, c_int, *const c::SgArray) -> c_int,
    push_to: unsafe extern "C" fn(*mut u64, c_int, *const c::SgArray, *const libc::sockaddr, libc::socklen_t) -> c_int,
    free: unsafe extern "C" fn(*mut c::SgArray) -> c_int,
}

impl InC {
    fn new(kind: SocketKind) -> InC {
        let is_datagram = kind == SocketKind::Datagram;
        let (mut qd, mut waits) = (-1, 0);
        let at = libc::sockaddr_in {
            sin_family: libc::AF_INET as _,
            sin_port: PORT.to_be(),
            sin_addr: libc::in_addr { s_addr: u32::from(ADDRESSES[0]).to_be() },
            sin_zero: [0; 8],
        };
        let in_c = if is_datagram { libc::SOCK_DGRAM } else { libc::SOCK_STREAM };
        // SAFETY: all is there.
        unsafe {
            assert_eq!(c::demi_socket(&mut qd, libc::AF_INET, in_c, 0), 0);
            assert_eq!(c::demi_bind(qd, (&raw const at).cast(), size_of_val(&at) as _), 0);
            if is_datagram {
                assert_eq!(c::demi_pop(&mut waits, qd), 0);
            } else {
                assert_eq!((c::demi_listen(qd, 1), c::demi_accept(&mut waits, qd)), (0, 0));
            }
        }
        InC {
            is_datagram,
            waits,
            wait: black_box(c::demi_wait),
            pop: black_box(c::demi_pop),
            push: black_box(c::demi_push),
            push_to: black_box(c::demi_pushto),
            free: black_box(c::demi_sgafree),
        }
    }

    fn serve(&mut self) {
        // SAFETY: zero-filled memory is a value of it.
        let mut result: c::QResult = unsafe { std::mem::zeroed() };
        // SAFETY: all is there, here and below, and the opcode says what the value is.
        unsafe {
            if (self.wait)(&mut result, self.waits, &NOW) != 0 {
                return;
            }
            let mut qd = result.qd;
            if result.opcode == c::Opcode::Accept as u32 {
                qd = result.value.ares.qd;
            } else {
                assert!(result.opcode == c::Opcode::Pop as u32);
                let (mut sga, mut push) = (result.value.sga, 0);
                let errno = if self.is_datagram {
                    let from = sga.addr;
                    (self.push_to)(&mut push, qd, &sga, (&raw const from).cast(), size_of_val(&from) as _)
                } else {
                    (self.push)(&mut push, qd, &sga)
                };
                assert!(errno == 0 && (self.free)(&mut sga) == 0);
                assert!((self.wait)(&mut result, push, std::ptr::null()) == 0);
                assert!(result.opcode == c::Opcode::Push as u32);
            }
            assert!((self.pop)(&mut self.waits, qd) == 0);
        }
    }
}

/// The same calls in Rust.
struct InRust {
    launched: Launched,
    waits: QToken,
}

impl InRust {
    fn new(launched: Launched, kind: SocketKind) -> InRust {
        let libos = launched.core.libos();
        let qd = libos.socket(kind, None).expect("a queue");
        libos.bind(qd, Endpoint::new(ADDRESSES[0].into(), PORT)).expect("a free port");
        let waits = if kind == SocketKind::Datagram {
            libos.pop(qd, POP_MAX)
        } else {
            libos.listen(qd, 1).expect("it is bound");
            libos.accept(qd)
        };
        InRust { waits: waits.expect("a token"), launched }
    }

    fn serve(&mut self) -> Result<(), Error> {
        let libos: &LibOs = self.launched.core.libos();
        let completion = match libos.wait(self.waits, Some(Duration::ZERO)) {
            Err(Error::TimedOut) => return Ok(()),
            completion => completion?,
        };
        let mut qd: Qd = completion.qd;
        match completion.result? {
            Outcome::Accepted { queue, .. } => qd = queue,
            Outcome::Popped(popped) => {
                let push = match popped.from {
                    Some(from) => libos.push_to(qd, popped.sga, from)?,
                    None => libos.push(qd, popped.sga)?,
                };
                libos.wait(push, None)?.result?;
            }
            other => panic!("{other:?}"),
        }
        self.waits = libos.pop(qd, POP_MAX)?;
        Ok(())
    }
}
