"""Whether a decoder that learns will come to read the leak: T11 on a run.

growth      the closed forms of T10 and T11 that are needed here
probe       all of their quantities, measured on a small batch of training questions
forecast    from logged quantities to probabilities and the weight that holds: `amvl gamma`
"""
