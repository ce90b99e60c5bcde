"""Do the latents matter? Checkpoints of other latent-reasoning projects under our diagnostics.

    from amvl_model.diagnostics.peers import diagnose_peer
    print(diagnose_peer("checkpoint_40", "coconut", questions, base="openai-community/gpt2").reports["interventions"].table())

    coconut     facebookresearch/coconut: torch.save of a language model's weights, thoughts fed back one after the other
    mirage      UMass-Embodied-AGI/Mirage: a Qwen2.5-VL folder with three more tokens, hidden states fed back likewise
    loading     from a name of a layout to an adapter; one call from a checkpoint to a report

Both put a block of latents between question and answer, and have no posterior that sees an answer: interventions are measured,
leaked information and whatever else compares posterior and prior is "not applicable". A layout that is not here needs a class
with three methods: `amvl_model.evaluation.latent_models.LatentModel`.

The adapters are written from what those projects' checkpoints contain and do; they contain none of their code.
"""

from amvl_model.diagnostics.peers.loading import LAYOUTS, diagnose_adapter, diagnose_peer, load_peer

__all__ = ["LAYOUTS", "diagnose_adapter", "diagnose_peer", "load_peer"]
