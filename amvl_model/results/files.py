"""The one schema of result files: ``results/<study>/<cell>/seed<k>.json``.

A file contains what is needed to read and repeat one run: schema version, study, cell, seed, config, commit and dirty
flag, versions, device, wall time, and metrics with units. Curves are CSV files beside it. Figures and notebooks read
nothing else.

What is read is checked: schema version, types, units and ranges (`amvl_model.results.checks`), two digests, and that study,
cell and seed are those of the path, where the file is called seed<k>.json. The digests, config_sha256 over the config and
metrics_sha256 over study, cell, seed, config_sha256 and metrics, are in files of version 2; version 1 is read without them.

Files are written atomically, are overwritten only on request, and contain no path of the machine that wrote them:
absolute paths are cut to their part inside the project, or to their last name. A value that does not exist (None, NaN,
infinite) is null, never 0. This module imports neither torch nor transformers.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from amvl_model.results.checks import digest, problem
from amvl_model.results.provenance import provenance, to_jsonable, without_machine_paths

SCHEMA_VERSION = 2
READABLE = (1, 2)
"""Schema versions that are read."""
RENAMED = {"pictures": "images"}
"""Settings by the names that earlier versions wrote."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=,-]*")


@dataclass(frozen=True)
class Metric:
    """One measured value of a run.

    Attributes:
        value: None where it does not exist. NaN and infinities become None.
        unit: "nats", "fraction", "s", "bytes", ...; "1" for a pure number.
        low, high: ends of its interval, same unit; None without an interval.
        n: number of questions, examples or draws behind it; None where not applicable.

    Raises:
        ValueError: if the unit is empty, low is above high, or n is negative.
    """

    value: float | None
    unit: str
    low: float | None = None
    high: float | None = None
    n: int | None = None

    def __post_init__(self) -> None:
        if not self.unit.strip():
            raise ValueError('a metric needs a unit, got an empty one; write "1" for a pure number')
        for name in ("value", "low", "high"):
            number = getattr(self, name)
            if number is not None:
                if isinstance(number, bool) or not isinstance(number, int | float | np.number):
                    raise TypeError(f"expected {name} as a number or None, got {number!r}")
                object.__setattr__(self, name, float(number) if math.isfinite(number) else None)
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"expected low <= high, got low={self.low} and high={self.high}; swap them")
        if self.n is not None and (isinstance(self.n, bool) or self.n != int(self.n) or self.n < 0):
            raise ValueError(f"expected n as an integer of at least 0, got {self.n!r}")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One result file, as read.

    Attributes:
        study, cell, seed: which run: the cell is one setting of the study.
        config: every setting of the run, under the names of this version (`RENAMED`).
        metrics: by name.
        wall_seconds: duration of the run in seconds; None if not measured.
        device: what it ran on, for example "cpu" or "NVIDIA H100".
        commit: git commit of the code, or None outside git.
        dirty: whether the code differed from that commit; None outside git.
        versions: of Python and packages; None for a package that is not installed.
        created: UTC time of writing, ISO 8601.
        extra: further output of the run.
    """

    study: str
    cell: str
    seed: int
    config: dict[str, Any]
    metrics: dict[str, Metric]
    wall_seconds: float | None
    device: str
    commit: str | None
    dirty: bool | None
    versions: dict[str, str | None]
    created: str
    extra: dict[str, Any] = field(default_factory=dict)

    def value(self, name: str) -> float | None:
        """The value of one metric.

        Raises:
            KeyError: if the file has no such metric (its metrics are listed).
        """
        if name not in self.metrics:
            run = f"{self.study}/{self.cell}/seed{self.seed}"
            raise KeyError(f"{run} has no metric {name!r}; it has {', '.join(sorted(self.metrics))}")
        return self.metrics[name].value


class ResultError(ValueError):
    """A file that is damaged or is not a result."""


def result_path(root: str | os.PathLike[str], study: str, cell: str, seed: int) -> Path:
    """``root/<study>/<cell>/seed<k>.json``.

    Raises:
        ValueError: if study or cell is not a plain folder name, or the seed is negative.
    """
    _check_run(study, cell, seed)
    return Path(root) / study / cell / f"seed{seed}.json"


def write_result(
    path: str | os.PathLike[str],
    *,
    study: str,
    cell: str,
    seed: int,
    config: Any,
    metrics: Mapping[str, Metric],
    wall_seconds: float | None,
    device: str,
    extra: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write one result file atomically (a temporary file beside it, then a rename).

    Args:
        path: the file, by convention ``result_path(root, study, cell, seed)``; its folders are created.
        study, cell, seed: which run.
        config: every setting: a mapping or a dataclass.
        metrics: by name.
        wall_seconds: duration of the run in seconds, or None.
        device: what it ran on, in words.
        extra: anything else that `to_jsonable` can write.
        overwrite: replace an existing file.

    Returns:
        the path written.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
        TypeError: if a metric is not a `Metric`, or something cannot be written as JSON.
        ValueError: if study or cell is not a plain folder name, the seed is negative, or a metric has the wrong unit or
            lies outside its range.
    """
    target = Path(path)
    _check_run(study, cell, seed)
    for name, metric in metrics.items():
        if not isinstance(metric, Metric):
            raise TypeError(
                f"metric {name!r}: expected a Metric with a unit, got {type(metric).__name__}; "
                "write Metric(value, unit)"
            )
    _check_metrics(metrics)
    settings = to_jsonable(config)
    if not isinstance(settings, dict):
        raise TypeError(f"expected config as a mapping or a dataclass, got {type(config).__name__}")
    record = {
        "schema_version": SCHEMA_VERSION,
        "study": study,
        "cell": cell,
        "seed": int(seed),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **provenance(),
        "device": device,
        "wall_seconds": wall_seconds,
        "config": settings,
        "metrics": {name: asdict(metric) for name, metric in metrics.items()},
        "extra": extra or {},
    }
    plain = without_machine_paths(to_jsonable(record))
    text = json.dumps(plain | _digests(plain), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"{target} already exists; pass overwrite=True to replace it, or choose another cell or seed"
        )
    _write_whole(target, text)
    return target


def read_result(path: str | os.PathLike[str]) -> Result:
    """Read one result file.

    Raises:
        FileNotFoundError: if there is no such file.
        ResultError: if it is not complete JSON, not a result, of another schema version, or fails a check of this module's
            docstring.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no result file at {source}; run the study that writes it, or correct the path")
    try:
        record = json.loads(source.read_text(encoding="utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:  # truncated, not UTF-8, or NaN
        raise ResultError(f"{source} is not complete JSON ({error}); delete it and run its cell again") from error
    if not isinstance(record, dict) or "schema_version" not in record:
        raise ResultError(f"{source} is JSON but not a result file: it has no schema_version")
    version = record["schema_version"]
    if isinstance(version, bool) or version not in READABLE:
        raise ResultError(
            f"{source} has schema version {version!r}, this code reads {' and '.join(map(str, READABLE))}; "
            "run the cell again, or read it with the commit that wrote it"
        )
    names = {item.name for item in dataclasses.fields(Result)}
    digests = {"config_sha256", "metrics_sha256"} if version >= 2 else set()
    missing = sorted((names | digests) - record.keys())
    if missing:
        raise ResultError(f"{source} lacks {', '.join(missing)}; it was not written by write_result")
    try:
        metrics = {name: Metric(**metric) for name, metric in record["metrics"].items()}
        _check_metrics(metrics)
    except (AttributeError, TypeError, ValueError) as error:
        raise ResultError(f"{source} contains an invalid metric ({error})") from error
    _check_record(source, record)
    config = {RENAMED.get(name, name): value for name, value in record["config"].items()}
    return Result(**{name: record[name] for name in names - {"metrics"}} | {"config": config, "metrics": metrics})


def read_study(folder: str | os.PathLike[str]) -> list[Result]:
    """All results ``<folder>/<cell>/seed<k>.json`` of a study, sorted by cell, then seed.

    Raises:
        FileNotFoundError: if there is no such folder, or no result in it.
        ResultError: if a file is damaged or is not a result.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"no study folder at {root}; run the study, or correct the path")
    paths = [path for path in root.glob("*/seed*.json") if re.fullmatch(r"seed\d+\.json", path.name)]
    if not paths:
        raise FileNotFoundError(f"{root} contains no result (<cell>/seed<k>.json); run the study, or correct the path")
    return sorted((read_result(path) for path in paths), key=lambda result: (result.cell, result.seed))


def _check_metrics(metrics: Mapping[str, Metric]) -> None:
    for name, metric in metrics.items():
        wrong = problem(name, metric.unit, {"value": metric.value, "low": metric.low, "high": metric.high})
        if wrong is not None:
            raise ValueError(wrong)


def _digests(record: Mapping[str, Any]) -> dict[str, str]:
    config = digest(record["config"])
    run = {name: record[name] for name in ("study", "cell", "seed", "metrics")}
    return {"config_sha256": config, "metrics_sha256": digest(run | {"config_sha256": config})}


def _check_record(source: Path, record: Mapping[str, Any]) -> None:
    """Types, digests, and study, cell and seed against the path and the config.

    Raises:
        ResultError: for the first that is wrong.
    """
    for name, kind in (("config", dict), ("extra", dict), ("versions", dict), ("device", str), ("created", str)):
        if not isinstance(record[name], kind):
            raise ResultError(f"{source}: expected {name} as a {kind.__name__}, got {record[name]!r:.80}")
    seconds = record["wall_seconds"]
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds < 0):
        raise ResultError(f"{source}: expected wall_seconds as a number of at least 0 or null, got {seconds!r:.80}")
    for name, optional in (("commit", str), ("dirty", bool)):
        if record[name] is not None and not isinstance(record[name], optional):
            raise ResultError(f"{source}: expected {name} as a {optional.__name__} or null, got {record[name]!r:.80}")
    study, cell, seed = (record[name] for name in ("study", "cell", "seed"))
    try:
        _check_run(study, cell, seed)
    except (TypeError, ValueError) as error:
        raise ResultError(f"{source}: {error}") from error
    for name, computed in _digests(record).items():
        if name in record and record[name] != computed:
            what = "config" if name == "config_sha256" else "run or metrics"
            raise ResultError(
                f"{source} was changed after it was written: {name} does not fit its {what}; restore it or run its cell again"
            )
    place = source.absolute()
    if re.fullmatch(r"seed\d+\.json", place.name) and len(place.parents) > 2:
        expected = result_path(place.parents[2], study, cell, seed)
        if place != expected:
            raise ResultError(
                f"{source} contains the run {study}/{cell}/seed{seed}; move it to {expected.relative_to(place.parents[2])}, "
                "or run the cell of this path"
            )
    train = record["config"].get("train")
    own = train.get("seed", seed) if isinstance(train, dict) else seed
    if own != seed:
        raise ResultError(f"{source} is of seed {seed}, but its config trains with seed {own}; run its cell again")


def _check_run(study: str, cell: str, seed: int) -> None:
    for kind, name in (("study", study), ("cell", cell)):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"expected {kind} as a plain folder name (letters, digits and . _ + = , -, no slash), got {name!r}"
            )
    if isinstance(seed, bool) or not isinstance(seed, int | float | np.integer) or seed != int(seed) or seed < 0:
        raise ValueError(f"expected the seed as an integer of at least 0, got {seed!r}")


def _write_whole(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not valid JSON")


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{text} is no finite number")
    return number
