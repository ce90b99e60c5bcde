"""Damaged files of every kind that is read: refused with one clear error, or of no consequence.

Damage is drawn at random: cut, emptied, one bit, a block of zeros, bytes in between, blocks exchanged, bytes at the end.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from amvl_model.data.images import read_image
from amvl_model.data.readers.benchmarks import load_visual_puzzles, load_vstar
from amvl_model.data.readers.blink import export_blink_parquet, load_blink
from amvl_model.data.readers.question_files import QuestionFile
from amvl_model.data.synthetic import synthetic_blink
from amvl_model.models.checkpoints import NonFiniteError
from amvl_model.models.loading import build_model, load_checkpoint, save_checkpoint
from amvl_model.results.files import Metric, read_result, write_result
from amvl_model.training import run
from amvl_model.training.monitoring import guard
from amvl_model.training.run_folder import newest_checkpoint
from tests import miniatures
from tests.faults.interruptions import Reference
from tests.faults.outcomes import Kind, judged
from tests.model.training.test_trainer import QUESTIONS, config

IMAGES = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The bytes with one kind of damage, never the same bytes."""
    size = len(content)
    place, length = rng.randrange(size), rng.randrange(1, 1 + min(size, 64))
    noise = bytes(rng.randrange(256) for _ in range(length))
    flipped = bytes([content[place] ^ (1 << rng.randrange(8))])
    first, second = sorted((rng.randrange(size), rng.randrange(size)))
    result = rng.choice(
        [
            content[:place],
            b"",
            content[:place] + flipped + content[place + 1 :],
            content[:place] + bytes(length) + content[place + length :],
            content[:place] + noise + content[place:],
            content[second:] + content[first:second] + content[:first],
            content + noise,
        ]
    )
    return result if result != content else content[:-1]


class Case:
    """One sort of file.

    Args:
        folder: of a good copy.
        files: names of the files in it that are damaged in turn.
        read: reads a copy of the folder; what it returns has to equal what it returns for the good one.
        checksum: whether the format has one, so that every change can be seen.
    """

    def __init__(
        self,
        folder: Path,
        files: list[str],
        read: Callable[[Path], Any],
        *,
        checksum: bool,
        names: tuple[str, ...] = (),
    ) -> None:
        self.folder, self.files, self.read, self.checksum, self.names = folder, files, read, checksum, names
        self.good = read(folder)

    def run(self, copy: Path, rng: random.Random, kind: Kind) -> None:
        """Damage a file of a copy, read it and count what happens."""
        shutil.copytree(self.folder, copy)
        name = rng.choice(self.files)
        content = damaged((copy / name).read_bytes(), rng)
        (copy / name).write_bytes(content)
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            outcome, value = judged(lambda: self.read(copy), (name, copy.name, Path(name).name, *self.names))
        note = f"{name}, {len(content)} bytes: {value if outcome == 'unclear' else ''}"
        if outcome == "accepted":
            outcome = "same" if value == self.good else "wrong" if self.checksum else "undetectable"
        kind.add(outcome, note)
        shutil.rmtree(copy)


def pixels(questions: Any) -> list[Any]:
    """All texts and images of questions."""
    return [
        (q.id, q.prompt, q.answer_text, q.choices, q.answer, [image.tobytes() for image in q.images])
        for q in (questions[i] for i in range(len(questions)))
    ]


def _checkpoint(folder: Path) -> Any:
    model, processor = load_checkpoint(folder)
    return [float(p.detach().double().sum()) for p in model.parameters()], processor.tokenizer("a b")["input_ids"]


def cases(folder: Path, reference: Reference) -> dict[str, Case]:
    """A case of every sort; ``reference`` is a run whose checkpoints are damaged."""
    made = {}
    torch.manual_seed(0)
    model, processor = build_model(config())
    save_checkpoint(model, processor, folder / "model")
    files = sorted(path.name for path in (folder / "model").iterdir())
    made["checkpoint"] = Case(folder / "model", files, _checkpoint, checksum=True)
    shutil.copytree(folder / "model", folder / "public")
    (folder / "public" / "manifest.json").unlink()
    made["checkpoint without manifest"] = Case(
        folder / "public", ["config.json", "model.safetensors"], _checkpoint, checksum=False
    )
    steps = sorted(reference.folder.glob("checkpoint-*"))
    for path in steps:
        shutil.copytree(path, folder / "run" / path.name)
    last, before = steps[-1].name, steps[-2].name
    states = [f"{last}/{path.name}" for path in sorted(steps[-1].iterdir())]

    def newest(copy: Path) -> str:
        """The damaged checkpoint has to be refused, and the one before it taken."""
        found = newest_checkpoint(copy)
        if found is not None and found.name == before:
            raise ValueError(f"{copy.name} is refused: checkpoint taken before")
        return str(found and found.name)

    made["optimiser and weights of a run"] = Case(folder / "run", states, newest, checksum=True)
    blink = folder / "blink"
    export_blink_parquet([synthetic_blink("Counting", "val", 0, i) for i in range(3)], blink)
    file = next(blink.rglob("*.parquet")).relative_to(blink).as_posix()
    made["Parquet"] = Case(blink, [file], lambda copy: pixels(load_blink(copy)), checksum=True)
    puzzles = miniatures.visual_puzzles(folder / "puzzles")
    file = next(puzzles.rglob("*.parquet")).relative_to(puzzles).as_posix()
    made["Parquet without checksums"] = Case(
        puzzles, [file], lambda copy: pixels(load_visual_puzzles(copy)), checksum=False
    )
    vstar = miniatures.vstar(folder / "vstar")
    made["V* records"] = Case(vstar, ["test_questions.jsonl"], lambda copy: pixels(load_vstar(copy)), checksum=False)
    (folder / "images").mkdir()
    for form in IMAGES:
        miniatures.random_image(1, 60, 40).save(folder / "images" / form, format=form)
    made["images"] = Case(
        folder / "images",
        list(IMAGES),
        lambda copy: [read_image(copy / form, str(copy / form)).tobytes() for form in IMAGES],
        checksum=False,
    )
    (folder / "own").mkdir()
    miniatures.random_image(1).save(folder / "own/a.png")
    line = {"images": ["a.png"], "question": "Which?", "choices": ["red", "blue"], "answer": "B", "task": "Colour"}
    lines = [json.dumps({"id": f"q{i}", **line}) for i in range(3)]
    (folder / "own/questions.jsonl").write_text("\n".join(lines) + "\n")
    made["own questions"] = Case(
        folder / "own", ["questions.jsonl"], lambda copy: pixels(QuestionFile(copy / "questions.jsonl")), checksum=False
    )
    return made | _results(folder)


def _results(folder: Path) -> dict[str, Case]:
    """A result file, and a stored step of a stopped run."""
    path = folder / "results" / "study" / "cell" / "seed0.json"
    write_result(
        path, study="study", cell="cell", seed=0, config={"a": 1}, metrics={"accuracy": Metric(0.5, "fraction", n=9)},
        wall_seconds=1.0, device="cpu",
    )  # fmt: skip

    def metrics(copy: Path) -> Any:
        return read_result(copy / "study" / "cell" / "seed0.json").metrics

    rates = {"train.learning_rate": 1e9, "train.latent_learning_rate": 1e9, "train.steps": 6, "train.batch_size": 2}
    with contextlib.suppress(NonFiniteError):
        run.train(config(**rates), folder / "steps", questions=QUESTIONS, quiet=True)
    (stored,) = (folder / "steps").glob("nonfinite-step-*.pt")

    def replayed(copy: Path) -> Any:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            guard.replay(copy / stored.name)
        return printed.getvalue()

    return {
        "result files": Case(folder / "results", ["study/cell/seed0.json"], metrics, checksum=True),
        "stored steps": Case(folder / "steps", [stored.name], replayed, checksum=True),
    }
