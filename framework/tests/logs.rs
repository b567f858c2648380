//! Actors on logs: what is appended is told to be durable, once, and replayed; errors are events. Over a storage that does
//! what the test says.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use framework::pdpix::storage::Damage;
use framework::pdpix::{
    Completions, Error, Handle, Heap, Instant, LogOp, OpId, OpenMode, Outcome, Popped, Sga, Storage, Submitted, Wake,
    WakeOn,
};
use framework::{Actor, Address, Event, LogId, LogSettings, Outbox, Policy, System, Ticket, carry_as_it_is};
use libos_runtime::{Core, CoreParts, KernelClock, MeshKind, mesh};

/// Logs in memory; clones are the same.
#[derive(Clone, Default)]
struct Shelf(Rc<RefCell<Shelved>>);

#[derive(Default)]
struct Shelved {
    logs: BTreeMap<String, Vec<Vec<u8>>>,
    first: u64,
    open: Vec<Option<(String, u64)>>,
    under_way: VecDeque<(OpId, String, Vec<u8>)>,
    /// Nothing becomes durable.
    holds: bool,
    /// Appends are refused so.
    refuses: Option<Error>,
    /// Appends end so.
    fails: Option<Error>,
    /// Records behind the last are lost.
    damage: Option<Damage>,
    heap: Option<Heap>,
}

impl Storage for Shelf {
    fn open(&mut self, name: &str, mode: OpenMode) -> Result<Handle, Error> {
        let it = &mut *self.0.borrow_mut();
        if mode == OpenMode::Existing && !it.logs.contains_key(name) {
            return Err(Error::NotFound);
        }
        it.logs.entry(name.into()).or_default();
        it.open.push(Some((name.into(), 0)));
        Ok(Handle(it.open.len() as u32 - 1))
    }

    fn submit(&mut self, h: Handle, op: OpId, what: LogOp) -> Result<Submitted, Error> {
        let it = &mut *self.0.borrow_mut();
        let (name, cursor) = it.open[h.0 as usize].as_mut().expect("an open log");
        let records = it.logs.get(name.as_str()).expect("its records");
        Ok(Submitted::Done(Ok(match what {
            LogOp::Append(record) => match it.refuses {
                Some(error) => return Err(error),
                None => {
                    it.under_way.push_back((op, name.clone(), record.to_vec()));
                    return Ok(Submitted::Pending);
                }
            },
            LogOp::Read { .. } => {
                let record = records.get(*cursor as usize).cloned().unwrap_or_default();
                *cursor += u64::from(!record.is_empty());
                let sga = Sga::copy(it.heap.as_ref().expect("a heap"), &record).expect("memory");
                Outcome::Popped(Popped { sga, from: None, cut: false })
            }
            LogOp::Seek(sequence) => {
                *cursor = sequence.clamp(it.first + 1, records.len() as u64 + 1) - 1;
                Outcome::Sought { sequence: *cursor + 1 }
            }
            LogOp::Chase { .. } => return Err(Error::NotSupported),
            LogOp::Truncate(before) => {
                it.first = before - 1;
                Outcome::Truncated { sequence: before }
            }
        })))
    }

    fn cancel(&mut self, _: Handle, _: OpId) {}

    fn close(&mut self, h: Handle) {
        self.0.borrow_mut().open[h.0 as usize] = None;
    }

    fn damage(&self, _: Handle) -> Option<Damage> {
        self.0.borrow().damage
    }

    fn poll(&mut self, _: Instant, done: &mut Completions) {
        let it = &mut *self.0.borrow_mut();
        while !it.holds
            && done.room() > 0
            && let Some((op, name, record)) = it.under_way.pop_front()
        {
            let result = match it.fails {
                Some(error) => Err(error),
                None => {
                    let records = it.logs.entry(name).or_default();
                    records.push(record);
                    Ok(Outcome::Appended { sequence: records.len() as u64 })
                }
            };
            done.push(op, result);
        }
    }

    fn flush(&mut self, _: Instant) {}

    fn arm(&mut self, _: Instant) -> Wake {
        Wake { deadline: None, on: WakeOn::Nothing }
    }

    fn zombies(&self) -> usize {
        0
    }
}

/// Appends what it is told to, and notes what it is told.
struct Scribe {
    settings: LogSettings,
    noted: Rc<RefCell<Vec<String>>>,
    log: Option<LogId>,
    tickets: Vec<Ticket>,
}

#[derive(Debug)]
enum Order {
    Append(&'static str),
    /// And panic then.
    AppendInVain(&'static str),
    Read(u64, usize),
    Truncate(u64),
    Close,
}
carry_as_it_is!(Order);

impl Actor for Scribe {
    type Message = Order;

    fn handle(&mut self, event: Event<Order>, out: &mut Outbox<'_, Self>) {
        let record = |text: &str, heap: &Heap| Sga::copy(heap, text.as_bytes()).expect("memory");
        let text = |sga: &Sga| String::from_utf8(sga.to_vec()).expect("text");
        let ticket_of = |ticket, tickets: &[Ticket]| tickets.iter().position(|own| *own == ticket).expect("its ticket");
        let note = match event {
            Event::Started => {
                self.log = Some(out.open_log("log", self.settings.clone()));
                "started".into()
            }
            Event::Message(order) => {
                let log = self.log.expect("opened when it started");
                let ticket = match order {
                    Order::Append(text) => out.append(log, record(text, out.heap())),
                    Order::AppendInVain(text) => {
                        out.append(log, record(text, out.heap()));
                        panic!("it was told to");
                    }
                    Order::Read(from, count) => out.read_log(log, from, count, usize::MAX),
                    Order::Truncate(before) => out.truncate_log(log, before),
                    Order::Close => return out.close_log(log),
                };
                return self.tickets.push(ticket);
            }
            Event::Record { record, .. } => format!("{}={}", record.sequence, text(&record.data)),
            Event::LogReady { first, next, .. } => format!("ready {first}..{next}"),
            Event::LogFailed { error, .. } => format!("failed: {error}"),
            Event::Durable { ticket, result, .. } => {
                format!("durable {}: {result:?}", ticket_of(ticket, &self.tickets))
            }
            Event::Read { ticket, result, .. } => {
                let read = result.map(|records| records.iter().map(|r| text(&r.data)).collect::<Vec<_>>().join(","));
                format!("read {}: {read:?}", ticket_of(ticket, &self.tickets))
            }
            Event::Truncated { ticket, result, .. } => {
                format!("truncated {}: {result:?}", ticket_of(ticket, &self.tickets))
            }
            _ => return,
        };
        self.noted.borrow_mut().push(note);
    }
}

struct Scene {
    core: Core,
    system: System,
    shelf: Shelf,
    scribe: Address<Scribe>,
    noted: Rc<RefCell<Vec<String>>>,
}

impl Scene {
    fn new(shelf: &Shelf, settings: LogSettings) -> Scene {
        let heap = Heap::alone(8 << 20).unwrap();
        shelf.0.borrow_mut().heap = Some(heap.clone());
        let ports = mesh(1, MeshKind::Threads).unwrap().remove(0);
        let storages: Vec<(String, Box<dyn Storage>)> = vec![("disk".into(), Box::new(shelf.clone()))];
        let core = Core::new(CoreParts { storages, ..CoreParts::new(heap, Box::new(KernelClock), ports) });
        let system = System::new(core.libos());
        let noted = Rc::<RefCell<Vec<String>>>::default();
        let theirs = noted.clone();
        let scribe = system.spawn(Some("scribe"), Policy::ESSENTIAL, move || Scribe {
            settings: settings.clone(),
            noted: theirs.clone(),
            log: None,
            tickets: Vec::new(),
        });
        Scene { core, system, shelf: shelf.clone(), scribe, noted }
    }

    fn order(&self, order: Order) {
        // It may have another address since it was started again.
        let scribe = self.system.find("scribe").map_or(self.scribe, |id| id.typed());
        self.system.send(scribe, order).unwrap();
    }

    /// What it noted since the last time.
    fn noted(&self) -> Vec<String> {
        for _ in 0..50 {
            self.core.step();
        }
        std::mem::take(&mut *self.noted.borrow_mut())
    }
}

#[test]
fn what_is_appended_is_told_when_it_is_durable_and_replayed_later() {
    let shelf = Shelf::default();
    let scene = Scene::new(&shelf, LogSettings::default());
    assert_eq!(scene.noted(), ["started", "ready 1..1"]);
    scene.shelf.0.borrow_mut().holds = true;
    scene.order(Order::Append("one"));
    scene.order(Order::Append("two"));
    assert_eq!(scene.noted(), [""; 0], "it is not durable");
    scene.shelf.0.borrow_mut().holds = false;
    assert_eq!(scene.noted(), ["durable 0: Ok(1)", "durable 1: Ok(2)"]);
    drop(scene);
    assert!(shelf.0.borrow().open.iter().all(Option::is_none), "a log is left open");
    let scene = Scene::new(&shelf, LogSettings::default());
    assert_eq!(scene.noted(), ["started", "1=one", "2=two", "ready 1..3"]);
    drop(scene);
    let scene = Scene::new(&shelf, LogSettings { replay: false, ..LogSettings::default() });
    assert_eq!(scene.noted(), ["started", "ready 1..3"]);
}

#[test]
fn a_log_may_be_appended_to_while_it_is_replayed() {
    let shelf = Shelf::default();
    shelf.0.borrow_mut().logs.insert("log".into(), vec![b"old".to_vec()]);
    let scene = Scene::new(&shelf, LogSettings::default());
    scene.order(Order::Append("new"));
    let noted = scene.noted();
    // What is appended meanwhile is not a part of what was there.
    assert_eq!(noted.iter().filter(|note| note.contains("=new")).count(), 0, "{noted:?}");
    for expected in ["1=old", "ready 1..2", "durable 0: Ok(2)"] {
        assert!(noted.iter().any(|note| note == expected), "{expected} in {noted:?}");
    }
}

#[test]
fn a_handler_that_panics_appends_nothing_and_its_successor_sees_what_was_durable() {
    let shelf = Shelf::default();
    let scene = Scene::new(&shelf, LogSettings::default());
    scene.order(Order::Append("kept"));
    scene.noted();
    scene.order(Order::AppendInVain("dropped"));
    for _ in 0..100 {
        scene.core.step();
        std::thread::sleep(std::time::Duration::from_millis(1)); // it is started again after a pause
    }
    assert_eq!(scene.noted(), ["started", "1=kept", "ready 1..2"]);
    assert_eq!(scene.shelf.0.borrow().logs["log"].len(), 1);
    scene.order(Order::Append("after"));
    assert_eq!(scene.noted(), ["durable 0: Ok(2)"]);
}

#[test]
fn a_log_whose_end_is_lost_is_not_ready() {
    let shelf = Shelf::default();
    shelf.0.borrow_mut().logs.insert("log".into(), vec![b"old".to_vec()]);
    shelf.0.borrow_mut().damage = Some(Damage { offset: 4096, sequence: 2, lost: 1 });
    for replay in [true, false] {
        let scene = Scene::new(&shelf, LogSettings { replay, ..LogSettings::default() });
        assert_eq!(scene.noted(), ["started".to_string(), format!("failed: {}", Error::Corrupt)], "{replay}");
    }
}

#[test]
fn errors_are_events() {
    let shelf = Shelf::default();
    let existing = LogSettings { mode: OpenMode::Existing, ..LogSettings::default() };
    let scene = Scene::new(&shelf, existing.clone());
    assert_eq!(scene.noted(), ["started", "failed: not found"]);
    scene.order(Order::Append("nowhere"));
    scene.order(Order::Read(1, 1));
    scene.order(Order::Truncate(1));
    let nowhere = ["durable 0", "read 1", "truncated 2"].map(|what| format!("{what}: Err(BadDescriptor)"));
    assert_eq!(scene.noted(), nowhere);
    drop(scene);
    let elsewhere = Scene::new(&shelf, LogSettings { storage: Some("tape".into()), ..LogSettings::default() });
    assert_eq!(elsewhere.noted(), ["started", "failed: not found"]);
    drop(elsewhere);

    let scene = Scene::new(&shelf, LogSettings::default());
    scene.noted();
    scene.shelf.0.borrow_mut().refuses = Some(Error::NoSpace);
    scene.order(Order::Append("refused"));
    assert_eq!(scene.noted(), ["durable 0: Err(NoSpace)"]);
    scene.shelf.0.borrow_mut().refuses = None;
    scene.shelf.0.borrow_mut().fails = Some(Error::Io);
    scene.order(Order::Append("lost"));
    assert_eq!(scene.noted(), ["durable 1: Err(Io)"]);
    scene.order(Order::Close);
    scene.order(Order::Append("closed"));
    assert_eq!(scene.noted(), ["durable 2: Err(BadDescriptor)"]);
}

#[test]
fn a_log_is_read_and_truncated_in_the_order_in_which_that_was_asked() {
    let shelf = Shelf::default();
    shelf.0.borrow_mut().logs.insert("log".into(), ["a", "b", "c", "d"].map(|text| text.as_bytes().to_vec()).into());
    let scene = Scene::new(&shelf, LogSettings { replay: false, ..LogSettings::default() });
    scene.order(Order::Read(2, 2));
    scene.order(Order::Truncate(3));
    scene.order(Order::Read(1, 9));
    scene.order(Order::Read(9, 9));
    let asked = ["read 0: Ok(\"b,c\")", "truncated 1: Ok(3)", "read 2: Ok(\"c,d\")", "read 3: Ok(\"\")"];
    assert_eq!(scene.noted(), [&["started", "ready 1..5"][..], &asked].concat());
}
