"""The fault-injection suite: interrupted runs, damaged files, files that try to run code, fuzzed inputs.

    python tests/faults/long.py                                    # aims below, about an hour of one core
    python tests/faults/long.py --kills 10 --files 60 --fuzz 2000  # a few minutes
    python tests/faults/long.py --out results/faults/long.json     # JSON with provenance, and the table beside it

Writes the table after every part. Exit status 1 if a wrong result was accepted, an error was unclear, code was executed, or an
interruption lost more than one interval between two checkpoints.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")

import torch
from transformers.utils import logging as transformers_logging

from amvl_model.results.provenance import provenance, to_jsonable
from tests.faults import code, damage, fuzz
from tests.faults.interruptions import INTERRUPTIONS, INTERVAL, Reference
from tests.faults.outcomes import Kind, Table, markdown, store

SHARES = {"killed at a moment": 0.5, "killed at a file": 0.5, "stopped by a signal": 0.2, "full disk": 0.2}
"""Cases of an interruption, as a share of --kills; 0.1 for the others."""


def interruptions(folder: Path, reference: Reference, kills: int, rng: random.Random) -> Iterator[tuple[str, Kind]]:
    """All interruptions, ``kills`` of them by SIGKILL."""
    for name, interrupt in INTERRUPTIONS.items():
        kind = Kind()
        for number in range(max(1, round(kills * SHARES.get(name, 0.1)))):
            with contextlib.redirect_stderr(io.StringIO()):
                interrupt(folder / f"{name}-{number}".replace(" ", "-"), reference, rng, kind)
        yield name, kind


def run(kills: int, files: int, inputs: int, start: int) -> Iterator[tuple[str, Kind]]:
    """The suite, kind after kind."""
    rng = random.Random(start)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        reference = Reference(folder)
        attempts = Kind()
        (folder / "code").mkdir()
        for number, name in enumerate(code.ATTEMPTS):
            code.try_to_run_code(name, folder / "code" / str(number), reference, attempts)
        yield "code in files", attempts
        (folder / "damage").mkdir()
        cases = damage.cases(folder / "damage", reference)
        for name, case in cases.items():
            kind = Kind()
            for number in range(-(-files // len(cases))):
                case.run(folder / f"copy-{number}", rng, kind)
            yield f"damaged: {name}", kind
        yield from interruptions(folder, reference, kills, rng)
        for name, (act, share) in fuzz.FUZZED.items():
            kind = Kind()
            (folder / name).mkdir()
            act(folder / name, round(inputs * share), start, kind)
            yield f"fuzzed: {name}", kind


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
    torch.set_num_threads(1)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    began, table = time.perf_counter(), Table()
    about = {"settings": to_jsonable(vars(options)), "environment": provenance()}
    for name, kind in run(options.kills, options.files, options.fuzz, options.seed):
        table[name] = kind
        seconds = time.perf_counter() - began
        print(f"{seconds:6.0f} s  {name}: {dict(kind.counts)}", *kind.problems[:5], sep="\n    ", flush=True)
        store(table, options.out, {**about, "seconds": round(seconds)})
    print("\n" + markdown(table))
    return int(any(kind.bad or kind.worst_lost > INTERVAL for kind in table.values()))


if __name__ == "__main__":
    sys.exit(main())
