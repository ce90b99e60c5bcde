"""The registered attention functions against dense masks, and the backbone that carries them against transformers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amvl_model.two_pass.attention import (
    _LinearPatchEmbedding,
    attend,
    install_attention,
    packed_vision_attention,
    shared_prefix_attention,
)
from amvl_model.two_pass.layout import first_pass_mask, posterior_mask, second_pass_mask, with_answer_bias
from tests.helpers import processor, question, tiny_model

B, H, KV, D = 2, 4, 2, 8
MODULE = nn.Identity()


def tensors(queries: int, keys: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """Query (B, H, queries, D), key and value (B, KV, keys, D)."""
    generator = torch.Generator().manual_seed(seed)
    shapes = ((B, H, queries, D), (B, KV, keys, D), (B, KV, keys, D))
    return tuple(torch.randn(*shape, generator=generator).to(dtype) for shape in shapes)


def dense(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Softmax attention written out, (B, Q, H, D)."""
    key, value = (t.repeat_interleave(H // KV, dim=1) for t in (key, value))
    scores = (query @ key.transpose(-1, -2) / D**0.5).masked_fill(~mask, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


def layout_mask(query_mask: Tensor, k: int, answer_mask: Tensor) -> Tensor:
    """(B, 1, N + S, N + S) of pass 1, cell by cell from the table in layout.py."""
    n, m = query_mask.shape[1], answer_mask.shape[1]
    kinds = ["x"] * n + ["prior"] * k + ["posterior"] * k + ["y"] * m
    sees = {"x": {"x"}, "prior": {"x", "prior"}, "posterior": {"x", "posterior", "y"}, "y": {"x", "y"}}
    mask = torch.zeros(len(query_mask), 1, len(kinds), len(kinds), dtype=torch.bool)
    for b in range(len(query_mask)):
        for i, row in enumerate(kinds):
            for j, column in enumerate(kinds):
                causal = j <= i or row != column
                real = True
                if column == "x" and row != "x":
                    real = bool(query_mask[b, j])
                if column == "y" and row == "posterior":
                    real = bool(answer_mask[b, j - n - 2 * k])
                mask[b, 0, i, j] = column in sees[row] and causal and real
    return mask


QUERY_MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
ANSWER_MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])
K = 2


def test_pass_one_attends_as_the_table_says() -> None:
    full = layout_mask(QUERY_MASK, K, ANSWER_MASK)
    rows = full.shape[-1]
    query, key, value = tensors(rows, rows)
    mask = first_pass_mask(QUERY_MASK, K, ANSWER_MASK)
    assert mask.shape == (B, 1, 2 * K + 3, rows)  # never N x N
    out, _ = shared_prefix_attention(MODULE, query, key, value, mask)
    torch.testing.assert_close(out, dense(query, key, value, full))


def test_pass_one_without_an_answer_is_its_upper_part() -> None:
    n = QUERY_MASK.shape[1]
    full = layout_mask(QUERY_MASK, K, ANSWER_MASK)[:, :, : n + K, : n + K]
    query, key, value = tensors(n + K, n + K)
    out, _ = shared_prefix_attention(MODULE, query, key, value, first_pass_mask(QUERY_MASK, K, None))
    torch.testing.assert_close(out, dense(query, key, value, full))


def test_a_posterior_behind_a_recorded_query_attends_as_in_pass_one() -> None:
    n = QUERY_MASK.shape[1]
    full = layout_mask(QUERY_MASK, K, ANSWER_MASK)
    columns = [*range(n), *range(n + K, full.shape[-1])]
    expected = full[:, :, n + K :][..., columns]
    assert torch.equal(posterior_mask(QUERY_MASK, K, ANSWER_MASK), expected)


def test_pass_two_attends_to_the_real_query_and_causally_to_itself() -> None:
    n, rows = QUERY_MASK.shape[1], 4
    mask = second_pass_mask(QUERY_MASK, rows)
    query, key, value = tensors(rows, n + rows)
    full = torch.zeros(B, 1, rows, n + rows, dtype=torch.bool)
    for b in range(B):
        for i in range(rows):
            full[b, 0, i, :n] = QUERY_MASK[b].bool()
            full[b, 0, i, n : n + i + 1] = True
    assert torch.equal(mask, full)
    out, _ = shared_prefix_attention(MODULE, query, key, value, mask)
    torch.testing.assert_close(out, dense(query, key, value, full))


def test_without_a_mask_attention_is_causal_and_one_row_sees_everything() -> None:
    query, key, value = tensors(6, 6)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    torch.testing.assert_close(
        shared_prefix_attention(MODULE, query, key, value, None)[0], dense(query, key, value, causal)
    )
    one = shared_prefix_attention(MODULE, query[:, :, -1:], key, value, None)[0]
    torch.testing.assert_close(one, dense(query[:, :, -1:], key, value, causal[-1:]))


def test_an_additive_mask_means_what_transformers_means_by_it() -> None:
    query, key, value = tensors(6, 6)
    visible = torch.ones(6, 6, dtype=torch.bool).tril().expand(B, 1, 6, 6)
    additive = torch.zeros(B, 1, 6, 6).masked_fill(~visible, torch.finfo(torch.float32).min)
    out, _ = shared_prefix_attention(MODULE, query, key, value, additive)
    torch.testing.assert_close(out, dense(query, key, value, visible))


@pytest.mark.parametrize("kind", ["mask", "causal", "all"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_low_precision_path_is_close_to_the_fused_kernel(kind: str, dtype: torch.dtype) -> None:
    query, key, value = tensors(7, 7, dtype=dtype)
    mask = (torch.rand(B, 1, 7, 7, generator=torch.Generator().manual_seed(1)) > 0.4) | torch.eye(7, dtype=torch.bool)
    options = {"mask": mask if kind == "mask" else None, "is_causal": kind == "causal", "scale": D**-0.5}
    low = attend(query, key, value, **options)
    fused = attend(query.float(), key.float(), value.float(), **options)
    assert low.dtype == dtype
    torch.testing.assert_close(low.float(), fused, rtol=0.05, atol=0.02)


def test_the_low_precision_path_has_the_gradients_of_the_fused_kernel() -> None:
    low = [t.requires_grad_() for t in tensors(7, 7, dtype=torch.bfloat16)]
    fused = [t.detach().float().requires_grad_() for t in low]
    for inputs in (low, fused):
        attend(*inputs, mask=None, is_causal=True, scale=D**-0.5).float().square().sum().backward()
    for a, b in zip(low, fused, strict=True):
        assert a.grad is not None and b.grad is not None
        assert (a.grad.float() - b.grad).norm() < 0.03 * b.grad.norm()


@pytest.mark.parametrize("lengths", [(4, 4, 4), (4, 7, 4, 1, 7)], ids=["equal", "ragged"])
def test_packed_vision_attention_is_one_attention_per_image(lengths: tuple[int, ...]) -> None:
    total = sum(lengths)
    inputs = [torch.randn(1, H, total, D, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    packed = [t.clone().requires_grad_() for t in inputs]
    plain = [t.clone().requires_grad_() for t in inputs]
    ends = torch.tensor([0, *lengths]).cumsum(0)
    query, key, value = packed
    out, _ = packed_vision_attention(MODULE, query, key, value, cu_seq_lens_q=ends.int())
    parts = []
    for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        q, k, v = (t[:, :, start:end] for t in plain)
        parts.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2))
    expected = torch.cat(parts, dim=1)
    torch.testing.assert_close(out, expected)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(9))
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    for a, b in zip(packed, plain, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_vision_attention_refuses_packed_images_without_their_lengths() -> None:
    with pytest.raises(RuntimeError, match="expected the lengths of the packed images"):
        packed_vision_attention(MODULE, *torch.zeros(3, 1, H, 5, D))


def test_text_attention_refuses_keys_without_the_prefix_that_the_mask_shows() -> None:
    mask = torch.ones(1, 1, 5, 12, dtype=torch.bool)
    with pytest.raises(RuntimeError, match=r"expected keys of 12 tokens \(prefix and short blocks\), got 5"):
        shared_prefix_attention(MODULE, *torch.zeros(3, 1, H, 5, D), mask)


@pytest.mark.parametrize("bias", [False, True])
def test_the_linear_patch_embedding_is_the_convolution_with_its_gradients(bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Conv3d(3, 16, (2, 4, 4), stride=(2, 4, 4), bias=bias).double()
    linear = nn.Conv3d(3, 16, (2, 4, 4), stride=(2, 4, 4), bias=bias).double()
    linear.load_state_dict(plain.state_dict())
    linear.__class__ = _LinearPatchEmbedding
    patches = torch.randn(10, 3, 2, 4, 4, dtype=torch.float64)
    a, b = patches.clone().requires_grad_(), patches.clone().requires_grad_()
    expected, got = plain(a), linear(b)
    assert got.shape == expected.shape == (10, 16, 1, 1, 1)
    torch.testing.assert_close(got, expected)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (got * weights).sum().backward()
    torch.testing.assert_close(b.grad, a.grad)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(dict(linear.named_parameters())[name].grad, parameter.grad)
    larger = torch.randn(1, 3, 4, 8, 8, dtype=torch.float64)  # more than one kernel: the convolution itself
    torch.testing.assert_close(linear(larger), plain(larger))


@pytest.fixture(scope="module")
def plain_backbone() -> Any:
    """transformers' own model with the weights of the tiny backbone and SDPA attention."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    ours = tiny_model().backbone
    plain = Qwen2_5_VLForConditionalGeneration(ours.config).eval()
    plain.load_state_dict(ours.state_dict())
    plain.set_attn_implementation("sdpa")
    return plain


def test_a_backbone_with_our_attention_gives_transformers_own_logits(plain_backbone: Any) -> None:
    batch = processor()([question(n, i) for i, n in enumerate((1, 3, 2))], answers=False)
    ours = tiny_model().backbone
    assert ours.model.visual.config._attn_implementation != plain_backbone.model.visual.config._attn_implementation
    with torch.no_grad():
        got, expected = ours(**batch).logits, plain_backbone(**batch).logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(got[real], expected[real], rtol=1e-4, atol=1e-4)


def test_another_model_can_be_built_from_the_configuration_of_one_that_carries_our_attention() -> None:
    model = tiny_model()
    again = type(model)(model.config)
    assert type(model.backbone)(model.config.vlm_config).config._attn_implementation == "sdpa"
    again.load_state_dict(model.state_dict())
    batch = processor()([question(1)], answers=False)
    with torch.no_grad():
        assert torch.equal(again.eval().encode_query(batch)[1].mean, model.encode_query(batch)[1].mean)


def test_installing_the_attention_changes_no_weight_and_can_be_repeated() -> None:
    backbone = tiny_model().backbone
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    install_attention(backbone)
    after = backbone.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_short_blocks_read_shared_keys_without_a_copy_for_every_head(dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, 3, 8, generator=draw).to(dtype)
    key, value = torch.randn(2, 2, 2, 300, 8, generator=draw).to(dtype)
    mask = torch.rand(2, 1, 3, 300, generator=draw) > 0.3
    for tensor in (query, key, value):
        tensor.requires_grad_()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t.numel()), t)[1], lambda t: t):
        out = attend(query, key, value, mask=mask, is_causal=False, scale=0.3)
    plain = F.scaled_dot_product_attention(
        query.float(), *(t.float().repeat_interleave(3, dim=1) for t in (key, value)), attn_mask=mask, scale=0.3
    )
    torch.testing.assert_close(out.float(), plain, rtol=3e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-2)
    assert max(kept) <= 2 * 6 * 3 * 300 < 3 * key.numel()  # the scores; keys for every head would be larger


def test_the_bias_towards_the_answer_is_added_to_the_posteriors_scores_alone() -> None:
    n, m, bias = QUERY_MASK.shape[1], ANSWER_MASK.shape[1], torch.tensor([-1.5], requires_grad=True)
    mask = first_pass_mask(QUERY_MASK, K, ANSWER_MASK)
    query, key, value = tensors(mask.shape[-2], mask.shape[-1])
    got, _ = shared_prefix_attention(MODULE, query, key, value, with_answer_bias(mask, bias, slice(K, 2 * K), m))
    plain, _ = shared_prefix_attention(MODULE, query, key, value, mask)
    key, value = (t.repeat_interleave(H // KV, dim=1) for t in (key, value))
    scores = (query * D**-0.5) @ key.transpose(-1, -2)
    scores[:, :, K : 2 * K, n + 2 * K :] += bias.detach()
    expected = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value
    torch.testing.assert_close(got, expected.transpose(1, 2))
    others = [*range(K), *range(2 * K, mask.shape[-2])]
    torch.testing.assert_close(got[:, others], plain[:, others])
    got.square().sum().backward()
    assert bias.grad is not None and bias.grad.abs() > 0
