//! The tally in the simulator: streams that are cut anywhere, hosts that are apart for a while, connections that break.

// guide: world
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use framework::System;
use framework::pdpix::{Endpoint, Error, Sga, SocketKind};
use framework::runtime::LibOs;
use libos_sim::{HostId, Settings, World, sweep};
use tally::TallyArgs;

const PORT: u16 = 7009;
const CLIENTS: usize = 3;
const WORDS: usize = 20;

/// Boots the host of a tally, as `main` does on a machine.
fn boot(libos: &LibOs) {
    let listen = Endpoint::new([0, 0, 0, 0].into(), PORT);
    tally::run(&System::new(libos), TallyArgs { listen, on_listening: |_| {} });
}

fn two_hosts(world: &mut World) -> (HostId, HostId) {
    (world.add_host("server", 1, boot), world.add_host("clients", 1, |_| {}))
}

/// What the clients were told, each for itself.
type Told = Rc<RefCell<[Vec<u64>; CLIENTS]>>;
// guide: client
/// Sends the same word so often, one after the other, and notes each answer when it comes.
async fn ask(libos: &LibOs, to: Endpoint, told: &Told, client: usize) -> Result<(), Error> {
    let qd = libos.socket(SocketKind::Stream, None)?;
    let conversation = async {
        libos.redeem(libos.connect(qd, to)?).await?.done()?;
        let mut answer = Vec::new();
        while told.borrow()[client].len() < WORDS {
            let word = Sga::copy(libos.heap(), b"plum\n")?;
            libos.redeem(libos.push(qd, word)?).await?.done()?;
            while !answer.ends_with(b"\n") {
                let popped = libos.redeem(libos.pop(qd, 100)?).await?.popped()?;
                if popped.sga.is_empty() {
                    return Err(Error::EndOfStream);
                }
                answer.extend(popped.sga.to_vec());
            }
            let count = String::from_utf8(std::mem::take(&mut answer)).unwrap().trim().parse().unwrap();
            told.borrow_mut()[client].push(count);
        }
        Ok(())
    };
    let result = conversation.await;
    libos.close(qd)?;
    result
}
// guide: apart
#[test]
fn every_word_is_counted_once_while_hosts_are_apart() {
    sweep!(Settings::default(), |world: &mut World| {
        let ((server, clients), told) = (two_hosts(world), Told::default());
        let to = world.endpoint(server, PORT);
        for client in 0..CLIENTS {
            let told = told.clone();
            world.spawn(clients.core(0), "ask", async move |libos| ask(&libos, to, &told, client).await.unwrap());
        }
        world.run_for(Duration::from_millis(5));
        world.partition(server, clients);
        world.run_for(Duration::from_millis(50));
        world.heal(server, clients);
        world.run();
        let mut all = told.borrow().concat();
        all.sort_unstable();
        assert_eq!(all, Vec::from_iter(1..=(CLIENTS * WORDS) as u64));
    });
}
// guide: broken
#[test]
fn a_broken_connection_loses_answers_and_no_count() {
    sweep!(Settings::hostile(), |world: &mut World| {
        let ((server, clients), told) = (two_hosts(world), Told::default());
        let to = world.endpoint(server, PORT);
        for client in 0..CLIENTS {
            let told = told.clone();
            world.spawn(clients.core(0), "ask until it is done", async move |libos| {
                while ask(&libos, to, &told, client).await.is_err() {
                    libos.sleep(Duration::from_millis(1)).await;
                }
            });
        }
        for _ in 0..5 {
            world.run_for(Duration::from_millis(2));
            world.break_connections(server, clients);
        }
        world.run();
        let mut all = told.borrow().concat();
        assert!(told.borrow().iter().all(|counts| counts.is_sorted_by(|a, b| a < b)), "counts only grow");
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), CLIENTS * WORDS, "no count was given twice");
    });
}
// guide: end
