//! Turns: who is fed by a queue that never runs dry lets the others run in between.

/// Operations that one coroutine may have answered at once before the others get their turn.
const OPERATIONS_A_TURN: u32 = 16;

/// What one coroutine has had of its turn.
#[derive(Default)]
pub(crate) struct Turn(u32);

impl Turn {
    /// Something was answered, perhaps at once. Whether it is time to yield.
    #[inline]
    pub(crate) fn is_over(&mut self) -> bool {
        self.0 += 1;
        if self.0 == OPERATIONS_A_TURN {
            self.0 = 0;
        }
        self.0 == 0
    }
}
