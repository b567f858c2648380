//! Ends a service whose network is gone for good: a port that cannot connect again, an interface that was taken away.
//! Nobody could reach it any more, and whoever supervises the process (`Restart=on-failure`) starts it again.

use std::time::Duration;

use framework::pdpix::{Error, SocketKind};
use framework::runtime::LibOs;
use framework::{Actor, Event, Outbox, carry_nowhere};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// What the process ends with.
const GONE: i32 = 1;

/// Looks whether there is a network. On the first core, as that has a device; nobody sends it anything.
pub struct NetworkWatch(pub LibOs);

pub struct Nothing;

carry_nowhere!(Nothing);

impl Actor for NetworkWatch {
    type Message = Nothing;

    fn handle(&mut self, event: Event<Nothing>, out: &mut Outbox<'_, Self>) {
        if !matches!(event, Event::Started | Event::Timer(_)) {
            return;
        }
        // A network that is gone refuses every queue, from the first one on; one whose link may come back refuses none.
        match self.0.socket(SocketKind::Datagram, None) {
            Err(Error::NetworkDown) => {
                eprintln!("margay: the network is gone, and will not come back");
                return out.stop_service(GONE);
            }
            Err(_) => {} // no room for a queue just now
            Ok(qd) => _ = self.0.close(qd),
        }
        out.set_timer(LOOK_EVERY, 0);
    }
}
