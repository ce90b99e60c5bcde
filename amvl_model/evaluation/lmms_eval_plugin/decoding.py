"""Replies and likelihoods for lmms-eval: latents from the prior, tokens through transformers' generate.

    reply           y decoded behind Z = prior mean, or Z = mean + temperature * std * noise
    likelihood      log p(y|x) = log mean_s p(y|x, Z_s) over the S latent samples s, nats

The noise of a question depends on the seed and on the question's own key alone: batch size, order and number of processes
do not change it. A plain backbone has no latents and is asked in the same way.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor

from amvl_model.config.schema import did_you_mean
from amvl_model.data.processing import AMVLProcessor, pad_right
from amvl_model.data.schema import VisualQuestion
from amvl_model.evaluation.lmms_eval_plugin.requests import DecodingSettings
from amvl_model.evaluation.scorers import EncodedQuery, LatentScorer, inference, sample_latents, scorer_for
from amvl_model.models.distributions import DiagonalGaussian

LATENTS = ("prior_mean", "prior")
DTYPES = ("float32", "bfloat16", "float16", "auto")


@dataclass(frozen=True, kw_only=True)
class LatentSettings:
    """Which Z the answers read.

    Attributes:
        latents: "prior_mean", or "prior" for samples.
        samples: S, samples behind a likelihood; a reply is decoded from one.
        temperature: scale of the prior's standard deviation in a sample.
        seed: of the samples, and of drawn tokens.
    """

    latents: str = "prior_mean"
    samples: int = 1
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.latents not in LATENTS:
            raise ValueError(f"latents must be one of {', '.join(LATENTS)}, got {self.latents!r}; correct --model_args")
        if not isinstance(self.samples, int) or self.samples < 1:
            raise ValueError(f"latent_samples must be a whole number of at least 1, got {self.samples!r}")
        if self.samples > 1 and self.latents == "prior_mean":
            raise ValueError(f"{self.samples} samples of the prior's mean are all the same; add latents=prior")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"latent_temperature must be finite and at least 0 (0 = the mean), got {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What a harness is told about the model.

    Attributes:
        pretrained: folder of an AMVL checkpoint or of a Qwen-VL backbone, or tiny, tiny-amvl, tiny-forward-only.
        dtype: of the weights: float32 (default), bfloat16, float16, or auto (as stored).
        latents: prior_mean (default), or prior for samples.
        latent_temperature: scale of the prior's standard deviation in a sample.
        seed: of latents and of drawn tokens.
        min_pixels, max_pixels: limits of an image's area [pixels]; default: the checkpoint's.
        max_new_tokens: longest reply where a task sets none [tokens].

    Raises:
        ValueError: for a value that cannot be used.
    """

    pretrained: str = ""
    dtype: str = "float32"
    latents: str = "prior_mean"
    latent_temperature: float = 1.0
    seed: int = 0
    min_pixels: int | None = None
    max_pixels: int | None = None
    max_new_tokens: int = 1024

    def __post_init__(self) -> None:
        if not self.pretrained:
            raise ValueError(
                "expected pretrained=DIR, the folder of an AMVL checkpoint or a Qwen-VL backbone, got none"
            )
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """The options of a call; raises a ValueError for a name that is none, with the most similar one."""
        names = [field.name for field in fields(cls)]
        for name in given:
            if name not in names:
                raise ValueError(f"unknown argument {name}={given[name]}; {did_you_mean(name, names)}")
        return cls(**given)

    def load(self, device: str | torch.device | None, *, samples: int = 1) -> Answerer:
        """The model with its processor on a device (None: a GPU if there is one); ``samples`` as in `LatentSettings`.

        Raises:
            ValueError: as `LatentSettings` and `Answerer`.
            FileNotFoundError: if the checkpoint is missing or incomplete.
        """
        settings = LatentSettings(
            latents=self.latents, samples=samples, temperature=float(self.latent_temperature), seed=self.seed
        )
        from amvl_model.models.loading import load_checkpoint, resolve

        model, _ = load_checkpoint(
            self.pretrained, dtype="auto" if self.dtype == "auto" else getattr(torch, self.dtype)
        )
        processor = AMVLProcessor.from_pretrained(
            resolve(self.pretrained), min_pixels=self.min_pixels, max_pixels=self.max_pixels
        )
        return Answerer(model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")), processor, settings)


@dataclass(frozen=True)
class Reply:
    """A decoded text with the number of tokens read (images included) and written."""

    text: str
    input_tokens: int
    output_tokens: int


class Answerer:
    """Answers questions with one model.

    Args:
        model: an AMVLForConditionalGeneration or a plain Qwen-VL backbone.
        processor: its processor.
        settings: which latents.

    Raises:
        ValueError: for latents requested of a plain backbone, or a model of another kind.
    """

    def __init__(self, model: Any, processor: AMVLProcessor, settings: LatentSettings) -> None:
        self.scorer = scorer_for(model, processor)
        self.model, self.processor, self.settings = model, processor, settings
        if hasattr(model, "pauses"):
            raise ValueError(
                "expected an AMVL checkpoint or a plain backbone, got a baseline (sft or pause), whose replies read no latents; "
                "evaluate it with `amvl evaluate`"
            )
        if not isinstance(self.scorer, LatentScorer) and settings.latents != "prior_mean":
            raise ValueError(
                f"latents={settings.latents} was passed for a plain backbone, which has none; leave it out, or load an AMVL "
                "checkpoint"
            )

    @property
    def has_latents(self) -> bool:
        """Whether the model is an AMVL model."""
        return isinstance(self.scorer, LatentScorer)

    def replies(
        self, questions: Sequence[VisualQuestion], keys: Sequence[str], settings: DecodingSettings
    ) -> list[Reply]:
        """One reply a question, decoded together.

        Args:
            questions: B of them.
            keys: (B,) what tells a question from all others, repetitions of itself included.
            settings: of the decoding.

        Raises:
            ValueError: for a question without images or with unusable ones.
        """
        batch = {name: t.to(self.scorer.device) for name, t in self.processor(questions, answers=False).items()}
        lengths = batch["attention_mask"].sum(1).tolist()
        devices = [self.scorer.device] if self.scorer.device.type == "cuda" else []
        with inference(self.model), torch.random.fork_rng(devices=devices):
            torch.manual_seed(_number(self.settings.seed, *keys) % 2**63)
            ids = self._generate(batch, keys, settings)
        written = [self._written(row) for row in ids]
        texts = [settings.cut(text) for text in self.processor.decode(ids)]
        return [Reply(*item) for item in zip(texts, lengths, written, strict=True)]

    def _generate(self, batch: dict[str, Tensor], keys: Sequence[str], settings: DecodingSettings) -> Tensor:
        options = settings.generate_options()
        if not self.has_latents:
            flipped = _left_padded(batch, self.processor.pad_token_id)
            length = flipped["input_ids"].shape[1]
            ids: Tensor = self.model.generate(**flipped, pad_token_id=self.processor.pad_token_id, **options)
            return ids[:, length:]
        drawn = self.model.generate(**batch, latents=lambda prior: self._latents(prior, keys)[0], **options)
        return torch.as_tensor(drawn)

    def _latents(self, prior: DiagonalGaussian | None, keys: Sequence[str]) -> list[Any]:
        """The samples, each (B, k, d); [None] for a plain backbone."""
        if prior is None:
            return [None]
        if self.settings.latents == "prior_mean":
            return [prior.mean]
        numbers, settings = [_number(key) for key in keys], self.settings
        drawn = sample_latents(prior, numbers, settings.samples, temperature=settings.temperature, seed=settings.seed)
        return list(drawn)

    def _written(self, row: Tensor) -> int:
        ends = (row == self.processor.end_of_turn_id).nonzero()
        return int(ends[0]) + 1 if len(ends) else int((row != self.processor.pad_token_id).sum())

    def likelihoods(
        self, questions: Sequence[VisualQuestion], keys: Sequence[str], continuations: Sequence[Sequence[str]]
    ) -> list[list[tuple[float, bool]]]:
        """Negative log-likelihood of given continuations.

        Args:
            questions, keys: as `replies` takes them.
            continuations: (B, any) texts; x is encoded once for all of a question's.

        Returns:
            per question and continuation, -log p(y|x) / M [nats a token] over its M tokens, without the end of the turn,
            and whether every token is the most likely one (under the first sample).

        Raises:
            ValueError: for a continuation without tokens, or as `replies`.
        """
        batch = {name: t.to(self.scorer.device) for name, t in self.processor(questions, answers=False).items()}
        result: list[list[tuple[float, bool]]] = [[] for _ in questions]
        with inference(self.model):
            query = self.scorer.encode(batch)
            drawn = self._latents(query.prior, keys)
            for place in range(max(len(item) for item in continuations)):
                texts = [item[min(place, len(item) - 1)] for item in continuations]
                for row, value in enumerate(self._scored(query, drawn, texts)):
                    if place < len(continuations[row]):
                        result[row].append(value)
        return result

    def _scored(self, query: EncodedQuery, drawn: Sequence[Any], texts: Sequence[str]) -> list[tuple[float, bool]]:
        rows = [self.processor.encode_answer(text.strip())[:-1] for text in texts]
        ids, mask = (t.to(self.scorer.device) for t in pad_right(rows, self.processor.pad_token_id))
        totals, greedy = [], None
        for z in drawn:
            logits = self.scorer.answer_logits(query, z, ids)
            log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
            item = log_probs.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
            totals.append(item.masked_fill(mask == 0, 0.0).sum(1))
            if greedy is None:
                greedy = ((logits.argmax(-1) == ids) | (mask == 0)).all(1)
        assert greedy is not None
        total = torch.stack(totals).logsumexp(0) - math.log(len(totals))
        return list(zip((-total / mask.sum(1)).tolist(), greedy.tolist(), strict=True))


def _number(*parts: Any) -> int:
    """A whole number that tells these parts from any others."""
    digest = hashlib.sha256("\0".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _left_padded(batch: dict[str, Tensor], pad: int) -> dict[str, Tensor]:
    """The batch padded on the left, as transformers' generate wants it of a plain backbone."""
    real = batch["attention_mask"].sum(1)
    flipped = dict(batch)
    for name, fill in (("input_ids", pad), ("attention_mask", 0), ("mm_token_type_ids", 0)):
        moved = torch.full_like(batch[name], fill)
        for row, length in enumerate(real.tolist()):
            moved[row, moved.shape[1] - length :] = batch[name][row, :length]
        flipped[name] = moved
    return flipped
