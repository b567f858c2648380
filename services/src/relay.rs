//! Forwards datagrams: what a client sends goes to the target, from a port of the client's own; what the target sends to
//! that port goes back to the client.
//!
//! Bounds: `CLIENTS_MAX` clients at a time; one from whom nothing came for `IDLE` is forgotten. A datagram of a client
//! that finds no place is dropped and counted. Nothing is copied.

use std::time::Duration;

use framework::pdpix::{Endpoint, Error, Instant, Map, Seed};
use framework::{Actor, Address, BindingId, Datagram, DatagramSettings, Event, Outbox, Policy, System, carry_nowhere};

const CLIENTS_MAX: usize = 4096;
const IDLE: Duration = Duration::from_secs(60);
/// Datagrams of a new client that wait for its port.
const WAITING_MAX: usize = 16;
const LOOK_FOR_IDLE: u64 = 1;

/// What a relay is to do.
#[derive(Clone, Debug)]
pub struct RelayArgs {
    /// Where clients send to.
    pub listen: Endpoint,
    /// Where that goes.
    pub target: Endpoint,
    /// Told, once, where it listens in fact, or why it does not.
    pub on_listening: fn(Result<Endpoint, Error>),
}

/// Starts a relay on this core.
pub fn run(system: &System, args: RelayArgs) -> Address<Relay> {
    let (shared, seed) = (system.libos().cores() > 1, system.libos().seed().clone());
    system.spawn(Some("relay"), Policy::ESSENTIAL, move || Relay::new(args.clone(), shared, &seed))
}

/// A client and the port that stands for it.
struct Client {
    endpoint: Endpoint,
    heard: Instant,
    /// What came before the port was there.
    waiting: Vec<Datagram>,
    bound: bool,
}

/// Owns the table of clients. Sent to by its datagram bindings. Restart: forgets all clients, who get new ports.
pub struct Relay {
    args: RelayArgs,
    shared: bool,
    front: Option<BindingId>,
    by_endpoint: Map<Endpoint, BindingId>,
    by_port: Map<BindingId, Client>,
    /// Datagrams for which there was no place.
    pub dropped: u64,
}

/// What comes in.
#[derive(Debug)]
pub struct Came(Datagram);

carry_nowhere!(Came);

impl Relay {
    fn new(args: RelayArgs, shared: bool, seed: &Seed) -> Relay {
        Relay { args, shared, front: None, by_endpoint: seed.map(), by_port: seed.map(), dropped: 0 }
    }

    fn forward(&mut self, datagram: Datagram, out: &mut Outbox<'_, Relay>) {
        let now = out.now();
        if let Some(&port) = self.by_endpoint.get(&datagram.from) {
            let client = self.by_port.get_mut(&port).expect("each endpoint has its port");
            client.heard = now;
            if client.bound {
                out.send_datagram(port, self.args.target, datagram.data);
            } else if client.waiting.len() < WAITING_MAX {
                client.waiting.push(datagram);
            } else {
                self.dropped += 1;
            }
            return;
        }
        if self.by_port.len() >= CLIENTS_MAX {
            self.dropped += 1;
            return;
        }
        let mut any = self.args.listen;
        any.set_port(0);
        let port = out.bind_datagrams(any, DatagramSettings::default(), Came);
        self.by_endpoint.insert(datagram.from, port);
        let endpoint = datagram.from;
        self.by_port.insert(port, Client { endpoint, heard: now, waiting: vec![datagram], bound: false });
    }

    fn forget(&mut self, port: BindingId, out: &mut Outbox<'_, Relay>) {
        if let Some(client) = self.by_port.remove(&port) {
            self.by_endpoint.remove(&client.endpoint);
            self.dropped += client.waiting.len() as u64;
            out.unbind(port);
        }
    }
}

impl Actor for Relay {
    type Message = Came;

    fn handle(&mut self, event: Event<Came>, out: &mut Outbox<'_, Self>) {
        match event {
            Event::Started => {
                let settings = DatagramSettings { shared: self.shared, ..DatagramSettings::default() };
                self.front = Some(out.bind_datagrams(self.args.listen, settings, Came));
                out.set_timer(IDLE / 4, LOOK_FOR_IDLE);
            }
            Event::Message(Came(datagram)) if Some(datagram.binding) == self.front => self.forward(datagram, out),
            Event::Message(Came(datagram)) => match (self.by_port.get(&datagram.binding), self.front) {
                // Only the target may speak to a client through its port.
                (Some(client), Some(front)) if datagram.from == self.args.target => {
                    out.send_datagram(front, client.endpoint, datagram.data);
                }
                _ => self.dropped += 1,
            },
            Event::Listening { binding, at } if Some(binding) == self.front => (self.args.on_listening)(Ok(at)),
            Event::Listening { binding, .. } => {
                if let Some(client) = self.by_port.get_mut(&binding) {
                    client.bound = true;
                    for datagram in client.waiting.drain(..) {
                        out.send_datagram(binding, self.args.target, datagram.data);
                    }
                }
            }
            Event::ListenFailed { binding, error } if Some(binding) == self.front => {
                (self.args.on_listening)(Err(error));
                out.stop_service(1);
            }
            // No port for this client now; it will try again.
            Event::ListenFailed { binding, .. } => self.forget(binding, out),
            Event::Timer(LOOK_FOR_IDLE) => {
                let idle = self.by_port.iter().filter(|(_, client)| out.now().since(client.heard) >= IDLE);
                let mut idle: Vec<BindingId> = idle.map(|(&port, _)| port).collect();
                idle.sort_unstable();
                idle.into_iter().for_each(|port| self.forget(port, out));
                out.set_timer(IDLE / 4, LOOK_FOR_IDLE);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use framework::Harness;

    use super::*;

    fn relay() -> (Harness<Relay>, BindingId) {
        let (listen, target) = ("10.0.0.1:7".parse().unwrap(), target());
        let args = RelayArgs { listen, target, on_listening: |_| {} };
        let mut harness = Harness::new(Relay::new(args, false, &Seed::new(1)), 1);
        harness.start();
        let front = harness.datagram_bindings()[0].0;
        harness.event(Event::Listening { binding: front, at: listen });
        (harness, front)
    }

    fn target() -> Endpoint {
        "10.0.0.3:9".parse().unwrap()
    }

    fn client(number: u16) -> Endpoint {
        format!("10.0.0.2:{}", 1000 + number).parse().unwrap()
    }

    fn bind_last(harness: &mut Harness<Relay>) -> BindingId {
        let (port, at) = *harness.datagram_bindings().last().unwrap();
        harness.event(Event::Listening { binding: port, at });
        port
    }

    #[test]
    fn datagrams_go_there_and_back_through_a_port_of_the_client() {
        let (mut harness, front) = relay();
        harness.datagram(front, client(1), b"ping");
        assert!(harness.take_datagram().is_none(), "its port is not there yet");
        let port = bind_last(&mut harness);
        let (through, to, data) = harness.take_datagram().unwrap();
        assert_eq!((through, to, data.to_vec()), (port, target(), b"ping".to_vec()));
        harness.datagram(port, target(), b"pong");
        let (through, to, data) = harness.take_datagram().unwrap();
        assert_eq!((through, to, data.to_vec()), (front, client(1), b"pong".to_vec()));
        harness.datagram(port, client(2), b"forged");
        assert!(harness.take_datagram().is_none() && harness.actor().dropped == 1, "only the target may");
    }

    #[test]
    fn clients_are_bounded_and_forgotten_when_idle() {
        let (mut harness, front) = relay();
        for number in 0..CLIENTS_MAX as u16 + 1 {
            harness.datagram(front, client(number), b"x");
        }
        assert_eq!((harness.datagram_bindings().len(), harness.actor().dropped), (CLIENTS_MAX + 1, 1));
        (0..WAITING_MAX + 1).for_each(|_| harness.datagram(front, client(0), b"x"));
        assert_eq!(harness.actor().dropped, 3, "what waits for a port is bounded, too");
        harness.advance(IDLE * 2);
        assert_eq!(harness.datagram_bindings().len(), 1, "the front");
        harness.datagram(front, client(9), b"again");
        bind_last(&mut harness);
        assert_eq!(harness.take_datagram().unwrap().2.to_vec(), b"again");
    }
}
