"""Answering: x is encoded once, k input tokens follow it, y is decoded behind the cached x.

The k tokens are injected samples of the prior, or a baseline's pause tokens. transformers' decoding loop gets [x | k
placeholders] as its prompt and the keys and values of x as its cache, so that `GenerationConfig`, streamers, stopping criteria
and output dictionaries are its own.

Several latent samples of a question share the keys and values of x. Their tokens stand beside each other in one row of the
batch, and a mask lets each sample see x and itself only:

    row of a question    [ x | step 0 of samples 1 .. S | step 1 of samples 1 .. S | ... ]

So x is neither encoded nor stored S times, and a decoding step reads it once for all samples. Beam search, which exchanges
rows between steps, repeats the keys and values instead (not their computation).

Shapes: B questions, S samples a question, N query tokens, k latents, T new tokens of a sample in one step.
"""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, GenerationMixin, LogitsProcessorList, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import CausalLMOutputWithPast

from amvl_model.models.inputs import QUERY_INPUTS, query_of
from amvl_model.two_pass.layout import PrefixCache, QueryState, second_pass_mask, short_positions
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
        source = self.prefix.layer(layer_idx) if existing is None else existing
        spare = FIRST_ROOM * self.samples if existing is None else existing[0].shape[2] - self.prefix_length
        grown = []
        for old, new in zip(source, (keys, values), strict=True):
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


class PrefixGenerationMixin(GenerationMixin):
    """Decoding behind an encoded query and k tokens, through transformers' own decoding loop."""

    if TYPE_CHECKING:
        config: Any
        backbone: Any

        def get_input_embeddings(self) -> Any: ...
        def get_output_embeddings(self) -> Any: ...

    def _decode(
        self,
        query_ids: Tensor,
        batch: Mapping[str, Tensor],
        state: QueryState,
        tokens: Tensor,
        settings: GenerationConfig,
        *,
        streamer: Any = None,
        return_prompt: bool = False,
        **others: Any,
    ) -> Any:
        """Replies behind the cache of x.

        Args:
            query_ids: (B, N), as the caller gave them.
            batch: the same, right-padded.
            state: the encoded x.
            tokens: (B * S, k, hidden), k >= 1: what follows x; the last one predicts the first token of y.
            settings, others: `generation_settings`; its num_return_sequences counts for each row of ``tokens``.
            streamer, return_prompt: see `LatentGenerationMixin.generate`.
        """
        samples, prefix, k = len(tokens) // len(query_ids), state.mask.shape[1], tokens.shape[1]
        beams, sequences = (setting(self, settings, name) or 1 for name in ("num_beams", "num_return_sequences"))
        for name in ("max_length", "min_length"):  # the caller counts x, and not the k tokens behind it
            length = setting(self, settings, name)
            if length:
                setattr(settings, name, length + k)
        if setting(self, settings, "eos_token_id") is None:
            settings.eos_token_id = self.config.get_text_config().eos_token_id
        if setting(self, settings, "pad_token_id") is None:
            settings.pad_token_id = _pad_id(self.config, setting(self, settings, "eos_token_id"))
        # placeholders that penalties for repetition and stop strings have seen already: the token that x begins with
        prompt = torch.cat([batch["input_ids"], batch["input_ids"][:, :1].expand(-1, k)], dim=1)
        output = super().generate(
            input_ids=prompt.repeat_interleave(samples, dim=0),
            attention_mask=F.pad(state.mask, (0, k), value=1).repeat_interleave(samples, dim=0),
            generation_config=settings,
            latent_tokens=tokens,
            next_position=state.next_position.repeat_interleave(samples),
            prefix_length=prefix,
            streamer=None if streamer is None else _PromptStreamer(streamer, query_ids),
            **{CACHE: self._decoding_cache(state, samples, sequences, beams)},
            **_callbacks(others, query_ids, prefix + k, rows=samples * (sequences if beams == 1 else 1)),
        )
        result = output if isinstance(output, Tensor) else output.sequences
        result = result[:, prefix + k :]
        if return_prompt:
            result = torch.cat([_each(query_ids, len(result)), result], dim=1)
        if isinstance(output, Tensor):
            return result
        output.sequences = result
        return output

    def _decoding_cache(self, state: QueryState, samples: int, sequences: int, beams: int) -> DynamicCache:
        """x as transformers' decoding loop takes it: shared by the samples, or repeated where beams change places."""
        if beams == 1 and samples * sequences > 1:
            return SampleCache(state.cache, state.mask, samples * sequences)
        cache = state.repeat_interleave(samples).cache.to_dynamic(self.config.get_text_config())
        if beams > 1:
            cache.batch_repeat_interleave(max(beams, sequences))
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

    def init_continuous_batching(self, *_: Any, **__: Any) -> Any:
        """Refuse continuous batching, which transformers' `generate_batch` also begins with.

        Raises:
            ValueError: always.
        """
        raise ValueError("continuous batching is not supported, as its cache has no place for latents; call generate")

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        """transformers would refuse the keys of the decoding steps; unknown ones are refused by `_settings`."""

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


class LatentGenerationMixin(PrefixGenerationMixin):
    """`generate` of `AMVLForConditionalGeneration`."""

    if TYPE_CHECKING:

        def encode_query(self, batch: Mapping[str, Tensor]) -> tuple[QueryState, DiagonalGaussian]: ...
        def inject(self, z: Tensor) -> Tensor: ...

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        latent_temperature: float = 1.0,
        latents: Tensor | Callable[[DiagonalGaussian], Tensor] | None = None,
        seed: int | None = None,
        return_prompt: bool = False,
        streamer: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Answer a batch of questions: encode x, draw Z from the prior, decode y with the cached x.

        Args:
            inputs: transformers' other name of input_ids.
            generation_config: options of the decoding; default: the model's own, from generation_config.json.
            latent_temperature: tau; scales the prior's standard deviation, 0 uses the prior mean.
            latents: (B * num_return_sequences, k, d) to use instead of a sample, or a function that makes them from the
                prior (rows of a question beside each other).
            seed: of the latent samples; the same seed gives the same latents.
            return_prompt: put the query before the reply, (B * S, N + T), as transformers does for other models.
            streamer: gets the query and then every new token, as in transformers.
            **kwargs: input_ids, attention_mask (B, N), pixel_values, image_grid_thw, mm_token_type_ids, as `AMVLProcessor` makes
                them without answers (padding on the left is moved to the right); and any option of transformers' generate
                (max_new_tokens, do_sample, ...). num_return_sequences S is the number of latent samples of a question, which
                share the keys and values of x; num_beams searches the answer tokens of each sample.

        Returns:
            (B * S, T) generated token ids, without the prompt; with return_dict_in_generate transformers' output, whose
            ``sequences`` are these.

        Raises:
            ValueError: for an unknown argument, an option that the shared cache excludes, or latents of another shape.
        """
        samples = kwargs.pop("num_return_sequences", None)  # one latent each, so that greedy decoding allows it
        settings, others = generation_settings(self, generation_config, kwargs)
        query_ids, batch = query_of(self, inputs, kwargs)
        samples = samples or setting(self, settings, "num_return_sequences") or 1
        settings.num_return_sequences = 1
        state, prior = self.encode_query(batch)
        prior = prior.repeat_interleave(samples)
        if callable(latents):
            latents = latents(prior)
        elif latents is None:
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            latents = prior.rsample(temperature=latent_temperature, generator=generator)
        expected = tuple(prior.mean.shape)
        if tuple(latents.shape) != expected:
            raise ValueError(f"expected latents of shape {expected} (samples, k, d), got {tuple(latents.shape)}")
        if not bool(latents.isfinite().all()):
            raise ValueError(
                "expected finite latents, got NaN or infinity; check the model's weights or what made the latents"
            )
        return self._decode(
            query_ids,
            batch,
            state,
            self.inject(latents),
            settings,
            streamer=streamer,
            return_prompt=return_prompt,
            **others,
        )


def _each(query_ids: Tensor, rows: int) -> Tensor:
    """The queries (B, N) of the rows of the decoding loop (rows, N)."""
    return query_ids.repeat_interleave(rows // len(query_ids), dim=0)


def _callbacks(others: Mapping[str, Any], query_ids: Tensor, skipped: int, rows: int) -> dict[str, Any]:
    """The caller's functions, which get sequences as the caller knows them: its own query, and the reply behind it.

    Args:
        others: arguments of a call, these functions among them. Logits processors of transformers itself stay as they are, for
            the loop compares their types with those of its own.
        query_ids: (B, N), as the caller gave them.
        skipped: tokens of the loop's prompt.
        rows: of the loop for each query, without beams.
    """

    def on_batch(function: Any) -> Any:
        def call(ids: Tensor, scores: Any) -> Any:
            return function(torch.cat([_each(query_ids, len(ids)), ids[:, skipped:]], dim=1), scores)

        return call

    result = dict(others)
    if (allowed := result.get("prefix_allowed_tokens_fn")) is not None:
        result["prefix_allowed_tokens_fn"] = lambda row, ids: allowed(
            row, torch.cat([query_ids[row // rows], ids[skipped:]])
        )
    for name, kind in (("logits_processor", LogitsProcessorList), ("stopping_criteria", StoppingCriteriaList)):
        items = result.get(name) or ()
        own = "transformers." if name == "logits_processor" else ()
        result[name] = kind([f if type(f).__module__.startswith(own) else on_batch(f) for f in items])
    return result


class _PromptStreamer(BaseStreamer):
    """Hands the caller's query to a streamer in place of the loop's prompt with its placeholders."""

    def __init__(self, streamer: Any, query_ids: Tensor) -> None:
        self.streamer, self.query = streamer, query_ids

    def put(self, value: Tensor) -> None:
        first, self.query = self.query, None  # type: ignore[assignment]
        self.streamer.put(value if first is None else _each(first, len(value)).cpu())

    def end(self) -> None:
        self.streamer.end()


_REFUSED = {
    "use_cache": "the query stands in the cache",
    "cache_implementation": "the query stands in a cache of its own kind",
    "prefill_chunk_size": "the query is encoded in one piece",
    "output_attentions": "the decoding steps return logits alone",
    "output_hidden_states": "the decoding steps return logits alone",
    "assistant_model": "tokens cannot be taken back from the cache",
    "prompt_lookup_num_tokens": "tokens cannot be taken back from the cache",
    "assistant_early_exit": "tokens cannot be taken back from the cache",
    "is_assistant": "tokens cannot be taken back from the cache",
    "past_key_values": "the query is encoded by generate itself",
    "inputs_embeds": "the images are put into the embeddings of input_ids",
    "guidance_scale": "a second pass without the query is not defined",
    "negative_prompt_ids": "a second pass without the query is not defined",
    "token_healing": "the query ends with the assistant's turn",
    "custom_generate": "decoding behind the latents is this package's own",
}
_HARMLESS = {"use_cache": True, "guidance_scale": 1.0}
_EXTRA = frozenset({"tokenizer", "trust_remote_code"})


def generation_settings(
    model: Any, generation_config: GenerationConfig | None, options: Mapping[str, Any]
) -> tuple[GenerationConfig, dict[str, Any]]:
    """The options of a call to `generate`: a copy of its configuration with them, and the arguments that are none of its fields.

    The query's own arguments are passed over.

    Raises:
        TypeError: if generation_config is something else.
        ValueError: for an argument that nothing reads, and for an option that decoding behind a query's cache excludes.
    """
    if not isinstance(generation_config, GenerationConfig | None):
        raise TypeError(
            f"generate takes a query and a GenerationConfig by place, got {type(generation_config).__name__}; pass "
            "attention_mask and all others by name"
        )
    settings = GenerationConfig() if generation_config is None else copy.deepcopy(generation_config)
    options = {name: value for name, value in options.items() if name not in QUERY_INPUTS}
    others = {name: value for name, value in settings.update(**options).items() if value is not None}
    for name, reason in _REFUSED.items():
        value = others.get(name, setting(model, settings, name))
        if value is not None and (isinstance(value, Tensor) or value != _HARMLESS.get(name, False)):
            shown = value if isinstance(value, bool | int | float | str) else type(value).__name__
            raise ValueError(f"generate cannot use {name}={shown}: {reason}; leave it out")
    accepted = inspect.signature(GenerationMixin.generate).parameters.keys() | _EXTRA
    unknown = sorted(others.keys() - accepted)
    if unknown:
        own = [*QUERY_INPUTS, *inspect.signature(type(model).generate).parameters]
        close = difflib.get_close_matches(unknown[0], [*vars(settings), *accepted, *own], n=1, cutoff=0.75)
        hint = f"; did you mean {close[0]}?" if close else ""
        hint = "; encode the questions with answers=False" if "answer_ids" in unknown else hint
        raise ValueError(f"generate got unknown arguments: {', '.join(unknown)}{hint}")
    return settings, others


def setting(model: Any, settings: GenerationConfig, name: str) -> Any:
    """A field of the call's configuration, else of the model's; None where neither sets it."""
    value = getattr(settings, name, None)
    return getattr(model.generation_config, name, None) if value is None else value


def _pad_id(config: Any, eos: int | list[int]) -> int:
    pad: int | None = config.get_text_config().pad_token_id
    return pad if pad is not None else (eos[0] if isinstance(eos, list) else eos)
