//! What a session's coroutine does next, and what it waits for when there is nothing to do.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use libos_runtime::Redeem;

/// What a session's coroutine does next.
pub(super) enum Want {
    /// Pop more.
    Pop,
    /// Something was popped: look at it.
    Again,
    /// No more for now.
    Wait,
    /// The actor has not yet looked at everything: it gets its turn first.
    Turn,
    /// It is over.
    End,
}

/// Until the pop has ended (true), or the coroutine is woken by somebody else: who has written, resumed or closed.
pub(super) struct Next<'a> {
    pub pop: &'a mut Option<Redeem>,
    pub woken: bool,
}

impl Future for Next<'_> {
    type Output = bool;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<bool> {
        if let Some(popping) = self.pop.as_mut()
            && popping.poll_end(cx).is_ready()
        {
            return Poll::Ready(true);
        }
        if std::mem::replace(&mut self.woken, true) { Poll::Ready(false) } else { Poll::Pending }
    }
}
