"""Result files and the statistics on them; free of torch.

files         one schema for every result: writing, reading, checking
provenance    commit, dirty flag, versions, device
statistics    over questions: bootstrap within tasks, paired differences, calibration
seeds         over seeds: paired differences with Holm's correction
"""
