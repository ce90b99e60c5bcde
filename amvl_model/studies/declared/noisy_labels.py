"""The declared studies of wrong labels, on easy tasks from the tiny base."""

from __future__ import annotations

from collections.abc import Mapping

from amvl_model.studies.declared.study import Study

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


NOISY_LABELS = (
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
