//! The end of a core whose thread does not run to a drained stop, as a program's that uses the calls directly.

use std::time::Duration;

use crate::core::Core;

impl Core {
    /// Closes all queues, and goes on until what was pushed is sent or `limit` has passed. Whether everything was.
    pub fn leave(&self, limit: Duration) -> bool {
        let libos = self.libos();
        let open = libos.0.queues.borrow().all();
        open.into_iter().for_each(|qd| _ = libos.close(qd));
        let deadline = libos.0.clock.now() + limit;
        // Twice: what a pass makes of a close goes out at its end, and zombies are known after.
        libos.pass();
        while libos.zombies() > 0 {
            if libos.0.clock.now() >= deadline || libos.turn(Some(deadline), || libos.zombies() == 0).is_err() {
                return false;
            }
        }
        libos.pass();
        true
    }
}
