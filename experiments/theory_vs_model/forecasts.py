"""How right the calculator of T11 is (`amvl gamma`), on the runs of the study `reading` with the probes of their training.

Not a planned test: the runs were made for the test in `collapse.py`, and this was written after the first ten of them.

growth     what T11's rates, as estimated on the model under Adam, say that reading grows by from one probe to the next, over
           what it grew by: ratios of ln growth, over all pairs of probes in a row between which reading stands out of its error
           and stays below `LINEAR` nats at the first of them
forecasts  at several shares of a run's steps, what the calculator says of its end: probability or nothing; against
           whether reading passed 0.05 nats by the last probe, two probes in a row
takeover   the step at which that was to happen minus the step at which it did, where a step was named before
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from amvl_model.config import RunConfig
from amvl_model.diagnostics.reading.forecast import COLLAPSE, Forecast, RunSchedule, forecast
from amvl_model.results.files import Result
from amvl_model.results.text import text_table

SHARES = (0.3, 0.4, 0.5, 0.6, 0.8)
"""Parts of a run at which forecasts are taken."""
LINEAR = 0.2
"""Nats up to which reading is taken to grow exponentially."""
WARNED, SAFE = 0.5, 0.05
"""Probability from which on a forecast warns; up to which it says that nothing will happen."""


@dataclass(frozen=True)
class Run:
    """One run's probes.

    Attributes:
        rows: log lines of its probes. plan: its schedule. takeover: step of the first of two probes in a row above 0.05 nats
            that stand out of their error; None if there are none.
    """

    rows: Sequence[Mapping[str, Any]]
    plan: RunSchedule
    takeover: int | None

    @classmethod
    def of(cls, result: Result) -> Run:
        """From a result with the probes of its training."""
        rows = result.extra["probes"]
        read = [_clear(row) and row["probe_reading_nats"] >= COLLAPSE for row in rows]
        both = [i for i in range(len(rows) - 1) if read[i] and read[i + 1]]
        return cls(rows, RunSchedule.of(RunConfig.from_dict(result.config)), rows[both[0]]["step"] if both else None)

    def said_at(self, share: float) -> Forecast:
        """The forecast of the run's end at the last probe up to this share of its steps."""
        known = [row for row in self.rows if row["step"] <= share * self.plan.steps]
        return forecast(known, self.plan, until=self.plan.steps)


def _clear(row: Mapping[str, Any]) -> bool:
    return bool(row["probe_reading_nats"] > 2 * row["probe_reading_error"])


def growth_ratios(runs: Sequence[Run]) -> np.ndarray:
    """Computed over observed ln growth of reading between probes in a row (pairs,), as the module says."""
    found = []
    for run in runs:
        for first, second in zip(run.rows[:-1], run.rows[1:], strict=True):
            seen = _clear(first) and _clear(second) and first["probe_reading_nats"] <= LINEAR
            rate = first.get("probe_growth_rate")
            if not seen or rate is None or second["probe_reading_nats"] <= first["probe_reading_nats"]:
                continue
            observed = np.log(second["probe_reading_nats"] / first["probe_reading_nats"])
            found.append(2 * rate * (second["step"] - first["step"]) / observed)
    return np.array(found)


def outcome(said: Forecast, takeover: int | None) -> str:
    """What became of a forecast: which of the columns of the report it counts in."""
    if takeover is not None and takeover <= said.step:
        return "read already"
    if said.probability is None:
        return "cannot tell"
    warned, safe = said.probability >= WARNED, said.probability <= SAFE
    label = "warned" if warned else "safe" if safe else "open"
    return f"{label}, {'read' if takeover is not None else 'not read'}"


COLUMNS = (
    "read already", "cannot tell", "open, read", "open, not read", "warned, read", "warned, not read", "safe, read",
    "safe, not read",
)  # fmt: skip


def report(results: Sequence[Result]) -> str:
    """Growth, forecasts and takeover as text; only runs with probes count."""
    runs = [Run.of(result) for result in results if result.extra.get("probes")]
    if not runs:
        return "no run has the probes of its training"
    ratios = growth_ratios(runs)
    lines = [
        f"Calculator of T11 on {len(runs)} runs, {sum(run.takeover is not None for run in runs)} of which came to read"
    ]
    if len(ratios):
        low, middle, high = np.quantile(ratios, [0.1, 0.5, 0.9])
        lines.append(
            f"computed over observed growth of reading, {len(ratios)} pairs of probes: median {middle:.2f}, "
            f"80 % of them from {low:.2f} to {high:.2f}"
        )
    rows = []
    for share in SHARES:
        labels = [outcome(run.said_at(share), run.takeover) for run in runs]
        rows.append([f"{100 * share:.0f} %", *(str(labels.count(column)) for column in COLUMNS)])
    lines.append(text_table(rows, ["at", *COLUMNS]))
    late = [
        (said.takeover - run.takeover, run.takeover - said.step)
        for run in runs
        if run.takeover is not None
        for share in SHARES
        if (said := run.said_at(share)).takeover is not None and said.step < run.takeover
    ]
    if late:
        errors, leads = np.array(late).T
        lines.append(
            f"step of takeover named beforehand {len(late)} times, {np.median(leads):.0f} steps before (median): off by "
            f"{np.median(errors):+.0f} steps (median), {errors.min():+.0f} to {errors.max():+.0f}"
        )
    return "\n".join(lines)
