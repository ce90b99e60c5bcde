"""Training.

trainer        AMVLTrainer on transformers' Trainer
arguments      AMVLTrainingArguments, and those of a run configuration
preparation    names as models, foreign data sets as questions
batches        data set, stream, samplers, collator, latent noise by question
run_folder     lock, manifests of checkpoints, resuming, stopping at a signal
sharding       FSDP2, DeepSpeed, the whole weights of a sharded run
run            one run: train and save
pretraining    how the tiny base was made
multihop_base  how the base of the multi-hop questions was made
monitoring     guard against non-finite numbers, health line, probe of the leak, measures
"""
