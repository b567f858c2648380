//! The library OS of one core: queue table, tokens, coroutine scheduler, timers, memory queues, rings between cores.
//!
//! - [`LibOs`]: the calls of PDPIX. [`Core`]: its owner, and the loop.
//! - Between cores: [`mesh()`] makes the rings; values travel as [`Parcel`]s, buffers as [`CarriedBuf`]s.
//! - [`Wheel`], from `pdpix`: timers, also for those above. [`Trace`]: what happened last.
//!
//! Always: nothing is shared between cores but rings and doorbells; a user's call never blocks but in `wait*`; in the
//! steady state no operation allocates. Nothing here names a backend.
//!
//! Source: Demikernel (SOSP'21) §4 and §5. Not here: remote memory queues (they come with their backends).

mod buf_rings;
mod carried;
mod clock;
mod control;
mod core;
mod counters;
mod doorbell;
mod future;
mod idle;
mod interrupt;
mod leave;
mod libos;
mod memory_queue;
mod mesh;
mod neighbours;
mod operations;
mod parcel;
mod queue;
mod returned;
mod ring;
mod scheduler;
mod storage;
mod sync;
mod token;
mod trace;
mod wait;
mod wait_next;

pub use buf_rings::{BufRings, buf_rings};
pub use carried::{CARRIED_INLINE_MAX, CarriedBuf, CarriedSga};
pub use clock::{Clock, KernelClock};
pub use core::{Core, CoreParts, Step, Stopper};
pub use counters::CounterReading;
pub use future::{Coroutine, CoroutineId, Redeem, Sleep};
pub use idle::{IdlePolicy, Patience, sleep as sleep_on};
pub use interrupt::Interrupter;
pub use libos::{CoreReceiver, LibOs};
pub use mesh::{MeshKind, Ports, QueueAddress, mesh};
pub use operations::Begun;
pub use parcel::{Deliver, Parcel};
pub use ring::{RingReceiver, RingSender, ring};
pub use trace::{Event, Trace, TraceEvent, read_trace};
pub use wait::InPlace;

pub use pdpix;
pub use pdpix::{TimerKey, Wheel};
