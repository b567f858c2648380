//! `margay grant`, and one who takes what it gives.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use libos_xdp::{Granted, Offer};

#[test]
fn what_is_granted_can_be_taken() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIP margay_grant: packet sockets take root");
        return;
    }
    let at = std::env::temp_dir().join(format!("margay-grant-{}", std::process::id()));
    for round in 0..2 {
        let mut grant = Command::new(env!("CARGO_BIN_EXE_margay"));
        grant.args(["grant", "--user", "root", "--at"]).arg(&at).args(["packet", "lo", "--sockets", "2"]);
        let mut grant = grant.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(grant.stdout.take().unwrap()).lines().map(Result::unwrap);
        let listens = lines.next().unwrap();
        assert!(listens.contains("user 0") && listens.contains(at.to_str().unwrap()), "{listens}");

        let heap = libos_mem::Heap::alone(4 << 20).unwrap();
        let mut granted = Granted::take(&at).unwrap();
        assert!(matches!(granted.offer(), Offer::Packet { sockets: 2, .. }), "{:?}", granted.offer());
        let first = granted.packet(heap.clone()).unwrap();
        let second = granted.packet(heap.clone()).unwrap();
        assert!(granted.packet(heap.clone()).is_err(), "there were two");
        assert_eq!(lines.next().unwrap(), format!("margay grant: given to process {}", std::process::id()));
        drop((first, second, granted));
        assert_eq!(lines.next().unwrap(), "margay grant: it has ended", "round {round}");
        // Killed, it leaves its socket behind, which the next one takes for what it is.
        grant.kill().unwrap();
        grant.wait().unwrap();
        assert!(at.exists());
    }
    std::fs::remove_file(at).unwrap();
}
