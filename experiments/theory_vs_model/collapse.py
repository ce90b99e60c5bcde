"""Planned test of T11 on trained checkpoints, and a planned look at T12; written before the first run of the study `reading`.

    python experiments/ablations.py reading --figure

**Event.** A run collapses if its held-out NLL with the posterior's mean is lower by more than 0.05 nats than with the prior's
mean: held_out.nll_gap_mean below -0.05, as RESULTS.md counts.

**Prediction.** T11 with the decoder's damping A = 0, so that three numbers are left. They were fitted to the older runs in
November and stand in THEORY.md, section 4; gamma follows the schedule of the runs, of which progress is steps done over steps:

    r(gamma) = ( -D + sqrt(D^2 + 4 r_0^2) )/2,  D = 8.27 gamma a step,  r_0 = 0.0054 a step,   P = erfc(8.5 exp(-int r dt)/sqrt 2)

**Named alternatives**, each fitted to the older runs (`older_runs`) by maximum likelihood; nothing is fitted to the study:

    constant hazard   P = 1 - exp(-int h_0/(1 + gamma/g_0) dt)        no growth: a step is as dangerous as any other
    gamma no effect   T11 with D = 0, its a_0 and r_0 fitted
    logistic          logit P = b_0 + b_1 steps + b_2 gamma           no mechanism

**One pooled test.** All cells together, runs independent (every cell has seeds of its own): the log likelihood of the counts
under T11 minus that under each alternative [nats], and the exact p of T11: the probability, under T11, of counts no more probable
than the observed ones. Effect size: root mean squared difference between observed and predicted shares, weighted by runs. The
table gives Wilson's 95 % interval of each share, and the log ratios to be expected if T11, or the alternative, is true: what so
many seeds can tell.

**Verdict**, in this order:

    cannot tell     fewer than `ENOUGH_RUNS` runs in all, or fewer than two cells with `ENOUGH_SEEDS` seeds
    refuted         p < 0.05 and a root mean squared difference of at least `EFFECT`
    beaten          an alternative is more likely by at least `STRONG` nats
    supported       T11 is more likely by at least `STRONG` nats than every alternative, and p >= 0.05
    not told apart  else, with the alternatives from which it is not told apart

A cell of fewer than `ENOUGH_SEEDS` seeds counts in the pooled test, but nothing is said of it alone. Runs are made in the order
of the study's cells and seeds until the time is used up, whatever they show.

**T12.** The widths grow with steps and with gamma. Of all AMVL runs, old and new, with a gamma above 0 (`prior_widths`): least
squares of log(prior std) on log(steps) and log(gamma), t intervals over runs. Direction: an exponent's interval above 0. Size:
T10 with a gap that no head closes: sigma ~ (gamma t)^(1/2); T12 under gradient descent gamma^(1/4) t^(1/2), under Adam t^1.
The fresh runs beside all: gamma 0.003 against 0.001 at 1,200 steps, and 1,200 against the older 600 steps at each of the two, as
ratios of geometric means with Welch's t interval. All of it once for all runs and once for those that have not collapsed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import binom, t, ttest_ind

from amvl_model.objectives import schedule
from amvl_model.results.files import Result, read_study
from amvl_model.results.text import text_table
from amvl_theory import ReadingModel, collapse_probability, reading_exponent

GAP, PRIOR_STD = "held_out.nll_gap_mean", "held_out.prior_spread"
EVENT = -0.05
"""Nats of held-out NLL gap below which a decoder reads the leak."""
A0, R0, DAMPING = 8.5, 0.0054, 8.27
"""T11's a_0 [1], r_0 [1/step] and D over gamma [1/step], fitted to the older runs (THEORY.md, section 4)."""
ENOUGH_SEEDS, ENOUGH_RUNS = 5, 20
EFFECT = 0.15
STRONG = 3.0
"""Nats of log likelihood ratio (a factor of 20) from which a model is called more likely."""
OLDER = ("leakage", "objectives", "length", "stability", "pareto")
SETTINGS = {
    "objective": {"beta": 0.001, "order": "forward-first", "beta_warmup": 0.1, "gamma_delay": 0.2, "gamma_warmup": 0.2},
    "model": {"num_latents": 4, "latent_dim": 16},
    "data": {"label_noise": 0.3, "train_size": 6000},
}
"""What an older run has in common with the study's."""
Share = Callable[[int, float], float]
"""Probability of collapse from steps and gamma (0: forward-only)."""


def gamma_path(steps: int, gamma: float, points: int = 201) -> tuple[np.ndarray, np.ndarray]:
    """Times and gamma at them (points,) of a run of the study [steps, 1/nat]."""
    o: Any = SETTINGS["objective"]
    progress = np.linspace(0, 1, points)
    share = [schedule(p, o["order"], o["beta_warmup"], o["gamma_delay"], o["gamma_warmup"])[1] for p in progress]
    return steps * progress, gamma * np.array(share)


def reading_share(steps: int, gamma: float, critical: float = A0, rate: float = R0, damping: float = DAMPING) -> float:
    """T11's probability of collapse; curvature and weight decay of 0 mean A = 0 (a curvature of 1e-12 stands for 0)."""
    model = ReadingModel(gain=1.0, curvature=1e-12, decoder_rate=rate**2 / damping, posterior_rate=damping)
    times, weights = gamma_path(steps, gamma)
    return float(collapse_probability(reading_exponent(model, times, 1.0, weights)[-1], critical))


def _hazard(values: np.ndarray) -> Share:
    per_step, half = np.exp(values)

    def share(steps: int, gamma: float) -> float:
        times, weights = gamma_path(steps, gamma)
        return float(-np.expm1(-np.trapezoid(per_step / (1 + weights / half), times)))

    return share


def _no_effect(values: np.ndarray) -> Share:
    critical, rate = np.exp(values)
    return lambda steps, gamma: reading_share(steps, 0.0, critical, rate)


def _logistic(values: np.ndarray) -> Share:
    return lambda steps, gamma: float(expit(values[0] + values[1] * steps / 100 + values[2] * gamma * 1000))


ALTERNATIVES: Mapping[str, tuple[Callable[[np.ndarray], Share], tuple[float, ...]]] = {
    "constant hazard": (_hazard, (np.log(1e-3), np.log(1e-3))),
    "gamma no effect": (_no_effect, (np.log(A0), np.log(R0))),
    "logistic": (_logistic, (-5.0, 1.0, -1.0)),
}
"""Named alternatives: from parameters to shares, and where the fit starts."""


def counts(results: Sequence[Result]) -> pd.DataFrame:
    """Runs and collapsed runs by steps and gamma (0: forward-only); a run without a gap is an error of its file."""
    rows = [(r.config["train"]["steps"], gamma_of(r), float(r.value(GAP) or 0.0) < EVENT) for r in results]
    table = pd.DataFrame(rows, columns=["steps", "gamma", "event"])
    return table.groupby(["steps", "gamma"], sort=False).event.agg(runs="count", events="sum").reset_index()


def gamma_of(result: Result) -> float:
    """Weight of the reverse KL, 0 of forward-only."""
    objective = result.config["objective"]
    return float(objective["gamma"]) if objective["name"] == "amvl" else 0.0


def older_runs(root: Path) -> list[Result]:
    """Forward-only and AMVL runs of the studies before this one with its settings, whatever their steps and gamma."""
    found = [result for study in OLDER for result in read_study(root / study)]
    return [
        r
        for r in found
        if r.config["objective"]["name"] in ("ntp+fwd", "amvl")
        and all(r.config[part].get(k) == v for part, wanted in SETTINGS.items() for k, v in wanted.items())
    ]


def log_likelihood(table: pd.DataFrame, share: Share) -> float:
    """Of binomial counts [nats]; shares are held between 1e-9 and 1 - 1e-9."""
    p = np.clip([share(int(s), float(g)) for s, g in zip(table.steps, table.gamma, strict=True)], 1e-9, 1 - 1e-9)
    return float(binom.logpmf(table.events, table.runs, p).sum())


def fitted(name: str, table: pd.DataFrame) -> Share:
    """An alternative with its parameters of greatest likelihood on these counts."""
    build, start = ALTERNATIVES[name]
    best = minimize(
        lambda values: -log_likelihood(table, build(values)),
        start,
        method="Nelder-Mead",
        options={"xatol": 1e-4, "fatol": 1e-5, "maxiter": 4000},
    )
    return build(best.x)


@lru_cache(maxsize=2)
def predictions(root: Path) -> dict[str, Share]:
    """T11 and the alternatives, none of them fitted to the study."""
    old = counts(older_runs(root))
    return {"T11": reading_share, **{name: fitted(name, old) for name in ALTERNATIVES}}


def exact_p(table: pd.DataFrame, shares: Sequence[float]) -> float:
    """Probability under these shares of counts that are no more probable than the observed ones."""
    each = [binom.pmf(np.arange(n + 1), n, p) for n, p in zip(table.runs, shares, strict=True)]
    joint = each[0]
    for more in each[1:]:
        joint = np.multiply.outer(joint, more).ravel()
    observed = prod(float(p[k]) for p, k in zip(each, table.events, strict=True))
    return float(joint[joint <= observed * (1 + 1e-9)].sum())


def wilson(events: int, runs: int) -> tuple[float, float]:
    """95 % interval of a share."""
    z = 1.959964
    centre, half = events + z**2 / 2, z * np.sqrt(events * (runs - events) / runs + z**2 / 4)
    return float((centre - half) / (runs + z**2)), float((centre + half) / (runs + z**2))


def pooled(table: pd.DataFrame, models: Mapping[str, Share]) -> dict[str, Any]:
    """The one test: exact p of T11, effect size, log ratios against every alternative, verdict, as the module says."""
    shares = {
        name: np.array([share(int(s), float(g)) for s, g in zip(table.steps, table.gamma, strict=True)])
        for name, share in models.items()
    }
    own, runs = shares["T11"], table.runs.to_numpy()
    first = log_likelihood(table, models["T11"])
    ratios = {name: first - log_likelihood(table, share) for name, share in models.items() if name != "T11"}
    differences = table.events.to_numpy() / runs - own
    found = {
        "p": exact_p(table, own),
        "rms": float(np.sqrt((runs * differences**2).sum() / runs.sum())),
        "ratios": ratios,
        "expected": {
            name: (_information(runs, own, shares[name]), -_information(runs, shares[name], own)) for name in ratios
        },
    }
    return found | {"verdict": _verdict(found, runs)}


def _information(runs: np.ndarray, true: np.ndarray, other: np.ndarray) -> float:
    """Expected log likelihood ratio of the true shares against others [nats]."""
    p, q = (np.clip(each, 1e-9, 1 - 1e-9) for each in (true, other))
    return float((runs * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))).sum())


def _verdict(found: Mapping[str, Any], runs: np.ndarray) -> str:
    if runs.sum() < ENOUGH_RUNS or (runs >= ENOUGH_SEEDS).sum() < 2:
        return f"cannot tell: {runs.sum()} runs, {(runs >= ENOUGH_SEEDS).sum()} cells with {ENOUGH_SEEDS} seeds"
    if found["p"] < 0.05 and found["rms"] >= EFFECT:
        return f"refuted: T11's shares miss the observed ones by {found['rms']:.2f} (p = {found['p']:.2g})"
    if beaten := [name for name, ratio in found["ratios"].items() if ratio <= -STRONG]:
        return f"beaten by {', '.join(beaten)}"
    near = [name for name, ratio in found["ratios"].items() if ratio < STRONG]
    if not near and found["p"] >= 0.05:
        return "supported against all named alternatives"
    against = f"not told apart from {', '.join(near)}" if near else "more likely than every alternative"
    return f"{against}; " + ("not refuted" if found["p"] >= 0.05 else f"misses by {found['rms']:.2f}, p < 0.05")


def prior_widths(results: Sequence[Result]) -> pd.DataFrame:
    """A row per AMVL run: study, steps, gamma, std (mean prior standard deviation [latent]), event."""
    rows = [
        (r.study, r.config["train"]["steps"], gamma_of(r), r.value(PRIOR_STD), float(r.value(GAP) or 0.0) < EVENT)
        for r in results
        if gamma_of(r) > 0
    ]
    return pd.DataFrame(rows, columns=["study", "steps", "gamma", "std", "event"])


def exponents(widths: pd.DataFrame) -> dict[str, tuple[float, float, float]]:
    """Of std in steps and in gamma: (estimate, low, high), 95 % t intervals over runs.

    Raises:
        ValueError: where steps or gamma do not vary enough to tell them apart.
    """
    x = np.stack([np.ones(len(widths)), np.log(widths.steps), np.log(widths.gamma)], axis=1)
    free = len(widths) - 3
    if np.linalg.matrix_rank(x) < 3 or free < 1:
        raise ValueError(
            f"widths: expected runs of several steps and gammas, received {len(widths)} that do not tell them"
        )
    y = np.log(widths["std"].to_numpy())
    inverse = np.linalg.inv(x.T @ x)
    best = inverse @ x.T @ y
    error = np.sqrt(((y - x @ best) ** 2).sum() / free * np.diag(inverse))
    half = t.ppf(0.975, free) * error
    return {name: (best[i], best[i] - half[i], best[i] + half[i]) for i, name in ((1, "steps"), (2, "gamma"))}


def width_ratio(first: pd.DataFrame, second: pd.DataFrame) -> tuple[float, float, float] | None:
    """Geometric mean of std, first over second, with Welch's 95 % interval; None with fewer than two runs in one of them."""
    if min(len(first), len(second)) < 2:
        return None
    a, b = np.log(first["std"].to_numpy()), np.log(second["std"].to_numpy())
    ends = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    return tuple(float(np.exp(v)) for v in (a.mean() - b.mean(), ends.low, ends.high))  # type: ignore[return-value]


def report(results: Sequence[Result], root: Path) -> str:
    """All of it as text.

    Args:
        results: of the study. root: folder of the results, where the older studies lie.
    """
    table, models = counts(results), predictions(root)
    found = pooled(table, models)
    rows = []
    for row in table.itertuples():
        low, high = wilson(int(row.events), int(row.runs))  # type: ignore[call-overload]
        few = " (few)" if row.runs < ENOUGH_SEEDS else ""
        shares = (f"{share(int(row.steps), float(row.gamma)):.2f}" for share in models.values())  # type: ignore[arg-type]
        seen = f"{row.events} of {row.runs}{few}"
        rows.append(
            [f"{row.steps}", f"{row.gamma:g}", seen, f"{row.events / row.runs:.2f} [{low:.2f}, {high:.2f}]", *shares]
        )
    tests = [
        [name, f"{ratio:+.2f}", f"{found['expected'][name][0]:+.2f}", f"{found['expected'][name][1]:+.2f}"]
        for name, ratio in found["ratios"].items()
    ]
    heads = ["steps", "gamma", f"gap below {EVENT:g}", "share, 95 %", *models]
    return "\n\n".join(
        [
            "Runs whose decoder reads the leak, and the share that each model predicts\n" + text_table(rows, heads),
            "Log likelihood of T11 minus that of [nats]\n"
            + text_table(tests, ["alternative", "observed", "expected if T11", "expected if it"]),
            f"T11: exact p = {found['p']:.2g}, root mean squared difference of shares {found['rms']:.2f}\n"
            f"verdict: {found['verdict']}",
            _widths_text(prior_widths([*older_runs(root), *results])),
        ]
    )


def _widths_text(widths: pd.DataFrame) -> str:
    lines = ["Prior std against steps and gamma (T12), AMVL runs"]
    for label, runs in (("all", widths), ("not collapsed", widths[~widths.event])):
        found = ", ".join(f"{n} {v:.2f} [{lo:.2f}, {hi:.2f}]" for n, (v, lo, hi) in exponents(runs).items())
        lines.append(f"exponents, {label} ({len(runs)} runs): {found}")
        fresh, old = runs[runs.study == "reading"], runs[runs.study != "reading"]
        long = fresh[fresh.steps == 1200]
        pairs = {
            "gamma 0.003 over 0.001, 1,200 steps": (long[long.gamma == 0.003], long[long.gamma == 0.001]),
            **{
                f"1,200 over 600 steps, gamma {g:g}": (
                    long[long.gamma == g],
                    old[(old.steps == 600) & (old.gamma == g)],
                )
                for g in (0.001, 0.003)
            },
        }
        for name, (first, second) in pairs.items():
            ratio = width_ratio(first, second)
            shown = "too few runs" if ratio is None else "{:.2f} [{:.2f}, {:.2f}]".format(*ratio)
            lines.append(f"  {name}: {shown} ({len(first)}, {len(second)} runs)")
    return "\n".join(lines)
