"""Training before it comes to rest: T10 widening, T11 reading, T12 co-adaptation, and what follows from them.

flow            the one integrator, and loss weights that change with time
widening        T10: the reverse KL widens the posterior before it moves its mean
reading         T11: whether and when a decoder comes to read the leak
coadaptation    T12: no resting point once the decoder learns
random_start    the spread of a fixed decoder's posterior from a random start, at finite time
starving        what the leak does to the route from x to y, and to accuracy with prior latents
ensembles       minibatches, sampled latents, SGD and Adam, seeds by the thousand: the check on all of it
"""
