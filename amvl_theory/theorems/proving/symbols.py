"""Scalar symbols of the model, in which the theorems are written, and exact fractions."""

from __future__ import annotations

import sympy as sp

R = sp.Rational

h, lambda_q, lambda_p, alpha, beta, gamma = sp.symbols("h lambda_q lambda_p alpha beta gamma", positive=True)
v0, s_q, s_p = sp.symbols("v_0 s_q s_p", positive=True)
g, gbar, c, delta, dbar = sp.symbols("g gbar c delta deltabar", real=True)
