"""Models around transformers' own Qwen-VL.

configuration    AMVLConfig, PauseConfig: what a checkpoint stores
distributions    DiagonalGaussian, its heads, KL, the answer's negative log-likelihood
amvl             AMVLForConditionalGeneration, AMVLOutput
pause            PauseForConditionalGeneration: the baselines sft and pause
backbone         what both have in common; quantisation
inputs           what forward and generate take; embeddings of a batch
generation       decoding behind an encoded query; answering with samples of the prior
checkpoints      folders of weights: inspection, LoRA, pickles, the Hub
loading          from a name, folder or preset to a model, and back; what transformers' Auto classes know
tiny             the tiny Qwen2.5-VL and its tokenizer
"""
