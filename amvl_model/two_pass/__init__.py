"""One query, two passes: x is encoded once for prior, posterior and decoding.

layout            masks, positions and the cache of the shared prefix
attention         attention functions without N x N masks
last_layer        pass 1's last layer at the latents alone
shared_weights    weight gradients of both passes in one piece
recompute         gradient checkpointing through the shared prefix
"""
