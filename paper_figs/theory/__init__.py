"""Figures of the theory, and of theory against checkpoints."""
