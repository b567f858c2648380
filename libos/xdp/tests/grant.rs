//! A service without any rights, and who opens for it what takes them.

mod link;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use libos_mem::Heap;
use libos_net::Device;
use libos_xdp::{Giver, Granted, Offer, OpenError, PacketSettings, PacketSocket, PortRange, Share, Tap, TapSettings};
use libos_xdp::{Transport, Xsk, XskSettings};
use link::*;

/// Nobody.
const UID: u32 = 65_534;

/// As much as the service's heap, and more than it may pin without being granted it.
const MEMLOCK: u64 = 64 << 20;

/// Set for a process that is this program again: where it takes what is granted.
const SERVICE: &str = "MARGAY_TEST_SERVICE";

/// Set for a service that registers more memory than it could without a grant.
const LARGE: &str = "MARGAY_TEST_LARGE";

/// Not a test by itself: the service. It answers our port 7 until its input ends.
#[test]
fn service() {
    let Ok(path) = std::env::var(SERVICE) else { return };
    assert_eq!(rustix::process::geteuid().as_raw(), UID);
    // As much as may be pinned on most machines without raising the limit, or more, if it was to be raised.
    let heap = Heap::alone(if std::env::var_os(LARGE).is_some() { 32 << 20 } else { 4 << 20 }).unwrap();
    // By itself it may not open anything.
    let forbidden =
        |opened: Result<(), OpenError>| assert!(matches!(opened, Err(OpenError::Forbidden { .. })), "{opened:?}");
    let interface = if Path::new("/sys/class/net/near0").exists() { "near0" } else { "lo" };
    forbidden(PacketSocket::open(PacketSettings::new(interface), heap.clone()).map(drop));
    if libos_xdp::is_built().is_ok() && interface == "near0" {
        forbidden(Xsk::open(XskSettings::new(interface, &[OURS.into()]), heap.clone()).map(drop));
    }
    forbidden(Tap::open(TapSettings { name: "own0".into(), ..TapSettings::default() }, heap.clone()).map(drop));

    let mut granted = Granted::take(Path::new(&path)).unwrap();
    let mut device: Box<dyn Device> = match granted.offer() {
        Offer::Tap(_) => Box::new(granted.tap(heap.clone()).unwrap()),
        Offer::Packet { .. } => Box::new(granted.packet(heap.clone()).unwrap()),
        Offer::Xsk { .. } => {
            let port = granted.port(heap.reservation()).unwrap();
            Box::new(port.queue(0, heap.clone()).unwrap())
        }
    };
    println!("\nserving");
    std::io::stdout().flush().unwrap();
    let input = std::thread::spawn(|| std::io::stdin().read_line(&mut String::new()).unwrap());
    serve(&mut *device, &heap, |_| input.is_finished());
}

/// A copy of this program where nobody can read it, and a place for the socket.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let folder = std::env::temp_dir().join(format!("margay-grant-{}-{name}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::copy(std::env::current_exe().unwrap(), folder.join("service")).unwrap();
        Place(folder)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("grant")
    }

    /// What starts the service in `namespace`, without rights.
    fn command(&self, namespace: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "setpriv", "--reuid", &UID.to_string(), "--regid", &UID.to_string()]);
        command.args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]);
        command.arg(self.0.join("service")).args(["--exact", "service", "--nocapture", "--test-threads=1"]);
        command.env(SERVICE, self.socket()).stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits until the service says that it serves.
fn wait_until_serving(service: &mut Child) {
    let lines = BufReader::new(service.stdout.as_mut().unwrap()).lines();
    let said: Vec<String> = lines.map_while(Result::ok).take_while(|line| line != "serving").collect();
    assert!(service.try_wait().unwrap().is_none(), "the service ended: {said:?}");
}

fn has_setpriv(test: &str) -> Option<()> {
    let works = Command::new("setpriv").arg("--version").stdout(Stdio::null()).status().is_ok_and(|s| s.success());
    if works { Some(()) } else { skip(test, "there is no setpriv in the path (Debian: util-linux)") }
}

/// Runs a service with what is offered; asks it; kills it; and again, with a new process.
fn a_service_serves(name: &str, link: &Link, offer: Offer, at_end: impl Fn()) {
    let place = Place::new(name);
    let giver = Giver::listen(&place.socket(), UID, offer, MEMLOCK).unwrap();
    let near = link.near.clone();
    let giving = std::thread::spawn(move || {
        enter(&near);
        let mut pids = Vec::new();
        for _ in 0..2 {
            giver.give(|pid, _| pids.push(pid)).unwrap();
        }
        pids
    });
    for round in 0..2 {
        let mut service = place.command(&link.near).spawn().unwrap();
        wait_until_serving(&mut service);
        let status = std::fs::read_to_string(format!("/proc/{}/status", service.id())).unwrap();
        let rights = status.lines().find(|line| line.starts_with("CapEff")).unwrap();
        assert_eq!(rights.split_whitespace().nth(1), Some("0000000000000000"), "the service has no rights");
        assert_eq!(link.ask(5, Duration::ZERO).join().unwrap(), 5, "round {round}");
        if round == 0 {
            service.kill().unwrap();
        } else {
            service.stdin.take().unwrap().write_all(b"end\n").unwrap();
        }
        let status = service.wait().unwrap();
        assert_eq!(status.success(), round == 1, "{status}");
        std::thread::sleep(Duration::from_millis(100));
        at_end();
    }
    let pids = giving.join().unwrap();
    assert!(pids.len() == 2 && pids[0] != pids[1], "{pids:?}");
    assert!(!place.socket().exists(), "the socket goes with the giver");
}

#[test]
fn a_tap_interface_is_granted() {
    on_a_thread(|| {
        let test = "a_tap_interface_is_granted";
        let (Some(()), Some(link)) = (has_setpriv(test), Link::one(test)) else { return };
        let settings = TapSettings {
            name: "far0".into(),
            mac: Some(OUR_MAC),
            kernel_addresses: vec![(KERNELS.into(), 24)],
            ..TapSettings::default()
        };
        let has_gone =
            || assert!(!try_ip(&format!("-n {} link show far0", link.near)), "the interface outlives its taker");
        a_service_serves("tap", &link, Offer::Tap(settings), has_gone);
    });
}

#[test]
fn a_packet_socket_is_granted() {
    on_a_thread(|| {
        let test = "a_packet_socket_is_granted";
        let (Some(()), Some(link)) = (has_setpriv(test), Link::veth(test)) else { return };
        let offer = Offer::Packet { settings: PacketSettings::new("near0"), sockets: 1 };
        a_service_serves("packet", &link, offer, || {});
    });
}

#[test]
fn af_xdp_sockets_are_granted() {
    on_a_thread(|| {
        let test = "af_xdp_sockets_are_granted";
        if let Err(why) = libos_xdp::is_built() {
            return skip_af_xdp(test, why).unwrap_or(());
        }
        let (Some(()), Some(link)) = (has_setpriv(test), Link::veth(test)) else { return };
        let has_no_program = || {
            let shown = Command::new("ip").args(["-n", &link.near, "link", "show", "dev", "near0"]).output().unwrap();
            assert!(!String::from_utf8_lossy(&shown.stdout).contains("prog/xdp"), "the program outlives its taker");
        };
        let settings = XskSettings::new("near0", &[OURS.into()]);
        a_service_serves("xsk", &link, Offer::Xsk { settings: settings.clone(), queues: 1 }, has_no_program);
        // And where the kernel has the address as well.
        ip(&format!("-n {} addr add {OURS}/24 dev near0", link.near));
        let share = Share::Ports(vec![PortRange { transport: Transport::Udp, first: 7, last: 7 }]);
        let offer = Offer::Xsk { settings: XskSettings { share, ..settings }, queues: 1 };
        a_service_serves("xsk-ports", &link, offer, has_no_program);
    });
}

#[test]
fn the_memlock_limit_is_raised() {
    on_a_thread(|| {
        let test = "the_memlock_limit_is_raised";
        if let Err(why) = libos_xdp::is_built() {
            return skip_af_xdp(test, why).unwrap_or(());
        }
        let (Some(()), Some(link)) = (has_setpriv(test), Link::veth(test)) else { return };
        let memlock = rustix::process::getrlimit(rustix::process::Resource::Memlock).maximum;
        let higher = rustix::process::Rlimit { current: memlock, maximum: memlock.map(|limit| limit + 1) };
        if rustix::process::setrlimit(rustix::process::Resource::Memlock, higher).is_err() {
            return skip(test, "this root has no CAP_SYS_RESOURCE").unwrap_or(());
        }
        let place = Place::new("memlock");
        let offer = Offer::Xsk { settings: XskSettings::new("near0", &[OURS.into()]), queues: 1 };
        let giver = Giver::listen(&place.socket(), UID, offer, MEMLOCK).unwrap();
        let near = link.near.clone();
        let giving = std::thread::spawn(move || {
            enter(&near);
            giver.give(|_, notices| assert_eq!(notices, [] as [String; 0])).unwrap();
        });
        let mut service = place.command(&link.near).env(LARGE, "1").spawn().unwrap();
        wait_until_serving(&mut service);
        assert_eq!(link.ask(3, Duration::ZERO).join().unwrap(), 3);
        service.kill().unwrap();
        service.wait().unwrap();
        giving.join().unwrap();
    });
}

#[test]
fn only_the_user_it_is_for_is_given_anything() {
    on_a_thread(|| {
        let test = "only_the_user_it_is_for_is_given_anything";
        let Some(_link) = Link::veth(test) else { return };
        let place = Place::new("wrong-user");
        let offer = Offer::Packet { settings: PacketSettings::new("lo"), sockets: 1 };
        let giver = Giver::listen(&place.socket(), UID, offer, MEMLOCK).unwrap();
        let path = place.socket();
        // This process is root's, who may connect anywhere; and yet it is not for him.
        let taking = std::thread::spawn(move || Granted::take(&path).map(drop));
        let refused = giver.give(|_, _| panic!("given to the wrong one")).unwrap_err();
        assert!(matches!(&refused, OpenError::BadSettings(why) if why.contains("65534")), "{refused}");
        assert!(taking.join().unwrap().is_err());
        let mode = std::fs::metadata(place.socket()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    });
}

#[test]
fn what_cannot_be_opened_is_said_to_the_taker() {
    on_a_thread(|| {
        let test = "what_cannot_be_opened_is_said_to_the_taker";
        let Some(link) = Link::veth(test) else { return };
        enter(&link.near);
        let place = Place::new("nothing");
        let offer = Offer::Packet { settings: PacketSettings::new("absent0"), sockets: 1 };
        let giver = Giver::listen(&place.socket(), 0, offer, MEMLOCK).unwrap();
        let path = place.socket();
        let taking = std::thread::spawn(move || Granted::take(&path).map(drop));
        assert!(matches!(giver.give(|_, _| panic!("given")), Err(OpenError::NoInterface(_))));
        let said = taking.join().unwrap().unwrap_err().to_string();
        assert!(said.contains("absent0"), "{said}");
    });
}
