//! The world keeps its promises: one seed is one course of events, and faults do what they say.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use libos_runtime::LibOs;
use libos_sim::{CoreId, HostId, Settings, Turn, World, sweep};
use pdpix::{Endpoint, Error, Outcome, Popped, Qd, Sga, SocketKind, SocketOption};

const PORT: u16 = 7;

async fn pop(libos: &LibOs, qd: Qd, len_max: usize) -> Result<Popped, Error> {
    libos.redeem(libos.pop(qd, len_max)?).await?.popped()
}

async fn push(libos: &LibOs, qd: Qd, bytes: &[u8]) -> Result<(), Error> {
    let sga = Sga::copy(libos.heap(), bytes)?;
    libos.redeem(libos.push(qd, sga)?).await?.done()
}

async fn connect(libos: &LibOs, to: Endpoint) -> Result<Qd, Error> {
    let qd = libos.socket(SocketKind::Stream, None)?;
    libos.redeem(libos.connect(qd, to)?).await?.done()?;
    Ok(qd)
}

/// Gives each connection back what it says.
fn echo(libos: &LibOs) {
    let theirs = libos.clone();
    libos.spawn(async move {
        let listener = theirs.socket(SocketKind::Stream, None).unwrap();
        theirs.bind(listener, Endpoint::new([0, 0, 0, 0].into(), PORT)).unwrap();
        theirs.listen(listener, 64).unwrap();
        loop {
            let Ok((qd, _)) = theirs.redeem(theirs.accept(listener).unwrap()).await.unwrap().accepted() else { return };
            let libos = theirs.clone();
            theirs.spawn(async move {
                while let Ok(Popped { sga, .. }) = pop(&libos, qd, 4096).await {
                    if sga.is_empty() || libos.redeem(libos.push(qd, sga).unwrap()).await.unwrap().done().is_err() {
                        break;
                    }
                }
                libos.close(qd).unwrap();
            });
        }
    });
}

/// Sends so many bytes and takes them back, both at once.
async fn round_trip(libos: LibOs, to: Endpoint, len: usize) -> Result<(), Error> {
    let qd = connect(&libos, to).await?;
    // A peer that crashes when everything is acknowledged would be waited for in vain.
    libos.set_option(qd, SocketOption::KeepAlive(Some(Duration::from_secs(1))))?;
    let bytes: Vec<u8> = (0..len).map(|i| (i * 7 % 251) as u8).collect();
    let (there, theirs) = (bytes.clone(), libos.clone());
    let writer = libos.spawn(async move {
        for piece in there.chunks(10_000) {
            push(&theirs, qd, piece).await?;
        }
        theirs.finish(qd)
    });
    let mut back = Vec::new();
    let result = loop {
        match pop(&libos, qd, 5000).await {
            Ok(popped) if popped.sga.is_empty() => break Ok(()),
            Ok(popped) => back.extend(popped.sga.to_vec()),
            Err(error) => break Err(error),
        }
    };
    writer.abort();
    libos.close(qd)?;
    assert_eq!(back, bytes[..back.len()], "what came back is what was sent, as far as it came");
    assert!(result.is_err() || back.len() == len, "{} of {len} bytes, and the end", back.len());
    result
}

fn two_hosts(world: &mut World) -> (HostId, CoreId) {
    let server = world.add_host("server", 1, echo);
    let client = world.add_host("client", 1, |_| {});
    (server, client.core(0))
}

/// A scene with everything in it.
fn scene(seed: u64) -> (String, u64) {
    let mut world = World::new(seed, Settings { keep_trace: true, resets: 0.002, ..Settings::hostile() });
    let (server, client) = two_hosts(&mut world);
    let to = world.endpoint(server, PORT);
    for i in 0..3 {
        world.spawn(client, "round trips", async move |libos| {
            for _ in 0..5 {
                let _ = round_trip(libos.clone(), to, 100_000 * i).await;
            }
        });
    }
    world.run_for(Duration::from_millis(10));
    world.partition(server, client.host);
    world.run_for(Duration::from_millis(50));
    world.heal(server, client.host);
    world.run_for(Duration::from_millis(5));
    world.crash(server);
    world.run_for(Duration::from_millis(5));
    world.restart(server);
    world.run();
    (world.trace(usize::MAX), world.fingerprint())
}

#[test]
fn one_seed_is_one_trace_byte_for_byte() {
    let (trace, fingerprint) = scene(0x5eed);
    assert!(trace.lines().count() > 500, "something did happen");
    assert_eq!((&trace, fingerprint), (&scene(0x5eed).0, scene(0x5eed).1));
    let (other, other_fingerprint) = scene(0x5eee);
    assert_ne!(trace, other);
    assert_ne!(fingerprint, other_fingerprint);
}

#[test]
fn sweep_bytes_come_back_through_partitions() {
    sweep!(Settings::default(), |world: &mut World| {
        let (server, client) = two_hosts(world);
        let to = world.endpoint(server, PORT);
        for _ in 0..3 {
            world.spawn(client, "round trip", async move |libos| round_trip(libos, to, 300_000).await.unwrap());
        }
        let mut rng = world.fork_rng();
        for i in 0..6 {
            world.run_for(Duration::from_micros(rng.below(20_000)));
            match i % 3 {
                0 => world.partition(server, client.host),
                1 => world.partition_one_way(server, client.host),
                _ => world.partition_one_way(client.host, server),
            }
            world.run_for(Duration::from_micros(rng.below(300_000)));
            world.heal(server, client.host);
        }
        world.run();
    });
}

/// What is sent to a host that was never reached again, or has crashed, fails; and not before its time.
#[test]
fn sweep_a_peer_that_is_silent_is_given_up_in_time() {
    sweep!(Settings::default(), |world: &mut World| {
        let (server, client) = two_hosts(world);
        let to = world.endpoint(server, PORT);
        let give_up = Settings::default().give_up;
        world.spawn(client, "connect and push", async move |libos| {
            let qd = connect(&libos, to).await.unwrap();
            push(&libos, qd, b"one").await.unwrap();
            libos.sleep(Duration::from_secs(1)).await;
            let pop = pop(&libos, qd, 10).await.unwrap();
            assert!(!pop.sga.is_empty());
            let start = libos.now();
            push(&libos, qd, b"two").await.unwrap();
            let fault = loop {
                match self::pop(&libos, qd, 10).await {
                    Ok(_) => {}
                    Err(fault) => break fault,
                }
            };
            assert_eq!(fault, Error::TimedOut);
            let took = libos.now().since(start);
            assert!(took >= give_up && took < give_up * 2, "{took:?}");
            libos.close(qd).unwrap();
            let start = libos.now();
            assert_eq!(connect(&libos, to).await.unwrap_err(), Error::TimedOut);
            assert!(libos.now().since(start) >= Settings::default().connect_timeout);
        });
        world.run_for(Duration::from_millis(500));
        world.crash(server);
        world.run();
    });
}

#[test]
fn sweep_a_host_that_boots_again_resets_what_it_does_not_know() {
    sweep!(Settings::default(), |world: &mut World| {
        let (server, client) = two_hosts(world);
        let to = world.endpoint(server, PORT);
        world.spawn(client, "before and after", async move |libos| {
            let qd = connect(&libos, to).await.unwrap();
            libos.sleep(Duration::from_secs(1)).await;
            push(&libos, qd, b"anybody there?").await.unwrap();
            assert_eq!(pop(&libos, qd, 10).await.unwrap_err(), Error::ConnectionReset);
            libos.close(qd).unwrap();
            round_trip(libos, to, 1000).await.unwrap();
        });
        world.run_for(Duration::from_millis(200));
        world.crash(server);
        world.run_for(Duration::from_millis(200));
        world.restart(server);
        world.run();
    });
}

#[test]
fn sweep_an_idle_connection_with_keep_alive_learns_that_its_peer_is_gone() {
    sweep!(Settings::default(), |world: &mut World| {
        let (server, client) = two_hosts(world);
        let to = world.endpoint(server, PORT);
        world.spawn(client, "idle", async move |libos| {
            let qd = connect(&libos, to).await.unwrap();
            libos.set_option(qd, SocketOption::KeepAlive(Some(Duration::from_secs(3)))).unwrap();
            assert_eq!(pop(&libos, qd, 10).await.unwrap_err(), Error::TimedOut);
            libos.close(qd).unwrap();
        });
        world.run_for(Duration::from_millis(200));
        world.crash(server);
        world.run();
    });
}

#[test]
fn sweep_broken_connections_are_told_to_both_sides() {
    sweep!(Settings::default(), |world: &mut World| {
        let (server, client) = two_hosts(world);
        let to = world.endpoint(server, PORT);
        let fault = Rc::new(RefCell::new(None));
        let note = fault.clone();
        world.spawn(client, "idle", async move |libos| {
            let qd = connect(&libos, to).await.unwrap();
            *note.borrow_mut() = pop(&libos, qd, 10).await.err();
            libos.close(qd).unwrap();
        });
        world.run_for(Duration::from_millis(10));
        assert_eq!(world.break_connections(server, client.host), 1);
        world.run();
        world.settle(Duration::from_secs(1));
        assert_eq!(fault.take(), Some(Error::ConnectionReset));
        assert_eq!(world.libos(server.core(0)).queues_in_use(), 1, "the listener");
    });
}

#[test]
fn sweep_connections_and_datagrams_are_lost_as_often_as_was_said() {
    let settings = Settings { datagram_loss: 0.3, datagram_twice: 0.1, datagram_overtaken: 0.2, ..Settings::default() };
    sweep!(settings.clone(), |world: &mut World| {
        let counts = Rc::new(RefCell::new(Vec::<u32>::new()));
        let note = counts.clone();
        let server = world.add_host("server", 1, move |libos| {
            let (theirs, note) = (libos.clone(), note.clone());
            libos.spawn(async move {
                let qd = theirs.socket(SocketKind::Datagram, None).unwrap();
                theirs.bind(qd, Endpoint::new([0, 0, 0, 0].into(), PORT)).unwrap();
                while let Ok(popped) = pop(&theirs, qd, 100).await {
                    note.borrow_mut().push(u32::from_le_bytes(popped.sga.to_vec().try_into().unwrap()));
                }
            });
        });
        let client = world.add_host("client", 1, |_| {});
        let to = world.endpoint(server, PORT);
        world.spawn(client.core(0), "sender", async move |libos| {
            let qd = libos.socket(SocketKind::Datagram, None).unwrap();
            for i in 0..1000u32 {
                let sga = Sga::copy(libos.heap(), &i.to_le_bytes()).unwrap();
                libos.redeem(libos.push_to(qd, sga, to).unwrap()).await.unwrap().done().unwrap();
            }
        });
        world.run();
        world.settle(Duration::from_millis(10));
        let counts = counts.borrow();
        let twice = counts.len() - counts.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert!((600..900).contains(&(counts.len() - twice)), "{} of 1000 arrived", counts.len() - twice);
        assert!((20..150).contains(&twice), "{twice} came twice");
        assert!(!counts.is_sorted(), "some were overtaken");
    });
}

#[test]
#[should_panic(
    expected = "deadlock: nothing can happen any more, before all tasks have ended; these wait: the one on a:0"
)]
fn a_task_that_waits_for_nothing_is_a_deadlock() {
    let mut world = World::new(1, Settings::default());
    let a = world.add_host("a", 1, |_| {});
    world.spawn(a.core(0), "the one", async |libos| {
        let qd = libos.queue().unwrap();
        let _ = libos.redeem(libos.pop(qd, 1).unwrap()).await;
    });
    world.spawn(a.core(0), "the other", async |libos| libos.sleep(Duration::from_secs(3600)).await);
    world.run();
}

#[test]
#[should_panic(expected = "and no end")]
fn a_task_that_goes_round_for_ever_is_found() {
    let mut world = World::new(1, Settings { passes_max: 10_000, ..Settings::default() });
    let a = world.add_host("a", 1, |_| {});
    world.spawn(a.core(0), "the one", async |libos| {
        loop {
            libos.yield_now().await;
        }
    });
    world.run();
}

#[test]
#[should_panic(expected = "has not given back all its memory")]
fn a_buffer_that_is_kept_is_found_at_the_end() {
    let mut world = World::new(1, Settings::default());
    let a = world.add_host("a", 1, |_| {});
    let _kept = world.libos(a.core(0)).heap().copy(b"mine").unwrap();
    world.end();
}

#[test]
fn time_passes_only_when_nothing_else_can_happen() {
    let mut world = World::new(1, Settings::default());
    let a = world.add_host("a", 2, |_| {});
    let b = world.add_host("b", 1, |_| {});
    world.spawn(a.core(1), "sleeper", async |libos| {
        let start = libos.now();
        libos.sleep(Duration::from_secs(86_400)).await;
        let slept = libos.now().since(start);
        assert!(slept >= Duration::from_secs(86_400) && slept < Duration::from_secs(86_401), "{slept:?}");
    });
    world.run();
    assert!(world.now().as_nanos() < 86_401_000_000_000);
    while world.turn(pdpix::Instant::NEVER) != Turn::Idle {}
    let (here, there) = (world.libos(a.core(0)), world.libos(b.core(0)));
    assert_ne!(here.now(), there.now(), "an instant of one host means nothing on another");
}

/// The outcome of what was dropped is not lost: it is the next one's.
#[test]
fn sweep_a_pop_that_is_dropped_at_any_moment_loses_nothing() {
    // Bytes that are lost would be waited for for ever.
    sweep!(Settings { passes_max: 200_000, ..Settings::default() }, |world: &mut World| {
        let (server, client) = two_hosts(world);
        let to = world.endpoint(server, PORT);
        let mut rng = world.fork_rng();
        world.spawn(client, "impatient", async move |libos| {
            let qd = connect(&libos, to).await.unwrap();
            let bytes: Vec<u8> = (0..20_000u32).map(|i| (i % 253) as u8).collect();
            push(&libos, qd, &bytes).await.unwrap();
            let mut back = Vec::new();
            while back.len() < bytes.len() {
                let pop = libos.redeem(libos.pop(qd, 700).unwrap());
                let patience = Duration::from_micros(rng.below(400));
                if let Ok(completion) = libos.timeout(patience, pop).await {
                    let Ok(Outcome::Popped(popped)) = completion.unwrap().result else { panic!("a pop failed") };
                    back.extend(popped.sga.to_vec());
                }
            }
            assert!(back == bytes, "something is missing, or in another order");
            libos.close(qd).unwrap();
        });
        world.run();
    });
}

#[test]
fn a_host_that_stands_still_does_nothing_and_goes_on_later() {
    sweep!(Settings::default(), |world: &mut World| {
        let server = world.add_host("server", 1, echo);
        let client = world.add_host("client", 1, |_| {});
        let to = world.endpoint(server, PORT);
        let done = Rc::new(RefCell::new(false));
        let theirs = done.clone();
        world.spawn(client.core(0), "client", async move |libos| {
            round_trip(libos, to, 10_000).await.unwrap();
            *theirs.borrow_mut() = true;
        });
        world.run_for(Duration::from_micros(50)); // it listens, and has answered nothing yet
        world.pause(server);
        world.run_for(Duration::from_secs(1));
        assert!(!*done.borrow(), "answered by a host that stands still");
        world.resume(server);
        world.pause(client);
        world.run_for(Duration::from_millis(20)); // what the server has sent and closed lingers for longer
        assert!(!*done.borrow(), "it has asked, and stands still itself");
        world.resume(client);
        world.run();
        assert!(*done.borrow());
    });
}
