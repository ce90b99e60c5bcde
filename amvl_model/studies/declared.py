"""The declared studies: which settings differ between cells. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


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
        stand_ins: per cell the (study, cell) with the same settings whose results are read where this study has none; a cell
            that stands here and not in ``cells`` is never run again.
        checkpoints: per cell the (study, cell) whose saved checkpoint is evaluated; such a cell trains nothing.
        measures: what is recorded of such a cell, by the functions' names in measurement.py.
        reference: the cell that the others are compared with; None: the first.
        bases: of a study in the laboratory, its multi-hop bases, which take turns from seed to seed; the settings are then
            those of `amvl_model.studies.laboratory.arm.Arm`, and ``preset`` is not used.
    """

    name: str
    purpose: str
    cells: Mapping[str, Mapping[str, object]]
    preset: str = "tiny"
    common: Mapping[str, object]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    stand_ins: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    checkpoints: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    measures: tuple[str, ...] = ("sampled",)
    reference: str | None = None
    bases: tuple[str, ...] = ()

    @property
    def all_cells(self) -> tuple[str, ...]:
        """Cells that are run and cells that only stand in, in the order of a table."""
        return (*self.cells, *(name for name in self.stand_ins if name not in self.cells))


BETAS = (0.0003, 0.001, 0.003, 0.01, 0.03)
GAMMAS = (0.0003, 0.003, 0.03)
# one image each, so that a run takes a minute or two on one core, and solved by the tiny base: what the decoder cannot predict
# from the image is the label noise, and only that
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
    """At beta 0.001, where forward-only's NLL is as low as anywhere (Pareto study): gamma, label noise, the other objectives."""
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


# the settings of the studies below: those of the study leakage, with its gamma in the middle
_BASE: Mapping[str, object] = {
    **_EASY,
    "objective.beta": 0.001,
    "objective.gamma": 0.001,
    "train.precision": "bf16",
}
_PAIR = ("ntp+fwd", "amvl")


def _objective_cells() -> dict[str, dict[str, object]]:
    cells: dict[str, dict[str, object]] = {"amvl": {"objective.name": "amvl"}}
    for order in ("reverse-first", "simultaneous"):
        cells[f"amvl,{order}"] = {"objective.name": "amvl", "objective.order": order}
    return cells | {name: {"objective.name": name} for name in ("ntp+fwd", "elbo", "sft", "pause")}


_IN_LEAKAGE = {
    "amvl": ("leakage", "amvl,gamma=0.001"),
    **{name: ("leakage", name) for name in ("ntp+fwd", "elbo", "ntp", "fwd", "rev", "ntp+rev", "jeffreys")},
}


def _latent_cells() -> dict[str, dict[str, object]]:
    sizes = ((1, 16), (2, 16), (8, 16), (16, 16), (4, 4), (4, 64))
    return {f"k={k},d={d}": {"objective.name": "amvl", "model.num_latents": k, "model.latent_dim": d} for k, d in sizes}


def _varied(setting: str, label: str, values: tuple[int, ...]) -> dict[str, dict[str, object]]:
    """Forward-only and AMVL at several values of one setting."""
    return {f"{name},{label}={value}": {"objective.name": name, setting: value} for value in values for name in _PAIR}


TEMPERATURES = (0.0, 0.2, 0.5, 1.0, 1.5)
"""The paper reports 0.2 and 1.0 (and "default"); 0 is the prior mean."""
_SAMPLED = ("amvl", "ntp+fwd", "elbo")


def _temperature_cells() -> dict[str, dict[str, object]]:
    return {
        f"{name},t={t:g}": {"objective.name": name, "eval.temperature": t} for name in _SAMPLED for t in TEMPERATURES
    }


def _direction_cells() -> dict[str, dict[str, object]]:
    """Forward-only and AMVL of the study leakage: every gamma, every label noise."""
    return {cell: settings for cell, settings in _leakage_cells().items() if settings["objective.name"] in _PAIR}


LONG = 600
"""Steps at which forward-only's decoder mostly reads the leak, and AMVL's mostly not (study length, seeds 0 to 4)."""
_OTHERS = ("elbo", "sft", "pause")


def _length_cells() -> dict[str, dict[str, object]]:
    """Forward-only and AMVL at 100 and 600 steps, the other objectives and a larger gamma at 600; 300 stand in."""
    cells = _varied("train.steps", "steps", (100, LONG))
    cells |= {f"{name},steps={LONG}": {"objective.name": name, "train.steps": LONG} for name in _OTHERS}
    stronger: dict[str, object] = {"objective.name": "amvl", "objective.gamma": 0.003, "train.steps": LONG}
    return cells | {f"amvl,gamma=0.003,steps={LONG}": stronger}


MULTIHOP_BASES = ("multihop", "multihop-1", "multihop-2")
_LABORATORY: Mapping[str, Mapping[str, object]] = {
    "prior": {"objective": "prior"},
    "amvl,beta=1,gamma=1": {"objective": "amvl"},
    "ntp+fwd,beta=1": {"objective": "ntp+fwd"},
    "ntp": {"objective": "ntp"},
    "elbo,beta=1": {"objective": "elbo"},
    "sft": {"objective": "sft"},
    "pause": {"objective": "pause"},
}
_LABORATORY_WEIGHTS: Mapping[str, Mapping[str, object]] = {
    "ntp+fwd,beta=0.1": {"objective": "ntp+fwd", "beta": 0.1},
    "elbo,beta=0.1": {"objective": "elbo", "beta": 0.1},
    "amvl,beta=0.1,gamma=0.1": {"objective": "amvl", "beta": 0.1, "gamma": 0.1},
    "amvl,beta=1,gamma=0.1": {"objective": "amvl", "gamma": 0.1},
    "jeffreys,beta=1,gamma=1": {"objective": "jeffreys"},
    "sft,layers=6": {"objective": "sft", "extra_layers": 3},
}


STUDIES = {
    study.name: study
    for study in (
        Study(
            name="laboratory",
            purpose="planned test: latents that are needed, and which objective keeps them (RESULTS.md)",
            common={},
            cells=_LABORATORY,
            seeds=tuple(range(100, 115)),
            bases=MULTIHOP_BASES,
        ),
        Study(
            name="laboratory-weights",
            purpose="other weights and objectives in the laboratory, and SFT with twice the layers (the ceiling)",
            common={},
            cells=_LABORATORY_WEIGHTS,
            seeds=tuple(range(100, 105)),
            bases=MULTIHOP_BASES,
        ),
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
        Study(
            name="objectives",
            purpose="AMVL in three orders, forward-only, the ELBO, and two baselines without distributions: sft and pause",
            common=_BASE,
            cells=_objective_cells(),
            stand_ins=_IN_LEAKAGE,
        ),
        Study(
            name="latents",
            purpose="number of latents k and their dimension d; k = 4, d = 16 is in the study objectives",
            common=_BASE,
            cells=_latent_cells(),
            stand_ins={"k=4,d=16": ("objectives", "amvl")},
            reference="k=4,d=16",
        ),
        Study(
            name="length",
            purpose="length of training: forward-only and AMVL, at 600 steps others too; 300 steps are in the study objectives",
            common=_BASE,
            cells=_length_cells(),
            stand_ins={
                **{f"{name},steps=300": ("objectives", name) for name in (*_PAIR, *_OTHERS)},
                "amvl,gamma=0.003,steps=300": ("leakage", "amvl,gamma=0.003"),
            },
            reference="ntp+fwd,steps=300",
        ),
        Study(
            name="size",
            purpose="size of the training set: forward-only and AMVL; 6000 questions are in the study objectives",
            common=_BASE,
            cells=_varied("data.train_size", "size", (300, 1500)),
            stand_ins={f"{name},size=6000": ("objectives", name) for name in _PAIR},
            reference="ntp+fwd,size=6000",
        ),
        Study(
            name="stability",
            purpose="planned test on fresh seeds: after 600 steps, does the decoder read the leak less often with AMVL?",
            common={**_BASE, "train.steps": LONG},
            cells={name: {"objective.name": name} for name in _PAIR},
            seeds=tuple(range(5, 20)),
        ),
        Study(
            name="temperature",
            purpose="latents sampled at several temperatures, as trained and out of distribution; evaluates saved checkpoints",
            common={**_BASE, "eval.samples": 8},
            cells=_temperature_cells(),
            checkpoints={f"{name},t={t:g}": ("objectives", name) for name in _SAMPLED for t in TEMPERATURES},
            reference="amvl,t=0",
        ),
        Study(
            name="direction",
            purpose="what the prior mean has taken over of its own question's label, against gamma; evaluates saved checkpoints",
            common={**_EASY, "objective.beta": 0.001, "train.precision": "bf16", "eval.leakage_questions": 1000},
            cells=_direction_cells(),
            checkpoints={cell: ("leakage", cell) for cell in _direction_cells()},
            measures=("answer_direction", "out_of_distribution"),
        ),
    )
}
