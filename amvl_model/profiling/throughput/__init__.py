"""Step time, memory, collectives and inference latency, side by side: what `experiments/throughput.py` runs."""
