"""Questions by the name that a configuration gives: one place that knows which reader serves which source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from amvl_model.config import DataConfig
from amvl_model.data.schema import VisualQuestion
from amvl_model.data.synthetic import TASKS, SyntheticBlink

READABLE = ("synthetic-blink", "blink")


def training_questions(config: DataConfig) -> Sequence[VisualQuestion]:
    """The training set of a run: with label noise, where the source is synthetic.

    Raises:
        ValueError: for a source that cannot be read, with what to do.
    """
    parts = [_read(name, config, training=True) for name in config.sources]
    return parts[0] if len(parts) == 1 else [question for part in parts for question in part]


def evaluation_questions(config: DataConfig, split: str = "test") -> Sequence[VisualQuestion]:
    """The held-out set of a run: clean labels, ``eval_size`` questions a task."""
    parts = [_read(name, config, training=False, split=split) for name in config.eval_sources]
    return parts[0] if len(parts) == 1 else [question for part in parts for question in part]


def _read(name: str, config: DataConfig, *, training: bool, split: str = "test") -> Sequence[VisualQuestion]:
    if name == "synthetic-blink":
        return _synthetic(config, training=training, split=split)
    if name == "blink" or Path(name).exists():
        return _blink(name, config, training=training)
    raise ValueError(
        f"data source {name!r} cannot be read: expected {', '.join(READABLE)} or a folder of Parquet files in BLINK's schema "
        "(data.path, or the source itself); convert other sets with amvl_model.data.benchmarks.export_blink_parquet"
    )


def _synthetic(config: DataConfig, *, training: bool, split: str) -> Sequence[VisualQuestion]:
    tasks = config.tasks if config.tasks is not None else TASKS
    if training:
        assert config.train_size is not None
        return SyntheticBlink(
            tasks=tasks,
            split="train",
            seed=config.seed,
            size=config.train_size,
            difficulty=config.difficulty,
            label_noise=config.label_noise,
        )
    size = (config.eval_size if config.eval_size is not None else 50) * len(tasks)
    return SyntheticBlink(tasks=tasks, split=split, seed=0, size=size, difficulty=config.difficulty)


def _blink(name: str, config: DataConfig, *, training: bool) -> Sequence[VisualQuestion]:
    from amvl_model.data.benchmarks import load_blink

    where = config.path if name == "blink" else name
    limit = config.train_size if training else config.eval_size
    tasks = list(config.tasks) if config.tasks is not None else None
    if where is None:
        return load_blink(split="val", tasks=tasks, limit=limit)
    return load_blink(where, split="val", tasks=tasks, limit=limit)
