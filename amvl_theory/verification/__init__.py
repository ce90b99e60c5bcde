"""The nine statements compared three ways: closed form, proof and simulation (experiments/leakage_sim.py runs it).

core          what a comparison, a departure and a verdict are; random instances
fixed         T1 to T4: fixed variances
free          T5: the three objectives
transition    T6: leakage when the variances follow, and its phase transition
motion        T7: trajectories, schedules, stability, noise
learnt        T8: a prior learnt from finitely many questions
beyond        T9: saturating responses and mixtures
statements    runs them, and the proofs in a second process
grid          grids of parameters from a YAML file
report        verdicts as text and tables
"""
