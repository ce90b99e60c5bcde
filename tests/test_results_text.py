"""RESULTS.md and the README say what the files under results/ say: every "mean [low, high]" is computed again, and its p."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from amvl_model.results import Result, read_study
from amvl_model.studies import STUDIES
from amvl_model.study_runner import stand_ins
from amvl_model.study_table import CHECKPOINT_COLUMNS, COLUMNS, by_cell, differences, paired_differences, student
from paper_figs.table_differences import families

ROOT = Path(__file__).resolve().parents[1]
NUMBER = r"[-+]?\d+(?:\.\d+)?"
INTERVAL = re.compile(rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]")
WITH_P = re.compile(rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\][A-Za-z ]{{0,30}}(?:, |\()p = (\d\.\d+)")
SCALED = {
    column.metric: column.scale for column in (*COLUMNS, *(c for group in CHECKPOINT_COLUMNS.values() for c in group))
}


@lru_cache(maxsize=1)
def studies() -> dict[str, list[Result]]:
    """All results of every study by its own cells' names, borrowed ones among them."""
    root = ROOT / "results"
    return {
        study.name: [
            *read_study(root / study.name),
            *(replace(result, cell=cell) for cell, result in stand_ins(study, root)),
        ]
        for study in STUDIES.values()
        if (root / study.name).is_dir()
    }


def computed() -> Iterator[tuple[float, float, float]]:
    """Means over seeds of every cell, paired differences of every two cells of a study, and the scores of the predictions."""
    for results in studies().values():
        for metric, scale in SCALED.items():
            cells = {name: seeds for name, seeds in by_cell(results, metric).items() if len(seeds) > 1}
            values = [[*seeds.values()] for seeds in cells.values()]
            for first, second in permutations(cells.values(), 2):
                common = sorted(first.keys() & second.keys())
                if len(common) > 1:
                    values.append([first[seed] - second[seed] for seed in common])
            for each in values:
                interval = student(each)
                assert interval.low is not None and interval.high is not None
                yield scale * interval.mean, scale * interval.low, scale * interval.high
                yield (
                    -scale * interval.mean,
                    -scale * interval.high,
                    -scale * interval.low,
                )  # a cost, or less of something
    for path in [
        *(ROOT / "results" / "prediction").glob("*,scores/seed0.json"),
        *(ROOT / "results").glob("main_job*/*.json"),
    ]:
        yield from _stored(json.loads(path.read_text()))


def _stored(node: object) -> Iterator[tuple[float, float, float]]:
    """Every value with an interval in a JSON file, as it is and in percent."""
    if isinstance(node, dict):
        mean = next((node[name] for name in ("value", "mean") if isinstance(node.get(name), int | float)), None)
        low, high = node.get("low"), node.get("high")
        if mean is not None and isinstance(low, int | float) and isinstance(high, int | float):
            yield mean, low, high
            yield 100 * mean, 100 * low, 100 * high
        for value in node.values():
            yield from _stored(value)
    elif isinstance(node, list):
        for value in node:
            yield from _stored(value)


@lru_cache(maxsize=1)
def table() -> np.ndarray:
    return np.array([*computed()])


def matches(rows: np.ndarray, shown: tuple[str, ...]) -> np.ndarray:
    """Which rows have these numbers, to the digits shown."""
    digits = len(shown[0].partition(".")[2])
    found = np.abs(rows - np.array([float(each) for each in shown])) <= 0.5001 * 10.0**-digits
    return found.all(1)


def p_values(name: str) -> Iterator[tuple[float, float, float, float]]:
    """Every difference of a study that is corrected for many comparisons, both ways round, with its adjusted p."""
    if name in studies():
        results, study = studies()[name], STUDIES[name]
        reference = study.reference or study.all_cells[0]
        pairs = [family.pairs for family in families() if family.study == name]
        for metric, scale in SCALED.items():
            found = [*differences(results, metric, reference).values()] if reference in by_cell(results, metric) else []
            for family in pairs:
                found += [each for each in paired_differences(results, metric, [*family.values()]) if each is not None]
            for each in found:
                low, high = each.interval.low, each.interval.high
                if each.adjusted is not None and low is not None and high is not None:
                    mean = scale * each.interval.mean
                    yield mean, scale * low, scale * high, each.adjusted
                    yield -mean, -scale * high, -scale * low, each.adjusted


@pytest.mark.parametrize("name", ["RESULTS.md", "README.md"])
def test_every_interval_in_the_text_is_that_of_the_files(name: str) -> None:
    text = " ".join((ROOT / name).read_text(encoding="utf-8").split())
    shown = INTERVAL.findall(text)
    wrong = [f"{mean} [{low}, {high}]" for mean, low, high in shown if not matches(table(), (mean, low, high)).any()]
    assert len(shown) >= {"RESULTS.md": 80, "README.md": 15}[name]
    assert not wrong, f"{name} says what results/ does not say: {wrong}"


def test_every_p_beside_an_interval_is_the_corrected_one() -> None:
    """Among the studies that the text has named by then: the same difference has another p in another study's family."""
    named: dict[str, np.ndarray] = {}
    wrong, count = [], 0
    for section in (ROOT / "RESULTS.md").read_text(encoding="utf-8").split("\n## "):
        for name in re.findall(r"ablations\.py (\w+)", section):
            named.setdefault(name, np.array([*p_values(name)]).reshape(-1, 4))
        rows = np.concatenate([np.empty((0, 4)), *named.values()])
        for mean, low, high, p in WITH_P.findall(" ".join(section.split())):
            adjusted = rows[matches(rows[:, :3], (mean, low, high)), 3]
            count += 1
            if not any(abs(each - float(p)) <= 0.05 * float(p) for each in adjusted):
                wrong.append(f"{mean} [{low}, {high}], p = {p}: {sorted(set(adjusted.round(4)))}")
    assert count >= 8
    assert not wrong, f"RESULTS.md says what results/ does not say: {wrong}"
