"""Symbols for matrices of the model, of two modes, in which dense statements are written; vectors are columns."""

from __future__ import annotations

import sympy as sp

H, A, G, C, S, W, Lambda_q, Lambda_p = (sp.MatrixSymbol(name, 2, 2) for name in "H A G C S W Lambda_q Lambda_p".split())
gbar, dbar, c = (sp.MatrixSymbol(name, 2, 1) for name in ("gbar", "deltabar", "c"))
identity = sp.MatrixSymbol("I", 2, 2)
