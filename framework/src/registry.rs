//! Names of actors: who stands for which name, on which core; and who wants to be told.
//!
//! Each core has the whole table. Who registers tells all cores; a table may be behind for as long as a message takes.

use pdpix::{Map, Seed};

use crate::actor::ActorId;

pub(crate) struct Registry {
    names: Map<String, ActorId>,
    /// Actors of this core that are told when a name comes up or goes down.
    watchers: Vec<(String, ActorId)>,
}

impl Registry {
    pub(crate) fn new(seed: &Seed) -> Registry {
        Registry { names: seed.map(), watchers: Vec::new() }
    }

    pub(crate) fn find(&self, name: &str) -> Option<ActorId> {
        self.names.get(name).copied()
    }

    /// `id` stands for `name` from now on. Gives those who are to be told.
    pub(crate) fn up(&mut self, name: String, id: ActorId) -> Vec<ActorId> {
        let told = self.watching(&name);
        self.names.insert(name, id);
        told
    }

    /// `id` is dead. Gives those who are to be told.
    pub(crate) fn down(&mut self, id: ActorId) -> Vec<ActorId> {
        let names = self.names.extract_if(|_, named| *named == id).map(|(name, _)| name);
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        self.watchers.retain(|(_, watcher)| *watcher != id);
        names.iter().flat_map(|name| self.watching(name)).collect()
    }

    pub(crate) fn watch(&mut self, name: String, watcher: ActorId) {
        self.watchers.push((name, watcher));
    }

    fn watching(&self, name: &str) -> Vec<ActorId> {
        self.watchers.iter().filter(|(watched, _)| watched == name).map(|(_, watcher)| *watcher).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(slot: u32, generation: u32) -> ActorId {
        ActorId { core: 0, slot, generation }
    }

    #[test]
    fn watchers_are_told_of_each_incarnation() {
        let mut registry = Registry::new(&Seed::new(1));
        registry.watch("shard/1".into(), id(9, 0));
        assert_eq!(registry.up("shard/1".into(), id(1, 0)), [id(9, 0)]);
        assert_eq!(registry.find("shard/1"), Some(id(1, 0)));
        assert_eq!(registry.down(id(1, 0)), [id(9, 0)]);
        assert_eq!((registry.find("shard/1"), registry.down(id(1, 0))), (None, vec![]));
        assert_eq!(registry.up("shard/1".into(), id(1, 1)), [id(9, 0)]);
        assert_eq!(registry.down(id(9, 0)), [], "a dead watcher watches no more");
        assert_eq!(registry.down(id(1, 1)), []);
    }
}
