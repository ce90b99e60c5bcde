"""The table of conventions of transformers, run in fresh processes: one for the groups of `TOGETHER`, one for each other."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from tests.model.home import rows, rows_generate, rows_loading, rows_model, rows_processor, rows_trainer  # noqa: F401  they fill the table

NEEDS = {"quantised": "bitsandbytes", "trainer": "peft"}
SLOW = {"compiled"}
TOGETHER = ("package first", "processor", "model", "loading")
"""Groups that share a process: the imports take longer than their rows."""
TABLE = [
    pytest.param(group, name, marks=[pytest.mark.slow, pytest.mark.timeout(600)] if group in SLOW else [])
    for group, functions in rows.ROWS.items()
    for name in functions
]
REGISTRIES = ", ".join(f"transformers.models.auto.{name}_auto" for name in ("configuration", "modeling", "processing"))
_found: dict[tuple[str, ...], dict[str, str]] = {}

Python = Callable[..., Any]


@pytest.mark.parametrize(("group", "name"), TABLE)
def test_row(group: str, name: str, python: Python) -> None:
    if group in NEEDS and importlib.util.find_spec(NEEDS[group]) is None:
        pytest.skip(f"{NEEDS[group]} is not installed")
    together = TOGETHER if group in TOGETHER else (group,)
    if together not in _found:
        first = f"import {REGISTRIES}\n" if group == "transformers first" else ""
        arguments = ["rows", *together]
        run = f"import runpy, sys\nsys.argv = {arguments}\nrunpy.run_path({rows.__file__!r}, run_name='__main__')"
        _found[together] = {}
        result = python("-c", f"{first}import amvl_model\n{run}", timeout=500 if group in SLOW else 110)
        assert result.returncode == 0, result.stderr
        _found[together] = json.loads(result.stdout.splitlines()[-1])
    problem = _found[together].get(name, "its process did not run to the end")
    assert not problem, problem


def test_the_documentation_shows_this_table() -> None:
    assert set(rows.GROUPS) == set(rows.ROWS)
    assert rows.table() in rows.PAGE.read_text(), "run python tests/model/home/rows.py table and put it into the page"


def test_importing_the_package_is_cheap_and_registers_nothing_by_itself(python: Python) -> None:
    code = """
import sys, time
began = time.process_time()
import amvl_model
print(time.process_time() - began, sorted({"torch", "transformers", "numpy", "PIL"} & set(sys.modules)))
"""
    outputs = [
        python("-c", code).stdout.split(maxsplit=1) for _ in range(3)
    ]  # a busy machine: the best of three counts
    assert min(float(took) for took, _ in outputs) < 0.1, outputs
    assert {loaded.strip() for _, loaded in outputs} == {"[]"}


def test_a_quantised_backbone_is_saved_with_heads_left_out_and_reloaded_with_its_own_names() -> None:
    """With a stub of transformers' quantiser; the row above runs the real one where it is installed."""
    from torch import nn
    from transformers import BitsAndBytesConfig

    from amvl_model.models.backbone import backbone_options, take_over
    from amvl_model.models.configuration import AMVLConfig
    from tests.helpers import tiny_model

    model = tiny_model()
    settings = BitsAndBytesConfig(load_in_8bit=True)
    model.backbone.hf_quantizer = SimpleNamespace(quantization_config=settings, modules_to_not_convert=["lm_head"])
    take_over(model)
    assert settings.llm_int8_skip_modules is None  # the backbone's own settings stay as they are
    stored = model.config.to_dict()
    skipped = stored["quantization_config"]["llm_int8_skip_modules"]
    assert {"backbone.lm_head", "prior_head", "posterior_head", "injector"} <= set(skipped)
    assert "quantization_config" not in stored["vlm_config"]
    assert backbone_options(stored, {"config": model.config})["quantization_config"]["llm_int8_skip_modules"] == [
        "lm_head"
    ]
    again = type(model)(AMVLConfig.from_dict(stored))
    layer = again.backbone.model.language_model.layers[0]
    assert type(layer.mlp.up_proj) is nn.Linear is not type(model.backbone.model.language_model.layers[0].mlp.up_proj)
