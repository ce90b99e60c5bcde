"""Models around transformers' own Qwen-VL.

configuration    AMVLConfig, PauseConfig: what a checkpoint stores
distributions    DiagonalGaussian, its heads, KL, the answer's negative log-likelihood
amvl             AMVLForConditionalGeneration
pause            PauseForConditionalGeneration: the baselines sft and pause
backbone         what both have in common; quantisation
registration     what transformers' Auto classes know
inputs           what forward and generate take; embeddings of a batch
outputs          AMVLOutput
generation       decoding behind an encoded query; answering with samples of the prior
checkpoints      folders of weights: inspection, LoRA, pickles, the Hub
loading          from a name, folder or preset to a model, and back
tiny             the tiny Qwen2.5-VL and its tokenizer
"""
