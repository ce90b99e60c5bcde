"""The comparisons behind each statement; every t1 to t12 returns an `Evidence` (`verification.core`).

fixed         T1 to T4: fixed variances
free          T5: the three objectives
transition    T6: leakage when the variances follow, and its phase transition
motion        T7: trajectories, schedules, stability, noise
learnt        T8: a prior learnt from finitely many questions
beyond        T9: saturating responses and mixtures
in_motion     T10 to T12: widening, reading the leak, a decoder that learns
"""
