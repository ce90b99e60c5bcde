"""Answering: x is encoded once, latents are drawn from the prior, y is decoded behind the cached x.

Several latent samples of a question share the keys and values of x. Their tokens stand beside each other in one row of the
batch, and a mask lets each sample see x and itself only:

    row of a question    [ x | step 0 of samples 1 .. S | step 1 of samples 1 .. S | ... ]

So x is neither encoded nor stored S times, and a decoding step reads it once for all samples. Beam search, which exchanges
rows between steps, repeats the keys and values instead (not their computation).

Shapes: B questions, S samples a question, N query tokens, k latents, T new tokens of a sample in one step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, GenerationMixin
from transformers.modeling_outputs import CausalLMOutputWithPast

from amvl_model.two_pass.layout import PrefixCache, QueryState, right_padded, second_pass_mask, short_positions
from amvl_model.two_pass.passes import run_text_model
from amvl_model.two_pass.transformers_compat import CACHE

if TYPE_CHECKING:
    from amvl_model.models.distributions import DiagonalGaussian

FIRST_ROOM = 32  # tokens of a sample that a fresh buffer has room for, beside x; it doubles when it is full


class SampleCache(DynamicCache):
    """Keys and values of B queries, each once, and behind them those of S samples a query.

    Buffers are allocated ahead, so a step writes its own keys and values and copies nothing else.

    Args:
        prefix: the recorded queries.
        query_mask: (B, N), 1 at real tokens.
        samples: S.
    """

    def __init__(self, prefix: PrefixCache, query_mask: Tensor, samples: int) -> None:
        super().__init__()
        self.prefix, self.query_mask, self.samples = prefix, query_mask, samples
        self.prefix_length = query_mask.shape[1]
        self.filled = [0] * len(prefix.layers)  # tokens of a sample behind x, per layer
        self._buffers: list[tuple[Tensor, Tensor] | None] = [None] * len(prefix.layers)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of one sample, x included."""
        return self.prefix_length + self.filled[layer_idx]

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append (B, heads, T S, D); returns x and everything behind it, (B, heads, N + (filled + T) S, D)."""
        begin = self.prefix_length + self.filled[layer_idx] * self.samples
        end = begin + keys.shape[2]
        buffers = self._room(layer_idx, end, keys, values)
        for buffer, new in zip(buffers, (keys, values), strict=True):
            buffer[:, :, begin:end] = new
        self.filled[layer_idx] += keys.shape[2] // self.samples
        return buffers[0][:, :, :end], buffers[1][:, :, :end]

    def _room(self, layer_idx: int, end: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        existing = self._buffers[layer_idx]
        if existing is not None and existing[0].shape[2] >= end:
            return existing
        kept = self.prefix.layer(layer_idx) if existing is None else existing
        spare = FIRST_ROOM * self.samples if existing is None else existing[0].shape[2] - self.prefix_length
        grown = []
        for old, new in zip(kept, (keys, values), strict=True):
            size = (*new.shape[:2], max(old.shape[2] + spare, end), new.shape[3])
            buffer = new.new_empty(size)
            buffer[:, :, : old.shape[2]] = old
            grown.append(buffer)
        self._buffers[layer_idx] = (grown[0], grown[1])
        return grown[0], grown[1]

    def mask(self, tokens: int) -> Tensor:
        """(B, 1, T S, N + (filled + T) S), True = visible, for the next ``tokens`` T of every sample."""
        device, past = self.query_mask.device, self.filled[0]
        columns = torch.arange((past + tokens) * self.samples, device=device)
        rows = columns[past * self.samples :, None]
        same_sample = columns % self.samples == rows % self.samples
        tail = same_sample & (columns // self.samples <= rows // self.samples)
        seen = self.query_mask.bool()[:, None].expand(-1, len(rows), -1)
        return torch.cat([seen, tail.expand(len(seen), -1, -1)], dim=-1).unsqueeze(1)

    def side_by_side(self, rows: Tensor) -> Tensor:
        """(B S, T, ...) -> (B, T S, ...), the order of `update`."""
        apart = rows.unflatten(0, (-1, self.samples))
        return apart.transpose(1, 2).flatten(1, 2)

    def apart(self, rows: Tensor) -> Tensor:
        """The inverse of `side_by_side`."""
        return rows.unflatten(1, (-1, self.samples)).transpose(1, 2).flatten(0, 1)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Samples cannot be exchanged: beam search runs on repeated keys and values."""
        raise NotImplementedError("samples that share x cannot change places; beam search repeats the cache instead")

    def crop(self, *_: Any, **__: Any) -> None:
        """Tokens cannot be taken back."""
        raise NotImplementedError(
            "samples that share x cannot take tokens back; generate with num_return_sequences=1 for assisted decoding"
        )


class LatentGenerationMixin(GenerationMixin):
    """`generate` of `AMVLForConditionalGeneration`, through transformers' own decoding loop."""

    if TYPE_CHECKING:
        config: Any
        backbone: Any

        def encode_query(self, batch: Mapping[str, Tensor]) -> tuple[QueryState, DiagonalGaussian]: ...
        def inject(self, z: Tensor) -> Tensor: ...
        def get_input_embeddings(self) -> Any: ...
        def get_output_embeddings(self) -> Any: ...

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        latent_temperature: float = 1.0,
        latents: Tensor | Callable[[DiagonalGaussian], Tensor] | None = None,
        seed: int | None = None,
        num_return_sequences: int = 1,
        num_beams: int = 1,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Answer a batch of questions: encode x, draw Z from the prior, decode y with the cached x.

        Args:
            input_ids, attention_mask: (B, N), from `AMVLProcessor(questions, answers=False)`; padding on the left is moved to
                the right.
            latent_temperature: tau; scales the prior's standard deviation, 0 uses the prior mean.
            latents: (B * num_return_sequences, k, d) to use instead of a sample, or a function that makes them from the
                prior (rows of a question beside each other).
            seed: of the latent samples; the same seed gives the same latents.
            num_return_sequences: S, latent samples per question, sharing the keys and values of x.
            num_beams: of the search over answer tokens.
            **kwargs: any other option of transformers' generate (max_new_tokens, do_sample, ...).

        Returns:
            (B * num_return_sequences, T) generated token ids, without the prompt.
        """
        vision = {
            "pixel_values": pixel_values,
            "image_grid_thw": image_grid_thw,
            "mm_token_type_ids": mm_token_type_ids,
        }
        batch = right_padded({"input_ids": input_ids, "attention_mask": attention_mask, **vision})
        input_ids = batch["input_ids"]
        state, prior = self.encode_query(batch)
        if callable(latents):
            latents = latents(prior.repeat_interleave(num_return_sequences))
        elif latents is None:
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            prior = prior.repeat_interleave(num_return_sequences)
            latents = prior.rsample(temperature=latent_temperature, generator=generator)
        k, (questions, prefix) = self.config.num_latents, state.mask.shape
        rows = questions * num_return_sequences
        expected = (rows, k, self.config.latent_dim)
        if tuple(latents.shape) != expected:
            raise ValueError(f"expected latents of shape {expected} (samples, k, d), got {tuple(latents.shape)}")
        placeholder = input_ids.repeat_interleave(num_return_sequences, dim=0)
        prompt = torch.cat([placeholder, placeholder.new_zeros(rows, k)], dim=1)
        mask = state.mask.repeat_interleave(num_return_sequences, dim=0)
        cache = self._decoding_cache(state, num_return_sequences, num_beams)
        kwargs.setdefault("eos_token_id", self.config.get_text_config().eos_token_id)
        kwargs.setdefault("pad_token_id", _pad_id(self.config, kwargs["eos_token_id"]))
        output = super().generate(
            input_ids=prompt,
            attention_mask=F.pad(mask, (0, k), value=1),
            latent_tokens=self.inject(latents),
            next_position=state.next_position.repeat_interleave(num_return_sequences),
            prefix_length=prefix,
            num_beams=num_beams,
            **{CACHE: cache},
            **kwargs,
        )
        sequences = output if isinstance(output, Tensor) else output.sequences
        return sequences[:, prefix + k :]

    def _decoding_cache(self, state: QueryState, samples: int, beams: int) -> DynamicCache:
        """x as transformers' decoding loop takes it: shared by the samples, or repeated where beams change places."""
        if samples > 1 and beams == 1:
            return SampleCache(state.cache, state.mask, samples)
        cache = state.repeat_interleave(samples).cache.to_dynamic(self.config.get_text_config())
        if beams > 1:
            cache.batch_repeat_interleave(beams)
        return cache

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Inputs of one decoding step: first the k injected tokens, then one new token at a time."""
        cache, prefix, injected = kwargs[CACHE], kwargs["prefix_length"], kwargs["latent_tokens"]
        past = cache.get_seq_length()
        new = input_ids[:, past:]
        positions = short_positions(kwargs["next_position"], past - prefix + torch.arange(new.shape[1]))
        step = {"input_ids": new, "cache": cache, "position_ids": positions}
        step["inputs_embeds"] = injected if past == prefix else None
        if isinstance(cache, SampleCache):
            step["decode_mask"] = cache.mask(new.shape[1])
            return step
        if attention_mask is None:  # newer versions of transformers drop a mask of ones
            attention_mask = torch.ones_like(input_ids)
        step["decode_mask"] = second_pass_mask(attention_mask[:, :past], new.shape[1])
        return step

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        """transformers would refuse the keys that `generate` above passes on to the decoding steps."""

    def _prepare_position_ids_for_generation(self, inputs_tensor: Tensor, model_kwargs: dict[str, Any]) -> Any:
        return None  # prepare_inputs_for_generation makes them

    def _decode_step(
        self,
        input_ids: Tensor,
        cache: Any,
        position_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        mask: Tensor | None,
    ) -> CausalLMOutputWithPast:
        assert position_ids is not None
        x = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        shared = isinstance(cache, SampleCache)
        if shared:
            x = cache.side_by_side(x)
            position_ids = torch.stack([cache.side_by_side(axis) for axis in position_ids])
        hidden = run_text_model(self.backbone.model.language_model, x, position_ids, mask, cache)
        if shared:
            hidden = cache.apart(hidden)
        return CausalLMOutputWithPast(logits=self.get_output_embeddings()(hidden[:, -1:]), **{CACHE: cache})


def _pad_id(config: Any, eos: int | list[int]) -> int:
    pad: int | None = config.get_text_config().pad_token_id
    return pad if pad is not None else (eos[0] if isinstance(eos, list) else eos)
