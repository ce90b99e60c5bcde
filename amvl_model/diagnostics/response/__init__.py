"""Linear response of a checkpoint, as the arrays that the theory's model takes.

linear_response    answer forces, curvature, precisions and anchor
response_arrays    the same as arrays, saved and read
free_posterior     a posterior without amortisation, for every question and option
"""
