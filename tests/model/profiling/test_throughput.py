"""The throughput benchmark: its layouts compute what they should, its meters count what is known, its report judges rightly."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from amvl_model.profiling.footprint import Architecture, kept_per_token
from amvl_model.profiling.throughput import grid, report, runner, worker
from amvl_model.profiling.throughput.grid import Cell
from amvl_model.profiling.throughput.meters import LiveBytes, saved_bytes
from amvl_model.profiling.throughput.steps import build_batch, build_model, losses
from amvl_model.profiling.throughput.three_pass import three_pass
from amvl_model.results.files import Metric, Result, read_study
from amvl_model.results.provenance import PROJECT_ROOT
from experiments import throughput

SMALL = Architecture(
    vocab=128,
    hidden=64,
    intermediate=192,
    layers=3,
    heads=4,
    kv_heads=2,
    tied=True,
    vision_hidden=32,
    vision_intermediate=64,
    vision_layers=4,
)
CELL = Cell(kind="train", size="small", length=24, answer=5, latents=3, batch=2)


@pytest.fixture(autouse=True)
def small_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(grid.SIZES, "small", SMALL)


def lively_model() -> Any:
    """A small model whose weights are large enough that every path matters."""
    model = build_model(SMALL, 3, latent_dim=8)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "visual" not in name and "_head" not in name:
                parameter.mul_(4.0)
    return model


def gradients(model: Any, loss: Any) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    value = loss()
    value.backward()
    return value.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_close(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert got.keys() == expected.keys()
    for name, reference in expected.items():
        assert (got[name] - reference).norm() <= tolerance * reference.norm() + 1e-7, name


# ---------------------------------------------------------------------- layouts


def test_token_ratio_is_tokens_of_two_passes_over_those_of_plain_fine_tuning() -> None:
    assert grid.token_ratio(768, 16, 8) == pytest.approx((768 + 24 + 32) / 784)
    two = sum(new for new, _ in grid.segments("two-pass", 768, 16, 8))
    plain = sum(new for new, _ in grid.segments("sft", 768, 16, 8))
    assert two / plain == pytest.approx(grid.token_ratio(768, 16, 8), abs=2e-3)


def test_sequential_latents_take_one_segment_more_than_there_are_latents() -> None:
    parts = grid.segments("sequential", 100, 4, 8)
    assert len(parts) == 9 and parts[0] == (100, 0) and parts[-1] == (4, 107)
    with pytest.raises(ValueError, match="expected a method among"):
        grid.segments("four-pass", 1, 1, 1)


def test_other_numbers_of_latents_are_measured_at_one_length_and_answer() -> None:
    cells = grid.training_cells(["tiny"], [256, 768], [16, 256], [1, 8], (False,))
    points = {(c.length, c.answer, c.latents) for c in cells}
    assert points == {(256, 16, 8), (256, 256, 8), (768, 16, 8), (768, 256, 8), (768, 16, 1)}
    assert len({c.name for c in cells}) == len(cells)


def test_counted_operations_are_those_that_torch_counts() -> None:
    cell = replace(CELL, batch=1, length=40)
    model = build_model(SMALL, cell.latents, latent_dim=8)
    batch = build_batch(cell)
    with FlopCounterMode(display=False) as counter:
        losses(model, batch)["sft"]().backward()
    expected = grid.model_flops(SMALL, grid.segments("sft", 40, cell.answer, 3), cell.answer)
    # torch counts all pairs of a causal kernel, and a backward attention pass of 2.5 forward ones
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("images", [False, True], ids=["text", "images"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_two_passes_and_three_passes_have_one_loss_and_one_gradient(checkpointing: bool, images: bool) -> None:
    model = lively_model()
    if checkpointing:
        model.gradient_checkpointing_enable()
    by_method = losses(model, build_batch(replace(CELL, images=images)), noise_seed=1)
    loss, got = gradients(model, by_method["two-pass"])
    reference, expected = gradients(model, by_method["three-pass"])
    assert loss == pytest.approx(reference, rel=1e-5)
    assert_close(got, expected, 1e-4)


def test_plain_fine_tuning_is_transformers_own_likelihood() -> None:
    model = lively_model()
    batch = build_batch(CELL)
    loss = losses(model, batch)["sft"]()
    ids = torch.cat([batch["input_ids"], batch["answer_ids"]], dim=1)
    logits = model.backbone(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, CELL.length - 1 : -1]
    nll = F.cross_entropy(logits.flatten(0, 1), batch["answer_ids"].flatten(), reduction="sum") / CELL.batch
    torch.testing.assert_close(loss, nll, rtol=1e-4, atol=1e-4)


def sequential_without_cache(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """k + 1 growing full forward passes."""
    inner, embed, answer = model.backbone.model, model.get_input_embeddings(), batch["answer_ids"]
    tokens = embed(batch["input_ids"])

    def run(tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1]).expand(3, len(tokens), -1)
        mask = {"full_attention": None, "sliding_attention": None}
        return inner.language_model(
            inputs_embeds=tokens, position_ids=positions, attention_mask=mask, use_cache=False
        ).last_hidden_state

    for _ in range(model.config.num_latents):
        tokens = torch.cat([tokens, run(tokens)[:, -1:]], dim=1)
    hidden = run(torch.cat([tokens, embed(answer[:, :-1])], dim=1))[:, -answer.shape[1] :]
    logits = model.get_output_embeddings()(hidden)
    return F.cross_entropy(logits.transpose(1, 2), answer, reduction="none").sum(1).mean()


def test_sequential_latents_with_a_cache_equal_growing_full_passes_with_and_without_checkpointing() -> None:
    model, batch = lively_model(), build_batch(CELL)
    expected_loss, expected = gradients(model, lambda: sequential_without_cache(model, batch))
    for again in (False, True):
        if again:
            model.gradient_checkpointing_enable()
        loss, got = gradients(model, losses(model, batch)["sequential"])
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        assert_close(got, expected, 1e-4)


def test_checkpointing_saves_memory_and_changes_no_gradient_of_plain_fine_tuning() -> None:
    model, batch = lively_model(), build_batch(CELL)
    run = losses(model, batch)["sft"]
    weights = [*model.parameters(), *model.buffers()]
    loss, expected = gradients(model, run)
    plain = saved_bytes(run, weights)
    model.gradient_checkpointing_enable()
    again, got = gradients(model, run)
    assert again == loss and saved_bytes(run, weights) < plain / 2
    assert_close(got, expected, 1e-6)


def test_the_reference_refuses_padding() -> None:
    model, batch = lively_model(), build_batch(CELL)
    batch["attention_mask"][0, -1] = 0
    with pytest.raises(ValueError, match="without padding"):
        three_pass(model, batch, torch.zeros(2, 3, 8))


# ---------------------------------------------------------------------- meters


def test_saved_bytes_count_each_storage_once_and_no_weights() -> None:
    weight, x = (torch.ones(size, 10, requires_grad=True) for size in (10, 4))
    assert saved_bytes(lambda: (x @ weight).exp(), [weight]) == 4 * (4 * 10 + 4 * 10)
    assert saved_bytes(lambda: (x @ weight).exp(), []) == 4 * (4 * 10 + 4 * 10 + 100)


def test_live_bytes_are_those_held_at_once() -> None:
    with LiveBytes() as live:
        a = torch.ones(1000)
        b = a + 1
        del a
        c = b.view(10, 100) * 2
        c.add_(1)
    assert live.peak == 2 * 4000
    del b, c


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_the_computed_activations_are_within_a_third_of_the_saved_tensors(checkpointing: bool) -> None:
    for shape in (SMALL, replace(SMALL, hidden=128, intermediate=256, layers=2, heads=4, kv_heads=4)):
        cell = replace(CELL, length=200, answer=4)
        model = build_model(shape, cell.latents, latent_dim=8)
        if checkpointing:
            model.gradient_checkpointing_enable()
        kept = saved_bytes(losses(model, build_batch(cell))["two-pass"], [*model.parameters(), *model.buffers()])
        tokens = cell.batch * sum(new for new, _ in grid.segments("two-pass", 200, 4, 3))
        logits = 2 * cell.batch * cell.answer * shape.vocab
        computed = 4 * (tokens * kept_per_token(shape, checkpointing=checkpointing) + logits)
        assert computed == pytest.approx(kept, rel=1 / 3)


# ---------------------------------------------------------------------- cells and their files


def fake_report(cell: Cell, **_: Any) -> dict[str, Any]:
    """What a worker would send: times that follow the token counts exactly."""
    counts = {m: sum(new for new, _ in grid.segments(m, cell.length, cell.answer, cell.latents)) for m in cell.methods}
    seconds = {m: [count * 1e-3, count * 1e-3, count * 1e-3] for m, count in counts.items()}
    return {
        "status": "done",
        "device": "CPU, 1 threads",
        "step_seconds": seconds,
        "gradient_seconds": seconds,
        "model_flops": dict.fromkeys(cell.methods, 1e9),
        "peak_flops": None,
        "peak_bytes": {m: 10.0 * count for m, count in counts.items()},
    }


def grid_cells() -> list[Cell]:
    return grid.training_cells(["tiny"], [256, 512, 768, 2048], [16], [8, 64], (False,), repeats=3)


def test_finished_cells_are_skipped_and_those_that_did_not_fit_are_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def measure(cell: Cell, **_: Any) -> dict[str, Any]:
        asked.append(cell.name)
        return {"status": "does not fit", "reason": "too large"} if cell.length == 512 else fake_report(cell)

    monkeypatch.setattr(runner, "measure", measure)
    cells = grid_cells()
    said: list[str] = []
    first = runner.run_cells(cells, tmp_path, say=said.append)
    assert asked == [cell.name for cell in cells] and any("does not fit: too large" in line for line in said)
    assert [r.extra["status"] for r in first].count("does not fit") == 1
    asked.clear()
    again = runner.run_cells(cells, tmp_path, say=said.append)
    assert asked == [cell.name for cell in cells if cell.length == 512]
    assert [r.cell for r in again] == [r.cell for r in first]
    asked.clear()
    runner.run_cells([replace(cells[0], repeats=9)], tmp_path, say=said.append)
    assert asked == [cells[0].name]  # another setting is another measurement


def test_cells_measured_by_earlier_versions_are_finished_under_today_s_names_of_the_settings() -> None:
    results = PROJECT_ROOT / "results"
    cells = [Cell(**result.config) for result in read_study(results / runner.STUDY)]
    assert len(cells) > 40 and all(runner.finished(results, cell) for cell in cells)


def test_a_cell_that_cannot_fit_is_refused_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "main_memory", lambda: (2**34, 2**33))
    outcome = runner.measure(replace(CELL, size="7b"))
    assert outcome["status"] == "does not fit" and "8.0 GiB of main memory are free" in outcome["reason"]


def test_memory_is_measured_a_process_a_method_and_one_that_does_not_fit_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def worker(cell: Cell, task: str, *_: Any) -> dict[str, Any]:
        assert task == "memory"
        if cell.methods == ("three-pass",):
            return {"status": "does not fit", "reason": "too large"}
        sizes = dict.fromkeys(runner.MEMORY, 100 if cell.methods == ("sft",) else 104)
        return {"status": "done", "device": "CPU", "parameters": 7, "trained": 5, **sizes}

    monkeypatch.setattr(runner, "_worker", worker)
    cell = replace(CELL, kind="memory", methods=("sft", "two-pass", "three-pass"))
    outcome = runner.measure(cell)
    assert outcome["status"] == "done" and outcome["memory_missing"] == {"three-pass": "too large"}
    metrics = runner.metrics_of(cell, outcome)
    assert metrics["peak_bytes.two-pass"].value == 104 and metrics["peak_bytes.three-pass"].value is None
    monkeypatch.setattr(runner, "_worker", lambda *_: {"status": "does not fit", "reason": "too large"})
    assert runner.measure(cell)["status"] == "does not fit"


def results_of(cells: list[Cell], root: Path, monkeypatch: pytest.MonkeyPatch) -> list[Result]:
    monkeypatch.setattr(runner, "measure", fake_report)
    return runner.run_cells(cells, root, say=lambda _: None)


def test_verdicts_follow_from_the_measured_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = results_of(grid_cells(), tmp_path, monkeypatch)
    result = {verdict.requirement: verdict for verdict in report.verdicts(results)}
    assert result["step time at most r + 0.03 times SFT's"].passed is True
    assert result["three passes at least 2.5 times SFT at N = 768, |y| = 16"].passed is True
    assert result["cost in k as r predicts, within 5 %"].passed is True
    linear = next(v for name, v in result.items() if name.startswith("cost linear in the tokens"))
    assert linear.passed is True and "4 lengths" in linear.detail
    assert result["7B at 45 % model-flops utilisation or better"].passed is None
    slow = replace(results[0], metrics={**results[0].metrics, "ratio.two-pass": Metric(1.5, "1")})
    worse = {v.requirement: v for v in report.verdicts([slow, *results[1:]])}
    verdict = worse["step time at most r + 0.03 times SFT's"]
    assert verdict.passed is False and results[0].cell in verdict.detail


def test_the_exponent_of_a_power_law_is_found() -> None:
    slope, error = report.exponent([1, 2, 4, 8], [3 * n**1.5 for n in (1, 2, 4, 8)])
    assert slope == pytest.approx(1.5) and error == pytest.approx(0, abs=1e-6)


def test_inference_counts_extra_decode_steps_and_sharding_counts_calls() -> None:
    cell = replace(CELL, kind="infer")
    seconds = {
        "plain_first": [1.0],
        "latent_first": [1.3],
        "plain_more": [5.0],
        "one_sample": [2.0],
        "eight_samples": [2.4],
    }
    metrics = runner.metrics_of(cell, {"status": "done", "seconds": seconds, "decoded": 16})
    assert metrics["first_token_extra_steps"].value == pytest.approx(1.2)
    assert metrics["eight_samples_over_one"].value == pytest.approx(1.2)
    calls = {"sft": {"allgather_base": 9, "reduce_scatter_base": 5}, "two-pass": {"allgather_base": 17}}
    sharded = {"status": "done", "collectives": calls, "gradient_difference": 1e-7}
    metrics = runner.metrics_of(replace(CELL, kind="sharded"), sharded)
    assert (metrics["gathers.sft"].value, metrics["gathers.two-pass"].value) == (9, 17)
    assert (metrics["reductions.sft"].value, metrics["reductions.two-pass"].value) == (5, 0)


def test_the_script_prints_table_and_verdicts_and_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "measure", fake_report)
    options = ["--only", "train", "--device", "cpu", "--out", str(tmp_path), "--checkpointing", "no"]
    assert throughput.main(options) == 0
    printed = capsys.readouterr().out
    assert "two-pass" in printed and "met  " in printed and "batch 1, cpu, float32" in printed
    assert (tmp_path / "throughput" / "throughput.png").stat().st_size > 10_000


def test_the_script_refuses_what_makes_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        throughput.main(["--latents", "0"])
    assert "--latents: expected a value greater than 0, received 0;" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        throughput.main(["--minutes", "0"])
    assert "--minutes: expected a value greater than 0, received 0.0;" in capsys.readouterr().err


def test_a_report_of_what_is_there_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results_of(grid_cells(), tmp_path, monkeypatch)
    monkeypatch.setattr(runner, "measure", lambda *_, **__: pytest.fail("measured"))
    assert throughput.main(["--report", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.count("two-pass") >= len(grid_cells()) and "step time at most r + 0.03" in said
    assert (tmp_path / "throughput" / "throughput.png").is_file()


def test_a_list_of_the_cells_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "measure", lambda *_, **__: pytest.fail("measured"))
    options = ["--device", "cuda", "--sizes", "7b", "--lengths", "768", "--answers", "16", "--latents", "8"]
    assert throughput.main(["--list", "--only", "train", "--out", str(tmp_path), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "train-7b-cuda-bfloat16-b1-n768-y16-k8",
        "train-7b-cuda-bfloat16-b1-n768-y16-k8-checkpointing",
    ]
    assert all(line.endswith("to be measured") and float(line.split()[1]) > 50 for line in lines)


def test_after_the_limit_of_time_no_cell_begins_and_what_was_measured_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    cells = [replace(CELL, kind="infer", batch=batch) for batch in (1, 2)]
    assert runner.run_cells(cells, tmp_path, seconds=1e-9, say=said.append) == []
    assert all("out of time; the same command goes on from here" in line for line in said) and len(said) == 2
    monkeypatch.setattr(runner.subprocess, "run", lambda *_, **options: slept(options["timeout"]))
    assert runner.run_cells(cells[:1], tmp_path, seconds=60, say=said.append) == []
    assert list(tmp_path.rglob("*.json")) == []


def slept(timeout: float) -> Any:
    """What `subprocess.run` does at its limit."""
    assert 0 < timeout <= 60
    raise subprocess.TimeoutExpired("worker", timeout)


def test_every_kind_of_cell_is_asked_for_by_default_and_check_asks_for_gradients_alone() -> None:
    options = throughput.Options(device="cpu", dtype="float32")
    assert {cell.kind for cell in throughput.cells_of(options)} == set(throughput.KINDS)
    cells = throughput.cells_of(replace(options, check=True))
    assert {cell.kind for cell in cells} == {"gradients"}
    assert {(768, 16, 8, True), (2048, 256, 8, False)} <= {
        (c.length, c.answer, c.latents, c.checkpointing) for c in cells
    }


# ---------------------------------------------------------------------- real measurements, as small as they get


def test_a_training_cell_reports_every_method_s_rounds_and_memory() -> None:
    cell = replace(CELL, repeats=2)
    outcome = worker.work(cell, "train")
    assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in outcome["step_seconds"].values())
    assert outcome["step_seconds"].keys() == set(grid.METHODS)
    memory = worker.work(replace(cell, methods=("two-pass",)), "memory")
    assert memory["step_bytes"] >= memory["activation_bytes"] > memory["saved_bytes"] / 2 > 0


def test_a_profiled_step_names_the_operations_that_take_its_time(tmp_path: Path) -> None:
    cell = replace(CELL, repeats=1, methods=("two-pass",), profile=True)
    outcome = worker.work(cell, "train")
    (found,) = outcome["profile"].values()
    shares = [row["share"] for row in found["operations"]]
    assert shares == sorted(shares, reverse=True) and 0.5 < sum(shares) <= 1 + 1e-9
    assert any("mm" in row["name"] for row in found["operations"]) and found["idle"] is None
    assert 0 < found["operation_seconds"] <= 1.5 * found["wall_seconds"] * os.cpu_count()  # type: ignore[operator]
    result = runner._write(tmp_path, cell, {"status": "done", **outcome}, 1.0)
    assert f"{cell.name}, two-pass" in report.profiles([result]) and report.profiles([]) == ""


def test_the_gradient_check_agrees_to_float64_with_float32_roundings() -> None:
    outcome = worker.work(replace(CELL, kind="gradients", checkpointing=True), "gradients")
    assert 0 < outcome["gradient_difference"] < report.GRADIENT_TOLERANCE


def test_an_inference_cell_times_both_kinds_of_generation() -> None:
    outcome = worker.work(replace(CELL, kind="infer", batch=1, repeats=1), "infer")
    assert set(outcome["seconds"]) == {"plain_first", "latent_first", "plain_more", "one_sample", "eight_samples"}


@pytest.mark.slow
def test_two_processes_gather_at_most_twice_as_often_and_find_the_gradients_of_one() -> None:
    outcome = runner.measure(replace(CELL, kind="sharded", size="tiny"))
    metrics = runner.metrics_of(replace(CELL, kind="sharded"), outcome)
    for name in ("gathers", "reductions"):
        ours, plain = (metrics[f"{name}.{method}"].value for method in ("two-pass", "sft"))
        assert ours is not None and plain is not None and 0 < ours <= 2 * plain
    difference = metrics["gradient_difference"].value
    assert difference is not None and difference < 1e-4
