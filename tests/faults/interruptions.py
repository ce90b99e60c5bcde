"""Training runs that are cut short, in forked processes: by SIGKILL, signals, a full disk, a second writer, NaN.

After each the run goes on (`resume=None`) and has to end with the weights of the uninterrupted run, bit for bit, and with
its log. Runs are forked from a process that has imported everything, so one takes about a second.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from amvl_model.models.checkpoints import NonFiniteError
from amvl_model.training import run
from amvl_model.training.run_folder import checkpoints, newest_checkpoint
from tests.faults.outcomes import Kind
from tests.model.training.test_trainer import QUESTIONS, config

INTERVAL = 2
SETTINGS: dict[str, Any] = {
    "train.batch_size": 2,
    "train.steps": 7,
    "train.save_every": INTERVAL,
    "train.eval_every": 3,
    "train.log_every": 1,
    "data.tasks": ("Counting",),
    "data.eval_size": 2,
}
FINAL = Path("checkpoint/model.safetensors")


def train(folder: Path) -> None:
    """The run, from its newest complete checkpoint if there is one."""
    run.train(config(**SETTINGS), folder, questions=QUESTIONS, resume=None, quiet=True)


def forked(act: Callable[[], Any], errors: Path) -> int:
    """Start ``act`` in a process of its own, whose messages and error go to a file; returns its id."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        file = os.open(errors, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout = sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115, those of pytest are elsewhere
        torch.set_num_threads(1)  # the reference and every run alike, whenever they are forked
        status = _ended(act)
        sys.stderr.flush()
    finally:
        os._exit(status)  # the child never goes on with what its parent does


def _ended(act: Callable[[], Any]) -> int:
    """Exit status that ``act`` would give a script: 2 after a clear error, 70 after a traceback."""
    try:
        act()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except BaseException:
        traceback.print_exc()
        return 70
    return 0


def status_of(child: int) -> int:
    """Exit status of a process; the negative number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Reference:
    """The uninterrupted run.

    Attributes:
        folder: where it is.
        seconds: its duration.
        writes: how often it opens a file for writing or renames one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "reference"
        counter = folder / "writes"
        start = time.monotonic()
        child = forked(lambda: _counted(self.folder, counter), folder / "reference.txt")
        if status := status_of(child):
            raise RuntimeError(f"the uninterrupted run ended with {status}: {(folder / 'reference.txt').read_text()}")
        self.seconds = time.monotonic() - start
        self.writes = len(counter.read_text())
        self.weights, self.log = (self.folder / FINAL).read_bytes(), losses(self.folder)

    def difference(self, folder: Path) -> str:
        """How a finished run differs; empty if it does not."""
        if not (folder / FINAL).is_file():
            return "there is no final checkpoint"
        if (folder / FINAL).read_bytes() != self.weights:
            return "the final weights differ"
        return "" if losses(folder) == self.log else f"the log differs: {losses(folder)}"


def losses(folder: Path) -> list[tuple[int, float]]:
    """Step and loss, or loss on held-out questions, of all lines of the log but the summary."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row.get("loss", row.get("eval_loss"))) for row in rows if "train_runtime" not in row]


def on_write(folder: Path, act: Callable[[], Any]) -> None:
    """Call ``act`` whenever this process opens a file below ``folder`` for writing, or renames one. Cannot be undone."""
    root = str(folder)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and arguments[1][:1] in "wax"
        if (writes or event == "os.rename") and str(arguments[0]).startswith(root):
            act()

    sys.addaudithook(hook)


def _counted(folder: Path, counter: Path) -> None:
    descriptor = os.open(counter, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    on_write(folder, lambda: os.write(descriptor, b"."))
    train(folder)


def logged_steps(folder: Path) -> int:
    """The last step in the log of a run that was cut short."""
    last = 0
    if (folder / "metrics.jsonl").is_file():
        for line in (folder / "metrics.jsonl").read_text(errors="replace").splitlines():
            try:
                last = max(last, int(json.loads(line)["step"]))
            except (ValueError, KeyError, TypeError):
                continue
    return last


def finish(folder: Path, reference: Reference, kind: Kind, note: str) -> None:
    """Let an interrupted run go on, and judge what it lost and where it ended."""
    if not (folder / FINAL).exists():
        saved = newest_checkpoint(folder) if folder.is_dir() else None
        done = 0 if saved is None else int(saved.name.removeprefix("checkpoint-"))
        kind.worst_lost = max(kind.worst_lost, logged_steps(folder) - done)
        status = status_of(forked(lambda: train(folder), folder.with_suffix(".txt")))
        if status:
            text = folder.with_suffix(".txt").read_text().strip().splitlines()
            kind.add("unclear", f"{note}: going on ended with {status}: {text[-1:]}")
            return
    difference = reference.difference(folder)
    kind.add("wrong" if difference else "same", f"{note}: {difference}")
    shutil.rmtree(folder, ignore_errors=True)


def killed_at_a_moment(folder: Path, reference: Reference, rng: random.Random, kind: Kind) -> None:
    """SIGKILL at a random time of the run."""
    moment = rng.uniform(0, 1.1 * reference.seconds)
    child = forked(lambda: train(folder), folder.with_suffix(".txt"))
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    status_of(child)
    finish(folder, reference, kind, f"killed after {moment:.2f} s")


def killed_at_a_file(folder: Path, reference: Reference, rng: random.Random, kind: Kind) -> None:
    """SIGKILL when a certain file is about to be opened for writing, or renamed."""
    number, seen = rng.randrange(reference.writes), [0]

    def count() -> None:
        seen[0] += 1
        if seen[0] > number:
            os.kill(os.getpid(), signal.SIGKILL)

    def act() -> None:
        on_write(folder, count)
        train(folder)

    status_of(forked(act, folder.with_suffix(".txt")))
    finish(folder, reference, kind, f"killed at write {number}")


def stopped_by_a_signal(folder: Path, reference: Reference, rng: random.Random, kind: Kind) -> None:
    """SIGTERM or Ctrl-C at a random time: status 143 or 130, the step saved."""
    number = rng.choice([signal.SIGTERM, signal.SIGINT])
    moment = rng.uniform(0.2, 1.1) * reference.seconds
    child = forked(lambda: train(folder), folder.with_suffix(".txt"))
    time.sleep(moment)
    os.kill(child, number)
    status = status_of(child)
    note = f"signal {number} after {moment:.2f} s"
    if status not in (0, 128 + number):
        before = not (folder / "metrics.jsonl").exists() and not checkpoints(folder)  # not yet in `run.train`
        if not (before and status in (-number, 70)):
            kind.add("unclear", f"{note}: status {status}: {folder.with_suffix('.txt').read_text()[-300:]}")
            return
    finish(folder, reference, kind, note)


def full_disk(folder: Path, reference: Reference, rng: random.Random, kind: Kind) -> None:
    """No file may grow beyond a random size: one line that says what to do, and nothing lost."""
    size = int(10 ** rng.uniform(2, 6.6))

    def act() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        try:
            train(folder)
        finally:  # the message is written in full
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    errors = folder.with_suffix(".txt")
    status = status_of(forked(act, errors))
    text = errors.read_text()
    if status not in (0, 2) or (status == 2 and "free" not in text):
        kind.add("unclear", f"at most {size} bytes: status {status}: {text[-400:]}")
        return
    finish(folder, reference, kind, f"at most {size} bytes")


def second_writer(folder: Path, reference: Reference, rng: random.Random, kind: Kind) -> None:
    """Two processes train into one folder: one is refused, the other one is not disturbed."""
    children = []
    for name in ("first", "second"):
        children.append(forked(lambda: train(folder), folder.with_suffix(f".{name}")))
        time.sleep(rng.uniform(0, 0.7) * reference.seconds)
    statuses = [status_of(child) for child in children]
    texts = [folder.with_suffix(f".{name}").read_text() for name in ("first", "second")]
    refused = [t for s, t in zip(statuses, texts, strict=True) if s == 2 and ("in use by" in t or "finished run" in t)]
    if sorted(statuses) != [0, 2] or len(refused) != 1:
        kind.add("unclear", f"statuses {statuses}: {' | '.join(text[-200:] for text in texts)}")
        return
    finish(folder, reference, kind, "two writers")


def not_finite(folder: Path, reference: Reference, rng: random.Random, kind: Kind) -> None:
    """A loss, a gradient or a weight becomes NaN or infinite at a random step."""
    step, value = rng.randrange(1, SETTINGS["train.steps"] + 1), rng.choice([float("nan"), float("inf")])
    place = rng.choice(["compute_loss", "_get_grad_norm", "_get_learning_rate"])

    def act() -> None:
        original, calls = getattr(run.AMVLTrainer, place), [0]

        def spoiled(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.model.training:  # the loss of an evaluation
                return original(self, *args, **kwargs)
            calls[0] += 1
            if place == "_get_grad_norm" and calls[0] == step:
                for parameter in self.model.parameters():
                    if parameter.grad is not None:
                        parameter.grad.fill_(value)
                        break
                kwargs["grad_norm"] = None
            result = original(self, *args, **kwargs)
            if place == "_get_learning_rate" and calls[0] == step:
                next(self.model.parameters()).data.view(-1)[0] = value
            return result * value if place == "compute_loss" and calls[0] == step else result

        setattr(run.AMVLTrainer, place, spoiled)
        try:
            train(folder)
        except NonFiniteError as error:
            sys.stderr.write(f"{error}\n")
            raise SystemExit(3) from None

    errors = folder.with_suffix(".txt")
    status = status_of(forked(act, errors))
    note = f"{place} {value} at step {step}"
    if status != 3 or "stopped at step" not in errors.read_text():
        finished = status == 0 and not reference.difference(folder)  # the method was not called so often
        if not finished:
            kind.add("wrong", f"{note}: status {status}: {errors.read_text()[-300:]}")
            return
    finish(folder, reference, kind, note)


INTERRUPTIONS = {
    "killed at a moment": killed_at_a_moment,
    "killed at a file": killed_at_a_file,
    "stopped by a signal": stopped_by_a_signal,
    "full disk": full_disk,
    "two writers": second_writer,
    "non-finite value": not_finite,
}
