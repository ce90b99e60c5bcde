"""The declared studies: which settings differ between cells. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from amvl_model.studies.laboratory import BASES


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
        measures: what is recorded, by the functions' names in measurement.py; none: all of `measure` of a trained cell.
        cell_seeds: per cell its own seeds, where cells are to be independent of each other; such a study runs cell by cell.
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
    measures: tuple[str, ...] = ()
    cell_seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
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


_READING: Mapping[str, Mapping[str, object]] = {
    "ntp+fwd,steps=450": {"objective.name": "ntp+fwd", "train.steps": 450},
    **{
        f"amvl,gamma={gamma:g},steps={steps}": {"objective.gamma": gamma, "train.steps": steps}
        for gamma, steps in ((0.0003, LONG), (0.003, 2 * LONG), (0.001, 2 * LONG))
    },
}
_POSTERIOR_STDS = ("per-answer", "shared")


_GATE: Mapping[str, Mapping[str, object]] = {
    "sft": {"objective": "sft"},
    "sft,layers=6": {"objective": "sft", "extra_layers": 3},
    "prior": {"objective": "prior"},
    "amvl": {"objective": "amvl"},
}
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


_RAMPS: Mapping[str, object] = {"beta_warmup": 0.1, "gamma_delay": 0.2, "gamma_warmup": 0.2}
_LABORATORY_BASELINES: Mapping[str, Mapping[str, object]] = {
    "prior,sequential": {"objective": "prior", "latent_order": "sequential"},
    "pause,repeats=2": {"objective": "pause", "recipe.repeats": 2},
    "amvl+prior,alpha=1": {"objective": "amvl+prior"},
    **{
        f"amvl,{order}": {"objective": "amvl", "schedule": {**_RAMPS, "order": order}}
        for order in ("forward-first", "reverse-first", "simultaneous")
    },
    "ntp+fwd,ramped": {"objective": "ntp+fwd", "schedule": _RAMPS},
}
_VARIATIONAL: Mapping[str, Mapping[str, object]] = {
    name: {"objective": name} for name in ("prior", "amvl", "ntp+fwd", "ntp", "elbo")
}


def _laboratory_varied(
    setting: str, label: str, values: Mapping[float, Sequence[str]]
) -> dict[str, Mapping[str, object]]:
    """Objectives at several values of one setting of the laboratory: value -> objectives, at beta = gamma = 1."""
    return {
        f"{name},{label}={value}": {**_VARIATIONAL[name], setting: value}
        for value, names in values.items()
        for name in names
    }


def _laboratory_cold() -> dict[str, Mapping[str, object]]:
    """All 2,000 steps, as many as the longest arms of the study laboratory have, on an arm's own objective; late: NTP only for
    the first quarter, then with the KL at its full weight (does a prior that was spoilt recover?)."""
    cold = {"warmup": 0, "recipe.steps": 2000}
    late = {"gamma_delay": 0.25, "gamma_warmup": 0.0}
    cells: dict[str, Mapping[str, object]] = {
        f"{name},cold": {**_VARIATIONAL[name], **cold} for name in ("ntp", "amvl", "elbo", "ntp+fwd", "prior")
    }
    for name, order in (("ntp+rev", "forward-first"), ("elbo", "reverse-first")):
        cells[f"{name},late"] = {"objective": name, "schedule": {**late, "order": order}, **cold}
    return cells


_IN_LABORATORY = {str(settings["objective"]): cell for cell, settings in _LABORATORY.items()}
_ELSEWHERE: tuple[tuple[str, Mapping[str, object], Sequence[str]], ...] = (
    ("shifted", {"recipe.shifted": True}, ("sft", "pause", "prior", "elbo", "amvl")),
    ("hops=4", {"recipe.hops": {4: 1.0}}, ("sft", "pause", "prior", "elbo", "amvl")),
    *((f"t={t:g}", {"recipe.hops": {3: 1.0}, "temperature": t}, ("prior", "elbo", "amvl")) for t in (0.5, 2.0, 4.0)),
)
_LABORATORY_ELSEWHERE: Mapping[str, Mapping[str, object]] = {
    f"{name},{where}": {"objective": name, **settings} for where, settings, names in _ELSEWHERE for name in names
}


STUDIES = {
    study.name: study
    for study in (
        *(
            Study(name=name, purpose=purpose, common={}, cells=cells, seeds=seeds, bases=MULTIHOP_BASES)
            for name, purpose, cells, seeds in (
                (
                    "laboratory",
                    "planned test: latents that are needed, and which objective keeps them (RESULTS.md)",
                    _LABORATORY,
                    tuple(range(100, 115)),
                ),
                (
                    "laboratory-weights",
                    "other weights and objectives in the laboratory, and SFT with twice the layers (the ceiling)",
                    _LABORATORY_WEIGHTS,
                    (100, 101, 102, 103, 104),
                ),
                (
                    "laboratory-baselines",
                    "latents one after another, a repeated question, a prior-sample term, rising weights",
                    _LABORATORY_BASELINES,
                    (100, 101, 102, 103, 104),
                ),
                (
                    "laboratory-noise",
                    "wrong labels after a warm-up on right ones: does the posterior leak them, and do latents keep working",
                    _laboratory_varied(
                        "recipe.label_noise",
                        "noise",
                        {0.3: tuple(_VARIATIONAL), 0.1: ("amvl", "ntp+fwd", "ntp"), 0.5: ("amvl", "ntp+fwd", "ntp")},
                    ),
                    (100, 101, 102, 103, 104),
                ),
                (
                    "laboratory-few",
                    "6,400 or 1,280 different training questions after the warm-up (8 and 40 passes over them)",
                    _laboratory_varied(
                        "recipe.different",
                        "questions",
                        {6400: ("prior", "amvl", "ntp+fwd", "ntp"), 1280: ("prior", "amvl", "ntp+fwd", "ntp")},
                    ),
                    (100, 101, 102, 103, 104),
                ),
                (
                    "laboratory-long",
                    "2,000 steps after the warm-up, five times the study laboratory's",
                    _laboratory_varied("recipe.steps", "steps", {2000: ("amvl", "elbo", "ntp", "prior", "ntp+fwd")}),
                    (100, 101, 102, 103, 104),
                ),
                (
                    "laboratory-cold",
                    "no warm-up: does a posterior that sees the answer spoil the prior before it has learnt anything?",
                    _laboratory_cold(),
                    tuple(range(115, 125)),
                ),
                (
                    "laboratory-latents",
                    "number of latents k and their dimension d; k = 2, d = 16 is in the study laboratory",
                    {
                        f"amvl,k={k},d={d}": {"objective": "amvl", "num_latents": k, "latent_dim": d}
                        for k, d in ((1, 16), (4, 16), (2, 4), (2, 64))
                    },
                    (100, 101, 102, 103, 104),
                ),
            )
        ),
        Study(
            name="laboratory-tasks",
            purpose="another task (a map for every hop) without a warm-up: does the leak take the prior along there too?",
            common={"recipe.task": "Changing_Cells", "warmup": 0, "recipe.steps": 1000},
            cells={
                **{
                    f"{name},Changing_Cells": {"objective": name}
                    for name in ("ntp", "amvl", "elbo", "sft", "prior", "ntp+fwd", "pause")
                },
                "sft,layers=6,Changing_Cells": {"objective": "sft", "extra_layers": 3},
            },
            seeds=tuple(range(100, 115)),
            bases=("changing-cells",),
        ),
        *(
            Study(
                name=f"laboratory-{name}",
                purpose=purpose,
                common={"recipe.task": task, "warmup": 0, **common},
                cells=cells,
                seeds=(100, 101, 102, 103, 104),
                bases=(BASES[task],),
            )
            for name, purpose, task, common, cells in (
                (
                    "walk",
                    "a task that is no pointer chasing (a walk between walls) without a warm-up, as laboratory-tasks",
                    "Grid_Walk",
                    {"recipe.learning_rate": 1e-3, "recipe.steps": 1000},  # the rate of its base
                    {f"{arm},Grid_Walk": {"objective": arm} for arm in ("ntp", "amvl", "sft", "elbo", "prior")},
                ),
                (
                    "gate",
                    "floor, ceiling and prior-sample training on Changing_Cells at three times the length (exploratory)",
                    "Changing_Cells",
                    {"recipe.steps": 3000},
                    {f"{arm},steps=3000": setting for arm, setting in _GATE.items()},
                ),
                (
                    "deeper",
                    "the same with a fourth hop, one more than the layers of the base (exploratory)",
                    "Changing_Cells",
                    {"recipe.hops": {1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0}, "recipe.steps": 3000},
                    {f"{arm},hops=4": setting for arm, setting in _GATE.items()},
                ),
            )
        ),
        Study(
            name="laboratory-elsewhere",
            purpose="checkpoints of the study laboratory on other shades and marks, on a hop more, and at other temperatures",
            common={},
            cells=_LABORATORY_ELSEWHERE,
            checkpoints={cell: ("laboratory", _IN_LABORATORY[cell.split(",")[0]]) for cell in _LABORATORY_ELSEWHERE},
            seeds=(100, 101, 102, 103, 104),
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
            name="reading",
            purpose="planned test of T11: how often the decoder reads the leak (experiments/theory_vs_model/collapse.py)",
            common={**_BASE, "objective.name": "amvl"},
            cells=_READING,
            seeds=tuple(range(200, 280)),
            cell_seeds={cell: tuple(range(200 + 20 * i, 220 + 20 * i)) for i, cell in enumerate(_READING)},
            measures=("held_out_leak",),
        ),
        Study(
            name="posterior-std",
            purpose="planned test of T10's floor: one posterior std for all answers (experiments/theory_vs_model/floor.py)",
            common={**_BASE, "objective.name": "amvl", "objective.gamma": 0.003},
            cells={std: {"model.posterior_std": std} for std in _POSTERIOR_STDS},
            seeds=tuple(range(300, 305)),
            measures=("held_out_leak",),
        ),
        Study(
            name="temperature",
            purpose="latents sampled at several temperatures, as trained and out of distribution; evaluates saved checkpoints",
            common={**_BASE, "eval.samples": 8},
            cells=_temperature_cells(),
            checkpoints={f"{name},t={t:g}": ("objectives", name) for name in _SAMPLED for t in TEMPERATURES},
            measures=("sampled",),
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
