"""What several measures share.

posteriors    q(z|x,a) of every option of a question
effects       distances between answers; answer scores
changes       small changes to images and texts; inputs taken from another question
gradients     gradients of the answer's likelihood
"""
