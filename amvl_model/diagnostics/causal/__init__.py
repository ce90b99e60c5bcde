"""Effects of the latents on answers.

interventions    latents zeroed, shuffled, noised; pause tokens zeroed
mediation        another option's posterior; single slots knocked out
stability        over samples, changed images and text, and between slots
relevance        relevance maps of latents and answer over image tokens and words
"""
