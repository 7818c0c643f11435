"""End processes with the command that started them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from types import FrameType


PARENT = "IEPILE_PARENT"  # environment variable: id of the command that starts another
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None  # before a fork


def start_children() -> None:
    """Let the commands that this one starts from now on end with it: they call [`end_with_parent`]."""
    os.environ[PARENT] = str(os.getpid())
    signal.signal(signal.SIGTERM, _end_with_children)


def _forget_children() -> None:
    """
    Let a fork end by SIGTERM at once: Python runs a handler between two steps of its own only, and a worker of a
    process pool that is about to wait would wait forever.
    """
    if signal.getsignal(signal.SIGTERM) is _end_with_children:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_forget_children)


def end_with_parent() -> None:
    """End this process with the command that started it, even by SIGKILL (on Linux)."""
    parent = os.environ.pop(PARENT, None)
    if parent == str(os.getppid()):
        end_with(int(parent))


def end_with(parent: int) -> None:
    """End this process with its parent, even by SIGKILL (on Linux)."""
    if _LIBC is not None:
        _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it ended before
            os._exit(1)


def _end_with_children(number: int, frame: FrameType | None) -> None:
    """Pass SIGTERM on to all processes below this one, then end by it."""
    import psutil  # of accelerate

    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.terminate()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
