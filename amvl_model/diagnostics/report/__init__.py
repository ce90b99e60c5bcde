"""Every diagnostic of a checkpoint in one report.

suite                which measures run, and their results as one dictionary
html                 the page
sections             its sections
figures              its figures
relevance_figures    relevance drawn over images and words
"""
