"""The planned tests of the laboratory, written before its first run; every figure from the study's result files.

Primary, accuracy at the most hops with the prior mean, paired by seed, two-sided t tests with Holm's adjustment over the four:

    amvl - sft,  amvl - pause,  amvl - ntp+fwd at the same beta,  amvl - ntp

All seeds count, those whose warm-up never started included; the same over the seeds that started stands beside it. A
difference is called an advantage (disadvantage) if its 95 % interval excludes 0 and its mean is at least `EFFECT`, else none.

Equivalence, amvl - elbo and amvl - prior: shown if the 90 % interval of the paired difference lies within +-`EQUIVALENT` (two
one-sided t tests at 5 %).

Mechanism: each run with a posterior is labelled by `outcome`; numbers of leak collapses and contaminations, amvl against
ntp+fwd and ntp, by McNemar's exact test on the seeds.

Secondary studies (five seeds; each varies one thing of the study laboratory): the same accuracy and the same rule, of every cell
minus the study's cell with its objective, and under each variation of AMVL minus the others. Holm over a study's rows; few
seeds, so that "no difference shown" says little. The study without a warm-up was declared after one run had been seen: NTP
only, 2,000 steps behind a warm-up that never started (seed 100), at chance with prior latents and always right with posterior
ones. Its test, on seeds of its own: AMVL minus NTP only, all seeds run, by the same rule; and leak collapses by McNemar's test.

Another task (study laboratory-tasks, Changing_Cells without a warm-up), written before its first result: AMVL minus NTP only,
ELBO and SFT by the same rule at each number of hops, Holm over all rows, because the base answers one and two hops, and at three
SFT and prior-sample training were still at chance after 1,300 steps in the one trial seen (seed 90); leak collapses by McNemar's
test. So the hops that the base answers show what the leak spoils, and no difference is expected at three.
Prior-sample training, forward-only, pause tokens and SFT with six layers were added there, and seeds 105 to 114, after the
results of AMVL and NTP only on seed 100 had been seen: AMVL was at 100 % at three hops. They are compared by the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from amvl_model.results.files import Result
from amvl_model.results.frame import tidy
from amvl_model.results.seeds import by_seed, holm, interval, paired_differences
from amvl_model.results.text import text_table

EFFECT = 0.20
"""Least mean difference in accuracy that is called an advantage (fraction)."""
EQUIVALENT = 0.05
LEAKING = 0.5
"""Nats of leaked information above which a posterior leaks."""
DROP = 0.20
"""A fall, or a gap between posterior and prior latents, that counts (fraction)."""
AMVL = "amvl,beta=1,gamma=1"
PRIMARY = tuple((AMVL, other) for other in ("sft", "pause", "ntp+fwd,beta=1", "ntp"))
EQUIVALENCE = tuple((AMVL, other) for other in ("elbo,beta=1", "prior"))
_TASK = "Coloured_Cells"
"""The task of the study laboratory."""
OUTCOMES = ("kept", "leaking", "leak collapse", "contaminated", "optimisation failure", "not started")


def outcome(values: Mapping[str, float], hops: int, warmed: float | None, started: bool) -> str:
    """What became of a run with latents.

    Args:
        values: its figures by name.
        hops: the most hops.
        warmed: accuracy at the most hops when the warm-up ended (0 to 1).
        started: whether the warm-up reached its accuracy.

    Returns:
        not started           the warm-up never used the latents
        contaminated          leaking, and accuracy with prior latents `DROP` below that at the end of the warm-up
        leak collapse         leaking, and accuracy with posterior latents `DROP` above that with prior latents, without that fall
        optimisation failure  the fall without a leak
        leaking               more than `LEAKING` nats, and nothing fell
        kept                  none of these

        Without a warm-up nothing can fall: a run is leaking, a leak collapse, or kept.

        A contaminated run can be a leak collapse too; `counts` counts it under both.
    """
    if not started or warmed is None:
        return "not started"
    accuracy, leak = values[f"accuracy_{hops}"], values[f"leaked_{hops}"]
    fell = accuracy <= warmed - DROP
    read = values[f"accuracy_posterior_{hops}"] >= accuracy + DROP
    if leak > LEAKING:
        return "contaminated" if fell else "leak collapse" if read else "leaking"
    return "optimisation failure" if fell else "kept"


def outcomes(results: Sequence[Result], hops: int) -> pd.DataFrame:
    """A row per run with a posterior: cell, seed, outcome, and collapse (leaking, and posterior latents are `DROP` better)."""
    rows = []
    for result in results:
        values = {name: metric.value for name, metric in result.metrics.items() if metric.value is not None}
        if f"leaked_{hops}" not in values or result.config["objective"] == "prior":
            continue
        curve, cold = result.extra["warmup"], result.config.get("warmup") == 0
        warmed = -np.inf if cold else curve[-1][f"accuracy_{hops}"] if curve else None
        gap = values[f"accuracy_posterior_{hops}"] - values[f"accuracy_{hops}"]
        collapse = values[f"leaked_{hops}"] > LEAKING and gap >= DROP
        label = outcome(values, hops, warmed, cold or bool(result.extra["started"]))
        rows.append((result.cell, result.seed, label, collapse))
    return pd.DataFrame(rows, columns=["cell", "seed", "outcome", "collapse"])


def hardest(results: Sequence[Result]) -> int:
    """The most hops that the runs ask."""
    return max(int(hops) for result in results for hops in result.config["recipe"]["hops"])


def primary(
    results: Sequence[Result], pairs: Sequence[tuple[str, str]] = PRIMARY, hops: Sequence[int] | None = None
) -> pd.DataFrame:
    """Paired differences, first cell minus second cell, as by `paired_differences`, and a verdict; Holm over all rows.

    Args:
        results: of one study, or of two whose cells have different names.
        pairs: cells.
        hops: numbers of hops; by default the most alone.
    """
    frame, tables = tidy(results), []
    for number in hops or (hardest(results),):
        table = paired_differences(frame, f"accuracy_{number}", pairs)
        at = f", {number} hop{'s' * (number > 1)}" if hops else ""
        table.insert(0, "comparison", [f"{first} - {second}{at}" for first, second in pairs])
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    tested = table.p.notna()
    table.loc[tested, "adjusted"] = holm(table.p[tested].to_numpy())
    table["verdict"] = [verdict(row) for row in table.to_dict("records")]
    return table


def verdict(row: Mapping[Any, Any]) -> str:
    """Advantage, disadvantage, or neither, of one row of `primary`."""
    if row["n"] < 2:
        return "cannot tell: fewer than two seeds"
    if row["low"] > 0 and row["mean"] >= EFFECT:
        return "advantage"
    if row["high"] < 0 and row["mean"] <= -EFFECT:
        return "disadvantage"
    return f"no difference of {100 * EFFECT:.0f} points shown"


def equivalence(results: Sequence[Result], pairs: Sequence[tuple[str, str]] = EQUIVALENCE) -> pd.DataFrame:
    """Two one-sided tests: mean difference, its 90 % interval, and whether it lies within +-`EQUIVALENT`."""
    metric, frame, rows = f"accuracy_{hardest(results)}", tidy(results), []
    values = by_seed(frame, metric)
    for first, second in pairs:
        both = values.reindex(columns=[first, second]).dropna()
        found = (both[first] - both[second]).to_numpy()
        low, high = interval(found, 0.90) if len(found) > 1 else (np.nan, np.nan)
        equivalent = bool(len(found) > 1 and low > -EQUIVALENT and high < EQUIVALENT)
        rows.append((f"{first} - {second}", found.mean() if len(found) else np.nan, low, high, len(found), equivalent))
    return pd.DataFrame(rows, columns=["comparison", "mean", "low", "high", "n", "equivalent"])


def secondary(results: Sequence[Result], study: Sequence[Result]) -> list[tuple[str, str]]:
    """The comparisons of a secondary study: pairs of cells for `primary` over its results and those of the study laboratory."""
    objective = {result.cell: result.config["objective"] for result in results}
    seeds = {result.seed for result in results}
    counterpart = {result.config["objective"]: result.cell for result in study if result.seed in seeds}
    pairs = [(cell, counterpart[name]) for cell, name in objective.items() if name in counterpart]
    return pairs + _within(objective)


def _within(objective: Mapping[str, str]) -> list[tuple[str, str]]:
    """Of cells and their objectives: AMVL's cells and the others that are named by the same variation."""
    cells = [(cell, cell.removeprefix(name)) for cell, name in objective.items() if name == "amvl"]
    return [
        (cell, other)
        for cell, varied in cells
        for other, name in objective.items()
        if other == name + varied and other != cell
    ]


def counts(table: pd.DataFrame) -> pd.DataFrame:
    """Of `outcomes`: runs by cell and outcome, and leak collapses (a contaminated run can be one too)."""
    grouped = table.groupby(["cell", "outcome"]).size().unstack(fill_value=0)
    return grouped.reindex(columns=OUTCOMES, fill_value=0).assign(collapses=table.groupby("cell").collapse.sum())


def mcnemar(table: pd.DataFrame, first: str, second: str, what: str) -> tuple[int, int, float]:
    """Seeds where only the first cell is ``what`` ("contaminated", or "collapse"), only the second, and the exact p."""
    from scipy.stats import binomtest

    hit = table.collapse if what == "collapse" else table.outcome == what
    wide = table.assign(hit=hit).pivot(index="seed", columns="cell", values="hit").reindex(columns=[first, second])
    wide = wide.dropna().astype(bool)
    only_first, only_second = int((wide[first] & ~wide[second]).sum()), int((~wide[first] & wide[second]).sum())
    discordant = only_first + only_second
    return only_first, only_second, float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def report(results: Sequence[Result], cells: Sequence[str], study: Sequence[Result] = ()) -> str:
    """All of it as plain text: accuracies by cell; of the study laboratory the planned tests; outcomes of trained runs.

    Args:
        results: of one study. cells: its cells in the order of a table.
        study: results of the study laboratory, with which those of a secondary study are compared.
    """
    hops, started = hardest(results), [result for result in results if result.extra.get("started")]
    parts = []
    for most in sorted({hardest([result]) for result in results}):
        own = [result for result in results if hardest([result]) == most]
        every = sorted({int(h) for result in own for h in result.config["recipe"]["hops"]})
        parts.append(_means(tidy(own), cells, every, most))
    if AMVL in {result.cell for result in results}:
        parts += _planned(results, started, hops)
    elif {result.config["recipe"].get("task", _TASK) for result in results} != {_TASK}:
        pairs = _within({result.cell: result.config["objective"] for result in results})
        table = primary(results, pairs, sorted({int(h) for result in results for h in result.config["recipe"]["hops"]}))
        parts.append(f"Accuracy, all seeds [points]\n{_differences(table)}")
    elif study and len({hardest([result]) for result in results}) == 1:
        pairs, both = secondary(results, study), [*results, *study]
        going = [result for result in both if result.extra.get("started")]
        for title, chosen in (("all seeds", both), ("seeds whose warm-up started", going)):
            present = {result.cell for result in chosen}
            if there := [pair for pair in pairs if present >= {*pair}]:
                parts.append(f"Accuracy at {hops} hops, {title} [points]\n{_differences(primary(chosen, there))}")
    labels = outcomes([result for result in results if "warmup" in result.extra], hops)
    if len(labels):
        table = counts(labels)
        rows = [
            [str(cell), *(str(int(v)) for v in row)] for cell, row in zip(table.index, table.to_numpy(), strict=True)
        ]
        parts.append("Runs by outcome\n" + text_table(rows, ["cell", *map(str, table.columns)]))
        rows = []
        objective = {result.cell: result.config["objective"] for result in results}
        pairs = [(AMVL, other) for other in ("ntp+fwd,beta=1", "ntp")] + _within(objective)
        for amvl, other in (pair for pair in pairs if set(pair) <= set(labels.cell)):
            for what in ("contaminated", "collapse"):
                only_other, only_amvl, p = mcnemar(labels, other, amvl, what)
                rows.append([what, f"only {other}: {only_other}", f"only {amvl}: {only_amvl}", f"p={p:.2g}"])
        if rows:
            parts.append("Paired by seed, McNemar's exact test\n" + text_table(rows, ["what", "", "", ""]))
    return "\n\n".join(parts)


def _planned(results: Sequence[Result], started: Sequence[Result], hops: int) -> list[str]:
    """The primary comparisons and the equivalences as text."""
    parts = []
    for title, chosen in (("all seeds", results), ("seeds whose warm-up started", started)):
        if chosen:
            parts.append(f"Primary, accuracy at {hops} hops, {title} [points]\n{_differences(primary(chosen))}")
    tested = equivalence(results)
    rows = [
        [r.comparison, _points(r.mean, r.low, r.high), str(r.n), "yes" if r.equivalent else "no"]
        for r in tested.itertuples()
    ]
    parts.append(
        f"Equivalence within {100 * EQUIVALENT:.0f} points (90 % interval)\n"
        + text_table(rows, ["difference", "points", "seeds", "equivalent"])
    )
    return parts


def _means(frame: pd.DataFrame, cells: Sequence[str], every: Sequence[int], hops: int) -> str:
    columns = [(f"accuracy_{h}", f"{h} hops [%]", 100, ".1f") for h in every]
    columns += [
        (f"accuracy_posterior_{hops}", "posterior [%]", 100, ".1f"),
        (f"accuracy_sampled_{hops}", "sample [%]", 100, ".1f"),
    ]
    columns += [
        (f"accuracy_exchanged_{hops}", "exchanged [%]", 100, ".1f"),
        (f"follows_patch_{hops}", "follows patch [%]", 100, ".1f"),
    ]
    columns += [(f"leaked_{hops}", "leaked [nats]", 1, ".3f")]
    values = {metric: by_seed(frame, metric) for metric, *_ in columns}
    rows = []
    for cell in (c for c in cells if c in set(frame.cell)):
        shown = []
        for metric, _, scale, form in columns:
            found = values[metric][cell].dropna() if cell in values[metric] else pd.Series(dtype=float)
            ends = interval(found) if len(found) > 1 else None
            shown.append(
                "-"
                if found.empty
                else f"{scale * found.mean():{form}}"
                + (f" [{scale * ends[0]:{form}}, {scale * ends[1]:{form}}]" if ends else "")
            )
        rows.append([cell, str(frame[frame.cell == cell].seed.nunique()), *shown])
    return f"Mean over seeds with its 95 % interval; right of {max(every)} hops all at {hops} hops\n" + text_table(
        rows, ["cell", "seeds", *(label for _, label, *_ in columns)]
    )


def _differences(table: pd.DataFrame) -> str:
    rows = [
        [r.comparison, _points(r.mean, r.low, r.high), str(r.n), f"{r.adjusted:.2g}", r.verdict]
        for r in table.itertuples()
    ]
    return text_table(rows, ["difference", "points, 95 % interval", "seeds", "p (Holm)", "verdict"])


def _points(mean: float, low: float, high: float) -> str:
    return f"{100 * mean:+.1f}" + (f" [{100 * low:+.1f}, {100 * high:+.1f}]" if np.isfinite(low) else "")
