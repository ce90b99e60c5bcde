"""What the scripts share that run another project's own code: some training steps, and what that code computes afterwards.

Needs nothing but torch, as it runs where those projects run. ``forward(question, option)`` returns the token ids (1, T) of the
question with one of its options, and the output of the project's model with loss, logits and inputs_embeds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

Forward = Callable[[dict[str, Any], int], tuple[Any, Any]]


def some_steps(
    questions: Sequence[dict[str, Any]], forward: Forward, parameters: Iterable[Any], *, steps: int, rate: float
) -> list[float]:
    """Steps of AdamW on one question each with the option that is its ``answer``; returns their losses."""
    optimizer = torch.optim.AdamW(parameters, lr=rate)
    losses = []
    for step in range(steps):
        question = questions[step % len(questions)]
        loss = forward(question, question["answer"])[1].loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    end = losses[-len(questions) :]
    print(f"loss {losses[0]:.3f} -> {sum(end) / len(end):.3f}")
    return losses


@torch.no_grad()
def write_reference(
    out: Path, questions: Sequence[dict[str, Any]], forward: Forward, losses: list[float], *, options: str, latents: int
) -> None:
    """OUT/reference.json: log-probability of every option, nats, and the inputs at the latents (latents, hidden).

    ``options`` is the field of a question with the token ids of its options.
    """
    reference = []
    for question in questions:
        size, scores = len(question["query"]), []
        for option in range(len(question[options])):
            ids, output = forward(question, option)
            log_probs = output.logits[0, size - 1 : -1].float().log_softmax(-1)
            scores.append(float(log_probs.gather(1, ids[0, size:, None]).sum()))
        thoughts = output.inputs_embeds[0, size - 1 - latents : size - 1]
        reference.append({"log_probs": scores, "thoughts": thoughts.tolist()})
    (out / "reference.json").write_text(json.dumps({"losses": losses, "questions": reference}) + "\n")
