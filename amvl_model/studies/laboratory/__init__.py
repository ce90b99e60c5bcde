"""The laboratory: small bases on multi-hop questions that need more serial steps than the base has layers.

A base of L text layers that was pre-trained on few hops answers questions with more only through its latents: computed in pass 1
(depth L) and injected in pass 2 (depth L) they give depth 2L.

arm         what one run is made of
training    the warm-up that the arms of a seed share, and an arm
measures    accuracy by hops and by latents, leaked information, probes of the states, patched latents
study       declared studies: cells, seeds, bases; runs what is missing
analysis    the planned tests
job         the main job: five arms side by side, a table and a figure
"""
