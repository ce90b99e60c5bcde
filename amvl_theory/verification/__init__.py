"""The twelve statements compared three ways: closed form, proof and simulation (experiments/leakage_sim.py runs it).

core          what a comparison, a departure and a verdict are; random instances
evidence/     the comparisons of each statement, by family
statements    runs them, and the proofs in a second process
grid          grids of parameters from a YAML file
report        verdicts as text and tables
"""
