"""Positions of a batch are the backbone's own, whether its rows are laid out alike or not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from amvl_model.models.loading import SHIPPED
from amvl_model.two_pass.layout import query_positions

TEXT, IMAGE, PAD = 0, 1, None
TEXT_ROWS = [[TEXT, TEXT, TEXT], [TEXT, TEXT, PAD]]
ALIKE = [[TEXT, IMAGE, IMAGE, TEXT, TEXT], [TEXT, IMAGE, IMAGE, TEXT, PAD], [TEXT, IMAGE, IMAGE, TEXT, TEXT]]
PADDED_LEFT = [[PAD, TEXT, IMAGE, IMAGE, TEXT], [TEXT, TEXT, IMAGE, IMAGE, TEXT]]
SHIFTED = [[TEXT, IMAGE, IMAGE, TEXT, TEXT], [TEXT, TEXT, IMAGE, IMAGE, TEXT]]
ONE_AND_TWO = [[TEXT, IMAGE, IMAGE, TEXT, TEXT, TEXT, TEXT], [TEXT, IMAGE, IMAGE, TEXT, IMAGE, IMAGE, TEXT]]


@pytest.fixture(scope="module")
def inner() -> Any:
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration.from_pretrained(SHIPPED["multihop"]).model


@pytest.mark.parametrize(
    ("rows", "grids", "computed"),
    [
        (TEXT_ROWS, [], 2),
        (ALIKE, [(1, 2, 4)] * 3, 2),
        (ALIKE, [(1, 2, 4), (1, 4, 2), (1, 2, 4)], 3),
        (PADDED_LEFT, [(1, 2, 4)] * 2, 2),
        (SHIFTED, [(1, 4, 2)] * 2, 2),
        (ONE_AND_TWO, [(1, 2, 4)] * 3, 2),
        ([ONE_AND_TWO[1]] * 3, [(1, 2, 4)] * 6, 1),
    ],
)
def test_positions_are_the_backbones_own(
    inner: Any,
    monkeypatch: pytest.MonkeyPatch,
    rows: list[list[int | None]],
    grids: list[tuple[int, int, int]],
    computed: int,
) -> None:
    mask = torch.tensor([[token is not PAD for token in row] for row in rows]).int()
    types = torch.tensor([[token or TEXT for token in row] for row in rows]).int()
    ids, grid = torch.arange(mask.numel()).view_as(mask), torch.tensor(grids) if grids else None
    expected = inner.get_rope_index(input_ids=ids, mm_token_type_ids=types, image_grid_thw=grid, attention_mask=mask)
    batch_sizes: list[int] = []
    original = type(inner).get_rope_index

    def spy(self: Any, input_ids: Any, mm_token_type_ids: Any, image_grid_thw: Any, attention_mask: Any) -> Any:
        batch_sizes.append(len(input_ids))
        return original(self, input_ids, mm_token_type_ids, image_grid_thw, attention_mask=attention_mask)

    monkeypatch.setattr(type(inner), "get_rope_index", spy)
    got = query_positions(inner, ids, mask, types, grid)
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))
    assert batch_sizes == [computed]
