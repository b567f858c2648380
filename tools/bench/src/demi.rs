//! What the C interface is measured against: the same calls, from Rust.

use libos_boot::{Launched, Settings, core_here};
use libos_runtime::LibOs;
use pdpix::{Completion, Endpoint, Outcome, Popped, QToken, Qd, Sga, SocketKind};

/// As `demi_pop` has it.
const POP_MAX: usize = 64 << 10;

/// Two connected queues of one core on kernel sockets. `c/demi_rounds.c` does the same through the C interface.
pub struct Rounds {
    launched: Launched,
    both: [Qd; 2],
}

impl Rounds {
    /// With queues of this kind.
    ///
    /// # Panics
    /// If the system gives no sockets.
    pub fn new(kind: SocketKind) -> Rounds {
        let settings = Settings::load(None, std::iter::empty(), &[]).expect("no settings are good settings");
        let launched = core_here(&settings).expect("kernel sockets");
        let libos = launched.core.libos();
        let both = match kind {
            SocketKind::Stream => streams(libos),
            _ => datagrams(libos),
        };
        Rounds { launched, both }
    }

    /// 64 bytes there and back.
    ///
    /// # Panics
    /// If an operation fails.
    pub fn round(&self) {
        let (libos, [here, there]) = (self.launched.core.libos(), self.both);
        let mut buf = libos.alloc(64).expect("memory");
        buf.resize(64, b'x');
        ended(libos, libos.push(here, Sga::from(buf.freeze())).expect("it is connected"));
        let popped = popped(libos, there);
        ended(libos, libos.push(there, popped.sga).expect("it is connected"));
        drop(self::popped(libos, here));
    }
}

fn ended(libos: &LibOs, qt: QToken) -> Completion {
    let completion = libos.wait(qt, None).expect("a token that is held");
    assert!(completion.result.is_ok());
    completion
}

fn popped(libos: &LibOs, qd: Qd) -> Popped {
    let completion = ended(libos, libos.pop(qd, POP_MAX).expect("it is connected"));
    completion.popped().expect("bytes")
}

fn bound(libos: &LibOs, kind: SocketKind) -> (Qd, Endpoint) {
    let qd = libos.socket(kind, None).expect("a queue");
    let at = libos.bind(qd, Endpoint::from(([127, 0, 0, 1], 0))).expect("a free port");
    (qd, at)
}

fn streams(libos: &LibOs) -> [Qd; 2] {
    let (listener, at) = bound(libos, SocketKind::Stream);
    libos.listen(listener, 1).expect("it is bound");
    let accept = libos.accept(listener).expect("it listens");
    let client = libos.socket(SocketKind::Stream, None).expect("a queue");
    ended(libos, libos.connect(client, at).expect("a good address"));
    match ended(libos, accept).result {
        Ok(Outcome::Accepted { queue, .. }) => [client, queue],
        other => panic!("an accept gave {other:?}"),
    }
}

fn datagrams(libos: &LibOs) -> [Qd; 2] {
    let both = [bound(libos, SocketKind::Datagram), bound(libos, SocketKind::Datagram)];
    for (i, (qd, _)) in both.iter().enumerate() {
        ended(libos, libos.connect(*qd, both[1 - i].1).expect("a good address"));
    }
    both.map(|(qd, _)| qd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_there_and_back() {
        for kind in [SocketKind::Stream, SocketKind::Datagram] {
            let rounds = Rounds::new(kind);
            (0..10).for_each(|_| rounds.round());
            assert_eq!(rounds.launched.core.libos().tokens_in_use(), 0);
        }
    }
}
