//! An Ethernet port: opened once, and shared by the cores that have its queues.
//!
//! Life: opened (configured, not started); each core sets its queue up; with the last one the port is started. Whoever drops
//! its queue first stops the port and closes it: a driver is never asked to let go of one queue alone, as few can. From then
//! on the other queues are silent. Before that every other queue is out of its calls to the driver: a queue says that it is in
//! one ([`Port::enter`]), where there are several.

use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use libos_mem::{Heap, Reservation};
use libos_net::wire::{ETHERNET_LEN, Mac};
use libos_net::{Link, Offloads};

use crate::driver::{Manners, SendRoom, manners};
use crate::ffi::{self, About, Configuration, PortId};
use crate::queue::Queue;
use crate::{Eal, OpenError, PortSettings, gate, left_behind};

/// The longest IP packet, if nobody says.
const MTU_USUAL: usize = 1500;
/// The longest payload of a frame that a port cuts up: IP packets have 64 KiB, and headers at most 120 of them.
const SEGMENTED_MAX: usize = 65_535 - 120;
/// The longest frame that nobody has cut up.
const LONG_FRAME_MAX: usize = ETHERNET_LEN + 65_535 + TAGS_LEN;
/// Room beyond a frame: a VLAN tag or two, and what virtio puts before it.
const TAGS_LEN: usize = 32;
/// How often a driver that looks for its peer once is started again.
const SEEK_INTERVAL: Duration = Duration::from_millis(100);
/// How soon after it has met its peer it may look for it again, if that has let go of it by then.
const GREETING_INTERVAL: Duration = Duration::from_secs(1);
/// Buffers of a receive queue beyond those in its ring: bursts, and what DPDK's caches hold.
const BUFFERS_BEYOND: usize = 512;

/// Where the link is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Carrier {
    /// It has not been up yet.
    Never = 0,
    Up = 1,
    /// It was up, or will never be.
    Down = 2,
}

/// See the module's head.
pub struct Port {
    id: PortId,
    name: String,
    about: About,
    pub(crate) manners: Manners,
    with: Configuration,
    rings: [u16; 2],
    send_room: SendRoom,
    link: Link,
    down_after_ms: u64,
    reservation: Reservation,
    state: Mutex<State>,
    closing: Mutex<()>,
    is_started: AtomicBool,
    is_stopping: AtomicBool,
    carrier: AtomicU8,
    /// The interrupt thread is held for it (`gate.rs`).
    holds_gate: Mutex<bool>,
    /// What the driver's control socket is, while there is a link: something to do for the interrupt thread.
    control: Mutex<Vec<RawFd>>,
    socket_path: Option<PathBuf>,
    search: Mutex<Search>,
    /// A queue is in a call to the driver. Empty: there is one queue, and nobody else who could stop the port.
    busy: Box<[AtomicBool]>,
    notices: Vec<String>,
}

#[derive(Default)]
struct State {
    /// Queues that were set up.
    taken: Vec<bool>,
    is_closed: bool,
}

/// How far a driver that looks once has come in looking for its peer.
#[derive(Default)]
struct Search {
    /// When it may look again.
    again_at: Option<Instant>,
    /// What it has found.
    met: Option<ffi::Connection>,
}

impl Port {
    /// Opens a port: finds it, or makes it. Its frames lie in `reservation`, which is of DPDK's memory ([`Eal::reserve`]).
    ///
    /// # Errors
    /// [`OpenError`], with what DPDK said.
    pub fn open(eal: Eal, settings: PortSettings, reservation: &Reservation) -> Result<Arc<Port>, OpenError> {
        let name = settings.name().to_string();
        let refused = |why: String| OpenError::Refused { what: format!("opening the DPDK port {name}"), why };
        if !ffi::is_ours(reservation.base()) {
            return Err(OpenError::BadSettings("the heaps are not in DPDK's memory, which its ports send from".into()));
        }
        let is_too_small = |[size, least]: [usize; 2]| {
            let why = format!("{name} has rings of {size} (rsize), and takes {least} or more to send without copies");
            OpenError::BadSettings(why)
        };
        let _locked = settings.socket_file().and_then(|path| left_behind::remove(Path::new(path)));
        let _one = one_at_a_time();
        if settings.name().starts_with("net_memif") && settings.argument("zero-copy") == Some("yes") {
            // Before it is made, too: a port that is not as it should be cannot be had again.
            manners("net_memif", &settings).send_room(settings.ring_size).map_err(is_too_small)?;
            if !eal.is_one_file() {
                return Err(OpenError::Unsupported(
                    "memif without copies takes DPDK's memory in one file of huge pages: there are too few (vm.nr_hugepages)".into(),
                ));
            }
            // Before it is made: its second life would close somebody else's descriptor.
            static IS_USED: AtomicBool = AtomicBool::new(false);
            if IS_USED.swap(true, Ordering::Relaxed) {
                return Err(OpenError::Unsupported(
                    "memif's driver closes the descriptor of DPDK's memory in zero-copy mode: one such port in the life of a process".into(),
                ));
            }
        }
        let id = PortId::find(&name).map_or_else(|| PortId::probe(&settings.device, &name), Ok).map_err(refused)?;
        let about = id.about().map_err(refused)?;
        let manners = manners(&about.driver, &settings);
        let with = configuration(&settings, &about, &manners)?;
        let rings = id.configure(&about, &with).map_err(refused)?;
        let send_room = manners.send_room(rings[1]).map_err(is_too_small)?;
        let mut notices = Vec::new();
        if with.queues < settings.queues {
            notices.push(format!(
                "{name} has {} queues: cores without one send and receive through the first",
                with.queues
            ));
        }
        let [first, middle @ .., last] = about.mac;
        let usual = if manners.mac_is_the_peers {
            let [b, c, d, e] = middle;
            Mac([first | 2, b, c, d, e, last ^ 1])
        } else {
            Mac(about.mac)
        };
        let mac = settings.mac.unwrap_or(usual);
        let is_other = mac.0 != about.mac;
        id.listen_to(is_other && (manners.mac_is_the_peers || !id.set_mac(mac.0)));
        let offloads = Offloads {
            verifies: with.offload && about.sums_when_receiving,
            checksums: with.offload && about.sums_when_sending,
            segments: with.cuts_up.then_some(SEGMENTED_MAX),
            gathers: about.gathers,
            external: true,
        };
        let is_guarded = manners.unmaps_while_polled;
        let several = with.queues > 1 || is_guarded;
        let port = Arc::new(Port {
            id,
            about,
            manners,
            rings,
            send_room,
            link: Link { mac, mtu: with.mtu, offloads },
            down_after_ms: settings.down_after_ms,
            reservation: reservation.clone(),
            state: Mutex::new(State { taken: vec![false; with.queues], is_closed: false }),
            closing: Mutex::new(()),
            is_started: AtomicBool::new(false),
            is_stopping: AtomicBool::new(false),
            carrier: AtomicU8::new(Carrier::Never as u8),
            holds_gate: Mutex::new(false),
            control: Mutex::default(),
            socket_path: settings.control_socket().map(PathBuf::from),
            search: Mutex::default(),
            busy: if several { (0..with.queues).map(|_| AtomicBool::new(false)).collect() } else { Box::default() },
            with,
            notices,
            name,
        });
        if is_guarded {
            gate::guard(Arc::downgrade(&port));
        }
        Ok(port)
    }

    /// How many queues it has in each direction; each has to be somebody's, or the port is not started.
    pub fn queues(&self) -> usize {
        self.with.queues
    }

    /// What is not as one would wish it, in sentences for the log.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Whether it has been started, and there is a link.
    pub fn is_up(&self) -> bool {
        if !(self.is_started() || self.manners.looks_once) || self.is_stopping.load(Ordering::Acquire) {
            return false;
        }
        if self.manners.unmaps_while_polled && self.carrier() != Carrier::Up {
            gate::pause();
        }
        // Nobody closes it meanwhile.
        let closing = self.closing.try_lock();
        closing.is_ok() && self.is_started() && !self.is_stopping() && self.id.is_up()
    }

    /// Sets a queue up for the calling core, whose heap this is; the last one starts the port.
    ///
    /// # Errors
    /// [`OpenError`]: it is taken, or the heap has no receive memory for it.
    ///
    /// # Panics
    /// If the heap is not of the port's reservation.
    pub fn queue(self: &Arc<Port>, queue: usize, heap: Heap) -> Result<Queue, OpenError> {
        assert!(heap.reservation().base() == self.reservation.base(), "a heap of another reservation");
        let refused = |why| OpenError::Refused { what: format!("opening queue {queue} of {}", self.name), why };
        let mut state = self.lock();
        if state.is_closed || state.taken.get(queue).is_none_or(|&taken| taken) {
            return Err(OpenError::BadSettings(format!("{} has no queue {queue} that is free", self.name)));
        }
        state.taken[queue] = true;
        let [receive_ring, send_ring] = self.rings;
        let (room, buffers) = (self.receive_room(), self.receive_buffers());
        let pool = (buffers, room, self.manners.plain_pool);
        let number = queue as u16;
        let receiver =
            ffi::Receiver::set_up(self.id, number, receive_ring, &self.about, &heap, pool).map_err(refused)?;
        let sender = ffi::Sender::set_up(self.id, number, send_ring, &self.about, &self.with, self.send_room);
        let made = sender.and_then(|sender| {
            if state.taken.iter().all(|&taken| taken) {
                if self.manners.looks_once {
                    self.seek();
                } else {
                    self.id.start()?;
                    self.is_started.store(true, Ordering::Release);
                }
            }
            Ok(sender)
        });
        drop(state);
        let sender = match made {
            Ok(sender) => sender,
            Err(why) => {
                // The driver has been told of memory that is the heap's again when the receiver is gone.
                self.close();
                receiver.close(self.manners.loses);
                return Err(refused(why));
            }
        };
        Ok(Queue::over(self.clone(), queue, receiver, sender))
    }

    /// Starts a driver that looks for its peer when it is started; whether it has found it, and when it is to look again.
    fn seek(&self) {
        let (is_found, met) = {
            let _one = one_at_a_time();
            let before = ffi::connections();
            let is_found = self.id.start_quietly(&self.about.driver);
            let is_new = |connection: &ffi::Connection| !before.contains(connection);
            (is_found, if is_found { ffi::connections().into_iter().find(is_new) } else { None })
        };
        self.is_started.store(is_found, Ordering::Release);
        let interval = if is_found { GREETING_INTERVAL } else { SEEK_INTERVAL };
        *self.search() = Search { again_at: Some(Instant::now() + interval), met };
    }

    /// Looks for the peer again, if it is time: a link that was lost, or has not been there yet. The interrupt thread has the
    /// driver's word for a descriptor until it is held, so it is stopped and started behind its back.
    fn seek_again(&self) {
        let is_due = self.search().again_at.is_some_and(|at| Instant::now() >= at);
        if !(self.manners.looks_once && is_due) {
            return;
        }
        if !self.manners.comes_back && self.is_started() {
            // It can be started once. A peer that let go of it before there was a link is lost as one that had it.
            if !self.is_met() {
                self.carrier.store(Carrier::Down as u8, Ordering::Relaxed);
            }
            return;
        }
        let _ = gate::while_held(|| {
            // A peer that has no time for us yet will find us waiting. A connection that is given up takes a place in its
            // queue until it looks, and where all places are taken the driver waits in `connect`: never more than one.
            if self.is_met() {
                return;
            }
            if self.is_started.swap(false, Ordering::SeqCst) {
                let _one = one_at_a_time();
                self.id.stop();
            }
            self.seek();
        });
    }

    /// Whether the peer that it found keeps its connection.
    fn is_met(&self) -> bool {
        self.search().met.as_ref().is_some_and(ffi::Connection::is_open)
    }

    fn search(&self) -> MutexGuard<'_, Search> {
        self.search.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of a receive buffer, headroom included.
    fn receive_room(&self) -> usize {
        let frame = self.link.mtu + ETHERNET_LEN + TAGS_LEN;
        // Some drivers look whether their own idea of a slot fits, whatever the frames are.
        ffi::HEADROOM + frame.max(2048)
    }

    fn receive_buffers(&self) -> usize {
        // AF_XDP fills rings of its own beside the one that it is asked for.
        let beyond = if self.manners.plain_pool { 8192 } else { BUFFERS_BEYOND };
        let ring = usize::from(self.rings[0].max(self.manners.ring_size.unwrap_or(0)));
        let burst = if self.manners.brings_long {
            ffi::BURST * LONG_FRAME_MAX.div_ceil(self.receive_room() - ffi::HEADROOM)
        } else {
            0
        };
        ring.max(burst) + beyond
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn link(&self) -> Link {
        self.link
    }

    pub(crate) fn id(&self) -> PortId {
        self.id
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn down_after_ms(&self) -> u64 {
        self.down_after_ms
    }

    pub(crate) fn is_started(&self) -> bool {
        self.is_started.load(Ordering::Acquire)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    /// What was found at the last look.
    pub(crate) fn carrier(&self) -> Carrier {
        match self.carrier.load(Ordering::Relaxed) {
            0 => Carrier::Never,
            1 => Carrier::Up,
            _ => Carrier::Down,
        }
    }

    /// Looks where the link is, for the first queue. `is_due`: it is time for what else the interrupt thread may have to do.
    pub(crate) fn look(&self, is_due: bool) -> Carrier {
        if !self.manners.unmaps_while_polled {
            // Another core may be about to close it.
            let is_up = self.enter(0) && self.id.is_up();
            self.leave(0);
            return self.found(is_up);
        }
        let is_waiting = || ffi::are_readable(&self.control());
        if self.carrier() != Carrier::Up || is_due || is_waiting() {
            gate::pause();
        }
        self.carrier()
    }

    fn found(&self, is_up: bool) -> Carrier {
        let carrier = match (is_up, self.carrier()) {
            (true, _) => Carrier::Up,
            (false, Carrier::Never) => Carrier::Never,
            (false, _) => Carrier::Down,
        };
        self.carrier.store(carrier as u8, Ordering::Relaxed);
        carrier
    }

    fn control(&self) -> MutexGuard<'_, Vec<RawFd>> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks where the link is, while no core is in a guarded driver. A link that is found is one that cannot go from under
    /// us: the interrupt thread is held before it is said to be there.
    pub(crate) fn look_guarded(&self) {
        let state = self.lock();
        let mut holds = self.holds_gate.lock().unwrap_or_else(PoisonError::into_inner);
        let mut is_up = !state.is_closed && self.is_started() && self.id.is_up();
        if is_up && !*holds && gate::hold().is_ok() {
            *holds = true;
            is_up = self.id.is_up();
            *self.control() = self.socket_path.as_deref().map(ffi::unix_sockets_at).unwrap_or_default();
        }
        is_up &= *holds;
        if !is_up && std::mem::take(&mut *holds) {
            gate::release();
        }
        self.found(is_up);
        if !is_up && !state.is_closed {
            self.seek_again();
        }
    }

    /// Until no core is in a call to the driver. A call takes microseconds; its core may have lost the processor in it.
    pub(crate) fn wait_until_idle(&self) {
        while self.busy.iter().any(|busy| busy.load(Ordering::SeqCst)) {
            std::thread::yield_now();
        }
    }

    /// Before a call to the driver. False: it is being stopped, or is not started; make none.
    #[inline]
    pub(crate) fn enter(&self, queue: usize) -> bool {
        if let Some(busy) = self.busy.get(queue) {
            // Sequentially consistent with `close` and `gate::pause`: one of the two sees the other. After a pause the link may
            // be another: with the caller's look at it a core that has lost the processor would come into a driver that greets.
            busy.store(true, Ordering::SeqCst);
            let is_shut = || self.manners.unmaps_while_polled && (gate::is_paused() || self.carrier() != Carrier::Up);
            if self.is_stopping.load(Ordering::SeqCst) || is_shut() {
                busy.store(false, Ordering::Release);
                return false;
            }
        }
        if !self.is_started.load(Ordering::Acquire) || self.is_stopping.load(Ordering::Relaxed) {
            self.leave(queue);
            return false;
        }
        true
    }

    /// After it.
    #[inline]
    pub(crate) fn leave(&self, queue: usize) {
        if let Some(busy) = self.busy.get(queue) {
            busy.store(false, Ordering::Release);
        }
    }

    /// Stops and closes the port, if nobody has yet. Afterwards no driver touches memory of ours.
    pub(crate) fn close(&self) {
        let _closing = self.closing.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut self.lock().is_closed, true) {
            return;
        }
        self.is_stopping.store(true, Ordering::SeqCst);
        self.wait_until_idle();
        if !self.manners.unmaps_while_polled {
            let _one = one_at_a_time();
            return self.id.close();
        }
        // The driver's own end of a link and ours, at the same time, free the same memory twice. And what the interrupt
        // thread has seen of descriptors that are closed now it would take for a word of those that are opened next: first it
        // is let round.
        let is_held = gate::hold().is_ok();
        gate::pause();
        {
            let _one = one_at_a_time();
            self.id.close();
        }
        if is_held {
            gate::release();
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.close();
    }
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Port({}, {}, {} queues, {:?})", self.name, self.about.driver, self.with.queues, self.link)
    }
}

/// DPDK's drivers are not made for two threads that make or close their ports.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn configuration(settings: &PortSettings, about: &About, manners: &Manners) -> Result<Configuration, OpenError> {
    let mtu = settings.mtu.unwrap_or(MTU_USUAL.min(about.mtu_max));
    if mtu > about.mtu_max || !(576..=65_000).contains(&mtu) {
        let why = format!("{} takes packets of 576 to {} bytes, and not of {mtu}", settings.name(), about.mtu_max);
        return Err(OpenError::BadSettings(why));
    }
    let offload = settings.offload && !manners.no_offload;
    Ok(Configuration {
        queues: if settings.only_if_it_spreads && !about.can_spread {
            1
        } else {
            settings.queues.clamp(1, about.queues_max.max(1))
        },
        mtu,
        offload,
        cuts_up: offload && about.sums_when_sending && about.cuts_up && !manners.knows_peer_later,
        ring_size: settings.ring_size,
        free_threshold: manners.free_threshold(manners.ring_size.unwrap_or(settings.ring_size)),
    })
}

#[cfg(test)]
mod tests;
