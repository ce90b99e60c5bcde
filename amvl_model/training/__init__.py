"""Training.

trainer        AMVLTrainer on transformers' Trainer
batches        data set, samplers, collator, latent noise by question
guard          stops a run at non-finite numbers, and computes a stopped step again
sharding       FSDP2, DeepSpeed, checkpoints of sharded runs
run            one run: train and save
pretraining    how the tiny base was made
"""
