"""The declared studies of the laboratory: multi-hop questions from its small bases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from amvl_model.studies.declared.study import Study
from amvl_model.studies.laboratory import BASES

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


LABORATORY = (
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
                "nested",
                "another task that is no pointer chasing (bars are compared one after another), as laboratory-walk",
                "Nested_Comparison",
                {"recipe.hops": {1: 1.0, 2: 1.0, 3: 2.0, 4: 2.0}, "recipe.learning_rate": 1e-3, "recipe.steps": 1000},
                {f"{arm},Nested_Comparison": {"objective": arm} for arm in ("ntp", "amvl", "sft", "elbo", "prior")},
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
)
