"""Speed of the theory package beside torch autograd: `python experiments/leakage_speed/benchmark.py`."""
