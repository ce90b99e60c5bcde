"""The subcommands of ``amvl``: each module has its options, its help (the docstring), and ``main``, which returns the status.

train      the main job                      ask       a question about images of one's own
evaluate   benchmarks                        diagnose  what the latents leak, carry, and do
export     a plain checkpoint from sft       merge     LoRA adapters into a whole checkpoint
doctor     versions, devices, presets        memory    which training fits on which GPU

Nothing here imports torch before the options are read. The scripts full_blink.py, evaluate_benchmark.py and diagnose.py of the
repository are train, evaluate and diagnose.
"""
