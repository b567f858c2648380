//! `margay grant`, and one who takes what it gives.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use libos_net::Device;
use libos_xdp::{Granted, Offer};

/// A network namespace, gone when dropped.
struct Namespace(String);

impl Namespace {
    /// `None`, and said: it cannot be made.
    fn make() -> Option<Namespace> {
        let name = format!("mgrant-{}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).stderr(Stdio::null()).status();
        if made.is_ok_and(|status| status.success()) {
            return Some(Namespace(name));
        }
        println!("SKIP margay_grant: network namespaces take root, and iproute2");
        None
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

#[test]
fn what_is_granted_can_be_taken() {
    let Some(namespace) = Namespace::make() else { return };
    let at = std::env::temp_dir().join(format!("margay-grant-{}", std::process::id()));
    for round in 0..2 {
        let mut grant = Command::new("ip");
        grant.args(["netns", "exec", &namespace.0, env!("CARGO_BIN_EXE_margay"), "grant", "--user", "root", "--at"]);
        grant.arg(&at).args(["tap", "margay0", "--kernel-address", "10.9.0.1/24", "--mtu", "1400"]);
        let mut grant = grant.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(grant.stdout.take().unwrap()).lines().map(Result::unwrap);
        let listens = lines.next().unwrap();
        assert!(listens.contains("user 0") && listens.contains(at.to_str().unwrap()), "{listens}");

        let heap = libos_mem::Heap::alone(4 << 20).unwrap();
        let mut granted = Granted::take(&at).unwrap();
        assert!(matches!(granted.offer(), Offer::Tap(settings) if settings.name == "margay0"), "{:?}", granted.offer());
        let tap = granted.tap(heap.clone()).unwrap();
        assert_eq!(tap.link().mtu, 1400);
        assert!(granted.tap(heap).is_err(), "there was one");
        assert_eq!(lines.next().unwrap(), format!("margay grant: given to process {}", std::process::id()));
        drop((tap, granted));
        assert_eq!(lines.next().unwrap(), "margay grant: it has ended", "round {round}");
        // Killed, it leaves its socket behind, which the next one takes for what it is.
        grant.kill().unwrap();
        grant.wait().unwrap();
        assert!(at.exists());
    }
    std::fs::remove_file(at).unwrap();
}
