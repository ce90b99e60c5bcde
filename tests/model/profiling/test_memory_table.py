"""The memory table: computed, marked as computed, ordered as memory is, with measured peaks underneath where there are some."""

from __future__ import annotations

from pathlib import Path

import pytest

from amvl_model.cli import main
from amvl_model.profiling.footprint import CARDS, memory_rows, memory_table
from amvl_model.results.files import Metric, result_path, write_result


def test_less_training_and_checkpointing_need_less() -> None:
    rows = {(row.model, row.method, row.checkpointing): row for row in memory_rows()}
    for model in ("3B", "7B"):
        order = [rows[model, method, True].total for method in ("full fine-tuning", "frozen vision", "LoRA, rank 16")]
        assert order == sorted(order, reverse=True)
        for method in ("full fine-tuning", "frozen vision", "LoRA, rank 16"):
            plain, again = rows[model, method, False], rows[model, method, True]
            assert again.activations < plain.activations and again.states == plain.states


def test_states_in_bfloat16_are_eight_bytes_a_trained_weight() -> None:
    row = next(row for row in memory_rows() if (row.model, row.method) == ("7B", "frozen vision"))
    assert 8 * 7.6e9 < row.states < 8 * 7.8e9
    assert [row.fits(card) for card in CARDS] == [False, False, True, True]


def test_a_larger_batch_needs_more_activations() -> None:
    assert memory_rows(4)[0].activations == pytest.approx(4 * memory_rows(1)[0].activations, rel=1e-6)


def test_the_table_says_that_it_is_computed_and_lists_what_was_measured(tmp_path: Path) -> None:
    assert "COMPUTED, not measured" in memory_table(tmp_path) and "nothing yet" in memory_table(tmp_path)
    write_result(
        result_path(tmp_path, "throughput", "train-7b", 0),
        study="throughput",
        cell="train-7b",
        seed=0,
        config={"device": "cuda"},
        metrics={"peak_bytes.two-pass": Metric(70e9, "bytes")},
        wall_seconds=1.0,
        device="some GPU",
    )
    assert "train-7b: 70.0 GB on some GPU" in memory_table(tmp_path)


def test_the_console_script_prints_it_and_refuses_an_empty_batch(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", "--batch", "2"]) == 0
    assert "batch 2" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["memory", "--batch", "0"])
    assert "expected a value greater than 0, received 0" in capsys.readouterr().err
