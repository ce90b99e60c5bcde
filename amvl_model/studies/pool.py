"""A pool of processes that end when the process that started them does, however that ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process

from amvl_model.config import signals, stop_now

GRACE = 10.0
"""Seconds in which a worker that is told to stop may finish its step and what it writes."""


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes for runs, one CPU thread each. SIGTERM, Ctrl-C and errors in the block stop them; results are files that
    are written as a whole, so a run that is stopped leaves none.

    Raises:
        RunStopped: a SystemExit, after SIGTERM (status 143) or Ctrl-C (130).
    """
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_end_with_parent)
    with signals(stop_now):
        try:
            yield pool
        except BaseException:
            children = active_children()
            for child in children:
                child.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            for child in children:
                child.join(GRACE)
                child.kill()
            raise
        pool.shutdown()


def _end_with_parent() -> None:
    """In a worker: SIGTERM stops it, Ctrl-C is left to its parent, and the parent's end, by SIGKILL too, stops it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop_now)
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(GRACE)
    os._exit(128 + signal.SIGTERM)
