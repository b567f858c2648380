//! What was deleted and is not freed yet: a large value is given back piece by piece, so that no command waits for it.

use crate::keyspace::Entry;
use crate::object::Object;
use crate::table::Table;

/// Values with fewer elements are freed at once.
const LIGHT: usize = 64;

/// Values and tables that nothing refers to any more.
#[derive(Default, Debug)]
pub struct Garbage {
    objects: Vec<Object>,
    tables: Vec<Table<Entry>>,
}

impl Garbage {
    /// Takes a value that is not needed any more.
    pub fn take(&mut self, object: Object) {
        if object.weight() > LIGHT {
            self.objects.push(object);
        }
    }

    /// Takes all the keys of a database.
    pub fn take_table(&mut self, table: Table<Entry>) {
        if !table.is_empty() {
            self.tables.push(table);
        }
    }

    /// Frees some hundreds of elements. False if there was nothing to free.
    pub fn free_some(&mut self) -> bool {
        if let Some(object) = self.objects.last_mut() {
            if !object.free_some() {
                self.objects.pop();
            }
            return true;
        }
        let Some(table) = self.tables.last_mut() else { return false };
        match table.take_some() {
            Some(entries) => entries.for_each(|entry| {
                if entry.object.weight() > LIGHT {
                    self.objects.push(entry.object);
                }
            }),
            None => drop(self.tables.pop()),
        }
        true
    }
}
