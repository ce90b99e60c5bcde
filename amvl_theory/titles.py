"""Titles of the statements: proofs, verification and documents share them."""

TITLES = {
    "T1": "Inheritance",
    "T2": "Frozen-prior response",
    "T3": "Coupled equilibrium",
    "T4": "Spread",
    "T5": "Forward-only, ELBO, dual KL",
    "T6": "Variance channel, transition",
    "T7": "Stability",
    "T8": "Amortised prior, finite data",
    "T9": "Beyond the linear Gaussian case",
    "T10": "Widening",
    "T11": "Reading the leak",
    "T12": "A decoder that learns",
}
"""Name -> what the statement is about, in a few words."""
