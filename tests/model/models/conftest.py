"""Checkpoint folders that several test files read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import processor, tiny_model


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint of the tiny model; copied by tests that damage it."""
    folder = tmp_path_factory.mktemp("whole")
    tiny_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain Qwen2.5-VL checkpoint, as a user has it."""
    folder = tmp_path_factory.mktemp("backbone")
    tiny_model().backbone.save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder
