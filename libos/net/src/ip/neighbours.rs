//! Who is on the link: IP addresses, their link-layer addresses, and what waits for them. One table for ARP and NDP.
//!
//! The states are those of RFC 4861 §7.3.2, for IPv4 as well (RFC 1122 §2.3.2.1 wants time-outs and unicast polls there):
//! an entry is REACHABLE for about 30 s after somebody proved it (an answer to our question, or progress of a transport),
//! then STALE; used again, it is asked after 5 s, by unicast first; three questions without an answer, and it is gone.
//!
//! Always: at most `capacity` entries, and `PARKED_MAX` packets wait for each. An entry that was used in the last 30 s, or
//! is a router of ours, is not forgotten to make room: a flood of strangers evicts strangers.
//! REACHABLE turns STALE when somebody looks; only entries that ask have timers.

use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use pdpix::{BufMut, Instant, Map, Rng, Seed, Sga};

use crate::device::ChecksumAt;
use crate::wire::Mac;

/// RFC 4861 §10.
const RETRANSMIT: Duration = Duration::from_secs(1);
const ASKS_MAX: u8 = 3;
const DELAY_FIRST_PROBE: Duration = Duration::from_secs(5);
const REACHABLE: Duration = Duration::from_secs(30);
/// Packets that wait for one neighbour (RFC 4861 §7.2.2: at least one, the newest).
pub(crate) const PARKED_MAX: usize = 16;

/// RFC 4861 §7.3.2; `None` is Appendix C's "-".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    None,
    Incomplete,
    Reachable,
    Stale,
    Delay,
    Probe,
}

/// What happens to an entry (RFC 4861 Appendix C).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// A packet is to be sent.
    Send,
    /// Its time is over: of retransmissions all, of reachability, of the delay.
    Timeout,
    /// An answer to our question.
    Answer,
    /// It spoke to us, or told us its address, which we knew or did not know.
    Heard,
    /// The same, and the address is another one than we knew.
    Moved,
    /// An answer with another address that does not override what we know.
    Doubted,
    /// A transport made progress.
    Confirmed,
}

/// `Option::None`: nothing changes.
pub(crate) const fn next(state: State, event: Event) -> Option<State> {
    use {Event as E, State as S};
    Some(match (state, event) {
        (S::None, E::Send) => S::Incomplete,
        (S::None, E::Heard | E::Moved) => S::Stale,
        (S::Incomplete, E::Timeout) => S::None,
        (S::Incomplete, E::Answer) => S::Reachable,
        (S::Incomplete, E::Heard | E::Moved) => S::Stale,
        (S::Reachable, E::Timeout) => S::Stale,
        (S::Reachable, E::Moved | E::Doubted) => S::Stale,
        (S::Stale, E::Send) => S::Delay,
        (S::Delay, E::Timeout) => S::Probe,
        (S::Delay | S::Probe, E::Moved) => S::Stale,
        (S::Probe, E::Timeout) => S::None,
        (S::Stale | S::Delay | S::Probe, E::Answer | E::Confirmed) => S::Reachable,
        _ => return None,
    })
}

/// A packet that waits for its neighbour's address.
#[derive(Debug)]
pub(crate) struct Parked {
    pub header: BufMut,
    pub payload: Sga,
    pub checksum: Option<ChecksumAt>,
    pub segment_size: u16,
}

#[derive(Debug)]
struct Neighbour {
    address: IpAddr,
    mac: Mac,
    state: State,
    /// When REACHABLE ends, or the timer of the other states rings.
    until: Instant,
    /// Questions asked in INCOMPLETE or PROBE.
    asked: u8,
    /// When we last sent to it.
    used: Option<Instant>,
    parked: VecDeque<Parked>,
}

/// A question to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ask {
    pub address: IpAddr,
    /// To this one alone; else to everybody.
    pub to: Option<Mac>,
}

/// What a timer wants done.
#[derive(Debug)]
pub(crate) enum Due {
    Ask(Ask),
    /// It did not answer; this is what waited.
    Failed(VecDeque<Parked>),
    Nothing,
}

/// What a message about a neighbour brought.
#[derive(Debug, Default)]
pub(crate) struct Learned {
    /// Paths through it have to be looked up anew.
    pub changed: bool,
    /// What waited, and may go now.
    pub released: VecDeque<Parked>,
}

/// What came of sending to an address without a fresh entry.
#[derive(Debug)]
pub(crate) enum Sent {
    /// It goes here.
    To(Mac, Parked),
    /// It waits; `bool`: another was dropped for it.
    Waits(Option<Ask>, bool),
    /// No entry to be had: dropped.
    Full,
}

/// The table.
pub(crate) struct Neighbours {
    slots: Vec<Neighbour>,
    by_address: Map<IpAddr, u32>,
    timers: BTreeSet<(Instant, u32)>,
    capacity: usize,
    hand: usize,
    /// Routers that we use: never forgotten.
    pub(crate) routers: Vec<IpAddr>,
    pub(crate) evicted: u64,
    /// Packets that waited for them.
    pub(crate) evicted_parked: u64,
}

impl Neighbours {
    pub(crate) fn new(capacity: usize, seed: &Seed) -> Neighbours {
        Neighbours {
            slots: Vec::new(),
            by_address: seed.map(),
            timers: BTreeSet::new(),
            capacity: capacity.max(1),
            hand: 0,
            routers: Vec::new(),
            evicted: 0,
            evicted_parked: 0,
        }
    }

    /// Where an address is in the table, if packets can go there.
    pub(crate) fn find(&self, address: IpAddr) -> Option<(u32, Mac)> {
        let &slot = self.by_address.get(&address)?;
        let neighbour = &self.slots[slot as usize];
        (!matches!(neighbour.state, State::Incomplete | State::None)).then_some((slot, neighbour.mac))
    }

    /// Whether packets may go to a slot without more ado. Notes that it is used. In DELAY and PROBE they go to the address
    /// that is known, and nothing begins (RFC 4861 §7.3.3): who sends datagrams only is there for seconds.
    #[inline]
    pub(crate) fn is_settled(&mut self, slot: u32, now: Instant) -> bool {
        let Some(neighbour) = self.slots.get_mut(slot as usize) else { return false };
        let is_settled = match neighbour.state {
            State::Reachable => now < neighbour.until,
            State::Delay | State::Probe => true,
            State::None | State::Incomplete | State::Stale => false,
        };
        if is_settled {
            neighbour.used = Some(now);
        }
        is_settled
    }

    /// Sends to an address that is not known to be fresh.
    pub(crate) fn send(&mut self, address: IpAddr, packet: Parked, now: Instant) -> Sent {
        let Some(slot) = self.slot_of(address, now) else { return Sent::Full };
        self.age(slot, now);
        let first = self.slots[slot as usize].state == State::None;
        self.turn(slot, Event::Send, now, None);
        let neighbour = &mut self.slots[slot as usize];
        neighbour.used = Some(now);
        if neighbour.state != State::Incomplete {
            return Sent::To(neighbour.mac, packet);
        }
        neighbour.parked.push_back(packet);
        let overflows = neighbour.parked.len() > PARKED_MAX;
        if overflows {
            neighbour.parked.pop_front();
        }
        Sent::Waits(first.then_some(Ask { address, to: None }), overflows)
    }

    /// A message said that `address` is at `mac`. Strangers get an entry only if `is_stranger_welcome`.
    pub(crate) fn hear(
        &mut self,
        address: IpAddr,
        mac: Mac,
        event: Event,
        is_stranger_welcome: bool,
        now: Instant,
        rng: &mut Rng,
    ) -> Learned {
        let known = self.by_address.get(&address).copied();
        let Some(slot) = known.or_else(|| is_stranger_welcome.then(|| self.slot_of(address, now)).flatten()) else {
            return Learned::default();
        };
        self.age(slot, now);
        let neighbour = &mut self.slots[slot as usize];
        let has_mac = !matches!(neighbour.state, State::None | State::Incomplete);
        let moved = has_mac && neighbour.mac != mac;
        let event = if moved && event == Event::Heard { Event::Moved } else { event };
        if event != Event::Doubted {
            neighbour.mac = mac;
        }
        self.turn(slot, event, now, Some(rng));
        let neighbour = &mut self.slots[slot as usize];
        let has_mac_now = !matches!(neighbour.state, State::None | State::Incomplete);
        let released = if has_mac_now { std::mem::take(&mut neighbour.parked) } else { VecDeque::new() };
        Learned { changed: (moved && event != Event::Doubted) || has_mac != has_mac_now, released }
    }

    /// Whether we know another link-layer address for it, or none.
    pub(crate) fn mac_differs(&self, address: IpAddr, mac: Mac) -> bool {
        self.find(address).is_some_and(|(_, known)| known != mac)
    }

    /// Whether we have asked for it and wait for the answer.
    pub(crate) fn is_asked(&self, address: IpAddr) -> bool {
        self.by_address.get(&address).is_some_and(|&slot| {
            let neighbour = &self.slots[slot as usize];
            matches!(neighbour.state, State::Incomplete | State::Probe)
        })
    }

    /// RFC 4861 §7.3.1: a transport saw that what it sent arrived.
    #[inline]
    pub(crate) fn confirm(&mut self, slot: u32, address: IpAddr, now: Instant, rng: &mut Rng) {
        let Some(neighbour) = self.slots.get_mut(slot as usize).filter(|there| there.address == address) else {
            return;
        };
        if neighbour.state == State::Reachable {
            neighbour.until = neighbour.until.max(now + REACHABLE / 2);
        } else {
            self.turn(slot, Event::Confirmed, now, Some(rng));
        }
    }

    /// An upper layer gets no answers through this neighbour: it is not believed any longer, and asked when it is used next
    /// (RFC 4861 §7.3.1: reachability that is not confirmed).
    pub(crate) fn suspect(&mut self, slot: u32, address: IpAddr, now: Instant) {
        if let Some(neighbour) = self.slots.get_mut(slot as usize).filter(|there| there.address == address)
            && neighbour.state == State::Reachable
        {
            neighbour.until = neighbour.until.min(now);
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|&(at, _)| at)
    }

    /// The first timer that has rung.
    pub(crate) fn on_time(&mut self, now: Instant) -> Option<Due> {
        let &(at, slot) = self.timers.first().filter(|&&(at, _)| at <= now)?;
        self.timers.remove(&(at, slot));
        let neighbour = &mut self.slots[slot as usize];
        let address = neighbour.address;
        let is_asking = matches!(neighbour.state, State::Incomplete | State::Probe);
        if is_asking && neighbour.asked < ASKS_MAX {
            let to = (neighbour.state == State::Probe).then_some(neighbour.mac);
            neighbour.asked += 1;
            self.arm(slot, now + RETRANSMIT);
            return Some(Due::Ask(Ask { address, to }));
        }
        self.turn(slot, Event::Timeout, now, None);
        let neighbour = &mut self.slots[slot as usize];
        Some(match neighbour.state {
            // §7.3.3: the first probe goes when the delay is over.
            State::Probe => Due::Ask(Ask { address, to: Some(neighbour.mac) }),
            State::None => {
                let parked = std::mem::take(&mut neighbour.parked);
                self.forget(slot);
                Due::Failed(parked)
            }
            _ => Due::Nothing,
        })
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The state of an address, as of now.
    #[cfg(test)]
    pub(crate) fn state(&mut self, address: IpAddr, now: Instant) -> State {
        let Some(&slot) = self.by_address.get(&address) else { return State::None };
        self.age(slot, now);
        self.slots[slot as usize].state
    }

    /// REACHABLE ends by itself.
    fn age(&mut self, slot: u32, now: Instant) {
        let neighbour = &self.slots[slot as usize];
        if neighbour.state == State::Reachable && now >= neighbour.until {
            self.turn(slot, Event::Timeout, now, None);
        }
    }

    /// Goes to the next state, and sets what belongs to it.
    fn turn(&mut self, slot: u32, event: Event, now: Instant, rng: Option<&mut Rng>) {
        let neighbour = &mut self.slots[slot as usize];
        if event == Event::Answer && neighbour.state == State::Reachable {
            neighbour.until = now + reachable_time(rng);
            return;
        }
        let Some(state) = next(neighbour.state, event) else { return };
        if matches!(neighbour.state, State::Incomplete | State::Delay | State::Probe) {
            self.timers.remove(&(neighbour.until, slot));
        }
        neighbour.state = state;
        neighbour.asked = u8::from(matches!(state, State::Incomplete | State::Probe));
        match state {
            State::Incomplete | State::Probe => self.arm(slot, now + RETRANSMIT),
            State::Delay => self.arm(slot, now + DELAY_FIRST_PROBE),
            State::Reachable => neighbour.until = now + reachable_time(rng),
            State::Stale | State::None => {}
        }
    }

    fn arm(&mut self, slot: u32, at: Instant) {
        self.slots[slot as usize].until = at;
        self.timers.insert((at, slot));
    }

    /// The entry of an address, a new one if need be.
    fn slot_of(&mut self, address: IpAddr, now: Instant) -> Option<u32> {
        if let Some(&slot) = self.by_address.get(&address) {
            return Some(slot);
        }
        if self.slots.len() >= self.capacity {
            let victim = self.victim(now)?;
            self.evicted += 1;
            self.evicted_parked += self.slots[victim as usize].parked.len() as u64;
            self.forget(victim);
        }
        let slot = self.slots.len() as u32;
        self.slots.push(Neighbour {
            address,
            mac: Mac::default(),
            state: State::None,
            until: now,
            asked: 0,
            used: None,
            parked: VecDeque::new(),
        });
        self.by_address.insert(address, slot);
        Some(slot)
    }

    /// Who has to go: the first from the hand on that we never sent to, or that never answered; else the one that was
    /// unused for longest, if that is long enough.
    fn victim(&mut self, now: Instant) -> Option<u32> {
        let mut idle: Option<(Instant, u32)> = None;
        for _ in 0..self.slots.len() {
            self.hand = (self.hand + 1) % self.slots.len();
            let (slot, neighbour) = (self.hand as u32, &self.slots[self.hand]);
            if self.routers.contains(&neighbour.address) {
                continue;
            }
            match neighbour.used {
                Some(used) if neighbour.state != State::Incomplete => {
                    if now.since(used) >= REACHABLE && idle.is_none_or(|(at, _)| used < at) {
                        idle = Some((used, slot));
                    }
                }
                _ => return Some(slot),
            }
        }
        idle.map(|(_, slot)| slot)
    }

    /// Takes an entry out; the last one moves to its slot.
    fn forget(&mut self, slot: u32) {
        let last = self.slots.len() as u32 - 1;
        for moved in [slot, last] {
            self.timers.remove(&(self.slots[moved as usize].until, moved));
        }
        let gone = self.slots.swap_remove(slot as usize);
        self.by_address.remove(&gone.address);
        if slot != last {
            let moved = &self.slots[slot as usize];
            self.by_address.insert(moved.address, slot);
            if matches!(moved.state, State::Incomplete | State::Delay | State::Probe) {
                self.timers.insert((moved.until, slot));
            }
        }
    }

    /// That the timers, the map and the slots agree.
    pub(crate) fn check(&self) {
        assert!(self.slots.len() <= self.capacity, "more entries than there may be");
        assert_eq!(self.by_address.len(), self.slots.len(), "an entry for each address");
        let asking = |there: &Neighbour| matches!(there.state, State::Incomplete | State::Delay | State::Probe);
        assert_eq!(self.timers.len(), self.slots.iter().filter(|there| asking(there)).count(), "a timer for who asks");
        for (slot, neighbour) in self.slots.iter().enumerate() {
            assert_eq!(self.by_address.get(&neighbour.address), Some(&(slot as u32)), "the map knows the slot");
            assert!(neighbour.parked.len() <= PARKED_MAX, "too many wait");
            assert!(neighbour.parked.is_empty() || neighbour.state == State::Incomplete, "only who asks lets wait");
            assert_eq!(self.timers.contains(&(neighbour.until, slot as u32)), asking(neighbour), "its own timer");
        }
    }
}

/// RFC 4861 §6.3.2: between half and one and a half of it, so that hosts do not ask in step.
fn reachable_time(rng: Option<&mut Rng>) -> Duration {
    let half = REACHABLE.as_millis() as u64 / 2;
    Duration::from_millis(rng.map_or(2 * half, |rng| rng.range(half..=3 * half)))
}

#[cfg(test)]
mod tests;
