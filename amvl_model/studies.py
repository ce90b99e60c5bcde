"""The declared studies: which settings differ between cells. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Study:
    """A table of runs.

    Attributes:
        name: folder under results/.
        purpose: the question it answers, one line.
        preset: configuration that every cell starts from.
        common: dotted settings shared by all cells.
        cells: per cell the dotted settings that make it.
        seeds: seeds of every cell; a seed sets weights, data and latent samples.
    """

    name: str
    purpose: str
    cells: Mapping[str, Mapping[str, object]]
    preset: str = "tiny"
    common: Mapping[str, object]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


BETAS = (0.0003, 0.001, 0.003, 0.01, 0.03)
GAMMAS = (0.0003, 0.003, 0.03)
# one picture each, so that a run takes a minute or two on one core, and solved by the tiny base: what the decoder cannot predict
# from the picture is the label noise, and only that
EASY_TASKS = ("Counting", "Object_Localization", "Relative_Depth", "Relative_Reflectance")
_EASY: Mapping[str, object] = {
    "data.tasks": EASY_TASKS,
    "data.eval_size": 50,
    "train.steps": 300,
    "train.report_to": (),
}


def _pareto_cells() -> dict[str, dict[str, object]]:
    cells: dict[str, dict[str, object]] = {
        f"forward-only,beta={beta:g}": {"objective.name": "ntp+fwd", "objective.beta": beta} for beta in BETAS
    }
    for beta in BETAS[1:4]:
        for gamma in GAMMAS:
            cells[f"amvl,beta={beta:g},gamma={gamma:g}"] = {
                "objective.name": "amvl",
                "objective.beta": beta,
                "objective.gamma": gamma,
            }
    return cells


GAMMA_GRID = (0.0001, 0.0003, 0.001, 0.003, 0.01)


def _leakage_cells() -> dict[str, dict[str, object]]:
    """At beta 0.001, where forward-only has its lowest NLL (Pareto study): gamma, label noise, then the other objectives."""
    cells: dict[str, dict[str, object]] = {"ntp+fwd": {"objective.name": "ntp+fwd"}}
    cells |= {f"amvl,gamma={gamma:g}": {"objective.name": "amvl", "objective.gamma": gamma} for gamma in GAMMA_GRID}
    for noise in (0.1, 0.5):
        cells[f"ntp+fwd,noise={noise:g}"] = {"objective.name": "ntp+fwd", "data.label_noise": noise}
        cells[f"amvl,gamma=0.001,noise={noise:g}"] = {
            "objective.name": "amvl",
            "objective.gamma": 0.001,
            "data.label_noise": noise,
        }
    for name in ("ntp", "fwd", "rev", "ntp+rev", "elbo", "jeffreys"):
        cells[name] = {"objective.name": name, "objective.gamma": 0.001}
    return cells


STUDIES = {
    study.name: study
    for study in (
        Study(
            name="pareto",
            purpose="leaked information against held-out answer NLL with prior latents, over beta and gamma",
            common=_EASY,
            cells=_pareto_cells(),
        ),
        Study(
            name="leakage",
            purpose="the checkpoints that the theory is held against: gamma, label noise and the eight objectives",
            common={**_EASY, "objective.beta": 0.001, "train.precision": "bf16"},
            cells=_leakage_cells(),
        ),
    )
}
