"""What is predicted and measured, and the quantities.

Figures of a question, the same for every approximation level:

    leak    leaked information I(Z;A|x), uniform options [nats]                         (diagnostics/leakage/information.py)
    known   leaked information with the known answer probabilities p(a|x) [nats]
    spread  root mean squared distance of the options' posterior means from their mean [prior standard deviations]
    shift   root mean squared distance of the options' posterior means from the prior mean [prior standard deviations]

and, for predictions alone, in the reference's own latent coordinates:

    direction  cosine between predicted and the reference's own displacements of the options' posterior means from their mean
"""

from __future__ import annotations

from dataclasses import dataclass, field

from amvl_model.data.schema import VisualQuestion
from amvl_model.data.synthetic import SyntheticBlink
from amvl_model.diagnostics.response.free_posterior import Search
from amvl_model.studies.declared import EASY_TASKS, GAMMA_GRID

QUANTITIES = {"leak": "nats", "known": "nats", "spread": "prior std", "shift": "prior std"}
DIRECTION = "direction"
UNITS = {**QUANTITIES, DIRECTION: "1"}
FLOORS = {"leak": 1e-3, "known": 1e-3, "spread": 1e-2, "shift": 1e-2}
"""Values below these are taken as these in logarithms: less than the Monte Carlo error of a leak, and a spread without effect."""

MORE_GAMMAS = (0.03, 0.1, 0.3)
"""Weights above the study's, where the theory and a frozen checkpoint can still be compared."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is predicted and measured.

    Attributes:
        gammas: the study's weights. more_gammas: further weights for everything that needs no trained checkpoint.
        noises: label-noise levels to predict, at `noise_gamma`. train_noise: of the reference.
        questions: held-out questions, the same for all seeds. free_questions: how many of them, from the front, get free
            posteriors, at `free_gammas`.
        heads: which trainings of latent heads alone, by the name of their level (`levels.heads.head_training`).
        both_gammas: at which both heads are trained together; at the other label noises they are too.
        few_gammas: at which the posterior's head is trained alone.
        head_questions: training questions behind them.
        samples: draws behind each leaked information.
        search: settings of the free posteriors.
        seed: of halves and draws.
    """

    gammas: tuple[float, ...] = GAMMA_GRID
    more_gammas: tuple[float, ...] = MORE_GAMMAS
    noises: tuple[float, ...] = (0.1, 0.5)
    noise_gamma: float = 0.001
    train_noise: float = 0.3
    tasks: tuple[str, ...] = EASY_TASKS
    questions: int = 48
    free_questions: int = 4
    heads: tuple[str, ...] = ("head 300", "both heads 300")
    free_gammas: tuple[float, ...] = (0.001, 0.01, 0.1)
    both_gammas: tuple[float, ...] = (0.0001, 0.001, 0.003, 0.01)
    few_gammas: tuple[float, ...] = (0.01,)
    head_questions: int = 640
    samples: int = 256
    search: Search = field(default_factory=Search)
    seed: int = 0

    @property
    def all_gammas(self) -> tuple[float, ...]:
        """Every weight of a prediction."""
        return tuple(sorted({*self.gammas, *self.more_gammas}))

    def held_out(self, noise: float | None = None) -> list[VisualQuestion]:
        """The held-out questions with the answer probabilities of a label noise (default: the reference's)."""
        drawn = SyntheticBlink(
            tasks=self.tasks,
            split="test",
            seed=self.seed,
            size=self.questions,
            label_noise=self.train_noise if noise is None else noise,
        )
        return drawn[:]
