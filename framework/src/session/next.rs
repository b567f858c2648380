//! What a session's coroutine waits for when there is nothing to do.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use libos_runtime::Redeem;

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
