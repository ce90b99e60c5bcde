"""One query, two passes: x is encoded once for prior, posterior and decoding.

layout                masks, positions, and the keys and values of the shared prefix
passes                how the text model's layers run in a pass: narrowing, recomputation, shared weight gradients
attention             attention functions without N x N masks
transformers_compat   the supported versions of transformers, guards against renamed arguments
"""
