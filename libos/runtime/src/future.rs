//! Tokens, timers and coroutines as futures.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use pdpix::{Completion, Error, Instant, QToken, TimerKey};

use crate::libos::LibOs;
use crate::scheduler::{Place, Yield};
use crate::token::Waiter;
use crate::trace::Event;

impl LibOs {
    /// The future of a token. Dropped before its end, it cancels the operation, and what that brings goes back to its
    /// queue: nothing is lost.
    #[inline]
    pub fn redeem(&self, qt: QToken) -> Redeem {
        Redeem { libos: self.clone(), qt, state: Held::New }
    }

    /// Starts a coroutine. Dropping the result lets it go on alone.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Coroutine<T> {
        let shared =
            Rc::new(Shared { result: RefCell::new(None), waiter: Cell::new(Waiter::None), ended: Cell::new(false) });
        let body = Body { future, libos: self.clone(), shared: shared.clone() };
        let place = self.0.scheduler.spawn(Box::pin(body));
        self.note(Event::Spawn, u64::from(place.0), 0);
        Coroutine { libos: self.clone(), place, shared }
    }

    /// Lets the other runnable coroutines run.
    pub async fn yield_now(&self) {
        Yield::new(&self.0.scheduler).await;
    }

    /// Ends after `duration`.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.sleep_until(self.now() + duration)
    }

    /// Ends at `deadline`.
    pub fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep { libos: self.clone(), deadline, timer: None }
    }

    /// The result of `future`, unless `duration` passes first: then it is dropped.
    ///
    /// # Errors
    /// `TimedOut`.
    pub async fn timeout<T>(&self, duration: Duration, future: impl Future<Output = T>) -> Result<T, Error> {
        let mut future = pin!(future);
        let mut sleep = pin!(self.sleep(duration));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(result) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(result));
            }
            sleep.as_mut().poll(cx).map(|()| Err(Error::TimedOut))
        })
        .await
    }

    /// Which coroutine runs now, to be woken by [`LibOs::wake`]. `None` outside of coroutines.
    pub fn running(&self) -> Option<CoroutineId> {
        self.0.scheduler.running().map(CoroutineId)
    }

    /// Makes a coroutine runnable, without the atomics of a waker. One that has ended is ignored; another that took its
    /// place wakes for nothing.
    #[inline]
    pub fn wake(&self, coroutine: CoroutineId) {
        self.0.scheduler.wake(coroutine.0);
    }

    /// Whoever polls, as a waiter.
    fn waiter(&self, cx: &Context<'_>) -> Waiter {
        match self.0.scheduler.running_with(cx.waker()) {
            Some(place) => Waiter::Coroutine(place),
            None => Waiter::Foreign(cx.waker().clone()),
        }
    }
}

/// Names a coroutine of this core, to wake it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CoroutineId(Place);

impl Redeem {
    /// Whether the operation has ended; registers whoever polls if not. To be followed by [`Redeem::take`].
    #[inline(always)]
    pub fn poll_end(&mut self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        if let Ok(true) = self.libos.0.tokens.borrow_mut().is_complete(self.qt) {
            return Poll::Ready(Ok(()));
        }
        self.register(cx)
    }

    fn register(&mut self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        let again = self.state == Held::Waiting;
        let waiter = self.libos.waiter(cx);
        let pending = self.libos.0.tokens.borrow_mut().wait_if_pending(self.qt, waiter, again);
        match pending {
            Ok(true) => Poll::Ready(Ok(())),
            Ok(false) => {
                self.state = Held::Waiting;
                Poll::Pending
            }
            Err(error) => {
                self.state = Held::Over;
                Poll::Ready(Err(error))
            }
        }
    }

    /// The completion, which [`Redeem::poll_end`] said is there.
    ///
    /// # Errors
    /// `StaleToken`: it was taken before.
    #[inline]
    pub fn take(&mut self) -> Result<Completion, Error> {
        self.state = Held::Over;
        let mut tokens = self.libos.0.tokens.borrow_mut();
        if tokens.is_complete(self.qt)? { Ok(tokens.redeem(self.qt)) } else { Err(Error::StaleToken) }
    }
}

/// See [`LibOs::redeem`].
#[must_use = "dropping it cancels the operation"]
pub struct Redeem {
    libos: LibOs,
    qt: QToken,
    state: Held,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    New,
    /// This is the token's waiter.
    Waiting,
    /// The token is spent, or was never ours.
    Over,
}

impl Future for Redeem {
    type Output = Result<Completion, Error>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut tokens = self.libos.0.tokens.borrow_mut();
        if let Ok(true) = tokens.is_complete(self.qt) {
            let completion = tokens.redeem(self.qt);
            drop(tokens);
            self.state = Held::Over;
            return Poll::Ready(Ok(completion));
        }
        drop(tokens);
        match self.register(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) => Poll::Ready(self.take()),
        }
    }
}

impl Drop for Redeem {
    #[inline]
    fn drop(&mut self) {
        if self.state != Held::Over {
            self.libos.abandon(self.qt);
        }
    }
}

/// See [`LibOs::sleep`].
#[must_use = "it does nothing unless awaited"]
pub struct Sleep {
    libos: LibOs,
    deadline: Instant,
    timer: Option<TimerKey>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(timer) = self.timer.take() {
            self.libos.0.timers.borrow_mut().cancel(timer);
        }
        if self.libos.now() >= self.deadline {
            return Poll::Ready(());
        }
        let waiter = self.libos.waiter(cx);
        let timer = self.libos.0.timers.borrow_mut().insert(self.deadline, waiter);
        self.timer = Some(timer);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            self.libos.0.timers.borrow_mut().cancel(timer);
        }
    }
}

struct Shared<T> {
    result: RefCell<Option<T>>,
    waiter: Cell<Waiter>,
    ended: Cell<bool>,
}

/// What runs: the future, and whom its end concerns. Written out, since an `async` block around the future costs as much in
/// each switch as all the rest.
struct Body<F: Future> {
    future: F,
    libos: LibOs,
    shared: Rc<Shared<F::Output>>,
}

impl<F: Future> Future for Body<F> {
    type Output = ();

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: the future is not moved out of its place, here or anywhere: it is pinned with the whole.
        let body = unsafe { self.get_unchecked_mut() };
        // SAFETY: as above.
        let Poll::Ready(result) = unsafe { Pin::new_unchecked(&mut body.future) }.poll(cx) else {
            return Poll::Pending;
        };
        body.end(result);
        Poll::Ready(())
    }
}

impl<F: Future> Body<F> {
    /// Apart from `poll`, which would save registers for it in every switch.
    #[inline(never)]
    fn end(&self, result: F::Output) {
        *self.shared.result.borrow_mut() = Some(result);
        self.shared.ended.set(true);
        self.libos.notify(self.shared.waiter.replace(Waiter::None));
    }
}

/// A coroutine that was started: a future of its result.
pub struct Coroutine<T> {
    libos: LibOs,
    place: Place,
    shared: Rc<Shared<T>>,
}

impl<T> Coroutine<T> {
    /// Ends it where it stands: everything it holds is dropped. One that aborts itself is dropped when it next waits.
    pub fn abort(&self) {
        // Its place may be another's once it has ended.
        if !self.shared.ended.replace(true) {
            self.libos.0.scheduler.abort(self.place);
            self.libos.notify(self.shared.waiter.replace(Waiter::None));
        }
    }

    /// Its name, to wake it.
    pub fn id(&self) -> CoroutineId {
        CoroutineId(self.place)
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.shared.ended.get()
    }

    /// Its result, if it has ended and nobody took it.
    pub fn take(&self) -> Option<T> {
        self.shared.result.borrow_mut().take()
    }
}

impl<T> Future for Coroutine<T> {
    type Output = Result<T, Error>;

    /// `Canceled` if it was aborted.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.shared.ended.get() {
            return Poll::Ready(self.take().ok_or(Error::Canceled));
        }
        self.shared.waiter.set(self.libos.waiter(cx));
        Poll::Pending
    }
}
