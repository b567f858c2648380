//! Peers that send without end, and peers that take little.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use framework::pdpix::{Endpoint, Heap, Input, Output, Sga};
use framework::{
    Actor, Closed, Codec, CodecError, Event, Outbox, Policy, Raw, Session, SessionSettings, System, carry_nowhere,
};
use libos_sim::{Settings, World, sweep};

const PORT: u16 = 7;

fn listen_at() -> Endpoint {
    Endpoint::new([0, 0, 0, 0].into(), PORT)
}

/// One that finds out when its peer crashes.
fn wary() -> SessionSettings {
    SessionSettings { keep_alive: Some(Duration::from_millis(300)), ..SessionSettings::default() }
}

/// Always has something of its own in its mailbox, and counts what comes from its session in between.
struct Diligent {
    heard: usize,
    since: usize,
    most: Rc<Cell<usize>>,
    done: Rc<Cell<bool>>,
}

#[derive(Debug)]
enum Job {
    Own,
    Byte,
}
carry_nowhere!(Job);

/// Each byte is a message.
struct Bytes;

impl Codec for Bytes {
    type In = ();
    type Out = ();

    fn decode(&mut self, input: &mut Input, _: &Heap) -> Result<Option<()>, CodecError> {
        let some = !input.is_empty();
        input.advance(usize::from(some));
        Ok(some.then_some(()))
    }

    fn encode((): (), _: &mut Output) {}
}

const BYTES: usize = 200_000;

impl Actor for Diligent {
    type Message = Job;

    fn handle(&mut self, event: Event<Job>, out: &mut Outbox<'_, Self>) {
        match event {
            Event::Started => {
                out.listen(listen_at(), wary(), || Bytes, |_, ()| Job::Byte);
                out.send(out.me(), Job::Own);
            }
            Event::Message(Job::Own) => {
                self.most.set(self.most.get().max(self.heard - self.since));
                self.since = self.heard;
                self.done.set(self.heard == BYTES);
                if self.heard < BYTES {
                    out.send(out.me(), Job::Own);
                }
            }
            Event::Message(Job::Byte) => self.heard += 1,
            Event::Refused(_) => {
                self.most.set(usize::MAX); // so full that it finds no room for its own
                self.done.set(true);
            }
            _ => {}
        }
    }
}

/// A session stops popping while its actor has more mail than it can handle: the mailbox keeps its bound.
#[test]
fn a_flood_does_not_fill_the_mailbox() {
    sweep!(Settings::default(), |world: &mut World| {
        let (most, done) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        let theirs = (most.clone(), done.clone());
        let server = world.add_host("server", 1, move |libos| {
            let (most, done) = theirs.clone();
            System::new(libos).spawn(None, Policy::ESSENTIAL, move || Diligent {
                heard: 0,
                since: 0,
                most: most.clone(),
                done: done.clone(),
            });
        });
        let to = world.endpoint(server, PORT);
        let client = world.add_host("client", 1, |_| {});
        world.spawn(client.core(0), "flood", move |libos| {
            let done = System::new(&libos).task(move |task| async move {
                let stream = loop {
                    match task.connect(to, None).await {
                        Ok(stream) => break stream,
                        Err(_) => task.sleep(Duration::from_millis(1)).await,
                    }
                };
                for _ in 0..BYTES / 10_000 {
                    stream.push(Sga::copy(task.libos().heap(), &[0; 10_000]).unwrap()).await.unwrap();
                }
                while !stream.pop(1).await.is_ok_and(|popped| popped.is_empty()) {
                    task.sleep(Duration::from_millis(1)).await;
                }
            });
            async move { _ = done.await }
        });
        world.run_until("all is handled", |_| done.get());
        assert!(most.get() > 0 && most.get() <= 1024, "{} messages stood in the mailbox", most.get());
    });
}

// A peer that takes little, but does.

/// Bytes that came on a session.
struct Said(Session<Raw>);
carry_nowhere!(Said);

/// Says a lot at once, and gives up a peer that takes nothing for a second.
struct Talkative {
    closed: Rc<Cell<Option<Closed>>>,
}

const SAID: usize = 4 << 20;

impl Actor for Talkative {
    type Message = Said;

    fn handle(&mut self, event: Event<Said>, out: &mut Outbox<'_, Self>) {
        match event {
            Event::Started => {
                let settings = SessionSettings { stall: Duration::from_secs(1), ..SessionSettings::default() };
                out.listen(listen_at(), settings, || Raw, |session, _| Said(session));
            }
            Event::Message(Said(session)) => {
                let large = out.heap().copy(&vec![1; SAID]).unwrap();
                out.write(session, Sga::from(large));
            }
            Event::Closed { why, .. } => self.closed.set(Some(why)),
            _ => {}
        }
    }
}

/// However long it takes with all that was written: it is the one that takes nothing that is given up.
#[test]
fn who_takes_little_is_not_stalled() {
    sweep!(Settings::default(), |world: &mut World| {
        let closed = Rc::new(Cell::new(None));
        let theirs = closed.clone();
        let server = world.add_host("server", 1, move |libos| {
            let closed = theirs.clone();
            System::new(libos).spawn(None, Policy::ESSENTIAL, move || Talkative { closed: closed.clone() });
        });
        let to = world.endpoint(server, PORT);
        let client = world.add_host("client", 1, |_| {});
        let taken = Rc::new(Cell::new(0));
        let counted = taken.clone();
        world.spawn(client.core(0), "slow", move |libos| {
            let done = System::new(&libos).task(move |task| async move {
                let stream = loop {
                    match task.connect(to, None).await {
                        Ok(stream) => break stream,
                        Err(_) => task.sleep(Duration::from_millis(1)).await,
                    }
                };
                stream.push(Sga::copy(task.libos().heap(), b"!").unwrap()).await.unwrap();
                while counted.get() < SAID {
                    let popped = stream.pop(64 << 10).await.expect("given up");
                    assert!(!popped.is_empty(), "given up");
                    counted.set(counted.get() + popped.len());
                    task.sleep(Duration::from_millis(40)).await;
                }
            });
            async move { done.await.unwrap() }
        });
        world.run_until("it is over", |_| closed.get().is_some());
        assert_ne!(closed.get(), Some(Closed::Stalled));
        assert_eq!(taken.get(), SAID);
    });
}
