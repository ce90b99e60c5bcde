"""Studies of many runs, and the main job.

declared       which studies there are, and their cells
runner         runs cells in processes or as submitit jobs; resumes
measurement    what is measured of a trained checkpoint
summary        the main job's table, text and figure
pareto         leakage against likelihood over beta and gamma
main_job       base, forward-only and AMVL side by side
"""
