//! Gives back what it gets, on every stream, without copying it.

use framework::pdpix::{Endpoint, Sga};
use framework::{Actor, Address, Event, Outbox, Policy, Raw, Session, SessionSettings, System, carry_nowhere};

/// What an echo is to do.
#[derive(Clone, Debug)]
pub struct EchoArgs {
    /// Where it listens.
    pub listen: Endpoint,
    /// Told, once, where it listens in fact, or why it does not.
    pub on_listening: fn(Result<Endpoint, framework::pdpix::Error>),
}

/// Starts an echo on this core. Several cores may run one at the same endpoint.
pub fn run(system: &System, args: EchoArgs) -> Address<Echo> {
    let shared = system.libos().cores() > 1;
    system.spawn(Some("echo"), Policy::ESSENTIAL, move || Echo { args: args.clone(), shared })
}

/// Owns nothing. Sent to by its sessions. Restart: its sessions are reset, and it listens again.
pub struct Echo {
    args: EchoArgs,
    shared: bool,
}

/// What comes in on a session.
#[derive(Debug)]
pub struct Said(Session<Raw>, Sga);

carry_nowhere!(Said);

impl Actor for Echo {
    type Message = Said;

    fn handle(&mut self, event: Event<Said>, out: &mut Outbox<'_, Self>) {
        match event {
            Event::Started => {
                let settings = SessionSettings { shared: self.shared, ..SessionSettings::default() };
                out.listen(self.args.listen, settings, || Raw, Said);
            }
            Event::Message(Said(session, bytes)) => _ = out.write(session, bytes),
            Event::Listening { at, .. } => (self.args.on_listening)(Ok(at)),
            Event::ListenFailed { error, .. } => {
                (self.args.on_listening)(Err(error));
                out.stop_service(1);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use framework::Harness;

    use super::*;

    #[test]
    fn everything_comes_back_to_the_session_that_it_came_from() {
        let listen = "10.0.0.1:7".parse().unwrap();
        let mut harness = Harness::new(Echo { args: EchoArgs { listen, on_listening: |_| {} }, shared: false }, 1);
        harness.start();
        let peer = "10.0.0.2:99".parse().unwrap();
        let (first, second) = (harness.accept(listen, peer), harness.accept(listen, peer));
        harness.receive(first, b"one").unwrap();
        harness.receive(second, b"two").unwrap();
        assert_eq!((harness.written(first), harness.written(second)), (b"one".to_vec(), b"two".to_vec()));
    }
}
