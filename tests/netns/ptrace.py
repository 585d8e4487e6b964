# SPDX-License-Identifier: Apache-2.0
"""Stops a single thread of another process, as a dead-locked one would stop."""
import contextlib
import ctypes
import os
import pathlib

_SEIZE, _INTERRUPT, _DETACH = 0x4206, 0x4207, 17
_WALL = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def thread_named(pid, name):
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == name:
            return int(task.name)
    raise AssertionError(f"no thread {name}")


def _call(request, tid):
    if _libc.ptrace(request, tid, None, None):
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
