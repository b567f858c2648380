//! How sessions begin: listeners that accept them, and connections that are made.

use std::rc::Rc;
use std::time::Duration;

use libos_runtime::LibOs;
use pdpix::{Endpoint, Error, Qd, SocketKind, SocketOption};

use super::{Closed, Serving, Session, SessionSettings, over, serve};
use crate::actor::{Actor, BindingId, Event};
use crate::cell::{ActorCell, AnyCell};
use crate::codec::Codec;
use crate::system::System;
use crate::turn::Turn;

/// Sets up a listener of an actor.
pub(crate) fn listen<A: Actor, C: Codec>(
    system: &System,
    cell: Rc<ActorCell<A>>,
    binding: BindingId,
    at: Endpoint,
    settings: SessionSettings,
    mut codec: impl FnMut() -> C + 'static,
    wrap: fn(Session<C>, C::In) -> A::Message,
) {
    let bound = bind(system.libos(), at, &settings);
    let qd = match bound {
        Ok((qd, at)) => {
            cell.dispatch(system, Event::Listening { binding, at });
            qd
        }
        Err(error) => return cell.dispatch(system, Event::ListenFailed { binding, error }),
    };
    let (theirs, listener) = (system.clone(), cell.clone());
    let accepting = system.libos().spawn(async move {
        let _closed_with_us = CloseOnDrop { libos: theirs.libos().clone(), qd };
        let mut turn = Turn::default();
        loop {
            let accepted = match theirs.libos().accept(qd) {
                Ok(qt) => theirs.libos().redeem(qt).await.and_then(|completion| completion.accepted()),
                Err(error) => Err(error),
            };
            match accepted {
                Ok((qd, peer)) => {
                    let id = theirs.new_session::<C>(listener.id());
                    let serving = Serving::new(&theirs, &listener, id, codec(), wrap, settings.clone());
                    theirs.libos().spawn(serve(serving, qd, peer));
                    if turn.is_over() {
                        theirs.libos().yield_now().await;
                    }
                }
                // The listener is gone for good.
                Err(Error::Canceled | Error::BadDescriptor) => return,
                // No descriptors or no memory: some may come free. The peers wait in the backlog meanwhile.
                Err(_) => {
                    theirs.count_accept_failure();
                    theirs.libos().sleep(Duration::from_millis(10)).await;
                }
            }
        }
    });
    cell.bindings().borrow_mut().push((binding, accepting));
}

/// Closes its queue, however its coroutine ends.
pub(super) struct CloseOnDrop {
    pub libos: LibOs,
    pub qd: Qd,
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        let _ = self.libos.close(self.qd);
    }
}

fn bind(libos: &LibOs, at: Endpoint, settings: &SessionSettings) -> Result<(Qd, Endpoint), Error> {
    let qd = libos.socket(SocketKind::Stream, settings.network.as_deref())?;
    let bound = libos
        .set_option(qd, SocketOption::Shared(settings.shared))
        .and_then(|()| libos.bind(qd, at))
        .and_then(|at| libos.listen(qd, settings.backlog).map(|()| (qd, at)));
    if bound.is_err() {
        let _ = libos.close(qd);
    }
    bound
}

/// Makes a connection for an actor.
pub(crate) fn connect<A: Actor, C: Codec>(system: &System, serving: Serving<A, C>, to: Endpoint) {
    let libos = system.libos().clone();
    system.libos().spawn(async move {
        let connected = async {
            let qd = libos.socket(SocketKind::Stream, serving.settings.network.as_deref())?;
            let result = match libos.connect(qd, to) {
                Ok(qt) => libos.redeem(qt).await.and_then(|completion| completion.done()),
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => Ok(qd),
                Err(error) => {
                    let _ = libos.close(qd);
                    Err(error)
                }
            }
        };
        match connected.await {
            Ok(qd) => serve(serving, qd, to).await,
            Err(error) => over(serving, Closed::Failed(error)),
        }
    });
}
