"""Where a number comes from: commit, dirty flag, versions, device, and paths without the machine."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import importlib.metadata
import math
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from pydantic import BaseModel

PROJECT_ROOT = Path(__file__).resolve().parents[2]


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


_ABSOLUTE = re.compile(r"(?:~[\w.-]*)?/\S.*|[A-Za-z]:[\\/].*|\\\\\w.*")


_OUTPUT_FOLDERS = ("results/", "runs/")
_CODE = ("amvl_model", "amvl_theory", "amvl_style", "experiments", "paper_figs", "notebooks/views")
"""Folders that Python imports from: there a file that git ignores counts too."""


def provenance() -> dict[str, Any]:
    """What code runs here: commit, dirty and versions.

    Returns:
        ``commit``: the commit of the project's own repository, None outside git or before the first commit;
        ``dirty``: whether tracked files differ from it or there are new Python or settings files (results/ and runs/,
        which runs write, do not count), or Python files inside the packages that git ignores; None outside git;
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
    ignored = _git("ls-files", "--others", "--ignored", "--exclude-standard", "-z", "--", *_CODE)
    dirty = None
    if status is not None and ignored is not None:
        hidden = any(path.endswith(".py") for path in ignored.split("\0"))
        dirty = hidden or any(_is_code_change(entry) for entry in status.split("\0"))
    return {"commit": commit.strip() if commit else None, "dirty": dirty, "versions": versions}


def to_jsonable(value: Any) -> Any:
    """``value`` as dicts, lists, strings, numbers, booleans and None.

    Takes mappings, sequences, sets (sorted), dataclasses, pydantic models, enums, paths, dates, numpy arrays and scalars,
    tensors, torch dtypes and devices. NaN and infinities become None. Mapping keys become strings.

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
    if isinstance(value, BaseModel):
        return _jsonable(value.model_dump(), place)
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


def without_machine_paths(value: Any) -> Any:
    """Cut absolute paths in all texts (keys included) to their part inside the project, or to their last name."""
    if isinstance(value, dict):
        return {without_machine_paths(key): without_machine_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_machine_paths(item) for item in value]
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
