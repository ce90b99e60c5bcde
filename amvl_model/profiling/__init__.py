"""Memory and time.

communication  bytes that FSDP2 exchanges and hours of a run, computed; free of torch
footprint      parameters and training memory, computed; free of torch
doctor         versions, devices, and which presets fit
dry_run        a run planned without being run
scale_check    one step of a large preset, measured
throughput     step time and memory beside plain fine-tuning
"""
