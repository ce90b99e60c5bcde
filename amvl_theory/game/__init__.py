"""The game between prior and posterior, simulated with the real losses and stop-gradients.

game             GaussianGame, its state, its exact gradients
simulate         gradient descent, thousands of instances at a time
setup            checks and shapes of a simulation
kernel           one step in place
shared_kernel    one step where all answers share a variance
"""
