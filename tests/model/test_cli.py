"""The console script, the doctor's report, and the memory that it computes."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from amvl_model import __version__
from amvl_model.cli import COMMANDS, main
from amvl_model.config import ModelConfig, RunConfig, load_preset, preset_names
from amvl_model.profiling import doctor
from amvl_model.profiling.footprint import (
    KNOWN,
    Architecture,
    architecture_of,
    footprint,
    latent_parameters,
    lora_parameters,
)
from amvl_model.two_pass.transformers_compat import release

Python = Callable[..., subprocess.CompletedProcess[str]]
MACHINE = doctor.Machine(memory=16 * 2**30, available=8 * 2**30, gpus=(), threads=2, bf16_speedup=1.0)


def test_help_answers_within_a_second_and_names_the_doctor(python: Python) -> None:
    took = []
    for _ in range(3):
        began = time.perf_counter()
        result = python("-c", "from amvl_model.cli import COMMANDS, main; main(['--help'])")
        took.append(time.perf_counter() - began)
        assert result.returncode == 0 and "doctor" in result.stdout
    assert min(took) < 1, took


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_command_is_quiet_where_nobody_reads_its_output(unbuffered: str) -> None:
    for arguments in (["--help"], ["train", "--help"], ["memory"]):
        reading, writing = os.pipe()
        os.close(reading)
        try:
            result = subprocess.run(
                [sys.executable, "-m", "amvl_model.cli", *arguments],
                stdout=writing,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
                timeout=60,
            )
        finally:
            os.close(writing)
        assert result.stderr == "" and result.returncode in (0, 1), arguments


def test_another_broken_pipe_than_that_of_the_output_keeps_its_traceback(python: Python) -> None:
    code = (
        "from amvl_model.config import quiet_on_closed_pipe\nquiet_on_closed_pipe()\nraise BrokenPipeError('a worker')"
    )
    result = python("-c", code)
    assert result.returncode == 1 and "Traceback" in result.stderr and "a worker" in result.stderr


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "doctor"])
def test_the_help_shows_every_example_on_a_line_of_its_own(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"amvl_model.commands.{command}")
    examples = [line.strip() for line in module.__doc__.splitlines() if line.strip().startswith(("amvl ", "torchrun "))]
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert not [line for line in examples if line not in shown]


def test_version_is_the_package_s(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"amvl {__version__}"


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_doctor_reports_versions_devices_memory_and_every_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    report = capsys.readouterr().out
    for word in ("python", "torch", "transformers", "accelerate", "peft", "threads", "bfloat16", "memory", "GPU"):
        assert word in report
    for preset in preset_names():
        assert preset in report
    assert "computed, not measured" in report and "What to do" in report


def test_doctor_says_what_to_install_when_a_package_is_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    table = (("torch", "999.0", "tensors"), ("no-such-distribution", "", "nothing"))
    monkeypatch.setattr(doctor, "REQUIRED", table)
    lines, advice = doctor.package_lines()
    assert any("missing (needed; nothing)" in line for line in lines)
    assert any("pip install 'torch>=999.0'" in line for line in advice)
    assert any("no-such-distribution is missing" in line for line in advice)
    report, complete = doctor.report()
    assert not complete and "What to do" in report


def test_versions_are_compared_as_numbers() -> None:
    assert release("2.13.0+cpu") > release("2.6")
    assert release("5.18.0.dev0") > release("5.17")


@pytest.mark.parametrize(("free", "verdict"), [(None, "unknown"), (64 * 2**30, "yes"), (2**20, "no")])
def test_a_preset_fits_if_its_memory_is_free(free: int | None, verdict: str) -> None:
    machine = dataclasses.replace(MACHINE, available=free)
    assert doctor.preset_lines(machine, {"tiny": footprint(load_preset("tiny"))})[1].endswith(verdict)


def test_an_unknown_base_is_reported_as_unknown() -> None:
    assert "base unknown" in doctor.preset_lines(MACHINE, {"mine": None})[1]
    assert footprint(RunConfig(model=ModelConfig(base="someone/some-model"))) is None


def test_several_gpus_share_the_states_but_not_activations_and_accumulated_gradients() -> None:
    size = footprint(load_preset("qwen2.5-vl-7b"))
    assert size is not None
    gpu = ("GPU", 80 * 2**30, 79 * 2**30, True)
    assert dataclasses.replace(MACHINE, gpus=(gpu,)).fits(size) is False
    assert [dataclasses.replace(MACHINE, gpus=(gpu,) * number).fits(size) for number in (2, 3)] == [False, True]
    sharded = footprint(load_preset("qwen2.5-vl-7b", {"train.batch_size": "16", "train.grad_accumulation": "1"}))
    assert sharded is not None and sharded.accumulated == 0
    assert dataclasses.replace(MACHINE, gpus=(gpu,) * 3).fits(sharded) is True and sharded.process(3) < size.process(3)
    large = dataclasses.replace(size, activations=90 * 2**30)
    assert dataclasses.replace(MACHINE, gpus=(gpu,) * 8).fits(large) is False


def test_parameters_of_qwen_are_the_published_ones() -> None:
    counts = {name: shape.language_parameters + shape.vision_parameters for name, shape in KNOWN.items()}
    assert counts == {"qwen/qwen2.5-vl-3b-instruct": 3_754_622_976, "qwen/qwen2.5-vl-7b-instruct": 8_292_166_656}


@pytest.mark.parametrize(("hidden", "layers", "vision"), [(192, 4, 128), (384, 6, 256)])
def test_counted_parameters_are_those_of_transformers_own_model(hidden: int, layers: int, vision: int) -> None:
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    from amvl_model.models.tiny import tiny_config, tiny_tokenizer

    tokenizer = tiny_tokenizer(["an image of nothing in particular"])
    config = tiny_config(tokenizer, hidden_size=hidden, num_layers=layers, vision_size=vision)
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    vocab = config.text_config.vocab_size
    for shape in (Architecture.scratch(hidden, layers, vision, vocab), Architecture.from_config(config.to_dict())):
        assert shape.vision_parameters == sum(p.numel() for p in model.model.visual.parameters())
        assert shape.language_parameters == sum(p.numel() for p in model.model.language_model.parameters())


def test_a_folder_s_config_gives_its_shapes_and_a_wrong_one_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "hidden_size": 3}')
    with pytest.raises(ValueError, match="expected the config of a Qwen2.5-VL checkpoint"):
        architecture_of(ModelConfig(base=str(tmp_path)))


def test_an_amvl_checkpoint_is_sized_by_its_backbone(tmp_path: Path) -> None:
    text = {"vocab_size": 640, "hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4}
    text |= {"num_attention_heads": 6, "num_key_value_heads": 2}
    vision = {"hidden_size": 128, "intermediate_size": 384, "depth": 4}
    backbone = {"text_config": text, "vision_config": vision, "tie_word_embeddings": True}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "amvl", "vlm_config": backbone}))
    assert architecture_of(ModelConfig(base=str(tmp_path))) == Architecture.scratch(192, 4, 128)


def test_states_are_sixteen_bytes_a_trained_and_four_a_frozen_weight_in_float32() -> None:
    size = footprint(load_preset("qwen2.5-vl-7b"))
    assert size is not None
    shape = KNOWN["qwen/qwen2.5-vl-7b-instruct"]
    trained = shape.language_parameters + latent_parameters(shape, 8, 512)
    assert size.trained == trained
    assert size.states == 16 * trained + 4 * shape.vision_parameters


def test_lora_trains_the_adapters_and_the_latent_modules_only() -> None:
    size = footprint(load_preset("qwen2.5-vl-7b", {"model.lora_rank": "16", "model.dtype": "bfloat16"}))
    shape = KNOWN["qwen/qwen2.5-vl-7b-instruct"]
    assert size is not None and size.trained == lora_parameters(shape, 16) + latent_parameters(shape, 8, 512)


def test_gradient_checkpointing_lowers_the_activations_alone() -> None:
    plain = footprint(load_preset("small-gpu"))
    saved = footprint(load_preset("small-gpu", {"train.gradient_checkpointing": "true"}))
    assert plain is not None and saved is not None
    assert saved.activations < plain.activations / 3 and saved.states == plain.states
