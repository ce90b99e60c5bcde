"""Every figure and table of the paper, and our own, from results and from the reported numbers: ``python -m paper_figs``."""
