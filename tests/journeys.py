"""How many files a reader has to follow: moves between files of the project on six journeys through the tiny model.

    python tests/journeys.py                  prints the table
    python tests/journeys.py --files          and per journey the files, with the moves into each
    python tests/journeys.py --json FILE      and writes both to a file

What is counted. `sys.settrace` reports a `call` event for every Python frame that begins: functions, methods, properties,
comprehensions, class bodies, and a generator each time it is resumed. A move is such an event in a file of the project whose
nearest caller in the project, found by going up the stack past the frames of torch, transformers and other libraries, lies in
another file of it. So model(...), which reaches `forward` through torch, is one move. Direct moves are those among them with no
library in between. Returns are not counted, nor are threads and processes. Files are those with at least one call.

Each journey has its imports at its top, in one place. Every journey is walked once before it is counted, so that imports and
caches do not count.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("amvl_model", "amvl_theory", "experiments", "paper_figs")
"""Folders of the repository whose files count as the project."""
CHECKPOINT = "tiny-amvl"
"""The shipped tiny model."""
QUESTIONS = 3
"""Questions in a batch, in a training step, and behind the diagnostics."""

Journey = Callable[[Path], Callable[[], Any]]
"""Sets up in an empty folder, and gives what is to be counted."""


@dataclass
class Count:
    """One journey.

    Attributes:
        moves: (from, to) -> calls, files relative to the repository. direct: those with no library in between.
        calls: file -> all calls of its functions.
    """

    moves: Counter[tuple[str, str]] = field(default_factory=Counter)
    direct: Counter[tuple[str, str]] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)

    @property
    def files(self) -> list[str]:
        """The files that were entered, in the order of the first call."""
        return list(self.calls)

    def into(self, file: str) -> int:
        """Moves into a file."""
        return sum(number for (_, target), number in self.moves.items() if target == file)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "moves": self.moves.total(),
            "direct": self.direct.total(),
            "files": {file: self.into(file) for file in self.files},
        }


def count_moves(walk: Callable[[], Any], folders: tuple[Path, ...] | None = None) -> Count:
    """Call ``walk`` and count its moves between the files of ``folders`` (those of the project).

    The trace function that was set before (a debugger's, a coverage tool's) is put back afterwards.
    """
    roots = tuple(f"{folder}/" for folder in folders or [REPOSITORY / name for name in PACKAGES])
    base = f"{REPOSITORY}/"
    count = Count()

    def trace(frame: FrameType, event: str, argument: Any) -> None:
        file = frame.f_code.co_filename
        if event != "call" or not file.startswith(roots):
            return
        name = file.removeprefix(base)
        count.calls[name] += 1
        caller, libraries = frame.f_back, False
        while caller is not None and not caller.f_code.co_filename.startswith(roots):
            caller, libraries = caller.f_back, True
        if caller is not None and caller.f_code.co_filename != file:
            move = (caller.f_code.co_filename.removeprefix(base), name)
            count.moves[move] += 1
            count.direct[move] += not libraries

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        walk()
    finally:
        sys.settrace(before)
    return count


def batch(folder: Path) -> Callable[[], Any]:
    """One batch from question to loss: processor, model.forward, objective; the images are drawn before."""
    from amvl_model.config import load_preset
    from amvl_model.data.sources import training_questions
    from amvl_model.models.loading import load_checkpoint

    config = load_preset("tiny")
    model, processor = load_checkpoint(CHECKPOINT)
    drawn = training_questions(config.data)
    questions = [drawn[i] for i in range(QUESTIONS)]

    def walk() -> Any:
        inputs = processor.collate([processor.encode(question) for question in questions])
        return model(**inputs, loss=config.objective.loss(1.0)).loss

    return walk


def drawing(folder: Path) -> Callable[[], Any]:
    """The questions of a batch: their images are drawn when they are asked for."""
    from amvl_model.config import load_preset
    from amvl_model.data.sources import training_questions

    questions = training_questions(load_preset("tiny").data)
    return lambda: [questions[i] for i in range(QUESTIONS)]


def training_step(folder: Path) -> Callable[[], Any]:
    """One step of AMVLTrainer.train; model, questions with their images, and trainer are made before."""
    from amvl_model.config import load_preset
    from amvl_model.data.sources import training_questions
    from amvl_model.models.loading import build_model
    from amvl_model.training.arguments import training_arguments
    from amvl_model.training.batches import QuestionDataset
    from amvl_model.training.trainer import AMVLTrainer

    config = load_preset("tiny", {"train.steps": 1, "train.batch_size": QUESTIONS, "train.report_to": ()})
    model, processor = build_model(config)
    drawn = training_questions(config.data)
    questions = [drawn[i] for i in range(50 * QUESTIONS)]

    def trainer(number: int) -> AMVLTrainer:
        return AMVLTrainer(
            model=model,
            processing_class=processor,
            args=training_arguments(config, folder / str(number), disable_tqdm=True),
            train_dataset=QuestionDataset(questions, processor, cache=False),
        )

    trainers = iter([trainer(0), trainer(1)])
    return lambda: next(trainers).train()


def training_run(folder: Path) -> Callable[[], Any]:
    """A whole training run of one step: configuration to checkpoint."""
    from amvl_model.config import load_preset
    from amvl_model.training.run import train

    config = load_preset("tiny", {"train.steps": 1, "train.batch_size": QUESTIONS, "train.report_to": ()})
    folders = iter([folder / "first", folder / "second"])
    return lambda: train(config, next(folders), quiet=True)


def diagnostics(folder: Path) -> Callable[[], Any]:
    """One checkpoint to diagnostics.json: the contamination report, without the other nine and without the page in HTML."""
    from amvl_model.config import load_preset
    from amvl_model.data.sources import evaluation_questions
    from amvl_model.diagnostics.report.suite import Plan, diagnose
    from amvl_model.results.provenance import provenance, to_jsonable

    questions = evaluation_questions(load_preset("tiny").data)
    asked = [questions[i] for i in range(QUESTIONS)]

    def walk() -> None:
        plan = Plan(questions=asked, samples=2, n_samples=32, batch_size=8, n_bootstrap=20, progress=False)
        result = diagnose(CHECKPOINT, ["contamination"], plan)
        record = {"environment": provenance(), "checkpoints": {CHECKPOINT: to_jsonable(result.to_dict())}}
        (folder / "diagnostics.json").write_text(json.dumps(record), encoding="utf-8")

    return walk


def loading(folder: Path) -> Callable[[], Any]:
    """A checkpoint's files to a model and a processor."""
    from amvl_model.models.loading import load_checkpoint

    return lambda: load_checkpoint(CHECKPOINT)


JOURNEYS: dict[str, Journey] = {
    "drawing": drawing,
    "batch": batch,
    "training step": training_step,
    "training run": training_run,
    "diagnostics": diagnostics,
    "loading": loading,
}


def walked(name: str) -> Count:
    """Count a journey, walked once before."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        walk = JOURNEYS[name](Path(folder))
        walk()
        return count_moves(walk)


def modules_behind_loading() -> list[str]:
    """Modules of the project that a fresh interpreter has imported once it has loaded a checkpoint."""
    code = f"""
import json, sys
sys.path.insert(0, {str(REPOSITORY)!r})
from amvl_model.models.loading import load_checkpoint
load_checkpoint({CHECKPOINT!r})
print(json.dumps(sorted(name for name in sys.modules if name.split(".")[0] in {PACKAGES!r})))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    names: list[str] = json.loads(done.stdout.splitlines()[-1])
    return names


def main(arguments: list[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", action="store_true", help="list the files of every journey")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts here")
    asked = parser.parse_args(arguments)
    counts = {name: walked(name) for name in JOURNEYS}
    modules = modules_behind_loading()
    print(f"\n{'journey':16}{'moves':>7}{'direct':>8}{'files':>7}")
    for name, count in counts.items():
        print(f"{name:16}{count.moves.total():7}{count.direct.total():8}{len(count.files):7}")
        if asked.files:
            print("".join(f"    {count.into(file):5} {file}\n" for file in count.files))
    print(f"\n{len(modules)} modules are imported to load a checkpoint:\n  " + "\n  ".join(modules))
    if asked.json:
        record = {"journeys": {name: count.to_dict() for name, count in counts.items()}, "modules": modules}
        asked.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    sys.exit(main())
