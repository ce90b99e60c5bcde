"""How the shipped bases were made, before any latent is added.

tiny_base      the base of the synthetic BLINK questions
multihop_base  the base of the multi-hop questions
"""
