"""The folder of a run: who writes to it, which of its checkpoints are complete, and how a run is stopped and resumed.

A checkpoint is complete when its ``manifest.json``, which is written last, lists every other file but the model card with its
sha256 and all of them match. A run folder has one writer, which holds a lock on ``run.lock``; the system releases it when the
process ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from amvl_model import distributed
from amvl_model.config import RunConfig, RunStopped, changed_settings
from amvl_model.models.checkpoints import MANIFEST, damage, write_text, writing
from amvl_model.models.checkpoints.pickles import foreign_code
from amvl_model.results.provenance import provenance

LOCK = "run.lock"
STATE = "trainer_state.json"
_REPEATED = 5.0  # seconds within which a second signal is the first one again: timeout and torchrun send theirs twice
_held: set[int] = set()


def _release_in_child() -> None:
    for number in _held:
        os.close(number)
    _held.clear()


os.register_at_fork(after_in_child=_release_in_child)  # the workers of a data loader must not outlive their run's lock


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only writer of a folder, which is created if need be. The lock of a process that has ended is taken over.

    Raises:
        FileExistsError: naming the process that writes there.
    """
    path = folder / LOCK
    while True:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                holder = file.read().strip() or "another process"
            raise FileExistsError(f"{folder} is in use by {holder}; stop it or choose another folder") from None
        except OSError as error:
            tell(f"{folder} cannot be locked ({error}); do not start a second run there")
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            break
        file.close()  # its holder removed it between open and lock
    _held.add(file.fileno())
    try:
        file.seek(0)
        if ended := file.read().strip():
            tell(f"took over {folder} from {ended}, which has ended")
        file.truncate(0)
        with writing(path):
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            file.write(f"process {os.getpid()} on {socket.gethostname()}, started {now}\n")
            file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        _held.discard(file.fileno())
        file.close()


def tell(message: str) -> None:
    """Print to stderr, also where a run is quiet."""
    print(message, file=sys.stderr, flush=True)


def incomplete(checkpoint: Path) -> str:
    """What is wrong with an intermediate checkpoint; empty if a run can go on from it."""
    return damage(checkpoint, needs=STATE) or foreign_code(checkpoint)


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folders of all intermediate checkpoints, complete or not, the latest first."""
    result = [(re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in folder.glob("checkpoint-*")]
    return sorted(((int(match[1]), path) for match, path in result if match and path.is_dir()), reverse=True)


def newest_checkpoint(folder: Path) -> Path | None:
    """The complete intermediate checkpoint with the most steps, or None; tells which later ones are refused and why."""
    for _, path in checkpoints(folder):
        if not (problem := incomplete(path)):
            return path
        tell(f"{path} is refused: {problem}; trying the checkpoint before it")
    return None


def rotate(folder: Path, step: int, keep: int | None) -> None:
    """Remove checkpoints of earlier steps than the newest ``keep`` complete ones up to ``step``; None keeps all."""
    past = [(number, path) for number, path in checkpoints(folder) if number <= step]
    complete = [number for number, path in past if (path / MANIFEST).is_file()]
    if keep and len(complete) >= keep:
        for number, path in past:
            if number < complete[keep - 1]:
                shutil.rmtree(path)


def refuse_other_settings(folder: Path, config: RunConfig) -> None:
    """Raise if the run in ``folder`` was started with other settings.

    Raises:
        ValueError: naming every setting that differs.
    """
    try:
        stored = RunConfig.from_dict(json.loads((folder / "config.json").read_text()))
    except (FileNotFoundError, json.JSONDecodeError):
        tell(f"{folder} has no readable config.json; the settings are not compared with those it was started with")
        return
    changes = changed_settings(stored, config)
    if changes:
        changed = [f"{name} is {json.dumps(old)} there, got {json.dumps(new)}" for name, (old, new) in changes.items()]
        raise ValueError(
            f"{folder} was started with other settings: {'; '.join(changed)}; resume with its own settings, or start "
            "another run in another folder"
        )


def note_environment(folder: Path) -> None:
    """Append when this process started and what code it runs (`provenance`) to environment.json, a list of all starts."""
    file, earlier = folder / "environment.json", []
    try:
        if file.exists():
            stored = json.loads(file.read_text())
            earlier = stored if isinstance(stored, list) else [stored]
    except ValueError as error:
        tell(f"{file} is not valid JSON ({error}); the starts that it listed are lost")
    entries = [*earlier, {"started": time.strftime("%Y-%m-%d %H:%M:%S"), **provenance()}]
    write_text(file, json.dumps(entries, indent=2) + "\n")


def forget_after(log: Path, step: int) -> None:
    """Drop the log lines that a resumed run writes again, the summary of a finished training, and half-written lines."""
    if not log.is_file():
        return
    lines_before = []
    for line in log.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
            if row["step"] <= step and "train_runtime" not in row:
                lines_before.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    write_text(log, "".join(f"{line}\n" for line in lines_before))


class StopAfterStep(TrainerCallback):
    """Handler for the time of training: all processes finish the step, save a checkpoint and stop. Sent again after some
    seconds, the signal stops at once."""

    received, since = 0, 0.0

    def __call__(self, number: int, frame: Any) -> None:
        if self.received and time.monotonic() - self.since > _REPEATED:
            raise RunStopped(number)
        if not self.received:
            self.received, self.since = number, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Save and stop if the signal has come to any process."""
        if distributed.any_of(bool(self.received)):
            self.received = self.received or signal.SIGTERM
            control.should_save = control.should_training_stop = True
        return control

    on_evaluate = on_step_end
