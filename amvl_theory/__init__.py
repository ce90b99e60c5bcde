"""The Gaussian mean-leakage model of Asymmetric Mutual Variational Learning, proven, in closed form and simulated.

Read README.md in this folder first: the equations, the nine statements in words, and what they mean for beta and gamma.
Needs numpy, scipy and sympy only; nothing here imports torch or `amvl_model`.
"""

from __future__ import annotations

from amvl_theory.leakage import MeanLeakageModel

__all__ = ["MeanLeakageModel"]
