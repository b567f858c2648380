//! The subject of the storage suite over the functions of the C interface, on a file.

use std::cell::RefCell;
use std::ffi::{CString, c_int};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use demikernel::*;
use libos_conformance::storage::{LogEnd, LogSubject, Logs, SocketCall};
use pdpix::{Endpoint, Error, OpenMode, QToken, Qd, storage};

use super::{NOW, c, checked, error, free, nothing_yet, push_segments, q, to_c};

/// The library OS of the present process, which is on no thread between two calls; the end of it, when nobody needs it.
#[derive(Clone)]
struct Process(Rc<RefCell<Parked>>);

impl Drop for Process {
    fn drop(&mut self) {
        if Rc::strong_count(&self.0) == 1 {
            self.on(leave);
        }
    }
}

impl Process {
    fn on<R>(&self, call: impl FnOnce() -> R) -> R {
        let mut parked = self.0.borrow_mut();
        parked.exchange();
        let result = call();
        parked.exchange();
        result
    }

    fn token(&self, call: impl FnOnce(&mut u64) -> c_int) -> Result<QToken, Error> {
        let mut qt = 0;
        checked(self.on(|| call(&mut qt)))?;
        Ok(QToken::from_raw(qt))
    }

    fn queue_of(&self, call: impl FnOnce(&mut c_int) -> c_int) -> Result<Qd, Error> {
        let mut qd = -1;
        checked(self.on(|| call(&mut qd)))?;
        Ok(q(qd))
    }
}

/// A thread of C with a file.
pub struct Seated {
    process: Option<Process>,
    variables: Vec<(String, String)>,
    path: PathBuf,
}

impl Seated {
    /// A new file, and these variables besides those that name it.
    pub fn on_a_file(variables: &[(&str, &str)]) -> Seated {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("demi-logs-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        let file = path.to_str().expect("a folder with a name").to_string();
        let own = [
            ("LIBOS", "epoll"),
            ("MARGAY_MEMORY_SIZE", "64MiB"),
            ("MARGAY_STORAGE_DEVICE", &*file),
            ("MARGAY_STORAGE_SIZE", "16MiB"),
        ];
        let all = own.iter().chain(variables).map(|(name, value)| (name.to_string(), value.to_string()));
        let mut seated = Seated { process: None, variables: all.collect(), path };
        seated.restart();
        seated
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("a process runs")
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        self.process = None;
        let _ = std::fs::remove_file(&self.path);
    }
}

impl LogSubject for Seated {
    fn logs(&self) -> Box<dyn Logs> {
        Box::new(self.process().clone())
    }

    fn turn(&mut self) {
        self.process().on(|| {
            let (mut qd, mut qt, mut result) = (-1, 0, nothing_yet());
            let short = libc::timespec { tv_sec: 0, tv_nsec: 20_000 };
            // SAFETY: all are there.
            unsafe {
                assert_eq!((demi_queue(&mut qd), demi_pop(&mut qt, qd)), (0, 0));
                assert_eq!(demi_wait(&mut result, qt, &short), libc::ETIMEDOUT);
                assert_eq!(demi_close(qd), 0);
                assert_eq!(demi_wait(&mut result, qt, &NOW), 0, "it is cancelled");
            }
        });
    }

    fn restart(&mut self) {
        self.process = None;
        // Of the case, which may hold calls of the process before, nothing is asked any more.
        let parked = Parked::open(&self.variables).unwrap_or_else(|(_, why)| panic!("{why}"));
        self.process = Some(Process(Rc::new(RefCell::new(parked))));
    }
}

fn name(name: &str) -> CString {
    CString::new(name).expect("no zeros")
}

fn ended(result: QResult) -> Result<LogEnd, Error> {
    let QResult { opcode, ret, value, .. } = result;
    // SAFETY: the opcode says which of them it is; a number has any value.
    let (sequence, sga) = unsafe { (value.sequence, value.sga) };
    assert!(opcode == 6 || ret == 0 || (opcode == 2 && ret == i64::from(libc::EMSGSIZE)), "{opcode} {ret}");
    match opcode {
        1 => Ok(LogEnd::Appended(sequence)),
        2 => {
            let segment = sga.segs[0];
            // SAFETY: as many bytes are there until they are freed.
            let bytes = unsafe { std::slice::from_raw_parts(segment.buf.cast::<u8>(), segment.len as usize) }.to_vec();
            free(sga);
            Ok(LogEnd::Popped(bytes, ret != 0))
        }
        6 => Err(error(ret as c_int)),
        7 => Ok(LogEnd::Sought(sequence)),
        8 => Ok(LogEnd::Truncated(sequence)),
        other => panic!("opcode {other}"),
    }
}

impl Logs for Process {
    fn open(&self, log: &str, mode: OpenMode, on: Option<&str>) -> Result<Qd, Error> {
        assert_eq!(on, None, "in C, storages have no names");
        let flags = match mode {
            OpenMode::Existing => libc::O_RDWR,
            OpenMode::New => libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
            OpenMode::ExistingOrNew => libc::O_RDWR | libc::O_CREAT,
            OpenMode::ReadOnly => libc::O_RDONLY,
        };
        // SAFETY: all is there.
        self.queue_of(|qd| unsafe { demi_open(qd, name(log).as_ptr(), flags) })
    }

    fn create(&self, log: &str) -> Result<Qd, Error> {
        // SAFETY: all is there.
        self.queue_of(|qd| unsafe { demi_creat(qd, name(log).as_ptr(), 0o600) })
    }

    fn queue(&self) -> Result<Qd, Error> {
        // SAFETY: it is there.
        self.queue_of(|qd| unsafe { demi_queue(qd) })
    }

    fn push(&self, qd: Qd, segments: &[&[u8]]) -> Result<QToken, Error> {
        self.token(|qt| push_segments(qt, qd, segments))
    }

    fn pop(&self, qd: Qd, len_max: usize) -> Result<QToken, Error> {
        // SAFETY: it is there.
        self.token(|qt| unsafe { demi_pop_max(qt, c(qd), len_max) })
    }

    fn seek(&self, qd: Qd, sequence: u64) -> Result<QToken, Error> {
        // SAFETY: it is there.
        self.token(|qt| unsafe { demi_seek_to(qt, c(qd), sequence) })
    }

    fn truncate(&self, qd: Qd, sequence: u64) -> Result<QToken, Error> {
        // SAFETY: it is there.
        self.token(|qt| unsafe { demi_truncate_to(qt, c(qd), sequence) })
    }

    fn damage(&self, qd: Qd) -> Result<Option<storage::Damage>, Error> {
        let mut damage = Damage { offset: 0, sequence: 0, lost: 0 };
        // SAFETY: it is there.
        match self.on(|| unsafe { demi_getdamage(c(qd), &mut damage) }) {
            0 => Ok(Some(storage::Damage { offset: damage.offset, sequence: damage.sequence, lost: damage.lost })),
            libc::ENODATA => Ok(None),
            errno => Err(error(errno)),
        }
    }

    fn call(&self, qd: Qd, call: SocketCall) -> Result<(), Error> {
        let at = |endpoint: Endpoint| to_c(endpoint);
        let (qd, mut qt) = (c(qd), 0);
        checked(self.on(|| match call {
            SocketCall::Bind(to) => {
                let (addr, size) = at(to);
                // SAFETY: all is there.
                unsafe { demi_bind(qd, (&raw const addr).cast(), size) }
            }
            SocketCall::Listen => demi_listen(qd, 1),
            // SAFETY: it is there.
            SocketCall::Accept => unsafe { demi_accept(&mut qt, qd) },
            SocketCall::Connect(to) => {
                let (addr, size) = at(to);
                // SAFETY: all is there.
                unsafe { demi_connect(&mut qt, qd, (&raw const addr).cast(), size) }
            }
            SocketCall::PushTo(to) => {
                let ((addr, size), sga) = (at(to), demi_sgaalloc(1));
                // SAFETY: all is there.
                let errno = unsafe { demi_pushto(&mut qt, qd, &sga, (&raw const addr).cast(), size) };
                free(sga);
                errno
            }
            SocketCall::Finish => demi_finish(qd),
        }))
    }

    fn close(&self, qd: Qd) -> Result<(), Error> {
        checked(self.on(|| demi_close(c(qd))))
    }

    fn try_redeem(&self, qt: QToken) -> Result<Option<Result<LogEnd, Error>>, Error> {
        self.on(|| {
            let mut result = nothing_yet();
            // SAFETY: both are there.
            match unsafe { demi_wait(&mut result, qt.raw(), &NOW) } {
                0 => Ok(Some(ended(result))),
                libc::ETIMEDOUT => Ok(None),
                errno => Err(error(errno)),
            }
        })
    }

    fn cancel(&self, qt: QToken) -> Result<(), Error> {
        checked(self.on(|| demi_cancel(qt.raw())))
    }

    fn give_up(&self, _: QToken) {
        unreachable!("in C a token cannot be given up");
    }

    fn has_all(&self) -> bool {
        false
    }

    fn books(&self) -> (usize, usize, usize) {
        let InUse { tokens, queues, zombies, held, .. } = self.on(in_use);
        assert_eq!(held, 0, "the program holds nothing between two calls of the suite");
        (tokens, queues, zombies)
    }
}
