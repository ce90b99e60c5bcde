"""Training.

trainer        AMVLTrainer on transformers' Trainer
batches        data set, samplers, collator, latent noise by question
sharding       FSDP2, DeepSpeed, checkpoints of sharded runs
run            one run: train and save
pretraining    how the tiny base was made
"""
