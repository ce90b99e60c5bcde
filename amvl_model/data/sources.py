"""Questions by the name that a configuration gives: one place that knows which reader serves which source.

    data.source    synthetic-blink | multihop | blink | visual-cot | refocus | cogcom | zebra-cot | a file of questions (.jsonl) |
                   a folder in BLINK's layout; several joined by +, each with a weight if wanted: visual-cot:4+cogcom:1
    data.eval_source   synthetic-blink | multihop | either with -shifted (out of distribution) | blink | vstar | hrbench4k |
                   hrbench8k | visual-puzzles | .jsonl | a folder
    data.path      the folder that holds them: <path>/<name> if that exists, else the path itself

Weights, sizes and unreadable questions: `amvl_model.data.mixture`. Formats: the readers' modules.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from amvl_model.config import DataConfig
from amvl_model.data.mixture import MixedQuestions
from amvl_model.data.readers import benchmarks as vision_benchmarks
from amvl_model.data.readers import training_sets
from amvl_model.data.readers.blink import load_blink
from amvl_model.data.readers.question_files import QuestionFile
from amvl_model.data.schema import QuestionSet, VisualQuestion
from amvl_model.data.synthetic import (
    MULTIHOP_SOURCE,
    MULTIHOP_TASKS,
    SHIFTED_MULTIHOP_SOURCE,
    SHIFTED_SOURCE,
    TASKS,
    MultihopQuestions,
    ShiftedBlink,
    ShiftedMultihop,
    SyntheticBlink,
)

_TRAINING: Final[dict[str, Callable[..., Sequence[VisualQuestion]]]] = {
    "visual-cot": training_sets.load_visual_cot,
    "refocus": training_sets.load_refocus,
    "cogcom": training_sets.load_cogcom,
    "zebra-cot": training_sets.load_zebra_cot,
}
_BENCHMARKS: Final[dict[str, Callable[..., Sequence[VisualQuestion]]]] = {
    "blink": load_blink,
    "vstar": vision_benchmarks.load_vstar,
    "hrbench4k": lambda path=None, **options: vision_benchmarks.load_hrbench("4k", path, **options),
    "hrbench8k": lambda path=None, **options: vision_benchmarks.load_hrbench("8k", path, **options),
    "visual-puzzles": vision_benchmarks.load_visual_puzzles,
}
_DRAWN: Final = ("synthetic-blink", MULTIHOP_SOURCE)
TRAINING_SOURCES: Final = (*_DRAWN, "blink", *_TRAINING)
DRAWN_SOURCES: Final = (*_DRAWN, SHIFTED_SOURCE, SHIFTED_MULTIHOP_SOURCE)
"""Sources without files."""
EVALUATION_SOURCES: Final = (*DRAWN_SOURCES, *_BENCHMARKS)
_OPTIONS: Final = {"blink": ("split", "stream"), "visual-puzzles": ("split", "prompt", "stream")}
"""Options of readers that have splits."""
_WEIGHTED: Final = re.compile(r"^(?P<name>.+?):(?P<weight>[0-9.eE+-]+)$")


class JoinedQuestions(QuestionSet):
    """Several sets one after the other, each read on access as before."""

    def __init__(self, parts: Sequence[Sequence[VisualQuestion]]) -> None:
        self._index = [(part, i) for part in parts for i in range(len(part))]

    def __len__(self) -> int:
        return len(self._index)

    def question(self, index: int) -> VisualQuestion:
        """Question ``index`` (0 to size - 1)."""
        part, place = self._index[index]
        return part[place]


def training_questions(config: DataConfig) -> Sequence[VisualQuestion]:
    """The training set of a run: with label noise, where the source is synthetic.

    Raises:
        ValueError: for a source that cannot be read, or weights for some sources only, with what to do.
        FileNotFoundError, ConnectionError: if its files are missing.
    """
    named = [_weight(part) for part in config.sources]
    weights = {name: weight for name, weight in named if weight is not None}
    if weights and len(weights) != len(named):
        raise ValueError(
            f"data.source {config.source!r}: expected a weight for every source or for none, such as a:2+b:1"
        )
    parts = {name: _training_part(name, config) for name, _ in named}
    if len(parts) != len(named):
        raise ValueError(f"data.source {config.source!r}: expected every source once; give it a weight instead")
    if len(parts) == 1 and not set(parts) & set(_TRAINING) and not weights:
        # drawn questions are always readable; those in files are mixed with themselves, so that damaged ones are skipped
        (name, part), *_ = parts.items()
        return part if name in _DRAWN else MixedQuestions(parts, seed=config.seed)
    return MixedQuestions(parts, weights or None, config.train_size, seed=config.seed)


def evaluation_questions(config: DataConfig, split: str = "test") -> Sequence[VisualQuestion]:
    """The held-out set of a run: clean labels, ``eval_size`` questions a task.

    Args:
        config: of the run.
        split: of synthetic BLINK; real BLINK is read from "val", whose answers are public.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: as `training_questions`.
    """
    parts = [_evaluation_part(_weight(name)[0], config, split) for name in config.eval_sources]
    return parts[0] if len(parts) == 1 else JoinedQuestions(parts)


def load_questions(source: str, split: str = "test", **settings: Any) -> Sequence[VisualQuestion]:
    """Held-out questions with clean labels, by the name of their source.

    Args:
        source: as ``data.eval_source``: synthetic-blink, blink, vstar, a file or a folder, ...
        split: as in `evaluation_questions`.
        **settings: further fields of `DataConfig` (``path``, ``tasks``, ``eval_size``, ``seed``, ...).

    Raises:
        ValueError, FileNotFoundError, ConnectionError: as `training_questions`.
    """
    config = DataConfig(eval_source=source, **settings)
    if split != "test" and not set(config.eval_sources) & set(DRAWN_SOURCES):
        raise ValueError(
            f"split: expected 'test' with {source}, which has one set of questions, got {split!r}; leave it out"
        )
    if settings.get("label_noise"):
        raise ValueError(f"label_noise: held-out questions have clean labels, got {config.label_noise:g}; leave it out")
    return evaluation_questions(config, split)


def load_benchmark(
    name: str,
    path: str | Path | None = None,
    *,
    tasks: Sequence[str] | None = None,
    limit: int | None = None,
    **options: Any,
) -> Sequence[VisualQuestion]:
    """A benchmark by its name in this module.

    Args:
        name: blink, vstar, hrbench4k, hrbench8k, visual-puzzles.
        path: a local folder; the hub if None.
        tasks, limit, options: as the reader takes them (split, stream, prompt).

    Raises:
        ValueError: for an unknown name, or an option that this benchmark does not have.
        FileNotFoundError, ConnectionError: if its files are missing.
    """
    if name not in _BENCHMARKS:
        raise ValueError(f"benchmark must be one of {', '.join(_BENCHMARKS)}, got {name!r}")
    own = _OPTIONS.get(name, ("prompt", "stream"))
    if unknown := sorted(set(options) - set(own)):
        raise ValueError(
            f"{name} takes the options {', '.join(own)}, got {', '.join(unknown)}; leave out what it does not take"
        )
    return _BENCHMARKS[name](*(() if path is None else (path,)), tasks=tasks, limit=limit, **options)


def _weight(text: str) -> tuple[str, float | None]:
    """Name and weight of one part of data.source."""
    match = None if Path(text).exists() else _WEIGHTED.match(text)
    if match is None:
        return text, None
    try:
        return match["name"], float(match["weight"])
    except ValueError as error:
        raise ValueError(
            f"data.source: expected <name>:<weight>, got {text!r}; write for example {match['name']}:2"
        ) from error


def _place(name: str, config: DataConfig) -> Path | None:
    """Where the files of a source are: a path itself, <data.path>/<name>, data.path, or None for the hub."""
    if Path(name).exists():
        return Path(name)
    if config.path is None:
        return None
    inside = Path(config.path) / name
    return inside if inside.exists() else Path(config.path)


def _training_part(name: str, config: DataConfig) -> Sequence[VisualQuestion]:
    if name == "synthetic-blink":
        return _synthetic(config, training=True, split="train")
    if name == MULTIHOP_SOURCE:
        return _multihop(config, training=True, split="train")
    place = _place(name, config)
    if name in _TRAINING:
        return _TRAINING[name](place, **_tasks(name, config))
    if place is not None and place.suffix == ".jsonl":
        return QuestionFile(place, limit=config.train_size, tasks=config.tasks, outside=config.outside)
    if name == "blink" or Path(name).exists():
        return load_benchmark("blink", place, limit=config.train_size, tasks=_list(config.tasks))
    raise _unreadable(name, TRAINING_SOURCES)


def _evaluation_part(name: str, config: DataConfig, split: str) -> Sequence[VisualQuestion]:
    if name == "synthetic-blink":
        return _synthetic(config, training=False, split=split)
    if name == SHIFTED_SOURCE:
        return ShiftedBlink(config.tasks or TASKS, split=split, size=_eval_size(config))
    if name == MULTIHOP_SOURCE:
        return _multihop(config, training=False, split=split)
    if name == SHIFTED_MULTIHOP_SOURCE:
        size = _eval_size(config, MULTIHOP_TASKS)
        return ShiftedMultihop(config.tasks or MULTIHOP_TASKS, split=split, size=size)
    place = _place(name, config)
    if name in _TRAINING:
        raise ValueError(
            f"{name!r} has open questions and no held-out ones, so it cannot be evaluated on: set data.eval_source to one "
            f"or more of {', '.join(EVALUATION_SOURCES)}"
        )
    if name in _BENCHMARKS:
        return load_benchmark(name, place, limit=config.eval_size, tasks=_list(config.tasks))
    if place is not None and place.suffix == ".jsonl":
        return QuestionFile(place, limit_per_task=config.eval_size, tasks=config.tasks, outside=config.outside)
    if Path(name).exists():
        return load_benchmark("blink", place, limit=config.eval_size, tasks=_list(config.tasks))
    raise _unreadable(name, EVALUATION_SOURCES)


def _tasks(name: str, config: DataConfig) -> dict[str, Any]:
    """The choice of tasks, for a training set that has tasks."""
    if config.tasks is not None and name == "cogcom":
        raise ValueError(f"data.tasks: expected null with cogcom, which has no tasks, got {', '.join(config.tasks)}")
    return {} if config.tasks is None else {"tasks": list(config.tasks)}


def _list(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else list(names)


def _unreadable(name: str, known: Sequence[str]) -> ValueError:
    return ValueError(
        f"data source {name!r} cannot be read: expected {', '.join(known)}, a file of questions (.jsonl) or a folder of "
        "Parquet files in BLINK's schema (data.path, or the source itself); for other sets write such a file with "
        "amvl_model.data.readers.question_files.write_questions"
    )


def _synthetic(config: DataConfig, *, training: bool, split: str) -> Sequence[VisualQuestion]:
    tasks = config.tasks if config.tasks is not None else TASKS
    if training:
        if config.train_size is None:
            raise ValueError("data.train_size: expected a number with the endless source synthetic-blink, got null")
        return SyntheticBlink(
            tasks=tasks,
            split="train",
            seed=config.seed,
            size=config.train_size,
            difficulty=config.difficulty,
            label_noise=config.label_noise,
        )
    return SyntheticBlink(tasks=tasks, split=split, seed=0, size=_eval_size(config), difficulty=config.difficulty)


def _multihop(config: DataConfig, *, training: bool, split: str) -> MultihopQuestions:
    tasks = config.tasks or MULTIHOP_TASKS
    if not training:
        return MultihopQuestions(tasks, split, seed=0, size=_eval_size(config, MULTIHOP_TASKS))
    if config.train_size is None:
        raise ValueError("data.train_size: expected a number with the endless source multihop, got null")
    return MultihopQuestions(tasks, split, config.seed, config.train_size, label_noise=config.label_noise)


def _eval_size(config: DataConfig, tasks: Sequence[str] = TASKS) -> int:
    """Questions in all of an endless source with these tasks."""
    item = 50 if config.eval_size is None else config.eval_size
    return item * len(tasks if config.tasks is None else config.tasks)
