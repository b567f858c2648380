//! A switch of ours in user space, with a [`Line`] to every node: a thread in the hub's namespace with a packet socket on each
//! port. What happens to frames is a function of the seed and of which frames come when; when they come is the kernel's affair.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant as Moment};

use anyhow::{Context, Result, anyhow, bail};
use libos_mem::{Buf, Heap};
use libos_net::wire::{EthernetHeader, Mac};
use libos_net::{Device, Frame, Line, LineSettings, Loss};
use libos_xdp::{PacketSettings, PacketSocket};
use pdpix::{Instant, Rng, Sga};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use zerocopy::FromBytes;

use super::{Port, Rules, Wire, last_byte_of_address};

/// For frames on their way.
const HEAP_SIZE: usize = 64 << 20;
/// Frames that are taken from a port at once.
const BURST: usize = 64;
/// Frames that wait for room at a port; more stay on the line.
const READY_MAX: usize = 256;
/// How long it sleeps when there is nothing to do: a part of the latency of its lines.
const NAP: Duration = Duration::from_micros(50);

/// Our hand on the thread that is the wire. It ends with this.
pub struct SeededWire {
    orders: Sender<Order>,
    thread: Option<JoinHandle<()>>,
}

/// What the wire is told, and where it answers.
enum Order {
    Join(Port, Sender<Result<()>>),
    Set(Port, Rules, Sender<Result<()>>),
}

impl SeededWire {
    /// In the namespace called `hub`. Where frames are lost, and only there, others are doubled, damaged and overtaken.
    ///
    /// # Errors
    /// If there is no such namespace.
    pub fn new(hub: &str, seed: u64) -> Result<SeededWire> {
        let namespace = File::open(format!("/run/netns/{hub}")).context("the namespace of the hub")?;
        let (orders, told) = channel();
        let (begun, begins) = channel();
        let thread = thread::Builder::new().name("wire".into()).spawn(move || {
            let there = move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network));
            let heap = there.map_err(anyhow::Error::from).and_then(|()| Ok(Heap::alone(HEAP_SIZE)?));
            match heap {
                Ok(heap) => {
                    let _ = begun.send(Ok(()));
                    Switch { heap, rng: Rng::new(seed), ports: Vec::new(), begun: Moment::now() }.run(&told);
                }
                Err(error) => _ = begun.send(Err(error)),
            }
        })?;
        begins.recv().context("the wire")??;
        Ok(SeededWire { orders, thread: Some(thread) })
    }

    fn tell(&self, order: impl FnOnce(Sender<Result<()>>) -> Order) -> Result<()> {
        let (answer, answered) = channel();
        self.orders.send(order(answer)).map_err(|_| anyhow!("the wire broke"))?;
        answered.recv().context("the wire broke")?
    }
}

impl Wire for SeededWire {
    fn join(&mut self, port: &Port) -> Result<()> {
        self.tell(|answer| Order::Join(port.clone(), answer))
    }

    fn set(&mut self, port: &Port, rules: &Rules) -> Result<()> {
        self.tell(|answer| Order::Set(port.clone(), rules.clone(), answer))
    }
}

impl Drop for SeededWire {
    fn drop(&mut self) {
        // Nobody can tell it anything any more: then it ends.
        self.orders = channel().0;
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(ended, Some(Ok(()))), "the wire broke");
    }
}

/// The thread's own.
struct Switch {
    heap: Heap,
    rng: Rng,
    ports: Vec<End>,
    begun: Moment,
}

/// A port, and the line from the switch to the node behind it.
struct End {
    node: usize,
    device: PacketSocket,
    line: Line<Buf>,
    blocked: BTreeSet<usize>,
    ready: VecDeque<Frame>,
}

impl Switch {
    fn run(mut self, told: &Receiver<Order>) {
        loop {
            let nap = if self.carry() > 0 { Duration::ZERO } else { NAP };
            match told.recv_timeout(nap) {
                Ok(Order::Join(port, answer)) => _ = answer.send(self.join(&port)),
                Ok(Order::Set(port, rules, answer)) => _ = answer.send(self.set(&port, rules)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn join(&mut self, port: &Port) -> Result<()> {
        let settings = PacketSettings { promiscuous: true, ..PacketSettings::new(&port.device) };
        let device = PacketSocket::open(settings, self.heap.clone())?;
        let line = Line::new(nature(0), self.rng.fork());
        let (blocked, ready) = (BTreeSet::new(), VecDeque::new());
        self.ports.push(End { node: port.node, device, line, blocked, ready });
        Ok(())
    }

    fn set(&mut self, port: &Port, rules: Rules) -> Result<()> {
        let Some(end) = self.ports.iter_mut().find(|end| end.node == port.node) else {
            bail!("{} has not been joined", port.device);
        };
        end.line.set(nature(rules.loss_percent));
        end.blocked = rules.blocked;
        Ok(())
    }

    /// Moves what there is to move, a bounded amount. Says how many frames came in or went out.
    fn carry(&mut self) -> usize {
        let now = Instant::from_nanos(self.begun.elapsed().as_nanos() as u64);
        let (mut arrived, mut moved) = (VecDeque::new(), 0);
        for i in 0..self.ports.len() {
            // A port that is gone gives nothing; its node is on its way out, too.
            let _ = self.ports[i].device.receive(now, &mut arrived, BURST);
            moved += arrived.len();
            let from = self.ports[i].node;
            for received in arrived.drain(..) {
                self.forward(now, from, received.buf);
            }
        }
        moved + self.ports.iter_mut().map(|end| end.send(now)).sum::<usize>()
    }

    fn forward(&mut self, now: Instant, from: usize, frame: Buf) {
        let Ok((header, _)) = EthernetHeader::ref_from_prefix(&frame) else { return };
        let to = header.destination;
        for end in self.ports.iter_mut().filter(|end| end.node != from) {
            if (!to.is_unicast() || to == mac_of(end.node)) && !end.blocked.contains(&from) {
                end.line.push(now, frame.clone());
            }
        }
    }
}

impl End {
    fn send(&mut self, now: Instant) -> usize {
        while self.ready.len() < READY_MAX
            && let Some(buf) = self.line.pop(now)
        {
            if !buf.is_empty() {
                self.ready.push_back(Frame { header: buf, payload: Sga::new(), checksum: None, segment_size: 0 });
            }
        }
        let before = self.ready.len();
        if before > 0 {
            self.device.transmit(now, &mut self.ready);
        }
        self.device.flush(now);
        before - self.ready.len()
    }
}

fn mac_of(node: usize) -> Mac {
    Mac([2, 0, 0, 0, 0, last_byte_of_address(node)])
}

fn nature(loss_percent: u64) -> LineSettings {
    let calm = LineSettings {
        latency: Duration::from_micros(50)..=Duration::from_micros(300),
        bandwidth: Some(1_000_000_000),
        ..LineSettings::default()
    };
    if loss_percent == 0 {
        return calm;
    }
    LineSettings {
        loss: Loss::Each(loss_percent.min(100) as f64 / 100.0),
        strays: 0.02,
        stray_by: Duration::from_micros(500)..=Duration::from_millis(5),
        duplication: 0.01,
        corruption: 0.01,
        truncation: 0.002,
        ..calm
    }
}
