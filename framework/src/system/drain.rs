//! The end of a service: what is in flight is answered first.
//!
//! A core that has answered its own sessions goes on until all cores have: its actors may be asked on behalf of theirs.

use std::time::Duration;

use crate::effects::{News, Notice};
use crate::system::System;

impl System {
    /// Stops listening, lets sessions answer what has arrived, and waits until everything written was sent, here and on
    /// the other cores, which are being stopped as well.
    pub async fn drain(&self, grace: Duration) {
        let deadline = self.libos().now() + grace;
        let cells = self.cells();
        for cell in &cells {
            cell.bindings().borrow_mut().drain(..).for_each(|(_, pump)| pump.abort());
            cell.notice(Notice::Stopping);
            self.enqueue(cell.clone());
        }
        self.0.draining.set(true);
        let coroutines = self.0.sessions.borrow().coroutines();
        coroutines.into_iter().for_each(|coroutine| self.libos().wake(coroutine));
        let in_time = || self.libos().now() < deadline;
        // An actor with a log may append something when it hears of the end.
        let (has_logs, _) = self.logs_state();
        let some_turns = if has_logs { 2 } else { 0 };
        let mut turns: i32 = some_turns;
        while in_time()
            && (turns > 0 || self.0.sessions.borrow().len() > 0 || self.libos().zombies() > 0 || self.logs_state().1)
        {
            turns = 0.max(turns - 1);
            self.libos().sleep(Duration::from_millis(1)).await;
        }
        self.tell_all(|| News::Drained);
        while in_time() && self.0.drained.get() < self.libos().cores() {
            self.libos().sleep(Duration::from_millis(1)).await;
        }
        // What the others have asked for meanwhile, on behalf of their last sessions, is to be written, too: there is some time
        // for that even if a session that did not end has taken all.
        let mut turns = some_turns;
        let last = deadline.max(self.libos().now() + grace / 10);
        while self.libos().now() < last && (turns > 0 || self.logs_state().1) {
            turns = 0.max(turns - 1);
            self.libos().sleep(Duration::from_millis(1)).await;
        }
    }
}
