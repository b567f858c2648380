"""Queues of Demikernel's C interface, over Margay: libdemikernel.so by ctypes.

    libos = demikernel.LibOS(libos="catnap")    # once in each thread that wants one
    listener = libos.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    connection, peer = listener.accept().wait()
    data = connection.pop().wait()              # bytes; empty at the end of the stream
    connection.push(data).wait()

Calls that begin an operation give a `Token`; `wait` gives what came of it, or raises `OSError` with the errno. What is pushed and
popped is copied between Python's memory and the library's. A library OS, its queues and its tokens belong to their thread.

The library is found by the dynamic linker, or where the variable DEMIKERNEL says.
"""

import ctypes
import errno as _errno
import ipaddress
import os
import socket as _socket
import struct
import threading

__all__ = ["LibOS", "Log", "Queue", "Token", "Waker"]


class _Segment(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("buf", ctypes.c_void_p), ("len", ctypes.c_uint32)]


class _Array(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("sga_buf", ctypes.c_void_p), ("numsegs", ctypes.c_uint32), ("segs", _Segment * 1), ("addr", ctypes.c_ubyte * 16)]


class _Accepted(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("qd", ctypes.c_int32), ("addr", ctypes.c_ubyte * 16)]


class _Value(ctypes.Union):
    _pack_ = 1
    _fields_ = [("sga", _Array), ("ares", _Accepted), ("sequence", ctypes.c_uint64)]


class _Result(ctypes.Structure):
    _pack_ = 1
    _fields_ = [
        ("opcode", ctypes.c_uint32),
        ("qd", ctypes.c_int32),
        ("qt", ctypes.c_uint64),
        ("ret", ctypes.c_int64),
        ("value", _Value),
    ]


class _Timespec(ctypes.Structure):
    _fields_ = [("sec", ctypes.c_long), ("nsec", ctypes.c_long)]


assert [ctypes.sizeof(t) for t in (_Segment, _Array, _Accepted, _Result)] == [12, 40, 20, 64]

_PUSH, _POP, _ACCEPT, _CONNECT, _FAILED, _SEEK, _TRUNCATE = 1, 2, 3, 4, 6, 7, 8

_int, _qd, _qt, _pointer = ctypes.c_int, ctypes.c_int, ctypes.c_uint64, ctypes.c_void_p

_CALLS = {
    "demi_init": [_pointer],
    "demi_socket": [_pointer, _int, _int, _int],
    "demi_queue": [_pointer],
    "demi_open": [_pointer, ctypes.c_char_p, _int],
    "demi_seek_to": [_pointer, _qd, ctypes.c_uint64],
    "demi_truncate_to": [_pointer, _qd, ctypes.c_uint64],
    "demi_getdamage": [_qd, _pointer],
    "demi_bind": [_qd, _pointer, ctypes.c_uint32],
    "demi_listen": [_qd, _int],
    "demi_accept": [_pointer, _qd],
    "demi_connect": [_pointer, _qd, _pointer, ctypes.c_uint32],
    "demi_finish": [_qd],
    "demi_close": [_qd],
    "demi_push": [_pointer, _qd, _pointer],
    "demi_pushto": [_pointer, _qd, _pointer, _pointer, ctypes.c_uint32],
    "demi_pop": [_pointer, _qd],
    "demi_pop_max": [_pointer, _qd, ctypes.c_size_t],
    "demi_cancel": [_qt],
    "demi_wait": [_pointer, _qt, _pointer],
    "demi_wait_any": [_pointer, _pointer, _pointer, _int, _pointer],
    "demi_getsockname": [_qd, _pointer, _pointer],
    "demi_getpeername": [_qd, _pointer, _pointer],
    "demi_getsender": [_pointer, _pointer, _pointer],
    "demi_setsockopt": [_qd, _int, _int, _pointer, ctypes.c_uint32],
    "demi_sgafree": [_pointer],
    "demi_waker": [_pointer],
    "demi_wake": [ctypes.c_uint64],
}

_library = None
_loading = threading.Lock()


def _load():
    global _library
    with _loading:
        if _library is None:
            library = ctypes.CDLL(os.environ.get("DEMIKERNEL", "libdemikernel.so"))
            for name, arguments in _CALLS.items():
                call = getattr(library, name)
                call.argtypes, call.restype = arguments, ctypes.c_int
            library.demi_sgaalloc.argtypes, library.demi_sgaalloc.restype = [ctypes.c_size_t], _Array
            _library = library
    return _library


def _check(errno):
    if errno:
        raise OSError(errno, os.strerror(errno))


def _to_c(address):
    """An address (host, port) as C has it; the host is a numeric one."""
    host, port = address[:2]
    ip = ipaddress.ip_address(host)
    if ip.version == 4:
        raw = struct.pack("=H", _socket.AF_INET) + struct.pack("!H", port) + ip.packed + bytes(8)
    else:
        raw = struct.pack("=H", _socket.AF_INET6) + struct.pack("!HI", port, 0) + ip.packed + struct.pack("=I", 0)
    return ctypes.create_string_buffer(raw, len(raw)), len(raw)


def _of_c(raw):
    (family,) = struct.unpack_from("=H", raw)
    (port,) = struct.unpack_from("!H", raw, 2)
    at, end = (4, 8) if family == _socket.AF_INET else (8, 24)
    return (str(ipaddress.ip_address(bytes(raw[at:end]))), port)


def _address(call):
    """Asks a call for an address."""
    raw, size = ctypes.create_string_buffer(128), ctypes.c_uint32(128)
    _check(call(ctypes.byref(raw), ctypes.byref(size)))
    return _of_c(raw.raw)


def _timeout(seconds):
    if seconds is None:
        return None
    whole = int(seconds)
    return ctypes.byref(_Timespec(whole, int((seconds - whole) * 1e9)))


class Token:
    """A pending operation of the calling thread."""

    def __init__(self, library, begin):
        self._library = library
        self._qt = ctypes.c_uint64()
        _check(begin(ctypes.byref(self._qt)))

    def wait(self, timeout=None):
        """What came of it: None of a push or a connect, bytes of a pop, (queue, peer) of an accept; on a log the number of a
        record, of a push, a seek or a truncation.

        Raises TimeoutError after `timeout` seconds: then it is still pending; and OSError if it failed.
        """
        result = _Result()
        _check(self._library.demi_wait(ctypes.byref(result), self._qt, _timeout(timeout)))
        return _came_of(self._library, result)[0]

    def wait_with_sender(self, timeout=None):
        """The same of a pop of datagrams: (bytes, sender)."""
        result = _Result()
        _check(self._library.demi_wait(ctypes.byref(result), self._qt, _timeout(timeout)))
        return _came_of(self._library, result)

    def cancel(self):
        """Asks for its end; it is still to be waited for."""
        _check(self._library.demi_cancel(self._qt))


def _came_of(library, result):
    """What an operation came to, and the sender of a datagram."""
    if result.opcode == _FAILED:
        _check(result.ret)
    if result.opcode == _ACCEPT:
        queue = Queue(library, result.value.ares.qd)
        return (queue, queue.peer()), None
    if result.opcode in (_PUSH, _SEEK, _TRUNCATE):
        return result.value.sequence or None, None  # only records have numbers, from 1
    if result.opcode != _POP:
        return None, None
    array = result.value.sga
    try:
        data = ctypes.string_at(array.segs[0].buf, array.segs[0].len)
        sender = None
        if array.addr[0] or array.addr[1]:
            sender = _address(lambda at, size: library.demi_getsender(ctypes.byref(array), at, size))
        return data, sender
    finally:
        _check(library.demi_sgafree(ctypes.byref(array)))


class Queue:
    """A queue of the calling thread."""

    def __init__(self, library, qd):
        self._library, self._qd = library, qd

    def _token(self, name, *arguments):
        call = getattr(self._library, name)
        return Token(self._library, lambda qt: call(qt, self._qd, *arguments))

    def bind(self, address):
        """Gives it a local address, and says which."""
        at, size = _to_c(address)
        _check(self._library.demi_bind(self._qd, ctypes.byref(at), size))
        return self.local()

    def listen(self, backlog=128):
        """Makes a bound stream a listener."""
        _check(self._library.demi_listen(self._qd, backlog))

    def local(self):
        """Its local address."""
        return _address(lambda at, size: self._library.demi_getsockname(self._qd, at, size))

    def peer(self):
        """Its peer's address."""
        return _address(lambda at, size: self._library.demi_getpeername(self._qd, at, size))

    def set_option(self, level, name, value):
        """Sets an option whose value is an int."""
        value = ctypes.c_int(value)
        _check(self._library.demi_setsockopt(self._qd, level, name, ctypes.byref(value), ctypes.sizeof(value)))

    def accept(self):
        """Begins to take the next connection."""
        return self._token("demi_accept")

    def connect(self, address):
        """Begins to connect."""
        at, size = _to_c(address)
        return self._token("demi_connect", ctypes.byref(at), size)

    def push(self, data, to=None):
        """Begins to push bytes, on a datagram queue perhaps to an address."""
        array = self._library.demi_sgaalloc(len(data))
        if not array.sga_buf:
            raise OSError(_errno.ENOBUFS if data else _errno.EINVAL, os.strerror(_errno.ENOBUFS if data else _errno.EINVAL))
        try:
            ctypes.memmove(array.segs[0].buf, bytes(data), len(data))
            if to is None:
                return self._token("demi_push", ctypes.byref(array))
            at, size = _to_c(to)
            return self._token("demi_pushto", ctypes.byref(array), ctypes.byref(at), size)
        finally:
            # It lives on until it is sent.
            _check(self._library.demi_sgafree(ctypes.byref(array)))

    def pop(self, size=None):
        """Begins to pop what comes next, at most `size` bytes."""
        return self._token("demi_pop") if size is None else self._token("demi_pop_max", size)

    def finish(self):
        """Ends our direction of a stream."""
        _check(self._library.demi_finish(self._qd))

    def close(self):
        """Gives it up."""
        _check(self._library.demi_close(self._qd))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Log(Queue):
    """A log: `push` appends a record, and its token gives the record's number once it is durable; `pop` gives the record at the
    cursor, b"" where there is none so far.
    """

    def seek(self, sequence):
        """Begins to put the cursor before a record; 0 is the first that is left, 2**64 - 1 the end. The token says where it went."""
        return self._token("demi_seek_to", sequence)

    def truncate(self, sequence):
        """Begins to free all records before this one. The token says which is the first that is left."""
        return self._token("demi_truncate_to", sequence)

    def damage(self):
        """(byte on the device, first record that is lost, how many at least), when an operation failed with EBADMSG."""
        damage = (ctypes.c_uint64 * 3)()
        _check(self._library.demi_getdamage(self._qd, ctypes.byref(damage)))
        return tuple(damage)


class Waker:
    """Ends the wait of the thread that made it: that raises InterruptedError. May be called from any thread."""

    def __init__(self, library):
        self._library, self._name = library, ctypes.c_uint64()
        _check(library.demi_waker(ctypes.byref(self._name)))

    def wake(self):
        _check(self._library.demi_wake(self._name))


class LibOS:
    """The library OS of the calling thread, which it has until the thread ends."""

    def __init__(self, libos=None, config=None):
        # C's environment, which is the process's.
        if libos is not None:
            os.environ["LIBOS"] = libos
        if config is not None:
            os.environ["CONFIG_PATH"] = config
        self._library = _load()
        _check(self._library.demi_init(None))

    def _queue(self, call, *arguments):
        qd = ctypes.c_int(-1)
        _check(call(ctypes.byref(qd), *arguments))
        return Queue(self._library, qd.value)

    def socket(self, family=_socket.AF_INET, kind=_socket.SOCK_STREAM):
        """A socket queue."""
        return self._queue(self._library.demi_socket, int(family), int(kind), 0)

    def queue(self):
        """A queue in memory."""
        return self._queue(self._library.demi_queue)

    def open(self, name, flags=os.O_RDWR | os.O_CREAT):
        """The log of this name, on the storage that the configuration names; flags as for `os.open`."""
        qd = ctypes.c_int(-1)
        _check(self._library.demi_open(ctypes.byref(qd), name.encode(), flags))
        return Log(self._library, qd.value)

    def waker(self):
        """What ends the waits of this thread."""
        return Waker(self._library)

    def wait_any(self, tokens, timeout=None):
        """Waits for one of several tokens: its place in the list, and what came of it; if it failed, the OSError."""
        result, place = _Result(), ctypes.c_int(-1)
        raw = (ctypes.c_uint64 * len(tokens))(*(token._qt.value for token in tokens))
        call = self._library.demi_wait_any
        _check(call(ctypes.byref(result), ctypes.byref(place), raw, len(tokens), _timeout(timeout)))
        try:
            return place.value, _came_of(self._library, result)[0]
        except OSError as error:
            return place.value, error
