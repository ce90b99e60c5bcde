"""The paper's figures and tables: traced, deterministic, honest about what is missing, and readable."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from amvl_model.results.files import ResultError
from amvl_model.results.provenance import PROJECT_ROOT
from amvl_model.results.seeds import CHECKPOINT_COLUMNS, COLUMNS
from amvl_style import styled
from paper_figs import build, style
from paper_figs.__main__ import main
from paper_figs.measure import CHECKPOINTS
from paper_figs.ours import LEAKAGE, OUT_ACCURACY, PARETO
from paper_figs.sources import Missing, Sources
from paper_figs.tables.table import NOT_RUN
from tests.paper_results import COMMIT, synthetic_results, trained, write

SAMPLED_ACCURACY = "out_of_distribution.prior_sample.accuracy"
COMMITS: dict[str, str | None] = {}
DPI = 220
THEORY_ALONE = ("fig1_architecture", "fig2_kl_geometry", "phase_diagram", "counter_examples", "reading", "coadaptation")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up results, complete for every figure."""
    return synthetic_results(tmp_path_factory.mktemp("results"))


# ---------------------------------------------------------------- every figure


@pytest.mark.parametrize("name", build.NAMES)
def test_a_complete_set_of_results_gives_a_figure_that_can_be_read_and_traced(
    name: str, results: Path, tmp_path: Path
) -> None:
    outcome = build.build(name, tmp_path, results=results, commits=COMMITS)
    assert (outcome.status, outcome.remarks, outcome.missing) == ("complete", (), ())
    suffixes = {path.name.removeprefix(name) for path in outcome.files}
    forms = {".md", ".tex", ".csv"} if name.startswith("table_") else {".pdf", ".png"}
    assert suffixes == {*forms, ".provenance.json"}
    record = json.loads((tmp_path / f"{name}.provenance.json").read_text())
    assert record["inputs"] or record["computed"]
    assert record["command"] == f"python -m paper_figs {name}"
    assert all(len(item["sha256"]) == 64 for item in (*record["inputs"], *record["drawn_by"]))
    assert str(tmp_path) not in json.dumps(record)
    if not name.startswith("table_"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.width <= DPI * style.PAGE + 2, "wider than the page"


@pytest.mark.parametrize("name", [name for name in build.NAMES if name not in THEORY_ALONE])
def test_without_results_no_figure_fails_and_each_names_commands(name: str, empty: Path) -> None:
    sources = Sources(results=empty)
    with styled():
        try:
            drawn = build.draw(name, sources)
        except build.NothingToDrawError:
            without = (
                "fig3_relevance",
                "fig4_slots",
                "theory_vs_checkpoints",
                "leakage_frontier",
                "length_and_size",
                "laboratory",
                "cold_start",
                "changing_cells",
            )
            assert name in without
        else:
            assert drawn.figure is None or style.problems(drawn.figure) == []
    assert sources.missing
    assert all(note.command.startswith("python ") for note in sources.missing)


@pytest.mark.parametrize("name", ["counter_examples", "table_objectives"])
def test_the_same_results_give_the_same_bytes(name: str, results: Path, tmp_path: Path) -> None:
    first, second = (build.build(name, tmp_path / each, results=results, commits=COMMITS) for each in ("a", "b"))
    assert len(first.files) == len(second.files) >= 3
    for one, other in zip(first.files, second.files, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    assert all(b"CreationDate" not in path.read_bytes() for path in first.files)


def test_two_processes_write_the_same_bytes(results: Path, tmp_path: Path) -> None:
    """Hashes of strings differ between the two, so that an order that comes from a set would show."""
    names = ("leakage_frontier", "table_objectives")
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "paper_figs", *names, "--results", str(results), "--out", str(tmp_path / seed)]
        subprocess.run(command, check=True, cwd=PROJECT_ROOT, env=os.environ | {"PYTHONHASHSEED": seed}, timeout=300)
    written = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert len(written) == 7
    for name in written:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_a_figure_does_not_depend_on_what_was_drawn_before(results: Path, tmp_path: Path) -> None:
    alone = build.build("table_latents", tmp_path / "alone", results=results, commits=COMMITS)
    build.build("phase_diagram", tmp_path / "after", results=results, commits=COMMITS)
    after = build.build("table_latents", tmp_path / "after", results=results, commits=COMMITS)
    assert [path.read_bytes() for path in alone.files] == [path.read_bytes() for path in after.files]


def test_seeds_commits_and_commands_of_all_runs_stand_in_the_provenance(results: Path, tmp_path: Path) -> None:
    build.build("leakage_frontier", tmp_path, results=results, commits=COMMITS)
    record = json.loads((tmp_path / "leakage_frontier.provenance.json").read_text())
    assert record["seeds"] == [0, 1, 2, 3, 4]
    assert len(record["inputs"]) == 14 * 5
    assert {item["run_commit"] for item in record["inputs"]} == {COMMIT}
    assert {item["made_by"] for item in record["inputs"]} == {PARETO}


# ---------------------------------------------------------------- what is missing


def test_a_missing_study_is_named_with_its_command_and_the_rest_is_drawn(
    empty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    status = main(["phase_diagram", "leakage_frontier", "table_objectives", "--results", str(empty), "--out", str(out)])
    said = capsys.readouterr().out
    assert status == 1
    assert PARETO in said and LEAKAGE in said
    assert (out / "phase_diagram.pdf").is_file() and (out / "table_objectives.tex").is_file()
    assert not (out / "leakage_frontier.pdf").exists()
    assert NOT_RUN in (out / "table_objectives.md").read_text()


def test_complete_figures_end_with_status_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["phase_diagram", "--out", str(tmp_path)]) == 0
    assert "missing" not in capsys.readouterr().out


def test_runs_that_a_study_declares_and_that_are_not_there_count_as_missing(empty: Path) -> None:
    write(empty, "pareto", "forward-only,beta=0.001", 0, {}, trained(np.random.default_rng(0)))
    sources = Sources(results=empty)
    assert len(sources.study("pareto", "python x")) == 1
    (note,) = sources.missing
    assert "69 of 70 runs" in note.what and note.command == "python x"


def test_a_changed_checkpoint_is_said_to_be_changed(results: Path, tmp_path: Path) -> None:
    root = tmp_path / "results"
    for name in CHECKPOINTS:
        old = json.loads((results / "shipped" / name / "seed0.json").read_text())
        old["extra"]["weights_sha256"] = "0" * 64
        path = write(root, "shipped", name, 0, {}, {})
        path.write_text(json.dumps(old))
    outcome = build.build("fig4_slots", tmp_path / "out", results=root, commits=COMMITS)
    assert outcome.status == "partial"
    assert all("--overwrite" in note.command for note in outcome.missing)


def test_an_unreadable_result_fails_its_figure_and_no_other(
    empty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = empty / "pareto" / "forward-only,beta=0.001"
    folder.mkdir(parents=True)
    (folder / "seed0.json").write_text("{half")
    status = main(["leakage_frontier", "phase_diagram", "--results", str(empty), "--out", str(tmp_path / "out")])
    assert status == 2
    assert (tmp_path / "out" / "phase_diagram.png").is_file()
    assert "delete it and run its cell again" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda record: record["metrics"]["accuracy"].update(value=7.5),
            "expected a value from 0 to 1 fraction, got 7.5",
        ),
        (lambda record: record["metrics"]["accuracy"].update(value=0.99), "metrics_sha256 does not fit"),
        (lambda record: record.update(seed=4), "metrics_sha256 does not fit"),
    ],
)
def test_a_result_that_fails_a_check_is_refused_by_figures_and_tables(
    change: Any, message: str, empty: Path, tmp_path: Path
) -> None:
    config = {"objective": {"name": "amvl"}}
    path = write(empty, "objectives", "amvl", 0, config, trained(np.random.default_rng(0)))
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    outcome = build.build("table_objectives", tmp_path / "out", results=empty, commits=COMMITS)
    assert outcome.status == "failed" and message in outcome.remarks[0]
    assert not (tmp_path / "out").exists()


def test_a_run_with_other_settings_than_its_cell_declares_is_refused(empty: Path) -> None:
    write(empty, "pareto", "forward-only,beta=0.001", 0, {"objective": {"name": "amvl"}}, {})
    with pytest.raises(ResultError, match="has objective.name = 'ntp\\+fwd', this run 'amvl'"):
        Sources(results=empty).study("pareto", "python x")


def test_an_evaluation_of_the_main_job_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "main_job").mkdir()
    accuracy = {"mean": 7.5, "low": None, "high": None, "n": 10}
    (tmp_path / "main_job" / "eval.json").write_text(json.dumps({"base": {"accuracy": accuracy}}))
    with pytest.raises(ResultError, match="base.accuracy: expected a mean from 0 to 1"):
        Sources(results=tmp_path).json("main_job/eval.json", "python x")


@pytest.mark.parametrize(("metric", "name"), [(OUT_ACCURACY, "shifted-25"), (SAMPLED_ACCURACY, "shifted-50")])
def test_a_shifted_set_has_the_size_that_its_name_says(metric: str, name: str) -> None:
    """The columns are named by the questions a task; so are the stored results counted, and the labels of the tables."""
    found = [column.label for column in (*COLUMNS, *CHECKPOINT_COLUMNS["sampled"]) if column.metric == metric]
    assert found == [f"{name}: accuracy [%]"]
    results = Sources().study("temperature" if name == "shifted-50" else "objectives", "python x")
    sizes = {r.metrics[metric].n / len(r.config["data"]["tasks"]) for r in results if metric in r.metrics}
    assert sizes == {float(name.removeprefix("shifted-"))}


def test_an_unknown_name_is_refused_with_the_names_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fig9"])
    assert stopped.value.code == 2
    assert "'fig9'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="there are fig1_architecture"):
        build.module("fig9")


def test_every_name_has_a_title(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(build.NAMES)


def test_the_summary_names_each_missing_result_once_with_all_its_figures() -> None:
    note = Missing("results/pareto", "python x")
    outcomes = [build.Outcome("a", "partial", missing=(note,)), build.Outcome("b", "not drawn", missing=(note,))]
    text = build.table(outcomes)
    assert text.count("python x") == 1 and "(for a, b)" in text
    assert build.status(outcomes) == 1


# ---------------------------------------------------------------- readability


def test_overlapping_small_and_cut_texts_are_found() -> None:
    figure = Figure(figsize=(3, 2))
    figure.text(0.3, 0.5, "one", fontsize=9)
    figure.text(0.31, 0.5, "two", fontsize=9)
    figure.text(0.1, 0.1, "small", fontsize=5)
    figure.text(0.9, 0.9, "beyond the edge", fontsize=9)
    found = "\n".join(style.problems(figure))
    assert "'one' overlaps 'two'" in found
    assert "'small' has 5 pt" in found
    assert "'beyond the edge' lies partly outside" in found


def test_a_tidy_figure_has_no_problems_and_ticks_out_of_view_do_not_count() -> None:
    with styled():
        figure = style.page(2.0, style.COLUMN)
        ax = figure.subplots()
        ax.plot([0, 1], [0, 1])
        ax.set_xticks(np.linspace(-50, 50, 400))
        ax.set_xlim(0.1, 0.2)
        assert style.problems(figure) == []


# ---------------------------------------------------------------- Fig. 1


@pytest.fixture(scope="module")
def layout():  # type: ignore[no-untyped-def]
    """What the shipped model ran, and Fig. 1's two passes of the shorter question."""
    from paper_figs.figures.architecture import passes, record

    calls, batch, k = record()
    example = int(np.argmin(batch["attention_mask"].sum(1)))
    return calls, batch, k, example, passes(calls, batch, k, example)


def test_fig1_shows_the_masks_that_shared_prefix_builds_for_this_batch(layout) -> None:  # type: ignore[no-untyped-def]
    import torch

    from amvl_model.two_pass.layout import first_pass_mask, second_pass_mask

    _, batch, k, example, (one, two) = layout
    query, answer = (torch.from_numpy(batch[name]) for name in ("attention_mask", "answer_mask"))
    first = first_pass_mask(query, k, answer)[example, 0].numpy()
    second = second_pass_mask(query, k + answer.shape[1] - 1)[example, 0].numpy()
    assert (one.visible[one.prefix :] == first).all()
    assert (two.visible[two.prefix :] == second).all()
    assert not two.visible[: two.prefix].any()
    assert (one.visible[: one.prefix] == np.tril(one.visible[: one.prefix])).all()


def test_fig1_says_who_attends_to_whom(layout) -> None:  # type: ignore[no-untyped-def]
    *_, (one, two) = layout

    def sees(each, row: str, column: str) -> bool:  # type: ignore[no-untyped-def]
        rows, columns = ([kind == name for kind in each.kinds] for name in (row, column))
        return bool(each.visible[np.ix_(rows, columns)].any())

    for latents in ("prior latents", "posterior latents", "answer y"):
        assert sees(one, latents, "images of x") and sees(one, latents, "words of x")
    assert sees(one, "posterior latents", "answer y") and not sees(one, "prior latents", "answer y")
    assert not sees(one, "prior latents", "posterior latents") and not sees(one, "posterior latents", "prior latents")
    assert not sees(one, "answer y", "prior latents") and not sees(one, "answer y", "posterior latents")
    assert not sees(one, "words of x", "prior latents") and not sees(one, "words of x", "answer y")
    assert sees(two, "answer y", "injected samples")
    assert not one.visible[:, [kind == "padding" for kind in one.kinds]].any()


def test_fig1_has_the_positions_and_the_last_layer_of_the_run(layout) -> None:  # type: ignore[no-untyped-def]
    calls, batch, k, example, (one, two) = layout
    last = one.positions[: int(batch["attention_mask"][example].sum())].max()
    after = np.arange(last + 1, last + 1 + k)
    assert (one.positions[one.prefix :][:k] == after).all()
    assert (one.positions[one.prefix + k :][:k] == after).all()
    assert one.positions[one.prefix + 2 * k] == last + 1 + k
    assert (two.positions[two.prefix :][:k] == after).all()
    assert calls[0]["read"] == (one.prefix, one.prefix + 2 * k) and calls[1]["read"] is None
    assert [kind for kind, flag in zip(one.kinds, one.computed, strict=True) if flag] == (
        ["prior latents"] * k + ["posterior latents"] * k
    )


# ---------------------------------------------------------------- Fig. 2


def test_fig2_phases_do_what_their_names_say() -> None:
    from paper_figs.figures.kl_geometry import FORCES, PHASES, kls, leaked, run

    found = run()
    ends = np.cumsum([0, *(phase.steps for phase in PHASES)])
    prior = found.recorded.contamination[:, 0]
    assert not prior[: ends[1] + 1].any(), "without a weight the prior does not move"
    mean = found.recorded.posterior_shift[:, 0].mean(1)
    assert np.abs(prior - mean)[ends[2]].max() < 0.15 * np.abs(mean[ends[2]]).max(), (
        "T1: it inherits the posterior's mean"
    )
    forward, reverse = kls(found.recorded)
    assert forward[ends[2]] < 0.6 * forward[ends[1]]
    assert reverse[ends[3]] < 0.2 * reverse[ends[2]]
    nats = [leaked(found.recorded, int(end)) for end in ends[1:]]
    assert nats[2] < 0.6 * nats[1] <= 0.6 * np.log(len(FORCES)) + 1e-6


def test_fig2_leaked_information_agrees_with_sampling() -> None:
    from paper_figs.figures.kl_geometry import PHASES, leaked, run

    states = run().recorded
    step = sum(phase.steps for phase in PHASES)
    means, std = states.posterior_shift[step, 0], np.exp(0.5 * states.posterior_log_var[step, 0])
    rng = np.random.default_rng(0)
    z = means[:, None] + std[:, None] * rng.standard_normal((3, 40_000, 2))
    log_q = stats.norm.logpdf(z[:, :, None], means, std).sum(-1)
    own = log_q[np.arange(3), :, np.arange(3)]
    values = own - (np.logaddexp.reduce(log_q, axis=-1) - np.log(3))
    error = values.std() / np.sqrt(values.size)
    assert leaked(states, step) == pytest.approx(values.mean(), abs=4 * error)
