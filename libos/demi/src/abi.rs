//! The structures of `include/demi/types.h`, packed as there.

use std::ffi::{c_char, c_int, c_void};
use std::mem::{offset_of, size_of};

use libc::sockaddr_in;

/// `demi_sgaseg_t`: a piece of memory.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct SgaSeg {
    /// Where it begins.
    pub buf: *mut c_void,
    /// Its bytes.
    pub len: u32,
}

/// `demi_sgarray_t`: a message, or a piece of a stream.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct SgArray {
    /// The name of the buffer (`held.rs`), or null for memory of `demi_malloc`.
    pub sga_buf: *mut c_void,
    /// One.
    pub numsegs: u32,
    /// The segment.
    pub segs: [SgaSeg; 1],
    /// Of a popped datagram: who sent it.
    pub addr: sockaddr_in,
}

/// `demi_accept_result_t`: a new connection.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct AcceptResult {
    /// Its queue.
    pub qd: i32,
    /// Who connected.
    pub addr: sockaddr_in,
}

/// The values of `demi_opcode_t`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the header says what each means")]
#[repr(u32)]
pub enum Opcode {
    Invalid = 0,
    Push = 1,
    Pop = 2,
    Accept = 3,
    Connect = 4,
    Close = 5,
    Failed = 6,
    Seek = 7,
    Truncate = 8,
}

/// What a result has besides.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub union QValue {
    /// Of a pop.
    pub sga: SgArray,
    /// Of an accept.
    pub ares: AcceptResult,
    /// Of a push, a seek or a truncation on a storage queue: the number of the record.
    pub sequence: u64,
}

/// `demi_qresult_t`: the result of an operation.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct QResult {
    /// An [`Opcode`].
    pub opcode: u32,
    /// The queue.
    pub qd: i32,
    /// The token.
    pub qt: u64,
    /// 0, or an errno.
    pub ret: i64,
    /// See [`QValue`].
    pub value: QValue,
}

/// `struct demi_args`.
#[repr(C, packed)]
pub struct Args {
    /// Of `main`.
    pub argc: c_int,
    /// Of `main`.
    pub argv: *const *mut c_char,
    /// Or null.
    pub callback: Option<extern "C" fn(*const c_char, u32, u64)>,
}

/// `demi_damage_t`: a record that cannot be read any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, packed)]
pub struct Damage {
    /// Byte on the device where it began.
    pub offset: u64,
    /// The first record that is lost.
    pub sequence: u64,
    /// How many are known to be lost at least.
    pub lost: u64,
}

// As the headers assert on their side.
const _: () = assert!(size_of::<SgaSeg>() == 12 && size_of::<SgArray>() == 40 && size_of::<AcceptResult>() == 20);
const _: () = assert!(size_of::<QResult>() == 64 && size_of::<Args>() == 20 && size_of::<Damage>() == 24);
const _: () = assert!(offset_of!(SgArray, segs) == 12 && offset_of!(SgArray, addr) == 24);
const _: () = assert!(offset_of!(QResult, value) == 24 && offset_of!(AcceptResult, addr) == 4);

/// The address of nobody.
pub(crate) const NO_ADDRESS: sockaddr_in =
    sockaddr_in { sin_family: 0, sin_port: 0, sin_addr: libc::in_addr { s_addr: 0 }, sin_zero: [0; 8] };

impl QResult {
    /// What it was, and how it ended.
    #[inline(always)]
    pub(crate) fn set(&mut self, opcode: Opcode, ret: i64) {
        (self.opcode, self.ret) = (opcode as u32, ret);
    }

    /// The same of an operation on a log.
    pub(crate) fn tell_sequence(&mut self, opcode: Opcode, sequence: u64) {
        self.set(opcode, 0);
        self.value.sequence = sequence;
    }
}

impl SgArray {
    /// What `demi_sgaalloc` gives when there is nothing to be had.
    pub(crate) const NULL: SgArray = SgArray {
        sga_buf: std::ptr::null_mut(),
        numsegs: 0,
        segs: [SgaSeg { buf: std::ptr::null_mut(), len: 0 }],
        addr: NO_ADDRESS,
    };
}

impl QValue {
    /// Of operations that have no value.
    pub(crate) const NONE: QValue = QValue { sga: SgArray::NULL };
}
