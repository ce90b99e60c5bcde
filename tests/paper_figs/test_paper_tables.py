"""The tables: reported numbers and ours apart, intervals, seeds, differences, valid LaTeX."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from amvl_model.results.files import Metric, Result
from amvl_model.results.frame import tidy
from amvl_model.studies.declared import STUDIES
from amvl_style import styled
from paper_figs import build, sources
from paper_figs.ours import command
from paper_figs.sources import REPORTED, Sources
from paper_figs.tables import table
from paper_figs.tables.table import NO_VALUE, NOT_RUN, SEEDS, drawn, over_questions, over_seeds, seeds_of, summarise
from tests.paper_results import COMMIT, trained, write


def reported(name: str, **where: str) -> dict[str, str]:
    with (REPORTED / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return next(row for row in csv.DictReader(file) if all(row[key] == value for key, value in where.items()))


# ---------------------------------------------------------------- reported numbers


def test_reported_numbers_are_those_of_the_paper() -> None:
    assert reported("blink", model="AMVL")["average"] == "66.91"
    assert reported("blink", model="Qwen2.5-VL-7B")["Jigsaw"] == "45.33"
    assert reported("perception", model="AMVL")["mean"] == "74.97"
    assert reported("objective_ablation", objective="fwd")["vstar"] == "40.84"
    assert reported("objective_ablation", order="reverse-first")["hrbench4k"] == "72.38"
    assert reported("latent_tokens", num_latents="16")["vstar"] == "81.15"
    assert reported("visualpuzzles_temperature", temperature="0.2")["visualpuzzles"] == "34.50"


def test_reported_gains_add_up_to_the_headline() -> None:
    def gain(table: str, column: str) -> float:
        base, amvl = (float(reported(table, model=name)[column]) for name in ("Qwen2.5-VL-7B", "AMVL"))
        return round(amvl - base, 2)

    assert (gain("blink", "average"), gain("blink", "Jigsaw"), gain("perception", "mean")) == (10.83, 32.0, 5.57)


def test_a_table_keeps_reported_numbers_and_ours_in_columns_of_their_own(empty: Path) -> None:
    with styled():
        text = build.draw("table_perception", Sources(results=empty)).texts[".md"]
    heading, _, *rows = [line for line in text.splitlines() if line.startswith("|")]
    groups = ["reported" in cell for cell in heading.split("|")]
    amvl = next(row for row in rows if row.startswith("| AMVL")).split("|")
    assert "84.29" in amvl[2] and groups[2]
    assert all("84.29" not in cell for cell, theirs in zip(amvl, groups, strict=True) if not theirs)
    assert sum(NOT_RUN in cell for cell in amvl) == 3


def test_unknown_reported_tables_are_refused() -> None:
    with pytest.raises(FileNotFoundError, match="perception"):
        Sources().reported("nothing")


def test_a_reported_row_of_another_length_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "REPORTED", tmp_path)
    (tmp_path / "perception.csv").write_text("model,mean\nAMVL,74.97,1\n")
    with pytest.raises(ValueError, match=r"perception\.csv: row has 3 cells, header has 2: AMVL,74\.97,1"):
        Sources().reported("perception")


# ---------------------------------------------------------------- ours


def run_of(seed: int, value: float | None) -> Result:
    return Result(
        study="s", cell="c", seed=seed, config={}, metrics={"a": Metric(value, "1")}, wall_seconds=None, device="cpu",
        commit=COMMIT, dirty=False, versions={}, created="",
    )  # fmt: skip


def test_an_interval_over_seeds_is_students() -> None:
    values = [0.90, 0.92, 0.95, 0.91, 0.97]
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    text = over_seeds(pd.Series(values), scale=100.0)
    assert text == f"{100 * np.mean(values):.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def test_one_benchmark_result_shows_its_own_interval_over_questions() -> None:
    found = replace(run_of(0, 0.5), metrics={"a": Metric(0.5, "fraction", 0.45, 0.55, 100)})
    assert over_questions(tidy([found]), "a") == "50.0 [45.0, 55.0]"
    assert over_questions(tidy([run_of(0, 0.5)]), "a") == "50.0"
    assert over_questions(tidy([run_of(0, 0.5)]), "b") == "–"


def test_one_seed_has_no_interval_and_a_missing_value_is_no_zero() -> None:
    assert over_seeds(pd.Series([0.5]), digits=2) == "0.50"
    assert over_seeds(pd.Series([np.nan])) == over_seeds(pd.Series([], dtype=float)) == NO_VALUE
    assert [seeds_of(seeds) for seeds in ([0, 1, 2], [0, 3], [7, 0, 1, 2, 9, 1], [])] == [
        "0–2",
        "0, 3",
        "0–2, 7, 9",
        "–",
    ]


def test_groups_without_runs_are_not_run_and_metrics_that_no_run_has_are_dashes() -> None:
    runs = tidy([replace(run_of(seed, 0.5), cell=cell) for cell in "dc" for seed in (0, 1)])
    metrics = {("ours", "a"): table.Metric("a"), ("ours", "b"): table.Metric("b")}
    found = summarise(runs, "cell", metrics, rows=["c", "d", "e"])
    assert [*found] == [*metrics, SEEDS]
    assert found.loc["c"].tolist() == ["0.5 [0.5, 0.5]", NO_VALUE, "0–1"]
    assert found.loc["e"].tolist() == [NOT_RUN, NOT_RUN, NO_VALUE]
    assert [*summarise(runs, "cell", metrics).index] == ["d", "c"]
    assert summarise(tidy([]), "cell", metrics, rows=["c"]).loc["c"].tolist() == [NOT_RUN, NOT_RUN, NO_VALUE]


# ---------------------------------------------------------------- studies that share cells


def row_of(text: str, label: str) -> list[str]:
    """Cells of a Markdown table's row."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return next(row for row in rows if row[0] == label)


def test_a_row_without_runs_of_its_own_shows_those_of_the_study_leakage_and_says_so(empty: Path) -> None:
    rng = np.random.default_rng(0)
    for seed in range(5):
        write(empty, "leakage", "amvl,gamma=0.001", seed, {}, trained(rng) | {"accuracy": 0.5})
        write(empty, "leakage", "elbo", seed, {}, trained(rng) | {"accuracy": 0.25})
        write(empty, "objectives", "amvl", seed, {}, trained(rng) | {"accuracy": 0.75})
    sources = Sources(results=empty)
    with styled():
        text = build.draw("table_objectives", sources).texts[".md"]
    assert row_of(text, "AMVL, forward-first")[4] == "75.0 [75.0, 75.0]"
    assert row_of(text, "ELBO, no stop-gradient")[4] == "25.0 [25.0, 25.0]"
    assert row_of(text, "SFT, no latents")[4:7] == [NOT_RUN] * 3
    assert "Study objectives; from study leakage, same settings: ELBO, no stop-gradient." in text
    commands = {note.command: note.what for note in sources.missing}
    assert "30 of 35 runs of results/objectives" in commands[command("objectives")]
    assert command("leakage") in commands and command("objectives").endswith("--keep runs")


def test_runs_whose_decoder_reads_the_leak_are_counted_with_their_seeds(empty: Path) -> None:
    gaps = {"ntp+fwd": [-0.3, -0.07, 0.01], "amvl": [-0.04, 0.0, 0.02]}
    for objective, found in gaps.items():
        for seed, gap in enumerate(found):
            metrics = {"accuracy": 0.9 - 0.1 * seed, "held_out.nll_gap_mean": gap, "held_out.leaked_information": 0.5}
            write(empty, "leakage", objective, seed, {"objective": {"name": objective}}, metrics)
    with styled():
        text = build.draw("table_exploited", Sources(results=empty)).texts[".md"]
    assert row_of(text, "forward-only")[1:] == ["leakage", "3", "2", "1", "1", "0–1", "−0.30", "70.0", "0.50"]
    assert row_of(text, "AMVL")[3:7] == ["0", "0", "0", "–"]
    assert (
        f"2 of 3 runs forward-only, 0 of 3 AMVL (Fisher's exact test p = {stats.fisher_exact([[2, 1], [0, 3]]).pvalue:.2g})"
        in text
    )
    for objective, low in (("ntp+fwd", -0.2), ("amvl", 0.0)):
        for seed in STUDIES["stability"].seeds:
            metrics = {"accuracy": 0.9, "held_out.nll_gap_mean": low, "held_out.leaked_information": 0.5}
            write(empty, "stability", objective, seed, {"objective": {"name": objective}}, metrics)
    with styled():
        text = build.draw("table_exploited", Sources(results=empty)).texts[".md"]
    assert "2 of 3 runs forward-only, 0 of 3 AMVL" in text, (
        "fresh seeds are not counted among those that were seen before"
    )
    assert "(600 steps). Below −0.05 nats: 15 of 15 runs forward-only, 0 of 15 AMVL" in text
    assert "| forward-only | stability | 15 | 15 |" in " ".join(text.split())
    assert "15 seeds forward-only alone, 0 AMVL alone (McNemar's p = 6.1e-05)" in text
    (empty / "stability" / "amvl" / "seed7.json").unlink()
    with styled():
        text = build.draw("table_exploited", Sources(results=empty)).texts[".md"]
    assert "(600 steps). Not complete: 29 of 30 runs." in text, "nobody looks at a planned test before its end"


def test_differences_are_paired_by_seed_and_starred_after_holm(empty: Path) -> None:
    rng = np.random.default_rng(0)
    for seed in range(5):
        spread = 0.1 * seed
        for cell in STUDIES["objectives"].all_cells:
            offset, noise = -0.05 * (cell == "sft"), 0.001 * float(rng.normal()) * (cell != "amvl")
            write(empty, "objectives", cell, seed, {}, {"accuracy": 0.5 + spread + offset + noise, "answer_nll": 0.5})

    def drawn() -> str:
        with styled():
            return build.draw("table_differences", Sources(results=empty)).texts[".md"]

    text = drawn()
    sft, pause = row_of(text, "SFT, no latents"), row_of(text, "pause tokens")
    assert sft[1].startswith("−5.0 [") and sft[1].endswith("]*") and sft[5] == "5"
    assert pause[1].startswith(("0.0 [", "+0.", "−0.")) and not pause[1].endswith("*")
    assert sft[3] == "–", "no posterior, nothing leaked"
    (empty / "objectives" / "sft" / "seed4.json").unlink()
    text = drawn()
    assert row_of(text, "SFT, no latents")[5] == "4" and not row_of(text, "SFT, no latents")[1].endswith("*")
    write(empty, "objectives", "sft", 4, {}, {"accuracy": 0.85, "answer_nll": 0.5})
    assert row_of(drawn(), "SFT, no latents")[1].endswith("*")
    shutil.rmtree(empty / "objectives" / "elbo")
    text = drawn()
    assert row_of(text, "ELBO, no stop-gradient")[1] == NOT_RUN
    assert "*" not in row_of(text, "SFT, no latents")[1], "a family with a row missing is not corrected for that row"


def test_every_cell_that_is_compared_is_declared() -> None:
    from paper_figs.tables.differences import families

    for family in families():
        declared = set(STUDIES[family.study].all_cells)
        assert declared.issuperset(cell for pair in family.pairs.values() for cell in pair), family.heading


# ---------------------------------------------------------------- tables


def test_a_table_is_valid_booktabs_and_escapes_what_latex_would_read() -> None:
    frame = pd.DataFrame({("", "name"): ["V*", "γ & β"], ("ours", "x_1 [%]"): ["−1.0", "0–4"]})
    texts = drawn("A & B", frame, ["50 % more"]).texts
    for part in (r"\toprule", r"\caption{A \& B}", r"x\_1 [\%]", r"V* & $-$1.0 \\", r"$\gamma$ \& $\beta$ & 0--4 \\"):
        assert part in texts[".tex"]
    assert texts[".tex"].count("{") == texts[".tex"].count("}")
    assert (
        texts[".tex"].index(r"\end{tabular}") < texts[".tex"].index(r"50 \% more") < texts[".tex"].index(r"\end{table}")
    )
    assert row_of(texts[".md"], "V*") == ["V*", "−1.0"] and "ours: x_1 [%]" in texts[".md"]
    assert texts[".csv"] == "name,ours: x_1 [%]\nV*,−1.0\nγ & β,0–4\n"
