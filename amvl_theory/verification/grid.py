"""A full grid of closed-form equilibria from a YAML file of parameter values.

    force_mean: 0.8
    curvature: [0.5, 1.3]
    gamma: [0.0, 0.1, 1.0]
    absorption: [0.5, 0.9]        # or anchor: [...]; not both
    simulate: true                # optional: every point is simulated too

Each parameter is a number or a list; what is left out has its default. One row per point: fixed variances (T2 to T4), and means
and variances free (T5, T6).
"""

from __future__ import annotations

import difflib
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from amvl_theory import (
    GaussianGame,
    MeanLeakageModel,
    critical_weight,
    equilibrium_by_simulation,
    free_contamination,
    initial_state,
    mode_absorption,
    mode_contamination,
    self_consistent_spread,
)
from amvl_theory.checks import OBJECTIVES
from amvl_theory.verification.core import Table

DEFAULTS: dict[str, float] = {
    "force_mean": 0.8,
    "force_var": 1.0,
    "curvature": 1.3,
    "posterior_precision": 1.0,
    "prior_precision": 1.0,
    "anchor": 0.6,
    "beta": 0.7,
    "gamma": 0.5,
}
ABOVE_ZERO = ("curvature", "posterior_precision", "prior_precision", "beta")
LARGEST = 200_000
"""Most points of one sweep."""


class SweepError(ValueError):
    """A sweep file that cannot be used; the message names the key."""


def read_sweep(path: Path) -> tuple[dict[str, list[float]], bool]:
    """Parameter -> values, and whether to simulate.

    Raises:
        SweepError: naming the key, what was expected, what came, and the nearest valid key for an unknown one.
        FileNotFoundError: if there is no such file.
    """
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"--sweep: no file at {path}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SweepError(f"{path.name}: expected YAML, received what does not parse ({error})") from error
    if not isinstance(content, dict) or not content:
        raise SweepError(f"{path.name}: expected parameters with their values, received {type(content).__name__}")
    names = [*DEFAULTS, "absorption", "simulate"]
    for key in content:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, 1, 0.0)
            raise SweepError(f"{key}: expected one of {', '.join(names)}, received this key; did you mean {near[0]}?")
    simulated = content.pop("simulate", False)
    if not isinstance(simulated, bool):
        raise SweepError(f"simulate: expected true or false, received {simulated!r}")
    if "absorption" in content and "anchor" in content:
        raise SweepError("absorption: expected either absorption or anchor, received both")
    values = {key: _values(key, value) for key, value in content.items()}
    points = math.prod(len(column) for column in values.values())
    if points > LARGEST:
        raise SweepError(f"{path.name}: expected a grid of at most {LARGEST} points, received {points}")
    return values, simulated


def _values(key: str, given: Any) -> list[float]:
    column = given if isinstance(given, list) else [given]
    if not column:
        raise SweepError(f"{key}: expected a number or a list of numbers, received an empty list")
    low, high = (0.0, 1.0) if key == "absorption" else (-math.inf if key == "force_mean" else 0.0, math.inf)
    strict = key in (*ABOVE_ZERO, "absorption")
    expected = {True: "a number above 0", False: "a number of at least 0"}[strict]
    expected = {"absorption": "a number above 0 and at most 1", "force_mean": "a finite number"}.get(key, expected)
    for value in column:
        number = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
        if not number or value < low or value > high or (strict and value == 0):
            raise SweepError(f"{key}: expected {expected} (or a list of them), received {value!r}")
    return [float(value) for value in column]


def run_sweep(values: dict[str, list[float]], *, simulated: bool, progress: bool = False) -> Table:
    """Every combination of the values, defaults for what is left out, with the closed-form equilibria beside it."""
    from tqdm import tqdm

    keys = list(values)
    grid = np.array(list(itertools.product(*values.values())))
    size = len(grid)
    columns = {name: np.full(size, value) for name, value in DEFAULTS.items()}
    columns |= {name: grid[:, i] for i, name in enumerate(keys)}
    beta, prior = columns["beta"], columns["prior_precision"]
    if "absorption" in columns:
        columns["anchor"] = beta * prior * (1 - columns["absorption"]) / columns["absorption"]
    h, v0, gamma = columns["curvature"], columns["force_var"], columns["gamma"]
    s = mode_absorption(beta, prior, columns["anchor"])
    pull = gamma * columns["posterior_precision"]
    table = {name: columns[name] for name in DEFAULTS}
    table |= {"absorption": s}
    table["contamination"] = mode_contamination(columns["force_mean"], h, columns["posterior_precision"], s, gamma)
    table["posterior_shift"] = columns["force_mean"] / (h + pull * (1 - s))
    table["spread"] = v0 / (h + pull) ** 2
    table["leaked_nats"] = 0.5 * np.log1p(columns["posterior_precision"] * table["spread"])
    table["critical_gamma"] = critical_weight(v0, h)
    free = self_consistent_spread(v0, h, gamma)
    table |= {"free_spread": free.variance, "free_leaked_nats": free.leaked_nats}
    for name in OBJECTIVES:
        table |= {f"free_contamination_{name}": np.empty(size), f"free_roots_{name}": np.empty(size, dtype=int)}
    for i in tqdm(range(size), desc="sweep", disable=not progress):
        one = {name: columns[name][i] for name in ("curvature", "force_mean", "anchor")}
        model = MeanLeakageModel(force_cov=columns["force_var"][i], **one)
        for name in OBJECTIVES:
            roots = free_contamination(model, beta[i], gamma[i], name)  # type: ignore[arg-type]
            stable = roots.values[roots.stable]
            table[f"free_contamination_{name}"][i] = stable[np.abs(stable).argmin()] if len(stable) else np.nan
            table[f"free_roots_{name}"][i] = len(roots.values)
    if simulated:
        table["simulated_contamination"] = _simulated(columns)
    return table


def _simulated(columns: dict[str, np.ndarray]) -> np.ndarray:
    """Contamination at fixed variances by descent on the losses; NaN where it did not come to rest."""
    forces = columns["force_mean"][:, None, None] + np.sqrt(columns["force_var"])[:, None, None] * np.array(
        [[[1.0], [-1.0]]]
    )
    game = GaussianGame(forces, columns["curvature"][:, None], columns["anchor"][:, None], None, True, False, False)
    start = initial_state(
        game,
        posterior_var=1 / columns["posterior_precision"][:, None, None],
        prior_var=1 / columns["prior_precision"][:, None],
    )
    run = equilibrium_by_simulation(game, beta=columns["beta"], gamma=columns["gamma"], initial=start, tolerance=1e-10)
    return np.where(run.converged, run.state.contamination[:, 0], np.nan)
