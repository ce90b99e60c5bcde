"""What FSDP2 exchanges and keeps, against numbers computed by hand from the shapes of Qwen2.5-VL-7B."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from amvl_model.config import load_preset
from amvl_model.profiling.communication import question_flops, step_cost
from amvl_model.profiling.footprint import GPU_RUNTIME, KNOWN, footprint

LAYERS = 6_525_618_176  # 28 decoder layers of 233,057,792
NORM = 3_584
TABLE = 544_997_376  # 152,064 x 3,584: the embedding, and once more the output layer
VISION = 676_550_144
LATENTS = 9_245_184
TRAINED = LAYERS + NORM + 2 * TABLE + LATENTS


def preset(questions: int, micro_batches: int, **others: object) -> object:
    settings = {"train.batch_size": questions, "train.grad_accumulation": micro_batches, **others}
    return load_preset("qwen2.5-vl-7b", settings)


def test_layers_are_gathered_four_times_the_output_once_and_the_embedding_twice() -> None:
    cost = step_cost(preset(8, 2), 8)  # type: ignore[arg-type]
    assert cost is not None
    assert cost.gathered == 7 * (4 * (LAYERS + NORM) + 3 * TABLE + VISION + LATENTS) // 2  # 4 bytes x 7 / 8
    assert cost.gathered == 99_481_460_736
    assert cost.reduced == 7 * TRAINED // 2 == 26_687_015_936
    assert cost.exchanged == 2 * 99_481_460_736 + 26_687_015_936
    assert step_cost(preset(8, 2), 1).exchanged == 0  # type: ignore[arg-type, union-attr]


def test_a_baseline_of_one_pass_gathers_its_layers_twice() -> None:
    both, one = (step_cost(preset(8, 2, **{"objective.name": name}), 8) for name in ("amvl", "sft"))  # type: ignore[arg-type]
    assert both is not None and one is not None
    assert both.gathered - one.gathered == 7 * 2 * (LAYERS + NORM) // 2


def test_accumulated_gradients_are_whole_on_each_process() -> None:
    accumulating, single = footprint(preset(8, 2)), footprint(preset(16, 1))  # type: ignore[arg-type]
    assert accumulating is not None and single is not None
    assert accumulating.accumulated == 4 * TRAINED and single.accumulated == 0
    for size, whole in ((accumulating, 7 * 4 * TRAINED // 8), (single, 0)):
        work = 2 * 4 * (TABLE + 2 * 233_057_792)
        states = (16 * TRAINED + 4 * VISION) // 8
        assert size.process(8) == pytest.approx(states + whole + work + size.activations + size.logits, abs=8)
        assert size.process(1, 5) == size.total(5)


def test_no_sync_of_the_installed_accelerate_switches_the_reduction_off() -> None:
    from accelerate import Accelerator
    from torch.distributed.fsdp import FSDPModule

    assert "set_requires_gradient_sync(False)" in inspect.getsource(Accelerator.no_sync)
    assert "accumulation *without communication*" in (FSDPModule.set_requires_gradient_sync.__doc__ or "")


def test_the_hours_are_flops_and_bytes_over_the_assumed_rates() -> None:
    shape = KNOWN["qwen/qwen2.5-vl-7b-instruct"]
    flops = 8 * 7_615_616_512 * 1100 + 2 * VISION * 4 * 950
    assert question_flops(shape, checkpointing=True) == flops
    cost = step_cost(preset(8, 2), 8)  # type: ignore[arg-type]
    assert cost is not None
    assert cost.computing == pytest.approx(16 * flops / (0.3 * 989e12))
    assert cost.exchanging == pytest.approx(225_649_937_408 / 300e9)
    assert cost.hours(3000) == pytest.approx(3000 * (3.891 + 0.752) / 3600, rel=1e-3)


def test_lora_and_a_trained_vision_encoder_are_refused() -> None:
    with pytest.raises(ValueError, match="exchange of those is not computed"):
        step_cost(preset(8, 2, **{"model.lora_rank": 8}), 8)  # type: ignore[arg-type]


def test_the_table_of_reproducing_is_what_is_computed() -> None:
    text = (Path(__file__).parents[3] / "REPRODUCING.md").read_text(encoding="utf-8")
    shipped = load_preset("qwen2.5-vl-7b").train
    assert (shipped.batch_size, shipped.grad_accumulation) == (8, 2)
    for questions, micro_batches in ((1, 16), (8, 2), (16, 1)):
        config = preset(questions, micro_batches)
        cost, size = step_cost(config, 8), footprint(config)  # type: ignore[arg-type]
        assert cost is not None and size is not None
        memory = f"{size.process(8, GPU_RUNTIME) / 1e9:.1f} GB | {cost.exchanged / 1e9:.0f} GB"
        row = f"| {memory} | {cost.computing:.1f} s + {cost.exchanging:.1f} s | {cost.hours(3000):.1f} |"
        line = next(line for line in text.splitlines() if line.startswith(f"| {questions} x {micro_batches}"))
        assert line.endswith(row), (line, row)
        assert size.process(8, GPU_RUNTIME) < 80e9
