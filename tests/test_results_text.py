"""The numbers of RESULTS.md, the README and the guide are those of the files under results/.

Computed again: every "mean [low, high]", and in RESULTS.md the p that stands beside one, among the studies that the text has
named by then, and the counts of table_exploited. Not checked: the words around them, a difference's direction among them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from amvl_model.results.frame import tidy
from amvl_model.results.seeds import CHECKPOINT_COLUMNS, COLUMNS, by_seed, differences, interval, paired_differences
from amvl_model.studies.declared import STUDIES
from amvl_model.studies.runner import study_results
from paper_figs.sources import Sources
from paper_figs.tables import exploited
from paper_figs.tables.differences import families

ROOT = Path(__file__).resolve().parents[1]
NUMBER = r"[-+]?\d+(?:\.\d+)?"
INTERVAL = re.compile(rf"({NUMBER})(?: %)? \[({NUMBER}), ({NUMBER})\]")
WITH_P = re.compile(rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\][A-Za-z ]{{0,30}}(?:, |\()p = (\d\.\d+)")
LABORATORY = ("accuracy", "accuracy_posterior", "accuracy_exchanged", "accuracy_sampled", "follows_patch")
SCALED = {f"{name}_{hops}": 100.0 for name in LABORATORY for hops in (1, 2, 3, 4)} | {"leaked_3": 1.0, "leaked_4": 1.0}
SCALED |= {
    column.metric: column.scale for column in (*COLUMNS, *(c for group in CHECKPOINT_COLUMNS.values() for c in group))
}


@lru_cache(maxsize=1)
def studies() -> dict[str, pd.DataFrame]:
    """All results of every study by its own cells' names, borrowed ones among them."""
    root = ROOT / "results"
    return {study.name: tidy(study_results(study, root)) for study in STUDIES.values() if (root / study.name).is_dir()}


@cache
def intervals(study: str) -> np.ndarray:
    """(n, 3) mean, low and high of every cell and of the paired difference of every two cells, of either sign; in the laboratory
    also against the study of that name, over the seeds whose warm-up started, at 90 %, and what exchanging the latents costs."""
    results = studies()[study]
    if STUDIES[study].bases and study != "laboratory":
        results = pd.concat([results, studies()["laboratory"]])
    rows = _rows(results)
    if STUDIES[study].bases:
        started = {r.seed for r in study_results(STUDIES[study], ROOT / "results") if r.extra.get("started")}
        part = results[results.seed.isin(started)]
        rows += _rows(results, 0.90) + _rows(part)
        for chosen, hops in ((part, 3), (results, 4)):
            own, other = (by_seed(chosen, f"{name}_{hops}") for name in ("accuracy", "accuracy_exchanged"))
            costs = [100 * (own[cell] - other[cell]).dropna() for cell in other]
            rows += [[cost.mean(), *interval(cost)] for cost in costs if len(cost) > 1]
    result = np.array(rows)
    return np.concatenate([result, -result[:, [0, 2, 1]]])


def _rows(results: pd.DataFrame, level: float = 0.95) -> list[list[float]]:
    rows = []
    for metric, part in results[results.metric.isin(SCALED)].groupby("metric"):
        cells = SCALED[metric] * by_seed(part, metric).to_numpy(float)
        first, second = np.triu_indices(cells.shape[1], 1)
        values = np.concatenate([cells, cells[:, first] - cells[:, second]], axis=1)
        known = (~np.isnan(values)).sum(0)
        # all values of one count at once: a call a pair takes minutes
        for count in {*known[known > 1].tolist()}:
            some = values[:, known == count]
            some = some.T[~np.isnan(some.T)].reshape(-1, count)
            half = stats.t.ppf(0.5 + level / 2, count - 1) * some.std(1, ddof=1) / np.sqrt(count)
            rows += np.stack([some.mean(1), some.mean(1) - half, some.mean(1) + half], axis=1).tolist()
    return rows


@lru_cache(maxsize=1)
def stored() -> np.ndarray:
    """(n, 3) what the files of the predictions, the main job and the shipped checkpoints hold with an interval of its own."""
    root = ROOT / "results"
    paths = [
        *root.glob("prediction/*,scores/seed0.json"),
        *root.glob("main_job*/*.json"),
        *root.glob("main_job_laboratory/laboratory/*/seed0.json"),
        *root.glob("shipped/*/*.json"),
    ]
    return np.array([row for path in paths for row in _stored(json.loads(path.read_text()))])


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


def sections(name: str) -> Iterator[tuple[str, list[str]]]:
    """Every section's text in one line, and the studies that the text has named by its end."""
    named: dict[str, None] = {}
    for section in re.split(r"\n##+ ", (ROOT / name).read_text(encoding="utf-8")):
        named |= dict.fromkeys(
            item for item in re.findall(r"(?:ablations\.py |results/)([\w-]+)", section) if item in studies()
        )
        yield " ".join(section.split()), [*named]


def matches(rows: np.ndarray, shown: tuple[str, ...]) -> np.ndarray:
    """Which rows have these numbers, to the digits shown."""
    digits = len(shown[0].partition(".")[2])
    result = np.abs(rows - np.array([float(item) for item in shown])) <= 0.5001 * 10.0**-digits
    return result.all(1)


@cache
def p_values(name: str) -> np.ndarray:
    """(n, 4) mean, low, high and adjusted p of the differences that are corrected for many comparisons, of either sign."""
    results, study = studies()[name], STUDIES[name]
    reference = study.reference or study.all_cells[0]
    pairs = [family.pairs for family in families() if family.study == name]
    result = []
    for metric, values in results[results.metric.isin(SCALED)].groupby("metric"):
        tables = [paired_differences(values, metric, [*family.values()]) for family in pairs]
        if reference in {*values.cell}:
            tables.append(differences(values, metric, reference))
        for table in tables:
            table[["mean", "low", "high"]] *= SCALED[metric]
            result.append(table[["mean", "low", "high", "adjusted"]].dropna().to_numpy())
    rows = np.concatenate(result)
    return np.concatenate([rows, np.stack([-rows[:, 0], -rows[:, 2], -rows[:, 1], rows[:, 3]], axis=1)])


@pytest.mark.parametrize("name", ["RESULTS.md", "README.md", "docs/guide.md"])
def test_every_interval_in_the_text_is_that_of_the_files(name: str) -> None:
    wrong, count = [], 0
    for text, named in sections(name):
        rows = np.concatenate([stored(), *map(intervals, named)])
        for shown in INTERVAL.findall(text):
            count += 1
            if not matches(rows, shown).any():
                wrong.append("{} [{}, {}]".format(*shown))
    assert count >= {"RESULTS.md": 80, "README.md": 5, "docs/guide.md": 15}[name]
    assert not wrong, f"{name} says what results/ does not say: {wrong}"


def test_every_p_beside_an_interval_is_the_corrected_one() -> None:
    wrong, count = [], 0
    for text, named in sections("RESULTS.md"):
        rows = np.concatenate([np.empty((0, 4)), *map(p_values, named)])
        for mean, low, high, p in WITH_P.findall(text):
            adjusted = rows[matches(rows[:, :3], (mean, low, high)), 3]
            count += 1
            if not any(abs(item - float(p)) <= 0.05 * float(p) for item in adjusted):
                wrong.append(f"{mean} [{low}, {high}], p = {p}: {sorted(set(adjusted.round(4)))}")
    assert count >= 8
    assert not wrong, f"RESULTS.md says what results/ does not say: {wrong}"


def test_runs_whose_decoder_reads_the_leak_are_counted_as_the_table_counts_them() -> None:
    sources = Sources(results=ROOT / "results")
    seen = exploited.with_gap(sources, exploited.SEEN)
    counted = re.search(r"(\d+ of \d+) runs forward-only, (\d+ of \d+) AMVL", exploited.comparison(seen))
    assert counted is not None
    text = " ".join((ROOT / "RESULTS.md").read_text(encoding="utf-8").split())
    assert f"{counted[1]} forward-only runs" in text and f"{counted[2]} AMVL runs" in text
