#!/usr/bin/env python3
"""Tests of the bindings: the echo server as a process, and what errors look like. Run by `cargo test -p libos-demi`."""

import errno
import os
import socket
import subprocess
import sys
import threading
import unittest

import demikernel

HERE = os.path.dirname(os.path.abspath(__file__))


class Echo(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.libos = demikernel.LibOS(libos="catnap")

    def test_our_server_echoes_to_us_and_to_the_kernel(self):
        words = [sys.executable, os.path.join(HERE, "echo.py")]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            said = server.stdout.readline()
            self.assertTrue(said.startswith("listening on "), said)
            host, port = said.split()[-1].rsplit(":", 1)
            at = (host, int(port))
            with socket.create_connection(at, timeout=20) as plain:
                plain.sendall(b"from the kernel")
                self.assertEqual(plain.recv(100), b"from the kernel")
                with self.libos.socket() as queue:
                    queue.connect(at).wait(20)
                    self.assertEqual(queue.peer(), at)
                    data = bytes(range(256)) * 200
                    queue.push(data).wait(20)
                    back = b""
                    while len(back) < len(data):
                        back += queue.pop().wait(20)
                    self.assertEqual(back, data)
                    queue.finish()
                    self.assertEqual(queue.pop().wait(20), b"", "the end of the stream")
                plain.sendall(b"still there")
                self.assertEqual(plain.recv(100), b"still there")
        finally:
            server.kill()
            server.wait()
            server.stdout.close()

    def test_datagrams_have_senders(self):
        one, other = self.libos.socket(kind=socket.SOCK_DGRAM), self.libos.socket(kind=socket.SOCK_DGRAM)
        with one, other:
            for family, host in ((socket.AF_INET, "127.0.0.1"),):
                at, there = one.bind((host, 0)), other.bind((host, 0))
                one.push(b"hello", to=there).wait(20)
                self.assertEqual(other.pop().wait_with_sender(20), (b"hello", at))

    def test_errors_are_exceptions(self):
        queue = self.libos.queue()
        pop = queue.pop()
        with self.assertRaises(TimeoutError):
            pop.wait(0.01)
        queue.push(b"element").wait(20)
        self.assertEqual(pop.wait(20), b"element")
        with self.assertRaises(OSError) as stale:
            pop.wait(20)
        self.assertEqual(stale.exception.errno, errno.ESTALE)
        pops = [queue.pop(), queue.pop()]
        queue.push(b"next").wait(20)
        self.assertEqual(self.libos.wait_any(pops, 20), (0, b"next"))
        pops[1].cancel()
        place, error = self.libos.wait_any(pops[1:], 20)
        self.assertEqual((place, error.errno), (0, errno.ECANCELED))
        queue.close()
        with self.assertRaises(OSError) as closed:
            queue.pop()
        self.assertEqual(closed.exception.errno, errno.EBADF)
        with self.assertRaises(OSError) as again:
            demikernel.LibOS()
        self.assertEqual(again.exception.errno, errno.EEXIST)

    def test_logs_keep_records(self):
        def logs():
            libos = demikernel.LibOS()
            with libos.open("log") as log:
                self.assertEqual([log.push(b"record %d" % i).wait(20) for i in range(1, 4)], [1, 2, 3])
                self.assertEqual(log.seek(2).wait(20), 2)
                self.assertEqual([log.pop().wait(20) for _ in range(3)], [b"record 2", b"record 3", b""])
                self.assertEqual(log.truncate(3).wait(20), 3)
                self.assertEqual(log.seek(0).wait(20), 3)
                with self.assertRaises(OSError) as whole:
                    log.damage()
                self.assertEqual(whole.exception.errno, errno.ENODATA)
            with self.assertRaises(OSError) as missing:
                libos.open("none", os.O_RDWR)
            self.assertEqual(missing.exception.errno, errno.ENOENT)
            told.append("kept")

        told = []
        os.environ["MARGAY_STORAGE_DEVICE"] = "memory"
        os.environ["MARGAY_STORAGE_SIZE"] = "16MiB"
        try:
            thread = threading.Thread(target=logs)
            thread.start()
            thread.join(60)
        finally:
            del os.environ["MARGAY_STORAGE_DEVICE"], os.environ["MARGAY_STORAGE_SIZE"]
        self.assertEqual(told, ["kept"])

    def test_a_thread_is_woken(self):
        ready, told = threading.Event(), []

        def waits():
            libos = demikernel.LibOS()
            told.append(libos.waker())
            pop = libos.queue().pop()
            ready.set()
            try:
                pop.wait(20)
            except InterruptedError:
                told.append("woken")

        thread = threading.Thread(target=waits)
        thread.start()
        self.assertTrue(ready.wait(20))
        told[0].wake()
        thread.join(20)
        self.assertEqual(told[1:], ["woken"])


if __name__ == "__main__":
    unittest.main()
