"""Equilibria in which means and variances move, behind T5 and T6.

coupled         one mode, one posterior variance for all answers
per_answer      a posterior variance for every answer
several_modes   several modes, dense curvature
"""
