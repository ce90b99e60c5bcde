"""A prior learnt from finitely many questions (T8).

amortised           equilibrium, noise and bias, optimal gamma
training            trajectories, early stopping, protections compared
finite_sample       averages over questions, the ridgeless limit
answer_direction    the shift along an answer's direction
"""
