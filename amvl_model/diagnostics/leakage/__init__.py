"""Leaked answer information and prior contamination.

information         leaked information and answer sensitivity of given posteriors (numpy)
contamination       both on a checkpoint, with KLs, train-inference gap and spreads
answer_direction    where the prior mean lies among the options' posteriors
slots               slot by slot and task by task
cross_modal         through the image and through the text
"""
