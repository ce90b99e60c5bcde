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


STUDIES = {
    study.name: study
    for study in (
        Study(
            name="pareto",
            purpose="leaked information against held-out answer NLL with prior latents, over beta and gamma",
            common={"data.tasks": EASY_TASKS, "data.eval_size": 50, "train.steps": 300, "train.report_to": ()},
            cells=_pareto_cells(),
        ),
    )
}
