"""Training.

trainer        AMVLTrainer on transformers' Trainer
arguments      AMVLTrainingArguments, and those of a run configuration
preparation    names as models, foreign data sets as questions
measures       NLL under the prior in evaluations; what a run records for its model card
batches        data set, stream, samplers, collator, latent noise by question
guard          stops a run at non-finite numbers, and computes a stopped step again
run_folder     lock, manifests of checkpoints, resuming, stopping at a signal
sharding       FSDP2, DeepSpeed, the whole weights of a sharded run
run            one run: train and save
pretraining    how the tiny base was made
"""
