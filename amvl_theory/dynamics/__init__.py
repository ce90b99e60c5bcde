"""How training moves (T7).

trajectories    exact trajectories, constant and scheduled weights
schedules       beta and gamma over time
propagation     the exact propagator of one piece
stability       eigenvalues, largest stable step, stationary covariance
"""
