"""The one schema of result files: ``results/<study>/<cell>/seed<k>.json``.

A file holds what is needed to read and repeat one run: schema version, study, cell, seed, config, commit and dirty
flag, versions, device, wall time, and metrics with units. Curves lie beside it as CSV. Figures and notebooks read
nothing else.

Files are written whole or not at all, are never overwritten unasked, and hold no path of the machine that wrote them:
absolute paths are cut to their part inside the project, or to their last name. A figure that does not exist (None, NaN,
infinite) is null, never 0. This module imports neither torch nor transformers.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import importlib.metadata
import json
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np

SCHEMA_VERSION = 1
PROJECT_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = (
    "accelerate",
    "datasets",
    "numpy",
    "peft",
    "pillow",
    "safetensors",
    "scipy",
    "tokenizers",
    "torch",
    "transformers",
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=,-]*")
_ABSOLUTE = re.compile(r"(?:~[\w.-]*)?/\S.*|[A-Za-z]:[\\/].*|\\\\\w.*")
_OUTPUT_FOLDERS = ("results/", "runs/")


@dataclass(frozen=True)
class Metric:
    """One figure of a run.

    Attributes:
        value: the figure; None where it does not exist. NaN and infinities become None.
        unit: "nats", "fraction", "s", "bytes", ...; "1" for a pure number.
        low, high: ends of its interval, same unit; None without an interval.
        n: number of questions, examples or draws behind it; None where that means nothing.

    Raises:
        ValueError: if the unit is empty, the interval is upside down, or n is negative.
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
            figure = getattr(self, name)
            if figure is not None:
                figure = float(figure)
                object.__setattr__(self, name, figure if math.isfinite(figure) else None)
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"expected low <= high, got low={self.low} and high={self.high}; swap them")
        if self.n is not None and self.n < 0:
            raise ValueError(f"expected a count n of at least 0, got {self.n}")


@dataclass(frozen=True, kw_only=True)
class Result:
    """One result file, as read.

    Attributes:
        study, cell, seed: which run: the cell is one setting of the study.
        config: every setting of the run.
        metrics: figures by name.
        wall_seconds: duration of the run in seconds; None if it was not taken.
        device: what it ran on, for example "cpu" or "NVIDIA H100".
        commit: git commit of the code, or None outside git.
        dirty: whether the code differed from that commit; None outside git.
        versions: of Python and packages; None for a package that is not installed.
        created: UTC time of writing, ISO 8601.
        extra: what else the run has to say.
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
        """The figure of one metric.

        Raises:
            KeyError: if the file has no such metric (the names it has are listed).
        """
        if name not in self.metrics:
            run = f"{self.study}/{self.cell}/seed{self.seed}"
            raise KeyError(f"{run} has no metric {name!r}; it has {', '.join(sorted(self.metrics))}")
        return self.metrics[name].value


class ResultError(ValueError):
    """A file that is no readable result."""


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
    """Write one result file, whole or not at all (a temporary file beside it, then a rename).

    Args:
        path: the file, by convention ``result_path(root, study, cell, seed)``; its folders are made.
        study, cell, seed: which run.
        config: every setting: a mapping or a dataclass.
        metrics: figures by name.
        wall_seconds: duration of the run in seconds, or None.
        device: what it ran on, in words.
        extra: anything else that `to_jsonable` can write.
        overwrite: replace an existing file.

    Returns:
        the path written.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is False.
        TypeError: if a metric is not a `Metric`, or something cannot be written as JSON.
        ValueError: if study or cell is not a plain folder name, or the seed is negative.
    """
    target = Path(path)
    _check_run(study, cell, seed)
    for name, metric in metrics.items():
        if not isinstance(metric, Metric):
            raise TypeError(
                f"metric {name!r}: expected a Metric with a unit, got {type(metric).__name__}; "
                "write Metric(value, unit)"
            )
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
    text = json.dumps(_without_machine_paths(to_jsonable(record)), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"{target} exists already; pass overwrite=True to replace it, or choose another cell or seed"
        )
    _write_whole(target, text)
    return target


def read_result(path: str | os.PathLike[str]) -> Result:
    """Read one result file.

    Raises:
        FileNotFoundError: if there is no such file.
        ResultError: if it is no complete JSON, no result, or of another schema version.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no result file at {source}; run the study that writes it, or correct the path")
    try:
        record = json.loads(source.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except ValueError as error:  # half a file, no UTF-8, NaN
        raise ResultError(f"{source} is no complete JSON ({error}); delete it and run its cell again") from error
    if not isinstance(record, dict) or "schema_version" not in record:
        raise ResultError(f"{source} is JSON but no result file: it has no schema_version")
    if record["schema_version"] != SCHEMA_VERSION:
        raise ResultError(
            f"{source} has schema version {record['schema_version']!r}, this code reads {SCHEMA_VERSION}; "
            "run the cell again, or read it with the commit that wrote it"
        )
    names = {item.name for item in dataclasses.fields(Result)}
    missing = sorted(names - record.keys())
    if missing:
        raise ResultError(f"{source} lacks {', '.join(missing)}; it was not written by write_result")
    try:
        metrics = {name: Metric(**metric) for name, metric in record["metrics"].items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ResultError(f"{source} holds a metric that is none ({error})") from error
    return Result(**{name: record[name] for name in names - {"metrics"}}, metrics=metrics)


def read_study(folder: str | os.PathLike[str]) -> list[Result]:
    """All results ``<folder>/<cell>/seed<k>.json`` of a study, sorted by cell, then seed.

    Raises:
        FileNotFoundError: if there is no such folder, or no result in it.
        ResultError: if one of the files is unreadable.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"no study folder at {root}; run the study, or correct the path")
    paths = [path for path in root.glob("*/seed*.json") if re.fullmatch(r"seed\d+\.json", path.name)]
    if not paths:
        raise FileNotFoundError(f"{root} holds no result (<cell>/seed<k>.json); run the study, or correct the path")
    return sorted((read_result(path) for path in paths), key=lambda result: (result.cell, result.seed))


def provenance() -> dict[str, Any]:
    """What code runs here: commit, dirty and versions.

    Returns:
        ``commit``: the commit of the project's own repository, None outside git or before the first commit;
        ``dirty``: whether tracked files differ from it or new Python or settings files lie about (results/ and runs/,
        which runs themselves write, do not count), None outside git;
        ``versions``: of Python, the system, this project and the packages it builds on, read without importing them;
        None for what is not installed.
    """
    versions: dict[str, str | None] = {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "amvl": _version("amvl"),
    }
    versions |= {package: _version(package) for package in _PACKAGES}
    top = _git("rev-parse", "--show-toplevel")
    if top is None or Path(top.strip()).resolve() != PROJECT_ROOT:  # another repository around an installed copy
        return {"commit": None, "dirty": None, "versions": versions}
    commit = _git("rev-parse", "--verify", "HEAD")
    status = _git("status", "--porcelain", "-z", "--untracked-files=all", "--no-renames")
    dirty = None if status is None else any(_is_code_change(entry) for entry in status.split("\0"))
    return {"commit": commit.strip() if commit else None, "dirty": dirty, "versions": versions}


def to_jsonable(value: Any) -> Any:
    """``value`` as dicts, lists, strings, numbers, booleans and None.

    Takes mappings, sequences, sets (sorted), dataclasses, enums, paths, dates, numpy arrays and scalars, tensors, torch
    dtypes and devices. NaN and infinities become None. Mapping keys become strings.

    Raises:
        TypeError: for anything else, naming the place.
    """
    return _jsonable(value, "value")


def _jsonable(value: Any, place: str) -> Any:
    if isinstance(value, enum.Enum):
        return _jsonable(value.value, place)
    if value is None or isinstance(value, bool | str):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, datetime.date | datetime.datetime):
        return value.isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            item.name: _jsonable(getattr(value, item.name), f"{place}.{item.name}")
            for item in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {_key(key, place): _jsonable(item, f"{place}[{key!r}]") for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((_jsonable(item, place) for item in value), key=lambda item: (type(item).__name__, str(item)))
    if isinstance(value, list | tuple | range):
        return [_jsonable(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, np.generic | np.ndarray):
        return _jsonable(value.tolist(), place)
    if type(value).__module__.partition(".")[0] == "torch":  # not imported here
        return _jsonable(value.tolist(), place) if hasattr(value, "tolist") else str(value)
    raise TypeError(
        f"{place}: cannot write a {type(value).__module__}.{type(value).__qualname__} as JSON; "
        "convert it to numbers, text, lists or mappings first"
    )


def _key(key: Any, place: str) -> str:
    plain = _jsonable(key, f"a key of {place}")
    if isinstance(plain, dict | list) or plain is None:
        raise TypeError(f"{place}: expected names or numbers as keys, got {key!r}")
    return str(plain)


def _without_machine_paths(value: Any) -> Any:
    """Cut absolute paths in all texts (keys included) to their part inside the project, or to their last name."""
    if isinstance(value, dict):
        return {_without_machine_paths(key): _without_machine_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_machine_paths(item) for item in value]
    if not isinstance(value, str):
        return value
    if _ABSOLUTE.fullmatch(value) and not re.search(r"\s[~/]|\n", value):
        return _short_path(value)
    for root in (str(PROJECT_ROOT), str(Path.home()), sys.prefix):
        if root != "/":
            value = re.sub(rf"{re.escape(root)}(?:/[^\s'\"]*)?", lambda match: _short_path(match[0]), value)
    return re.sub(r"(?<![\w/:.~\\-])/(?:[\w.+@=-]+/)+[\w.+@=-]*", lambda match: _short_path(match[0]), value)


def _short_path(text: str) -> str:
    path = PurePath(text.replace("\\", "/"))
    if path.is_relative_to(PROJECT_ROOT):
        return path.relative_to(PROJECT_ROOT).as_posix()
    return path.name or text


def _check_run(study: str, cell: str, seed: int) -> None:
    for kind, name in (("study", study), ("cell", cell)):
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"expected {kind} as a plain folder name (letters, digits and . _ + = , -, no slash), got {name!r}"
            )
    if isinstance(seed, bool) or seed != int(seed) or seed < 0:
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
    raise ValueError(f"{name} is no JSON")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Output of a git command in the project, or None if there is no git, no repository, or no answer."""
    command: Iterable[str] = ("git", "-C", str(PROJECT_ROOT), *arguments)
    try:
        done = subprocess.run([*command], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _is_code_change(entry: str) -> bool:
    """Whether one entry of ``git status --porcelain -z`` says that the code differs from the commit."""
    state, path = entry[:2], entry[3:]
    if not path or path.startswith(_OUTPUT_FOLDERS):
        return False
    return state != "??" or path.endswith((".py", ".toml", ".yaml", ".yml", ".json"))
