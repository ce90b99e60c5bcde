"""How probable it is that a run's decoder comes to read the leak by a step, and which weight would hold until then (T11).

    from amvl_model.diagnostics.reading.forecast import forecast_run
    print(forecast_run(Path("runs/mine"), until=2_000).report())             # amvl gamma --run runs/mine --until 2000

What is read of a run are the ``probe_`` numbers in metrics.jsonl (`probe.ProbeReport`) and its config.json. How the symbols of
T11 are estimated on a transformer under Adam:

    kappa, k       sqrt(v) and v, as of a calibrated softmax decoder; v the mean over questions of the largest eigenvalue of
                   diag(p) - p p^T, p the decoder's option probabilities with the prior's mean latents
    s              sigma_q^2 along the answer forces, as in the last probe; it is taken to stay (T10 and T12 say that it grows,
                   which slows a narrow posterior's reading)
    eta_q, eta_w   what a step of Adam at its present second moments teaches other questions (probe.py has the formulas): median
                   of the last `MEDIAN` probes over their learning rates, times the schedule's learning rate at each later step;
                   Adam's second moments and the clip factor are taken to stay
    w a            reading/kappa; reading = E delta_y . g_y [nats]
    r              T11's rate at the scheduled weights, with Adam's momentum (`growth.with_momentum`)
    collapse       reading = 0.05 nats, the size of the gain that RESULTS.md counts

Reading grows by exp(2 integral of r), and with the last reading's standard error e

    P = Phi( (reading - 0.05 exp(-2 integral of r))/e )

A probability above one half is given as it is. A lower one is given only where the growth of past readings has been seen and
agrees with r: rates estimated before have been too low, since the forces and leaks of then need not have the direction that comes
to be read (docs/gamma.md has the errors on past runs).
The weight that holds is the least one, times the run's schedule of it from now on, at which P is at most 5 %.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

import numpy as np

from amvl_model.config.schema import ObjectiveConfig, RunConfig
from amvl_model.diagnostics.reading.growth import (
    Array,
    ReadingRates,
    growth_rate,
    holding_weight,
    with_momentum,
)
from amvl_model.objectives import FORWARD_OF_BOTH, REVERSE, REVERSE_OF_BOTH, schedule

PREFIX = "probe_"
READ, COLLAPSE = 0.005, 0.05
"""Nats: what a reading must exceed beside its error to be called one; where the leak has taken over."""
HELD = 0.05
"""Probability of collapse at which a weight is said to hold."""
MEDIAN = 5
MOMENTUM = 0.9
"""beta_1 of the Trainer's AdamW."""
DISAGREE = 3.0
"""Factor between observed and computed growth from which on nothing is said."""
EARLY = "no growth of reading has been seen yet, and rates estimated so early have been too low on past runs"


@dataclass(frozen=True)
class Probed:
    """One probe of a run: step, and the numbers of `probe.ProbeReport` that a forecast needs."""

    step: int
    reading_nats: float
    reading_error: float
    answer_variance: float
    read_variance: float
    prior_read_variance: float
    decoder_rate: float | None = None
    posterior_rate: float | None = None
    gamma_x: float | None = None


def prefixed(numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The names under which a probe's numbers are logged."""
    return {PREFIX + name: value for name, value in numbers.items()}


def logged(rows: Sequence[Mapping[str, Any]]) -> list[Probed]:
    """The probes among log lines; a line without one is passed over."""
    names = [name for name in Probed.__dataclass_fields__ if name != "step"]
    values: list[dict[str, Any]] = [
        {"step": int(row["step"])} | {name: row.get(PREFIX + name) for name in names}
        for row in rows
        if row.get(PREFIX + "reading_nats") is not None
    ]
    return [Probed(**item) for item in values]


@dataclass(frozen=True)
class RunSchedule:
    """Loss weights and learning rate of a run at every step.

    Attributes:
        objective: the run's. steps: its length. warmup: steps of the learning rate's rise. dimensions: k d.
    """

    objective: ObjectiveConfig
    steps: int
    warmup: int
    dimensions: int

    @classmethod
    def of(cls, config: RunConfig, steps: int | None = None) -> RunSchedule:
        """The schedule of a run, or of one like it of another length."""
        length = config.train.steps if steps is None else steps
        size = config.model.num_latents * config.model.latent_dim
        return cls(config.objective, length, round(config.train.warmup * length), size)

    @property
    def pull(self) -> str:
        """Name of the weight that holds the posterior: gamma, or beta of the ELBO. Forward-only lacks it: gamma."""
        terms = self.objective.entry.terms
        return "beta" if FORWARD_OF_BOTH in terms and REVERSE_OF_BOTH not in terms else "gamma"

    def weights(self, step: float) -> tuple[float, float]:
        """beta and gamma."""
        return self.objective.weights(min(1.0, step / self.steps))

    def weight(self, step: float) -> float:
        """Of the KL that holds the posterior; 0 where the objective has none."""
        if not {REVERSE, REVERSE_OF_BOTH, FORWARD_OF_BOTH} & set(self.objective.entry.terms):
            return 0.0
        return dict(zip(("beta", "gamma"), self.weights(step), strict=True))[self.pull]

    def shape(self, steps: Array) -> Array:
        """That weight over its full value, also where the objective lacks it."""
        o, index = self.objective, ("beta", "gamma").index(self.pull)
        progress = np.minimum(1.0, steps / self.steps)
        return np.array(
            [schedule(float(p), o.order, o.beta_warmup, o.gamma_delay, o.gamma_warmup)[index] for p in progress]
        )

    def learning_rate(self, step: Any) -> Array:
        """Over its peak: linear rise, then a cosine to 0."""
        steps = np.asarray(step, dtype=np.float64)
        rise = steps / max(1, self.warmup)
        left = np.clip((steps - self.warmup) / max(1, self.steps - self.warmup), 0.0, 1.0)
        return np.asarray(np.where(steps < self.warmup, rise, 0.5 * (1 + np.cos(np.pi * left))))

    def effective(self, weight: Any, probe: Probed) -> Any:
        """T11's g of a weight: of the mean over dimensions it acts k d times less, the ELBO's on sigma_p^2."""
        scale = 1 / self.dimensions if self.objective.kl_reduction == "mean" else 1.0
        return weight * scale * (probe.read_variance / probe.prior_read_variance if self.pull == "beta" else 1.0)

    def growth_now(self, row: Mapping[str, Any], step: int) -> float | None:
        """r at one probe [1/step]; None where it cannot be told."""
        (probe,) = logged([{"step": step, **row}])
        rates = _rates(probe, probe.decoder_rate, probe.posterior_rate)
        return None if rates is None else float(_rate(rates, self.effective(self.weight(step), probe), 1.0))


@dataclass(frozen=True)
class Forecast:
    """What a run's probes say about reading by a step.

    Attributes:
        step, until: of the last probe; of the forecast.
        weight_name, weight: of the KL that holds the posterior, at its full value [1/nat].
        reading_nats, reading_error: at the last probe.
        growth: r now [1/step]. observed: the same from the growth of past readings; None where too few stand out.
        takeover: the step at which reading passes 0.05 nats; None if not by ``until`` or not known.
        probability: of collapse by then; None where it cannot be told.
        holding: weight at which the probability is 5 %; None if it cannot be told.
        reasons: why something cannot be told, or what limits it.
    """

    step: int
    until: int
    weight_name: str
    weight: float
    reading_nats: float
    reading_error: float
    growth: float | None = None
    observed: float | None = None
    takeover: int | None = None
    probability: float | None = None
    holding: float | None = None
    reasons: tuple[str, ...] = ()

    def report(self) -> str:
        """Several lines of text."""
        lines = [f"last probe: step {self.step}, reading {self.reading_nats:.4f} +- {self.reading_error:.4f} nats"]
        if self.growth is not None:
            seen = "" if self.observed is None else f" (observed: {self.observed:.4f})"
            lines.append(f"growth rate of reading now: {self.growth:.4f} a step{seen}")
        lines.append(self._verdict())
        return "\n".join([*lines, *(f"note: {reason}" for reason in self.reasons if self.probability is not None)])

    def warning(self) -> str:
        """One line for the log of a run in which reading has begun."""
        start = f"the decoder starts to read the leak ({self.reading_nats:.3f} nats to first order)"
        if self.reading_nats >= COLLAPSE:
            start = f"the decoder reads the leak ({self.reading_nats:.3f} nats to first order)"
        if self.probability is None:
            return f"{start}; when it takes over: cannot tell, {'; '.join(self.reasons)}"
        when = f"about step {self.takeover}" if self.takeover is not None else f"not by step {self.until}"
        return f"{start}; predicted to take over: {when}; {self._holding()}"

    def _verdict(self) -> str:
        if self.probability is None:
            return f"reading by step {self.until}: cannot tell: {'; '.join(self.reasons)}"
        when = "" if self.takeover is None else f", about step {self.takeover}"
        size = f"{100 * self.probability:.0f} %{when}"
        return f"reading by step {self.until} at {self.weight_name} {self.weight:g}: {size}\n{self._holding()}"

    def _holding(self) -> str:
        if self.holding is None:
            return f"no {self.weight_name} is known to hold to step {self.until}"
        return f"{self.weight_name} {self.holding:.3g} would hold to step {self.until} (at {100 * HELD:.0f} %)"


def forecast_run(folder: Path, until: int) -> Forecast:
    """The forecast of a run from its folder.

    Args:
        folder: with config.json and metrics.jsonl. until: a step, above 0; of more than train.steps: as if the run had been
            planned with so many, at its present state.

    Raises:
        FileNotFoundError: if one of the two files is missing.
        ValueError: for a step that is not above 0, or files that are no run's.
    """
    for name in ("config.json", "metrics.jsonl"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name} does not exist; expected the folder of a run")
    try:
        config = RunConfig.from_dict(json.loads((folder / "config.json").read_text()))
        rows = log_lines(folder)
    except json.JSONDecodeError as error:
        raise ValueError(f"{folder}: config.json or metrics.jsonl is not valid JSON ({error})") from error
    return forecast(rows, RunSchedule.of(config, max(until, config.train.steps)), until=until)


def log_lines(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; none where there is no such file."""
    log = folder / "metrics.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines() if line.strip()] if log.is_file() else []


def forecast(rows: Sequence[Mapping[str, Any]], plan: RunSchedule, *, until: int) -> Forecast:
    """The forecast from log lines, as the module's docstring says.

    Args:
        rows: log lines with "step", in order. plan: of the run, or of a longer one like it. until: a step, above 0.

    Raises:
        ValueError: for a step that is not above 0.
    """
    if until < 1:
        raise ValueError(f"until: expected a step above 0, received {until}")
    probes = [probe for probe in logged(rows) if probe.step <= until]
    full = plan.weight(plan.steps)
    if not probes:
        reason = "no probe was logged by then (train.probe_every 0, no latents, or a version before 0.2)"
        return Forecast(0, until, plan.pull, full, math.nan, math.nan, reasons=(reason,))
    last = probes[-1]
    base: dict[str, Any] = {
        "step": last.step,
        "until": until,
        "weight_name": plan.pull,
        "weight": full,
        "reading_nats": last.reading_nats,
        "reading_error": last.reading_error,
        "observed": _observed(probes),
    }
    resolved = last.reading_nats > 2 * last.reading_error
    if resolved and last.reading_nats >= COLLAPSE:
        return Forecast(**base, takeover=last.step, probability=1.0, reasons=("the leak is read already",))
    rates, reason = _typical(probes, plan)
    if rates is None:
        return Forecast(**base, reasons=(reason,))
    now = float(plan.learning_rate(last.step))
    steps = np.linspace(last.step, until, min(400, max(2, until - last.step + 1)))
    scale, shape = plan.learning_rate(steps) / now, plan.shape(steps)

    def exponents(weight: float) -> Array:
        rate = _rate(rates, plan.effective(weight * shape, last), scale)
        return np.append(0.0, np.cumsum(np.diff(steps) * 0.5 * (rate[1:] + rate[:-1])))

    growth = float(_rate(rates, plan.effective(plan.weight(last.step), last), 1.0))
    base["growth"] = growth
    observed = base["observed"]
    if observed is not None and not 1 / DISAGREE < growth / observed < DISAGREE:
        return Forecast(
            **base, reasons=(f"the observed growth, {observed:.4f} a step, is another than T11's {growth:.4f}",)
        )
    path, notes = exponents(full), list[str]()
    error = max(last.reading_error, 1e-9)
    needed = COLLAPSE * math.exp(-2 * path[-1])
    probability = NormalDist(last.reading_nats, error).cdf(2 * last.reading_nats - needed)
    if observed is None and (not resolved or probability < 0.5):
        return Forecast(**base, reasons=(EARLY,))
    grown = last.reading_nats * np.exp(2 * path)
    late = np.flatnonzero(grown >= COLLAPSE)
    base["takeover"] = round(float(steps[late[0]])) if late.size else None
    base["probability"] = probability
    certain = last.reading_nats + NormalDist().inv_cdf(1 - HELD) * last.reading_error
    allowed = 0.5 * math.log(COLLAPSE / certain)
    held = holding_weight(lambda weight: float(exponents(weight)[-1]), allowed)
    if held is None:
        notes.append("reading is too far for any weight to hold")
    elif last.gamma_x is not None and held > last.gamma_x and plan.pull == "gamma":
        notes.append(f"above gamma_x = {last.gamma_x:.2g} the KL itself sets Adam's scale, and more may be needed")
    return Forecast(**base, holding=held, reasons=tuple(notes))


def reading_warning(rows: Sequence[Mapping[str, Any]], plan: RunSchedule) -> str | None:
    """One line for the first log line at which two readings in a row stand out of their errors by `READ`; else None."""
    clear = [probe.reading_nats - 2 * probe.reading_error >= READ for probe in logged(rows)]
    pairs = [one and other for one, other in pairwise(clear)]
    if not pairs or not pairs[-1] or any(pairs[:-1]):
        return None
    return f"step {rows[-1]['step']}: {forecast(rows, plan, until=max(plan.steps, rows[-1]['step'])).warning()}"


def _rate(rates: ReadingRates, weight: Any, scale: Any) -> Array:
    rate = growth_rate(rates, weight, scale)
    return np.where(rate > 0, with_momentum(np.maximum(rate, 0.0), MOMENTUM), rate)


def _rates(probe: Probed, decoder: float | None, posterior: float | None) -> ReadingRates | None:
    if decoder is None or posterior is None or min(decoder, posterior, probe.answer_variance) <= 0:
        return None
    return ReadingRates(
        answer_variance=probe.answer_variance,
        variance=probe.read_variance,
        decoder_rate=decoder,
        posterior_rate=posterior,
    )


def _typical(probes: Sequence[Probed], plan: RunSchedule) -> tuple[ReadingRates | None, str]:
    """Rates at the last probe, or why there are none."""
    last, now = probes[-1], float(plan.learning_rate(probes[-1].step))
    if plan.objective.nll_reduction != "sum":
        return None, "rates are estimated for objective.nll_reduction sum alone"
    if now <= 0:
        return None, "the learning rate is 0 at the last probe"
    sizes: list[float] = []
    for name in ("decoder_rate", "posterior_rate"):
        values = [
            getattr(probe, name) / float(plan.learning_rate(probe.step))
            for probe in probes[-MEDIAN:]
            if getattr(probe, name) is not None and plan.learning_rate(probe.step) > 0
        ]
        if not values:
            return None, f"no {name} was logged (the optimizer has no second moments of Adam)"
        sizes.append(median(values) * now)
    rates = _rates(last, *sizes)
    if rates is None:
        return None, (
            f"what questions teach each other about the leak is not positive (eta_w {sizes[0]:.2g}, eta_q {sizes[1]:.2g} "
            "a step): there is no common answer direction yet"
        )
    return rates, ""


def _observed(probes: Sequence[Probed]) -> float | None:
    """Half the slope of ln reading over the last readings that stand out, at least 3 of them in a row [1/step]."""
    clear: list[Probed] = []
    for probe in reversed(probes[-MEDIAN:]):
        if probe.reading_nats <= max(2 * probe.reading_error, READ):
            break
        clear.append(probe)
    if len(clear) < 3:
        return None
    slope = np.polyfit([probe.step for probe in clear], [math.log(probe.reading_nats) for probe in clear], 1)[0]
    return float(slope) / 2 if slope > 0 else None
