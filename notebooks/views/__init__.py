"""What the notebooks call: figures, tables and sliders. Notebooks contain prose and calls; the logic is here, with tests.

show         figures and sliders in a notebook
by_hand      01: one latent mode, its equilibrium and its figures
simulation   02: the theory's figures, and a game on its way to the closed form
training     03: two small runs and their curves
checkpoints  04, 05, 06: which checkpoints and questions, and what is measured on them
studies      the shipped results beside them, or one line on what is missing
prediction   06: measured linear response against measured leakage
"""
