"""Where training comes to rest, in closed form (T2 to T6).

fixed_variances       T2, T3, T4, T5: variances held
counter_examples      exact instances in which something grows with gamma
sweep                 T3 over millions of points
free_spread           T6: one mode, variances free
free_contamination    T5: means and variances free
several_modes         T6: dense curvature, the group lasso
per_answer            T6: a variance for every answer
measured_response     T4, T6 from a measured response: singular curvature, forces of any size
"""
