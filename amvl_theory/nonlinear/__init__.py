"""Beyond the linear Gaussian case (T9).

saturation        saturating responses
mixture           two-component mixture posteriors
common            quadrature and root finding of both
free_variances    variances free
"""
