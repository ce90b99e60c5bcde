"""Figures of the paper, and our own, from results."""
