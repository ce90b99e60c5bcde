"""Mirage (UMass-Embodied-AGI/Mirage, arXiv 2506.17218): Qwen2.5-VL whose last hidden states come back as latent visual tokens.

    [ x | <|latent_start|> | z_1 ... z_k | <|latent_end|> reply <|im_end|> ]        z_i = h(x, start, z_1 ... z_{i-1})

h is the hidden state at the last position, as the language head reads it. A checkpoint is a Qwen2.5-VL folder with
latent_size, latent_token_id, latent_start_id and latent_end_id in its config.json and three more tokens in its tokenizer. The
block stands where the checkpoint would open it itself after an optional text; it is placed, not waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.schema import LETTERS, VisualQuestion
from amvl_model.evaluation.scorers import BackboneScorer, EncodedQuery
from amvl_model.models.backbone import load_backbone
from amvl_model.models.checkpoints import inspect_checkpoint
from amvl_model.two_pass.attention import install_attention

_KEYS = ("latent_start_id", "latent_end_id")
REPLY = "The answer is \\boxed{{{letter}}}."
"""How Mirage's training data write an answer."""


class _BlockScorer(BackboneScorer):
    """[x | start | latents | end | reply]; z are the latents, input tokens (B, k, hidden)."""

    def __init__(self, model: Any, processor: AMVLProcessor, marks: Sequence[int], reply: str) -> None:
        super().__init__(model, processor)
        self.marks, self.reply = torch.tensor(marks, device=self.device), reply

    def encode(self, batch: Any) -> EncodedQuery:
        return EncodedQuery(
            super().encode(batch).state, None, None
        )  # the end mark, not x, predicts the reply's first token

    def option_ids(self, option: int) -> Tensor:
        if option not in self._answers:
            text = self.reply.format(letter=LETTERS[option])
            self._answers[option] = self.processor.encode_answer(text).to(self.device)
        return self._answers[option]

    def injected(self, query: EncodedQuery, z: Tensor | None) -> Tensor:
        assert z is not None
        start, end = self.model.get_input_embeddings()(self.marks).expand(len(z), 2, -1).split(1, dim=1)
        return torch.cat([start, z.to(start.dtype), end], dim=1)

    def thoughts(self, query: EncodedQuery, count: int) -> Tensor:
        """z_1 ... z_count (B, count, hidden), each from a short pass behind x."""
        start = self.model.get_input_embeddings()(self.marks[:1]).expand(len(query.state.mask), 1, -1)
        rows = start
        for _ in range(count):
            size = rows.shape[1]
            visible = torch.ones(size, size, dtype=torch.bool, device=self.device).tril()
            rows = torch.cat([rows, self._behind(query, rows, [torch.arange(size)], visible)[:, -1:]], dim=1)
        return rows[:, 1:]


@dataclass(frozen=True)
class EncodedBlock:
    """Encoded questions and the number of options of each."""

    query: EncodedQuery
    options: list[int]


class MirageModel:
    """A Mirage checkpoint as a `LatentModel`; options are scored as Mirage's data write answers.

    Args:
        module: a Qwen2.5-VL for conditional generation whose config names the marks.
        processor: its processor.
        num_latents: k; default: latent_size of the config.
        reply: an answer's text, with ``{letter}`` in the option's place.

    Raises:
        ValueError: for k below 1, a config without the marks, or a reply without ``{letter}``.
    """

    def __init__(
        self, module: Any, processor: AMVLProcessor, num_latents: int | None = None, *, reply: str = REPLY
    ) -> None:
        marks = [getattr(module.config, key, None) for key in _KEYS]
        count = getattr(module.config, "latent_size", None) if num_latents is None else num_latents
        if None in marks or not count or count < 1:
            raise ValueError(
                f"expected a Mirage checkpoint with {', '.join(_KEYS)} and latent_size in its config.json, got "
                f"{marks[0]}, {marks[1]} and {count}; save the model with them, or give num_latents"
            )
        if "{letter}" not in reply:
            raise ValueError(f"expected a reply with {{letter}} in the option's place, got {reply!r}")
        install_attention(module)
        self.module, self.num_latents = module, int(count)
        self.scorer = _BlockScorer(module, processor, [int(mark) for mark in marks if mark is not None], reply)

    @classmethod
    def from_pretrained(
        cls, checkpoint: str | Path, *, base: str | None = None, num_latents: int | None = None
    ) -> MirageModel:
        """Load the folder that Mirage's main.py wrote.

        Args:
            checkpoint: folder or hub id.
            base: folder or hub id of the tokenizer and image settings; default: the checkpoint itself. (Mirage saves the
                tokenizer, but not the image settings: give the Qwen2.5-VL that was trained where they are missing.)
            num_latents: k; default: the config's latent_size.

        Raises:
            FileNotFoundError, ValueError: if the folder is missing or is no Mirage checkpoint.
        """
        from transformers import AutoTokenizer

        inspect_checkpoint(checkpoint, expected_type="qwen2_5_vl")
        module, _ = load_backbone(str(checkpoint), dtype=torch.float32)
        try:
            processor = AMVLProcessor.from_pretrained(base or str(checkpoint))
        except OSError as error:
            raise ValueError(
                f"{checkpoint} lacks the settings of the image processor, which Mirage does not save; give the Qwen2.5-VL "
                "that was trained as base"
            ) from error
        if base is not None:
            processor = AMVLProcessor(AutoTokenizer.from_pretrained(str(checkpoint)), processor.image_processor)
        return cls(module.eval(), processor, num_latents)

    def encode(self, questions: Sequence[VisualQuestion]) -> EncodedBlock:
        """Read images and prompt in the checkpoint's chat template."""
        batch = self.scorer.processor(questions, answers=False)
        query = self.scorer.encode({name: tensor.to(self.scorer.device) for name, tensor in batch.items()})
        return EncodedBlock(query, [len(question.choices) for question in questions])

    def latents(self, query: EncodedBlock) -> Tensor:
        """The hidden states (B, k, hidden) that come back as input."""
        return self.scorer.thoughts(query.query, self.num_latents)

    def option_log_probs(self, query: EncodedBlock, z: Tensor) -> Tensor:
        """log p(reply|x,Z) (B, O), all options in one pass behind x."""
        return self.scorer.option_log_probs(query.query, z, query.options)
