"""What `forward` and `generate` take: right-padded batches of queries with answers or labels; and the embeddings of a batch.

Shapes: B batch, N query tokens, M answer tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from amvl_model.two_pass.attention import TEXT_ATTENTION
from amvl_model.two_pass.layout import full_mask, query_positions, real_first, right_padded

IGNORED = -100
"""The label of tokens that are not predicted."""


_HARMLESS = {"output_attentions": False, "output_hidden_states": False, "return_dict": True, "use_cache": False}
"""What peft's wrappers and other trainers say to `forward` of what it does anyway."""


def teacher_forced(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    answer_ids: Tensor | None,
    answer_mask: Tensor | None,
    labels: Tensor | None,
    vision: Mapping[str, Any],
) -> dict[str, Any]:
    """The right-padded batch of a query (B, N) and its answer (B, M), or of both in one sequence with labels (B, N + M).

    Raises:
        ValueError: without an answer, and as in `query_and_answer`.
    """
    batch: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask, **vision}
    if labels is not None:
        batch |= query_and_answer(input_ids, attention_mask, labels, answer_ids, vision.get("mm_token_type_ids"))
    elif answer_ids is None or answer_mask is None:
        raise ValueError(
            "forward needs answer_ids and answer_mask (B, M), or labels (B, N); to answer a question, call generate"
        )
    elif len(answer_ids) != len(input_ids):
        raise ValueError(f"expected an answer to each of {len(input_ids)} queries, got {len(answer_ids)}")
    else:
        batch |= {"answer_ids": answer_ids, "answer_mask": answer_mask}
    return right_padded(batch)


def vision_batch(
    model: Any, input_ids: Tensor, unknown: Mapping[str, Any], **vision: Tensor | None
) -> dict[str, Tensor]:
    """What is given of a query's images, checked against its ids (B, N).

    Raises:
        ValueError: for ids that are no tensor (B, N), for image tokens without images, for images without their sizes or with
            others, for token types that do not mark the image tokens, for a model whose weights were offloaded or whose
            attention was exchanged, and for outputs that its configuration asks for and that do not exist.
        TypeError: for ``unknown`` arguments, which nothing would read; None and what `_HARMLESS` says is none.
    """
    _check_model(model)
    unknown = {name: value for name, value in unknown.items() if value is not None and value is not _HARMLESS.get(name)}
    if unknown:
        raise TypeError(
            f"forward got {', '.join(sorted(unknown))}; beside query, answer and loss it takes {', '.join(sorted(vision))}"
        )
    if not isinstance(input_ids, Tensor) or input_ids.ndim != 2 or not input_ids.numel():
        shape = f" {tuple(input_ids.shape)}" if hasattr(input_ids, "shape") else ""
        raise ValueError(
            f"expected input_ids as a tensor (B, N) of torch, got {type(input_ids).__name__}{shape}; encode the question with "
            "return_tensors='pt', and pass the batch as **batch"
        )
    given = {name: value for name, value in vision.items() if value is not None}
    images = given.keys() & {"pixel_values", "image_features"}
    if images and "image_grid_thw" not in given:
        raise ValueError(f"got {images.pop()} without image_grid_thw; pass the whole batch, as the processor makes it")
    if not input_ids.is_meta:
        _check_images(input_ids == model.config.vlm_config.image_token_id, given)
    if model.get_input_embeddings().weight.is_meta and not input_ids.is_meta:
        raise ValueError(
            "the model's weights are on the meta device: they were not loaded, or were offloaded, which these models cannot "
            "use; load them with from_pretrained and device_map={'': DEVICE}"
        )
    return given


def _check_model(model: Any) -> None:
    """Raise where nothing would read what the configuration says, or another attention would read the passes' masks."""
    for name, value in (("output_hidden_states", True), ("output_attentions", True), ("return_dict", False)):
        if getattr(model.config, name, None) is value:
            raise ValueError(
                f"config.{name} must be {not value}, got {value}: the model returns an output object with logits"
            )
    attention = model.backbone.model.language_model.config._attn_implementation
    if attention != TEXT_ATTENTION:
        raise ValueError(
            f"the attention of the backbone's text model was set to {attention!r}, which does not read the masks of these "
            "models; load the model again, and leave the attention of its backbone as it is"
        )


def _check_images(is_image: Tensor, given: Mapping[str, Tensor]) -> None:
    """Raise unless image tokens (B, N), images, their sizes and the token types belong together."""
    if not given.keys() & {"pixel_values", "image_features"} and (tokens := int(is_image.sum())):
        raise ValueError(
            f"input_ids name images ({tokens} tokens), but pixel_values is missing; pass the whole batch, as the processor "
            "makes it"
        )
    types = given.get("mm_token_type_ids")
    if types is not None and types.shape == is_image.shape and not torch.equal(types == 1, is_image):
        raise ValueError(
            "expected mm_token_type_ids of 1 at image tokens and 0 elsewhere, got others; leave it out, or pass the "
            "processor's"
        )
    if "pixel_values" in given:
        patches, expected = len(given["pixel_values"]), int(given["image_grid_thw"].prod(dim=1).sum())
        if patches != expected:
            raise ValueError(
                f"expected {expected} patches in pixel_values, as image_grid_thw says, got {patches}; pass the whole batch, as "
                "the processor makes it"
            )


def query_and_answer(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    labels: Tensor,
    answer_ids: Tensor | None = None,
    token_types: Tensor | None = None,
) -> dict[str, Tensor]:
    """What `forward` takes: x is what stands before a row's first label, y the labelled tokens; what follows them is dropped.

    Args:
        input_ids, attention_mask: (B, T), x and y in one sequence, padded on either side.
        labels: (B, T), the tokens of y, -100 elsewhere.
        answer_ids: of another way to give the answer, to refuse both.
        token_types: (B, T), 1 at image tokens.

    Raises:
        ValueError: for both ways, for another shape, and for rows without x, without y, or with several labelled parts.
    """
    if answer_ids is not None:
        raise ValueError("forward takes labels or answer_ids, got both; leave one out")
    if labels.shape != input_ids.shape:
        raise ValueError(
            f"expected labels of the shape of input_ids, {tuple(input_ids.shape)}, got {tuple(labels.shape)}"
        )
    mask, is_answer = full_mask(input_ids, attention_mask).bool(), labels != IGNORED
    is_query = mask & (is_answer.cumsum(1) == 0)
    starts = (is_answer & ~torch.nn.functional.pad(is_answer[:, :-1], (1, 0))).sum(1)
    for row, (parts, length) in enumerate(zip(starts.tolist(), is_query.sum(1).tolist(), strict=True)):
        if parts != 1 or length == 0:
            raise ValueError(
                f"row {row}: expected labels with one part behind the question (-100 elsewhere), got {parts} parts behind "
                f"{length} tokens; label the last answer alone"
            )
    types = torch.zeros_like(input_ids) if token_types is None else token_types
    query_mask, query_ids, types = real_first(is_query.long(), input_ids, types)
    answer_mask, answer_ids = real_first(is_answer.long(), labels)
    width, answers = int(query_mask.sum(1).max()), int(answer_mask.sum(1).max())
    split = {
        "input_ids": query_ids[:, :width],
        "attention_mask": query_mask[:, :width],
        "answer_ids": answer_ids[:, :answers].clamp(min=0),
        "answer_mask": answer_mask[:, :answers],
    }
    return split if token_types is None else {**split, "mm_token_type_ids": types[:, :width]}


def query_of(model: Any, inputs: Tensor | None, options: Mapping[str, Any]) -> tuple[Tensor, dict[str, Any]]:
    """The ids of the queries of a call to ``generate`` as they were given, and the right-padded batch.

    Args:
        model: whose backbone's image token tells whether images belong to the query.
        inputs: input_ids under transformers' other name.
        options: the call's other arguments, the query's among them.

    Raises:
        ValueError: for no ids, or both, for padding without a mask that could also be ends of turns, and as `vision_batch`.
    """
    batch = {name: options.get(name) for name in QUERY_INPUTS}
    given = [ids for ids in (inputs, batch["input_ids"]) if ids is not None]
    if len(given) != 1:
        raise ValueError(f"generate needs input_ids (B, N) of the questions once, got them {len(given)} times")
    mask = batch.pop("attention_mask")
    vision = vision_batch(model, given[0], {}, **{name: batch[name] for name in batch if name != "input_ids"})
    if mask is None:
        mask = _mask_of_padding(model, given[0], options.get("pad_token_id"))
    return given[0], right_padded({"input_ids": given[0], "attention_mask": mask, **vision})


def _mask_of_padding(model: Any, ids: Tensor, pad: int | None) -> Tensor | None:
    """The mask (B, N) of queries that came without one, from their padding tokens as transformers infers it; None: no padding."""
    ends = model.generation_config.eos_token_id
    pad = model.generation_config.pad_token_id if pad is None else pad
    if pad is None or not bool((ids == pad).any()):
        return None
    if pad in (ends if isinstance(ends, list) else [ends]):
        raise ValueError(
            f"expected attention_mask, got none, and the padding token {pad} also ends a reply; pass the whole batch, as the "
            "processor makes it"
        )
    return (ids != pad).long()


QUERY_INPUTS = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw", "mm_token_type_ids")


def embed(
    backbone: Any, batch: Mapping[str, Any], query_mask: Tensor, answer_ids: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings of x with the image features in place (B, N, hidden) and of y (B, M, hidden; M = 0 without), and the M-RoPE
    positions of x (3, B, N).

    One lookup for both: the backward pass of every lookup makes a gradient of the whole table's size. A frozen vision tower is
    computed outside autograd.

    Raises:
        ValueError: if images and image tokens do not belong together.
    """
    ids, inner = batch["input_ids"], backbone.model
    both = backbone.get_input_embeddings()(ids if answer_ids is None else torch.cat([ids, answer_ids], dim=1))
    x, y = both[:, : ids.shape[1]], both[:, ids.shape[1] :]
    is_image = ids == backbone.config.image_token_id
    image = batch.get("image_features")
    if image is None and batch.get("pixel_values") is not None:
        trained = any(p.requires_grad for p in inner.visual.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and trained):
            features = inner.get_image_features(batch["pixel_values"], batch["image_grid_thw"])
            image = torch.cat(list(features.pooler_output), dim=0)
    if image is not None:
        if int(is_image.sum()) != len(image):
            raise ValueError(
                f"expected as many image tokens as image features, got {int(is_image.sum())} and {len(image)}; "
                "the batch's images and its input_ids do not belong together"
            )
        x = x.masked_scatter(is_image.unsqueeze(-1), image.to(x.dtype))
    types = batch.get("mm_token_type_ids")
    positions, deltas = query_positions(
        inner, ids, query_mask, is_image.int() if types is None else types, batch.get("image_grid_thw")
    )
    inner.rope_deltas = deltas  # never those of an earlier call
    return x, y, positions


def norm_ratio(injected: Tensor, embeddings: Tensor, mask: Tensor) -> Tensor:
    """Mean norm of the injected tokens (B, k, hidden) over that of the embeddings (B, N, hidden) where ``mask`` (B, N) is 1."""
    with torch.no_grad():
        norms = embeddings.float().norm(dim=-1)
        return injected.float().norm(dim=-1).mean() / ((norms * mask).sum() / mask.sum())
