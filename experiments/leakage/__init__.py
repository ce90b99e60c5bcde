"""The twelve statements compared three ways, figures and sweeps: what `experiments/leakage_sim.py` is made of.

core            what a comparison, a departure and a verdict are; random instances
fixed           T1 to T4: fixed variances
free            T5: the three objectives
transition      T6: leakage when the variances follow, and its phase transition
motion          T7: trajectories, schedules, stability, noise
learnt          T8: a prior learnt from finitely many questions
beyond          T9: saturating responses and mixtures
in_motion       T10 to T12: widening, reading, co-adaptation
seeds           their figures: tables and panels with simulated seeds
statements      runs them, and the proofs in a second process
curves          the numbers behind every figure, as tables
plots, maps     tables to Axes; style.py holds their one style
figures         all panels and files of a run
sweep           grids of parameters from a YAML file
report          what a run prints and writes
"""
