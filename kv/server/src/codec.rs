//! Redis's protocol as a codec: requests come in, and replies are written where they are made.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use framework::pdpix::{Buf, Heap, Input, Output, Set};
use framework::{Codec, CodecError, SessionId};
use kv_engine::resp::{Request, RequestError, RequestParser};

/// What comes in on a connection: a request, or why there will be none any more. Only a request that was too much for
/// the memory (`Exhausted`) is followed by others.
pub type Incoming = Result<Box<Request>, RequestError>;

/// What all connections of a core have to know of the configuration, and who may send how much.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Changes whenever something below does: a parser looks again.
    version: Cell<u32>,
    bulk_len_max: Cell<usize>,
    /// Whether a client must authenticate itself before it may send much.
    locked: Cell<bool>,
    admitted: RefCell<Set<SessionId>>,
    /// Empty requests, to be filled again.
    #[expect(clippy::vec_box, reason = "it is the boxes that are used again")]
    spare: RefCell<Vec<Box<Request>>>,
}

/// More than these are not kept.
const SPARE_MAX: usize = 64;

impl Gate {
    /// To be configured before it is used.
    pub(crate) fn new(admitted: Set<SessionId>) -> Rc<Gate> {
        Rc::new(Gate {
            version: Cell::new(0),
            bulk_len_max: Cell::new(0),
            locked: Cell::new(false),
            admitted: RefCell::new(admitted),
            spare: RefCell::default(),
        })
    }

    /// The configuration has changed.
    pub(crate) fn configure(&self, bulk_len_max: usize, locked: bool) {
        self.bulk_len_max.set(bulk_len_max);
        self.locked.set(locked);
        self.version.set(self.version.get().wrapping_add(1));
    }

    /// A client may send what it likes. Only of interest while it is locked, or may be.
    pub(crate) fn admit(&self, session: SessionId) {
        if self.admitted.borrow_mut().insert(session) {
            self.version.set(self.version.get().wrapping_add(1));
        }
    }

    /// A request that was carried out.
    #[inline]
    pub(crate) fn give_back(&self, mut request: Box<Request>) {
        let mut spare = self.spare.borrow_mut();
        // One may keep the buffer that it lay in: the next request mostly lies in the same.
        if !spare.is_empty() {
            request.clear();
        }
        if spare.len() < SPARE_MAX {
            spare.push(request);
        }
    }

    pub(crate) fn forget(&self, session: SessionId) {
        self.admitted.borrow_mut().remove(&session);
    }
}

/// The codec of one connection.
#[derive(Debug)]
pub struct Resp {
    parser: RequestParser,
    gate: Rc<Gate>,
    /// Of the gate, when it was last looked at.
    version: u32,
    session: Option<SessionId>,
    /// What follows cannot be understood.
    over: bool,
}

impl Resp {
    pub(crate) fn new(gate: Rc<Gate>) -> Resp {
        Resp { parser: RequestParser::new(), gate, version: 0, session: None, over: false }
    }

    #[cold]
    fn look_at_gate(&mut self) {
        self.version = self.gate.version.get();
        self.parser.set_bulk_len_max(self.gate.bulk_len_max.get());
        let admitted = self.session.is_some_and(|session| self.gate.admitted.borrow().contains(&session));
        self.parser.set_authenticated(admitted || !self.gate.locked.get());
    }
}

impl Codec for Resp {
    type In = Incoming;
    type Out = Buf;

    fn opened(&mut self, session: SessionId) {
        self.session = Some(session);
    }

    #[inline]
    fn decode(&mut self, input: &mut Input, heap: &Heap) -> Result<Option<Incoming>, CodecError> {
        if self.version != self.gate.version.get() {
            self.look_at_gate();
        }
        if self.over {
            input.clear();
            return Ok(None);
        }
        let mut request = self.gate.spare.borrow_mut().pop().unwrap_or_default();
        match self.parser.next(input, heap, &mut request) {
            Ok(true) => Ok(Some(Ok(request))),
            Ok(false) => {
                self.gate.give_back(request);
                Ok(None)
            }
            Err(error) => {
                self.over = error != RequestError::Exhausted;
                Ok(Some(Err(error)))
            }
        }
    }

    #[inline]
    fn has_unread(&self) -> bool {
        self.parser.has_unread()
    }

    fn encode(reply: Buf, output: &mut Output) {
        output.put_buf(reply);
    }
}
