"""Figures of the theory (needs matplotlib).

curves     the numbers behind every figure, as tables
plots      tables to Axes
figures    all panels and files of a run of leakage_sim
style      their style
"""
