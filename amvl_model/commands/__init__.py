"""The subcommands of ``amvl``: each module has its options, its help (the docstring), and ``main``, which returns the status.

train      the main job                      ask       a question about images of one's own
evaluate   benchmarks                        diagnose  what the latents leak, carry, and do
export     a plain checkpoint from sft       merge     LoRA adapters into a whole checkpoint
doctor     versions, devices, presets        memory    which training fits on which GPU

Nothing here imports torch before the options are read. The scripts full_blink.py, evaluate_benchmark.py and diagnose.py of the
repository are train, evaluate and diagnose.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from amvl_model.config import signals


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end the command with one line and status 143 or 130 where nothing is to be saved."""

    def stop(number: int, frame: Any) -> None:
        print(f"{Path(sys.argv[0]).name}: stopped by {signal.Signals(number).name}", file=sys.stderr)
        raise SystemExit(128 + number)

    with signals(stop):
        yield
