"""The shared style: one look per method, arithmetic means on every axis, the same bytes, files in the wheel."""

from __future__ import annotations

import tomllib
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import amvl_style
from amvl_model.results.seeds import interval
from amvl_style import (
    METHODS,
    PALETTE_FILE,
    SERIES,
    STYLE_FILE,
    graded,
    keys_of,
    look_of,
    over_seeds,
    save,
    shades,
    styled,
)
from tests.test_imports import LAYERS, REPOSITORY, imported


def test_methods_have_a_colour_of_their_own_and_aliases_share_it() -> None:
    trained = (
        "amvl",
        "ntp+fwd",
        "elbo",
        "pause",
        "ntp+rev",
        "jeffreys",
        "sft",
        "ntp",
        "prior",
        "base",
        "three-pass",
        "sequential",
    )
    assert (
        len({METHODS[name].colour for name in trained}) == len(trained)
        and len({METHODS[name].marker for name in trained[:-2]})
        == len(trained) - 2  # the last two stand in no figure with them
    )
    assert METHODS["dual"].colour == METHODS["two-pass"].colour == METHODS["amvl"].colour
    assert METHODS["forward-only"] == METHODS["ntp+fwd"]
    assert "fwd" not in METHODS  # the forward KL alone, an ablation
    assert look_of(len(SERIES)) == SERIES[0] == look_of(SERIES[0])


def test_nothing_else_has_the_colour_of_a_method() -> None:
    assert not {each.colour for each in SERIES} & {each.colour for each in METHODS.values()}
    with styled():
        assert matplotlib.rcParams["axes.prop_cycle"].by_key()["color"] == [each.colour for each in SERIES]


def test_a_checkpoint_has_the_look_of_its_objective_and_no_two_share_one() -> None:
    keys = keys_of({"a": "ntp+fwd", "b": "amvl", "c": "amvl", "d": None})
    assert (keys["a"], keys["b"]) == ("ntp+fwd", "amvl")
    assert len({look_of(key) for key in keys.values()}) == 4


def test_shades_darken_with_the_weight() -> None:
    light = [sum(to_rgb(colour)) for colour in shades("amvl", 4)]
    assert all(a > b for a, b in pairwise(light))
    assert [each.colour for each in graded(4, "amvl")] == shades("amvl", 4)


def test_a_rising_parameter_darkens_in_greyscale_and_changes_line_and_marker() -> None:
    looks = graded(5)
    light = [np.dot(to_rgb(each.colour), (0.299, 0.587, 0.114)) for each in looks]
    assert all(a > b + 0.05 for a, b in pairwise(light))
    assert len({each.line for each in looks}) == len({each.marker for each in looks}) == 5


def test_the_style_scales_text_and_lines_and_ends_with_its_context() -> None:
    before = matplotlib.rcParams["font.size"]
    with styled(2.0):
        assert matplotlib.rcParams["font.size"] == pytest.approx(15.0)
        assert matplotlib.rcParams["lines.linewidth"] == pytest.approx(2.6)
    assert matplotlib.rcParams["font.size"] == before


@pytest.mark.parametrize("log", [True, False])
def test_lines_over_seeds_show_the_arithmetic_mean_and_its_interval_on_every_axis(log: bool) -> None:
    values = {0.1: [0.01, 0.02, 0.08], 1.0: [0.1, 0.4, 0.9]}
    ax = over_seeds(Figure().subplots(), {"AMVL": values}, [METHODS["amvl"]], interval, log=log)
    line = ax.lines[0]
    (bars,) = ax.containers
    assert ax.get_yscale() == ("log" if log else "linear")
    assert line.get_xdata() == pytest.approx([0.1, 1.0])
    assert line.get_ydata() == pytest.approx([np.mean(item) for item in values.values()])
    for segment, item in zip(bars.lines[2][0].get_segments(), values.values(), strict=True):
        assert segment[:, 1] == pytest.approx(np.array(interval(np.array(item))))
    (dots,) = [item for item in ax.collections if len(item.get_offsets()) == 6]
    assert sorted(dots.get_offsets()[:, 1]) == pytest.approx(
        sorted(value for item in values.values() for value in item)
    )


@pytest.mark.parametrize("suffix", [".png", ".pdf"])
def test_the_same_figure_gives_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    def drawn(name: str) -> bytes:
        with styled():
            ax = over_seeds(Figure().subplots(), {"x": {1: [1.0, 2.0]}}, [SERIES[0]], interval)
            return save(ax.figure, tmp_path / f"{name}{suffix}").read_bytes()

    assert drawn("a") == drawn("b")


def test_the_wheel_contains_style_palette_and_report_template() -> None:
    tools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    data = tools["package-data"]
    assert {STYLE_FILE.name, PALETTE_FILE.name} <= set(data["amvl_style"])
    assert "amvl_style*" in tools["packages"]["find"]["include"]
    template = REPOSITORY / "amvl_model" / "diagnostics" / "report" / "report.html.jinja"
    assert any(template in (REPOSITORY / "amvl_model").glob(pattern) for pattern in data["amvl_model"])


def test_the_style_imports_neither_package() -> None:
    assert not imported(Path(amvl_style.__file__), ()) & set(LAYERS)
