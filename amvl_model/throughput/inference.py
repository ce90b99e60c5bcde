"""Time to the first answer token against plain generation, and eight latent samples against one."""

from __future__ import annotations

from typing import Any

import torch

from amvl_model.throughput.grid import Cell
from amvl_model.throughput.meters import device_name, in_turns
from amvl_model.throughput.steps import build_batch, build_model

SAMPLES = 8
DECODED = 16  # decoding steps behind the duration of one


def measure_inference(cell: Cell) -> dict[str, Any]:
    """Seconds of every round: first token of plain generation and of AMVL, sixteen more tokens, one and eight samples.

    Both sides run transformers' own decoding loop, greedily and without an early end.
    """
    model = build_model(cell.shape, cell.latents, device=cell.device, dtype=cell.dtype).eval()
    batch = {name: value for name, value in build_batch(cell).items() if not name.startswith("answer_")}
    plain: Any = model.backbone

    def options(tokens: int) -> dict[str, Any]:
        return {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}

    @torch.no_grad()
    def generate(kind: str, tokens: int, samples: int = 1) -> None:
        if kind == "plain":
            plain.generate(**batch, **options(tokens))
        else:
            model.generate(**batch, seed=0, num_return_sequences=samples, **options(tokens))

    runs = {
        "plain_first": lambda: generate("plain", 1),
        "latent_first": lambda: generate("latent", 1),
        "plain_more": lambda: generate("plain", 1 + DECODED),
        "one_sample": lambda: generate("latent", cell.answer),
        "eight_samples": lambda: generate("latent", cell.answer, SAMPLES),
    }
    return {
        "device": device_name(cell.device),
        "seconds": in_turns(runs, cell.repeats, cell.device),
        "decoded": DECODED,
        "samples": SAMPLES,
    }
