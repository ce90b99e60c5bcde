"""What watches a run.

guard       stops it at non-finite numbers, and computes a stopped step again
health      a line on the state of the latents at every log line, with warnings
probe       the leak on a fixed batch of training questions
measures    NLL under the prior in evaluations; what a run records for its model card
"""
