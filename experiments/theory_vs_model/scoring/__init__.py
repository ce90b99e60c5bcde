"""How right the predictions are.

tables         the figures of every question as a CSV file
scores         errors beside baselines, gaps between levels, rank correlations over questions
summary        scores as metrics and as text
"""
