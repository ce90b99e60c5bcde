"""Finding the figures in a diagnostic's dictionary: paths, intervals, and plain tables of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Path = tuple[str | int, ...]


def is_interval(value: Any) -> bool:
    """Whether this is an `Interval` as a dictionary: a mean with its ends."""
    return isinstance(value, Mapping) and {"mean", "low", "high"} <= set(value) and value["mean"] is not None


def at(data: Any, path: Path) -> Any:
    """The value at a path of keys and indices, or None where a part of it is missing."""
    for part in path:
        if isinstance(part, int):
            data = data[part] if isinstance(data, Sequence) and not isinstance(data, str) and part < len(data) else None
        else:
            data = data.get(part) if isinstance(data, Mapping) else None
        if data is None:
            return None
    return data


def intervals(data: Any, path: Path = ()) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Every interval in nested dictionaries and lists with its path, in order."""
    if is_interval(data):
        yield path, data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from intervals(value, (*path, key))
    elif isinstance(data, list):
        for i, value in enumerate(data):
            yield from intervals(value, (*path, i))


def label(path: Path) -> str:
    """A path in words; indices count from 1."""
    return ", ".join(f"{part + 1}" if isinstance(part, int) else words(part) for part in path)


def words(name: str) -> str:
    """A name in words: ``forward_kl`` is "forward KL"."""
    return " ".join({"kl": "KL", "nll": "NLL"}.get(word, word) for word in name.split("_"))


def rows(data: Mapping[str, Mapping[str, Any] | None]) -> list[tuple[str, list[str]]]:
    """Every interval of one diagnostic as text: its name, and a cell per checkpoint ("-" where it has none)."""
    paths: dict[Path, None] = {}
    for each in data.values():
        paths |= dict.fromkeys(path for path, _ in intervals(each or {}))
    return [(label(path), [cell(None if each is None else at(each, path)) for each in data.values()]) for path in paths]


def cell(value: Any) -> str:
    """ "mean [low, high]" to four digits, with the unit if the interval names one; "-" where there is none."""
    if not is_interval(value):
        return "-"
    text = f"{value['mean']:.4g}"
    if value["low"] is not None and value["high"] is not None:
        text += f" [{value['low']:.4g}, {value['high']:.4g}]"
    return f"{text} {value['unit']}" if value.get("unit") else text
