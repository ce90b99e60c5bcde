"""Training.

trainer        AMVLTrainer on transformers' Trainer
arguments      AMVLTrainingArguments, and those of a run configuration
preparation    names as models, foreign data sets as questions
batches        data set, stream, samplers, collator, latent noise by question
run_folder     lock, manifests of checkpoints, resuming, stopping at a signal
sharding       FSDP2, DeepSpeed, the whole weights of a sharded run
run            one run: train and save
warm_up        prior-sample training before an objective
pretraining    how the shipped bases were made
monitoring     guard against non-finite numbers, health line, probe of the leak, measures
"""
