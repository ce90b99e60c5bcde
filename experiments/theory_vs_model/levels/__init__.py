"""The approximation levels between the quadratic theory and training, one file per kind of decoder and posterior.

linear      T4, T6 held, T6 moving, T6 letter: amvl_theory's closed forms and solvers
decoder     softmax, softmax letter, free: posteriors searched freely
heads       latent heads trained alone on the frozen reference
encoded     the questions that they train on
"""
