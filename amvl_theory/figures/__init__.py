"""Figures of the theory (needs matplotlib; their style is `amvl_style`).

curves     the numbers behind every figure, as tables
plots      tables to Axes
figures    all panels and files of a run of leakage_sim
"""
