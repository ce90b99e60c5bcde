"""What a command does with its process: signals, and a reader of its output that has gone."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any


class RunStopped(SystemExit):
    """A signal stopped the run; the exit status is 128 + its number (SIGTERM 143, Ctrl-C 130)."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code - 128,)  # type: ignore[operator]  # from a worker to its parent


def stop_now(number: int, frame: Any) -> None:
    """Handler for the time outside training, where nothing has to be saved."""
    raise RunStopped(number)


@contextmanager
def signals(handler: Callable[[int, Any], Any]) -> Iterator[None]:
    """Let ``handler`` receive SIGTERM and SIGINT, of which one stays ignored that the parent process ignores (nohup, a shell's
    background); does nothing outside the main thread, where Python sends none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = [n for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield
    finally:
        for number, action in previous.items():
            signal.signal(number, action)


def quiet_on_closed_pipe() -> None:
    """Let this process end without a traceback once the reader of its standard output has gone (``amvl memory | head -1``)."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _without_closed_pipe
        atexit.register(_drop_unread_output)


def _without_closed_pipe(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not (isinstance(error, BrokenPipeError) and _drop_unread_output(end="\n")):
        sys.__excepthook__(kind, error, trace)


def _drop_unread_output(end: str = "") -> bool:
    """Whether nobody reads the standard output any more, as writing ``end`` shows; what is left then goes nowhere."""
    try:
        print(end=end, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
