//! Controllers that are attached, one for all cores that use them, and what they want done besides.
//!
//! A thread of the controller's own sends keep-alives in time, takes in events, and has SPDK look whether it was taken from
//! the bus: cores have other things to do, and one that sleeps would be forgotten by its target.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use spdk_sys::Spdk;

use crate::ffi::{Attached, be_nobodys};

/// An attached controller, with its thread.
pub(crate) struct Controller {
    /// There until it is dropped.
    attached: Option<Arc<Attached>>,
    stop: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

/// Between two looks at administration: several in the time after which a target forgets us.
const ROUND: Duration = Duration::from_millis(100);
/// Between two looks at the bus.
const BUS_ROUND: Duration = Duration::from_secs(1);

/// Those that are served, and those that are attached: queues that were given up keep theirs attached for ever.
type Known = (Weak<Controller>, Weak<Attached>);

/// By what they are attached as. Attaching and detaching is one at a time.
static ATTACHED: Mutex<BTreeMap<String, Known>> = Mutex::new(BTreeMap::new());

impl Controller {
    /// The one that is attached, or attaches it.
    pub(crate) fn get(spdk: &'static Spdk, transport_id: &str) -> Result<Arc<Controller>, String> {
        let mut attached = ATTACHED.lock().unwrap_or_else(PoisonError::into_inner);
        let known = attached.get(transport_id);
        if let Some(controller) = known.and_then(|(served, _)| served.upgrade()) {
            return Ok(controller);
        }
        let it = match known.and_then(|(_, attached)| attached.upgrade()) {
            Some(it) if it.process_admin().is_err() => {
                return Err(
                    "it has failed, and queues of it were given up: only another process can use it again".into()
                );
            }
            Some(it) => it,
            None => Arc::new(Attached::new(spdk, transport_id)?),
        };
        let controller = Arc::new(Controller::new(it.clone())?);
        attached.insert(transport_id.into(), (Arc::downgrade(&controller), Arc::downgrade(&it)));
        Ok(controller)
    }

    fn new(attached: Arc<Attached>) -> Result<Controller, String> {
        let stop = Arc::new((Mutex::new(false), Condvar::new()));
        let (served, told) = (attached.clone(), stop.clone());
        let thread = std::thread::Builder::new().name("nvme".into()).spawn(move || serve(&served, &told));
        Ok(Controller { attached: Some(attached), stop, thread: Some(thread.map_err(|error| error.to_string())?) })
    }

    pub(crate) fn attached(&self) -> &Arc<Attached> {
        self.attached.as_ref().expect("it is there until it is dropped")
    }
}

fn serve(attached: &Attached, (stop, told): &(Mutex<bool>, Condvar)) {
    be_nobodys();
    let mut looked = Instant::now();
    let mut is_gone = false;
    let mut stopped = stop.lock().unwrap_or_else(PoisonError::into_inner);
    while !*stopped {
        drop(stopped);
        if !is_gone && attached.process_admin().is_err() {
            // Its queues say so themselves when they are used next; what waits for its answers should not.
            attached.fail();
            is_gone = true;
        }
        if attached.is_pci && looked.elapsed() >= BUS_ROUND {
            looked = Instant::now();
            attached.look_for_removed();
        }
        stopped = stop.lock().unwrap_or_else(PoisonError::into_inner);
        if !*stopped {
            stopped = told.wait_timeout(stopped, ROUND).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        *self.stop.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.1.notify_all();
        let _ = self.thread.take().map(JoinHandle::join);
        // Whoever attaches the same one meanwhile waits: SPDK would refuse it. The queues are gone, so this is the last, unless
        // one was given up.
        let _one = ATTACHED.lock().unwrap_or_else(PoisonError::into_inner);
        self.attached = None;
    }
}
