//! What befalls the hosts of a world, and the lines between them.

use libos_net::{LineCounters, LineSettings};

use super::host::HostNet;
use super::{CoreId, HostId, World};
use crate::disk::SimDisk;
use crate::frames::{LineId, PortCounters, SwitchId};

// Hosts.
impl World {
    /// Nothing passes between two hosts any more, in either direction.
    pub fn partition(&mut self, a: HostId, b: HostId) {
        self.partition_one_way(a, b);
        self.partition_one_way(b, a);
    }

    /// Nothing that `from` sends reaches `to` any more.
    pub fn partition_one_way(&mut self, from: HostId, to: HostId) {
        self.note("partition", from, to);
        self.set_cut(from, to, true);
    }

    /// Everything passes again between two hosts.
    pub fn heal(&mut self, a: HostId, b: HostId) {
        self.note("heal", a, b);
        [(a, b), (b, a)].into_iter().for_each(|(from, to)| self.set_cut(from, to, false));
    }

    fn set_cut(&mut self, from: HostId, to: HostId, is_cut: bool) {
        self.fabric.borrow_mut().set_cut(from.0, to.0, is_cut);
        self.frames.borrow_mut().set_cut(from.0, to.0, is_cut);
    }

    /// Breaks the connections between two hosts; says how many there were. (Of those over messages: a network of frames
    /// knows no connections.)
    pub fn break_connections(&mut self, a: HostId, b: HostId) -> usize {
        self.note("break connections", a, b);
        self.fabric.borrow_mut().reset_between(a.0, b.0)
    }

    /// A host does nothing any more, until it is resumed: no core of it is stepped, while its card goes on as long as
    /// there is room in its rings.
    pub fn pause(&mut self, id: HostId) {
        self.note("pause", id, id);
        self.hosts[id.0].is_paused = true;
    }

    /// A host that was paused goes on, and finds that time has passed.
    pub fn resume(&mut self, id: HostId) {
        self.note("resume", id, id);
        self.hosts[id.0].is_paused = false;
    }

    /// A host stops in the middle of everything: its peers are told nothing, its memory is gone, and what its disks had not
    /// been told to flush, in any part.
    pub fn crash(&mut self, id: HostId) {
        self.end_processes(id);
        self.hosts[id.0].disks.iter().for_each(SimDisk::cut_power);
    }

    /// The processes of a host are killed, and the machine goes on: its peers are told nothing (which is the worst that can
    /// be), its memory is gone, and its disks have all that was handed to them.
    pub fn kill(&mut self, id: HostId) {
        self.note("kill", id, id);
        self.end_processes(id);
    }

    fn end_processes(&mut self, id: HostId) {
        self.fabric.borrow_mut().crash(id.0);
        if let HostNet::Frames(port, _) = self.hosts[id.0].net {
            self.frames.borrow_mut().crash(port);
        }
        self.tasks.retain(|task| task.at.host != id);
        self.hosts[id.0].is_paused = false;
        for this in &mut self.hosts[id.0].cores {
            (this.core, this.heap, this.due, this.deadline) = (None, None, false, None);
        }
    }

    /// A host that has crashed boots again, with nothing but what its boot closure has kept.
    ///
    /// # Panics
    /// If it is up.
    pub fn restart(&mut self, id: HostId) {
        assert!(!self.is_up(id), "{} is up", self.hosts[id.0].name);
        self.note("restart", id, id);
        self.boot(id);
    }

    /// The process of a core ends: what it had open is closed by its system, as far as that can be done in order.
    pub fn end_core(&mut self, at: CoreId) {
        self.tasks.retain(|task| task.at != at);
        let this = &mut self.hosts[at.host.0].cores[at.index];
        (this.core, this.due, this.deadline) = (None, false, None);
    }

    /// The card of a host is pulled out: its devices say `NetworkDown`. A restart puts it back.
    ///
    /// # Panics
    /// If the host has none: its network is of messages.
    pub fn unplug(&mut self, id: HostId) {
        self.note("unplug", id, id);
        let port = self.port(id);
        self.frames.borrow_mut().unplug(port);
    }

    fn note(&self, what: &'static str, a: HostId, b: HostId) {
        self.fabric.borrow_mut().note(usize::MAX, what, a.0 as u64, b.0 as u64);
    }
}

// Lines.
impl World {
    pub(super) fn port(&self, id: HostId) -> usize {
        match self.hosts[id.0].net {
            HostNet::Frames(port, _) => port,
            HostNet::Messages => panic!("{} has no interface: its network is of messages", self.hosts[id.0].name),
        }
    }

    fn lines_of(&self, id: HostId) -> [LineId; 2] {
        let lines = self.frames.borrow().lines_of(self.port(id));
        lines.unwrap_or_else(|| panic!("the interface of {} is not plugged in", self.hosts[id.0].name))
    }

    /// The line on which a host sends.
    ///
    /// # Panics
    /// If it has none.
    pub fn line_from(&self, id: HostId) -> LineId {
        self.lines_of(id)[0]
    }

    /// The line from which it receives.
    ///
    /// # Panics
    /// If it has none.
    pub fn line_to(&self, id: HostId) -> LineId {
        self.lines_of(id)[1]
    }

    /// The line straight from one switch to another one.
    ///
    /// # Panics
    /// If there is none.
    pub fn line_between(&self, from: SwitchId, to: SwitchId) -> LineId {
        self.frames.borrow().line_between(from, to).unwrap_or_else(|| panic!("no line from {from:?} to {to:?}"))
    }

    /// All lines.
    pub fn lines(&self) -> Vec<LineId> {
        self.frames.borrow().lines().collect()
    }

    /// The nature of a line.
    pub fn line(&self, id: LineId) -> LineSettings {
        self.frames.borrow().line(id).clone()
    }

    /// Another nature for it from now on.
    ///
    /// # Panics
    /// If the settings make no sense.
    pub fn set_line(&mut self, id: LineId, settings: LineSettings) {
        self.frames.borrow_mut().set_line(id, settings);
    }

    /// Changes something about a line.
    pub fn change_line(&mut self, id: LineId, change: impl FnOnce(&mut LineSettings)) {
        let mut settings = self.line(id);
        change(&mut settings);
        self.set_line(id, settings);
    }

    /// What a line has done.
    pub fn line_counters(&self, id: LineId) -> LineCounters {
        self.frames.borrow().line_counters(id)
    }

    /// What a host's interface has done.
    ///
    /// # Panics
    /// If it has none.
    pub fn interface_counters(&self, id: HostId) -> PortCounters {
        self.frames.borrow().port_counters(self.port(id))
    }

    /// Takes all faults away: every line carries everything, nobody is cut off, and who was paused goes on. Who has crashed
    /// is still to be restarted.
    pub fn heal_all(&mut self) {
        let hosts: Vec<HostId> = (0..self.hosts.len()).map(HostId).collect();
        for &a in &hosts {
            if self.hosts[a.0].is_paused {
                self.resume(a);
            }
            for &b in hosts.iter().filter(|&&b| b > a) {
                self.heal(a, b);
            }
        }
        self.frames.borrow_mut().heal();
    }
}
