"""Training.

trainer        AMVLTrainer on transformers' Trainer
batches        data set, samplers, collator, latent noise by question
guard          stops a run at non-finite numbers, and computes a stopped step again
run_folder     lock, manifests of checkpoints, resuming, stopping at a signal
sharding       FSDP2, DeepSpeed, the whole weights of a sharded run
run            one run: train and save
pretraining    how the tiny base was made
"""
