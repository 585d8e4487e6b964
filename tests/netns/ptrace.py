# SPDX-License-Identifier: Apache-2.0
"""Stops single threads of another process, as dead-locked or late ones would stop."""
import contextlib
import ctypes
import os
import pathlib
import signal
import threading
import time

_SEIZE, _INTERRUPT, _DETACH, _CONT = 0x4206, 0x4207, 17, 7
_TRACECLONE, _EVENT_STOP = 1 << 3, 128
_WALL, _WNOTHREAD = 0x40000000, 0x20000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def thread_named(pid, name):
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == name:
            return int(task.name)
    raise AssertionError(f"no thread {name}")


def _call(request, tid, data=None):
    if _libc.ptrace(request, tid, None, data):
        raise OSError(ctypes.get_errno(), "ptrace")


@contextlib.contextmanager
def stopped(tid):
    """To be entered and left on the same thread."""
    _call(_SEIZE, tid)
    try:
        _call(_INTERRUPT, tid)
        os.waitpid(tid, _WALL)
        yield
    finally:
        _call(_DETACH, tid)


class _Holder(threading.Thread):
    """The tracer: only the thread that attached may wait and go on."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.held = pid, set()
        self.attached, self.leaving = threading.Event(), threading.Event()

    def run(self):
        _call(_SEIZE, self.pid, _TRACECLONE)
        self.attached.set()
        while not self.leaving.is_set():
            self.handle(os.WNOHANG)
        _call(_INTERRUPT, self.pid)
        while self.handle(0) != (self.pid, _EVENT_STOP):
            pass
        for tid in (self.pid, *self.held):
            _call(_DETACH, tid)

    def handle(self, flags):
        """Waits for one event. New threads stay as they are, the process goes on."""
        tid, status = os.waitpid(-1, _WALL | _WNOTHREAD | flags)
        event = status >> 16
        if tid == 0:
            time.sleep(0.005)
        elif tid != self.pid:
            self.held.add(tid)
        elif os.WIFSTOPPED(status) and not (event == _EVENT_STOP and self.leaving.is_set()):
            _call(_CONT, tid, 0 if event or os.WSTOPSIG(status) == signal.SIGTRAP else os.WSTOPSIG(status))
        return tid, event


@contextlib.contextmanager
def new_threads_held(pid):
    """Threads that the process starts do not run before this is left; yields their ids."""
    holder = _Holder(pid)
    holder.start()
    if not holder.attached.wait(10):
        raise AssertionError("ptrace does not attach")
    try:
        yield holder.held
    finally:
        holder.leaving.set()
        holder.join()
