"""The fault-injection suite: interrupted runs, damaged files, files that try to run code, fuzzed inputs.

    python tests/faults/long.py                                    # aims below, about an hour of one core
    python tests/faults/long.py --kills 10 --files 60 --fuzz 2000  # a few minutes
    python tests/faults/long.py --out results/faults/long.json     # JSON with provenance, and the table beside it

Writes the table after every part; with the same settings on the same commit it goes on after the last one. Exit status 1 if
a wrong result was accepted, an error was unclear, code was executed, or an interruption lost more than one interval between
two checkpoints.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")

import torch
from transformers.utils import logging as transformers_logging

from amvl_model.results.provenance import provenance, to_jsonable
from tests.faults import code, damage, fuzz
from tests.faults.interruptions import INTERRUPTIONS, INTERVAL, Reference
from tests.faults.outcomes import Kind, from_json, markdown, store

SHARES = {"killed at a moment": 0.5, "killed at a file": 0.5, "stopped by a signal": 0.2, "full disk": 0.2}
"""Cases of an interruption, as a share of --kills; 0.1 for the others."""


def parts(
    folder: Path, kills: int, files: int, inputs: int, start: int
) -> Iterator[tuple[str, Callable[[Kind], None]]]:
    """Name of every part, and what runs it; each part draws from a generator of its own."""
    reference = Reference(folder)

    def planted(kind: Kind) -> None:
        for number, name in enumerate(code.ATTEMPTS):
            code.try_to_run_code(name, _made(folder / "code") / str(number), reference, kind)

    def damaged(name: str, case: damage.Case, kind: Kind) -> None:
        rng = random.Random(f"{start} {name}")
        for number in range(-(-files // len(cases))):
            case.run(folder / f"copy-{number}", rng, kind)

    def interrupted(name: str, kind: Kind) -> None:
        rng = random.Random(f"{start} {name}")
        for number in range(max(1, round(kills * SHARES.get(name, 0.1)))):
            with contextlib.redirect_stderr(io.StringIO()):
                INTERRUPTIONS[name](folder / f"{name}-{number}".replace(" ", "-"), reference, rng, kind)

    def fuzzed(name: str, kind: Kind) -> None:
        act, share = fuzz.FUZZED[name]
        act(_made(folder / name), round(inputs * share), start, kind)

    yield "code in files", planted
    cases = damage.cases(_made(folder / "damage"), reference)
    for name, case in cases.items():
        yield f"damaged: {name}", functools.partial(damaged, name, case)
    for name in INTERRUPTIONS:
        yield name, functools.partial(interrupted, name)
    for name in fuzz.FUZZED:
        yield f"fuzzed: {name}", functools.partial(fuzzed, name)


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def main() -> int:
    """Parse the command line and run."""
    page = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    page.add_argument(
        "--kills", type=int, default=100, help="runs killed by SIGKILL; other interruptions in proportion"
    )
    page.add_argument("--files", type=int, default=500, help="damaged files")
    page.add_argument("--fuzz", type=int, default=100_000, help="fuzzed inputs")
    page.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    page.add_argument("--out", type=Path, default=Path("runs/faults/long.json"), help="table to write")
    options = page.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    about = to_jsonable(
        {
            "settings": {name: value for name, value in vars(options).items() if name != "out"},
            "environment": provenance(),
        }
    )
    stored = json.loads(options.out.read_text()) if options.out.is_file() else {}
    same = {key: stored.get(key) for key in about} == about
    table, earlier = (from_json(stored["faults"]), stored["seconds"]) if same else ({}, 0)
    began = time.perf_counter() - earlier
    with tempfile.TemporaryDirectory() as folder:
        for name, act in parts(Path(folder), options.kills, options.files, options.fuzz, options.seed):
            if name not in table:
                kind = Kind()
                act(kind)
                table[name] = kind
                seconds = round(time.perf_counter() - began)
                print(f"{seconds:6} s  {name}: {dict(kind.counts)}", *kind.problems[:5], sep="\n    ", flush=True)
                store(table, options.out, {**about, "seconds": seconds})
    print("\n" + markdown(table))
    return int(any(kind.bad or kind.worst_lost > INTERVAL for kind in table.values()))


if __name__ == "__main__":
    sys.exit(main())
