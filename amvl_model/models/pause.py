"""The two baselines without a distribution over latents: supervised fine-tuning, and pause tokens.

    sft      [ x | y ]                      L = -log p(y | x)
    pause    [ x | k pause tokens | y ]     L = -log p(y | x, w_1 .. w_k)

The k input embeddings w are weights: the same for every question, no posterior, no prior, nothing is drawn. They give the
backbone k positions to compute at and no channel from the answer, so nothing can leak. Goyal et al. 2023 (arXiv 2310.02226)
repeat one learnt <pause> token; here each of the k places has an embedding of its own, as each of AMVL's slots has.

y stands where it stands behind AMVL's latents, k places after x. One forward pass; x is causal, the short rows behind it see
x without its padding.

Shapes: B batch, N query tokens, M answer tokens, k pause tokens (0 for sft), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import ModelOutput

from amvl_model.models.backbone import AroundBackbone, load_backbone, take_over
from amvl_model.models.checkpoints import check_weights
from amvl_model.models.configuration import PauseConfig
from amvl_model.models.distributions import answer_nll
from amvl_model.models.generation import PrefixGenerationMixin, generation_settings
from amvl_model.models.inputs import query_of, teacher_forced, vision_batch
from amvl_model.two_pass.attention import install_attention
from amvl_model.two_pass.layout import (
    PrefixCache,
    QueryState,
    query_positions,
    second_pass_mask,
    short_positions,
)
from amvl_model.two_pass.passes import Pass
from amvl_model.two_pass.transformers_compat import CACHE, call_backbone

PAUSE_MODULE = "pause_tokens"


@dataclass
class PauseOutput(ModelOutput):
    """What `PauseForConditionalGeneration.forward` returns.

    Attributes:
        loss, terms: as in `AMVLOutput`.
        logits: (B, M, V), logits[:, j] predicts answer token j from x, the pause tokens and the tokens before j.
        answer_nll: (B,), -log p(y|x), summed over the answer's tokens, nats.
    """

    loss: Tensor | None = None
    terms: Any = None
    logits: Tensor | None = None
    answer_nll: Tensor | None = None


class PauseForConditionalGeneration(AroundBackbone, PreTrainedModel, PrefixGenerationMixin):
    """A Qwen-VL backbone with k learnt input embeddings between question and answer (see the module's docstring)."""

    config: PauseConfig
    config_class = PauseConfig
    own_modules = (PAUSE_MODULE,)

    def __init__(self, config: PauseConfig, backbone: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.backbone = AutoModelForImageTextToText.from_config(config.vlm_config) if backbone is None else backbone
        hidden = config.get_text_config().hidden_size
        # an embedding, as a bare parameter is silently frozen and unsaved under peft
        self.pause_tokens = nn.Embedding(config.num_pauses, hidden) if config.num_pauses else None
        install_attention(self.backbone)
        self.post_init()

    # ------------------------------------------------------------------ building, loading, saving

    @classmethod
    def from_backbone(
        cls, path_or_model: str | Path | PreTrainedModel, num_pauses: int = 0, *, seed: int = 0, **kwargs: Any
    ) -> PauseForConditionalGeneration:
        """Put fresh pause tokens, drawn at the scale of the token embeddings, on a trained backbone.

        Args:
            path_or_model: folder or hub id of a Qwen-VL checkpoint, or a loaded model (used, not copied).
            num_pauses: k; 0 for supervised fine-tuning.
            seed: of the pause tokens.
            **kwargs: for the backbone's from_pretrained (``dtype``, ``device_map``, ...); default: float32.

        Raises:
            FileNotFoundError, ValueError: if a folder is given that holds no complete checkpoint.
        """
        backbone, path = load_backbone(path_or_model, **kwargs)
        config = PauseConfig(vlm_config=backbone.config, num_pauses=num_pauses, backbone_path=path or None)
        model = cls(config, backbone=backbone)
        take_over(model)
        embeddings = backbone.get_input_embeddings().weight
        if model.pause_tokens is not None and embeddings.device.type != "meta":
            scale = float(embeddings.detach().float().square().mean().sqrt())
            drawn = torch.randn(model.pause_tokens.weight.shape, generator=torch.Generator().manual_seed(seed))
            with torch.no_grad():
                model.pause_tokens.weight.copy_(drawn * scale)
            model.pause_tokens.to(embeddings.device, embeddings.dtype)
        return model

    def export_backbone(self, folder: str | Path, **kwargs: Any) -> None:
        """Write the fine-tuned backbone as a plain checkpoint, which transformers' own class loads.

        Args:
            folder: to write; put the processor beside it with `AMVLProcessor.save_pretrained`.
            **kwargs: for the backbone's save_pretrained.

        Raises:
            ValueError: with pause tokens, which a plain checkpoint has no place for, or LoRA adapters that are not merged.
            NonFiniteError: if a weight is NaN or infinite; nothing is written.
        """
        if self.config.num_pauses or self.config.lora:
            what = f"{self.config.num_pauses} pause tokens" if self.config.num_pauses else "LoRA adapters"
            raise ValueError(
                f"expected a model fine-tuned without pause tokens and adapters, got one with {what}, which a plain "
                "checkpoint cannot store; save it with save_pretrained"
            )
        check_weights(self.backbone)
        self.backbone.save_pretrained(folder, **kwargs)

    # ------------------------------------------------------------------ the pass

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        answer_ids: Tensor | None = None,
        answer_mask: Tensor | None = None,
        *,
        labels: Tensor | None = None,
        loss: Any = None,
        cache: Any = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        decode_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        image_features: Tensor | None = None,
        **unknown: Any,
    ) -> PauseOutput | CausalLMOutputWithPast:
        """The one pass under teacher forcing.

        Args:
            input_ids, attention_mask: (B, N), the query; padding on the left is moved to the right.
            answer_ids, answer_mask: (B, M), the answer; likewise, and logits follow the moved tokens.
            labels: (B, N) instead of an answer, as in `AMVLForConditionalGeneration.forward`; without ``loss``, that of the
                objective sft or pause is returned.
            loss: called with the answer NLL of the pass "plain" (no pause tokens) or "pause" (`amvl_model.objectives.Loss`).
            pixel_values, image_grid_thw, mm_token_type_ids, image_features: as in `AMVLForConditionalGeneration.forward`.

        The remaining arguments are those of generation steps and are set by `generate`.

        Raises:
            ValueError: without an answer, or for a loss that needs another pass.
            TypeError: for an unknown argument.
        """
        if cache is not None:
            return self._decode_step(input_ids, cache, position_ids, inputs_embeds, decode_mask)
        vision = vision_batch(
            self,
            input_ids,
            unknown,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
            mm_token_type_ids=mm_token_type_ids,
            image_features=image_features,
        )
        name = "pause" if self.config.num_pauses else "plain"
        batch = teacher_forced(input_ids, attention_mask, answer_ids, answer_mask, labels, vision)
        if labels is not None and loss is None:
            from amvl_model.objectives import (
                OBJECTIVES,
                Loss,
            )  # the default loss; a model that is handed one needs none

            loss = Loss(OBJECTIVES["pause" if self.config.num_pauses else "sft"])
        if loss is not None and loss.passes != (name,):
            raise ValueError(f"this model computes the pass {name}; the loss needs {', '.join(loss.passes)}")
        input_ids, query_mask = batch["input_ids"], batch["attention_mask"]
        answer_ids, answer_mask = batch["answer_ids"], batch["answer_mask"]
        inner, pauses = self.backbone.model, self.pauses(len(input_ids))
        k, prefix = pauses.shape[1], input_ids.shape[1]
        types = self._token_types(input_ids, batch)
        positions, _ = query_positions(inner, input_ids, query_mask, types, batch.get("image_grid_thw"))
        rows = k + answer_ids.shape[1] - 1
        short = short_positions(positions.amax(dim=(0, 2)) + 1, torch.arange(rows))
        mask = second_pass_mask(query_mask, rows) if rows else None
        read = torch.cat([input_ids, answer_ids[:, :-1]], dim=1)
        x, y = self.get_input_embeddings()(read).split([prefix, read.shape[1] - prefix], dim=1)
        features = batch.get("image_features")
        if features is not None:
            is_image = input_ids == self.config.vlm_config.image_token_id  # type: ignore[union-attr]
            x = x.masked_scatter(is_image.unsqueeze(-1), features.to(x.dtype))
        hidden = call_backbone(
            inner,
            input_ids=torch.cat([input_ids, input_ids.new_zeros(len(input_ids), k), answer_ids[:, :-1]], dim=1),
            inputs_embeds=torch.cat([x, pauses, y], dim=1),
            attention_mask={"full_attention": mask, "sliding_attention": mask},
            position_ids=torch.cat([positions, short], dim=-1),
            pixel_values=batch.get("pixel_values") if features is None else None,
            image_grid_thw=batch.get("image_grid_thw"),
            use_cache=False,
        ).last_hidden_state
        last = query_mask.sum(1) - 1
        before = hidden[:, prefix + k - 1] if k else hidden[torch.arange(len(last), device=last.device), last]
        logits = self.get_output_embeddings()(torch.cat([before.unsqueeze(1), hidden[:, prefix + k :]], dim=1))
        nll = answer_nll(logits, answer_ids, answer_mask, reduction="sum" if loss is None else loss.nll_reduction)
        terms = None if loss is None else loss({name: nll})
        return PauseOutput(None if terms is None else terms.total.mean(), terms, logits, nll)

    # ------------------------------------------------------------------ answering

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        return_prompt: bool = False,
        streamer: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Answer a batch of questions; arguments, result and errors as in `LatentGenerationMixin.generate`, without latents.

        num_return_sequences means what it means in transformers: sampled replies, or the best of the beams.
        """
        settings, others = generation_settings(self, generation_config, kwargs)
        query_ids, batch = query_of(self, inputs, kwargs)
        state, tokens = self._encode(batch)
        return self._decode(
            query_ids, batch, state, tokens, settings, streamer=streamer, return_prompt=return_prompt, **others
        )

    def _encode(self, batch: Mapping[str, Any]) -> tuple[QueryState, Tensor]:
        """Keys and values of x, and the tokens behind it (B, k, hidden); for sft (k = 0) x without its last token, and that."""
        ids, mask, inner = batch["input_ids"], batch["attention_mask"], self.backbone.model
        positions, _ = query_positions(inner, ids, mask, self._token_types(ids, batch), batch.get("image_grid_thw"))
        state = QueryState(PrefixCache(), mask, positions.amax(dim=(0, 2)) + 1)
        recording = Pass(state.cache, record=ids.shape[1])
        hidden = call_backbone(
            inner,
            input_ids=ids,
            attention_mask={"full_attention": None, "sliding_attention": None},  # causal; padding stands to the right
            position_ids=positions,
            pixel_values=batch.get("pixel_values"),
            image_grid_thw=batch.get("image_grid_thw"),
            use_cache=True,
            **{CACHE: recording},
        ).last_hidden_state
        recording.check(len(inner.language_model.layers), ids.shape[1], hidden.shape[1])
        if self.config.num_pauses:
            return state, self.pauses(len(ids))
        rows, last = torch.arange(len(ids), device=ids.device), mask.sum(1) - 1
        before = mask.clone()
        before[rows, last] = 0
        token = self.get_input_embeddings()(ids[rows, last]).unsqueeze(1)
        return QueryState(state.cache, before, state.next_position - 1), token

    def pauses(self, batch: int) -> Tensor:
        """The input tokens between x and y, (B, k, hidden), in the backbone's precision; k = 0 for sft."""
        embeddings = self.get_input_embeddings().weight
        assert isinstance(embeddings, Tensor)
        if self.pause_tokens is None:
            return embeddings.new_zeros(batch, 0, embeddings.shape[1])
        index = torch.arange(self.config.num_pauses, device=embeddings.device)
        return self.pause_tokens(index).expand(batch, -1, -1).to(embeddings.dtype)

    def _token_types(self, input_ids: Tensor, vision: Mapping[str, Any]) -> Tensor:
        types: Tensor | None = vision.get("mm_token_type_ids")
        return (input_ids == self.config.vlm_config.image_token_id).int() if types is None else types  # type: ignore[union-attr]
