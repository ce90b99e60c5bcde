"""Draws figures by name, writes their files and provenance, and says what is missing."""

from __future__ import annotations

import importlib
import json
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from matplotlib.figure import Figure

from amvl_model.results.files import ResultError
from amvl_model.results.provenance import PROJECT_ROOT, to_jsonable
from amvl_style import PALETTE_FILE, STYLE_FILE, styled
from paper_figs.sources import Missing, Sources, file_commits, relative, sha256
from paper_figs.style import problems, save

NAMES = {
    "fig1_architecture": "figures.architecture",
    "fig2_kl_geometry": "figures.kl_geometry",
    "fig3_relevance": "figures.relevance",
    "fig4_slots": "figures.slots",
    "table_perception": "tables.reported:perception",
    "table_blink": "tables.reported:blink",
    "table_blink_synthetic": "tables.reported:blink_synthetic",
    "table_objectives": "tables.ablations:objectives",
    "table_latents": "tables.ablations:latents",
    "table_temperature": "tables.ablations:temperature",
    "table_baselines": "tables.ablations:baselines",
    "table_differences": "tables.differences:differences",
    "table_exploited": "tables.exploited:exploited",
    "contamination": "theory.contamination",
    "theory_vs_checkpoints": "theory.theory_vs_checkpoints",
    "leakage_frontier": "figures.leakage_frontier",
    "length_and_size": "figures.length_and_size",
    "laboratory": "figures.laboratory",
    "table_laboratory": "figures.laboratory:table",
    "cold_start": "figures.cold_start",
    "changing_cells": "figures.changing_cells",
    "phase_diagram": "theory.phase_diagram",
    "counter_examples": "theory.counter_examples",
    "reading": "theory.reading",
    "coadaptation": "theory.coadaptation",
    "cost_per_step": "figures.cost_per_step",
}
"""Figures and tables by name. A figure has a module with a TITLE and a function draw(sources); a table is a function
module:function(sources), whose docstring is its title."""


class NothingToDrawError(Exception):
    """All that a figure shows is missing; `Sources.missing` lists it."""


@dataclass(frozen=True)
class Drawn:
    """A figure, or a table as texts by file suffix (".md", ".tex", ".csv")."""

    figure: Figure | None
    texts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of one figure.

    Attributes:
        name: of the figure.
        status: "complete", "partial" (drawn, but something is missing), "not drawn" (all is missing) or "failed".
        files: written.
        missing: results that are not there.
        remarks: overlapping or too small texts, or the error.
    """

    name: str
    status: str
    files: tuple[Path, ...] = ()
    missing: tuple[Missing, ...] = ()
    remarks: tuple[str, ...] = ()


def module(name: str) -> ModuleType:
    """The module of a figure or table.

    Raises:
        ValueError: for an unknown name.
    """
    if name not in NAMES:
        raise ValueError(f"no figure or table named {name!r}; there are {', '.join(NAMES)}")
    return importlib.import_module(f"paper_figs.{NAMES[name].partition(':')[0]}")


def title(name: str) -> str:
    """One line on what a figure or table shows."""
    function = NAMES[name].partition(":")[2]
    return str(getattr(module(name), function).__doc__ if function else module(name).TITLE)


def draw(name: str, sources: Sources) -> Drawn:
    """One figure in the style of all, or one table; nothing is written.

    Raises:
        ValueError: for an unknown name.
        NothingToDrawError: where all its results are missing.
    """
    drawn = getattr(module(name), NAMES[name].partition(":")[2] or "draw")(sources)
    assert isinstance(drawn, Drawn)
    return drawn


def build(
    name: str, out: Path, *, results: Path | None = None, commits: dict[str, str | None] | None = None
) -> Outcome:
    """Make a figure (<name>.pdf, .png) or a table (.md, .tex, .csv) with <name>.provenance.json; missing results do not raise."""
    sources = Sources() if results is None else Sources(results=results)
    commits = file_commits() if commits is None else commits
    try:
        with styled():
            drawn = draw(name, sources)
            remarks = problems(drawn.figure) if drawn.figure else []
            files = save(drawn.figure, out / name) if drawn.figure else []
    except NothingToDrawError:
        return Outcome(name, "not drawn", missing=tuple(sources.missing))
    except (ArithmeticError, AttributeError, LookupError, OSError, ResultError, TypeError, ValueError) as error:
        print(traceback.format_exc(), file=sys.stderr)
        return Outcome(name, "failed", missing=tuple(sources.missing), remarks=(f"{type(error).__name__}: {error}",))
    out.mkdir(parents=True, exist_ok=True)
    for suffix, text in drawn.texts.items():
        files.append(out / f"{name}{suffix}")
        files[-1].write_text(text, encoding="utf-8")
    record = provenance(name, sources, files, commits)
    page = out / f"{name}.provenance.json"
    page.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    status = "partial" if sources.missing else "complete"
    return Outcome(name, status, (*files, page), tuple(sources.missing), tuple(remarks))


def provenance(name: str, sources: Sources, outputs: Sequence[Path], commits: dict[str, str | None]) -> dict[str, Any]:
    """Where the numbers come from: files with hash and commit, commands, seeds, computations, missing results."""

    def known(path: Path) -> dict[str, Any]:
        shown = relative(path, sources.root)
        return {"path": shown, "sha256": sha256(path), "commit": commits.get(shown)}

    own = [Path(str(module(name).__file__)), Path(__file__).with_name("style.py"), STYLE_FILE, PALETTE_FILE]
    if NAMES[name].startswith("tables."):
        own[1:] = [Path(__file__).with_name("tables") / "table.py"]
    inputs = [known(path) | facts for path, facts in sorted(sources.files.items(), key=lambda item: str(item[0]))]
    return {
        "name": name,
        "title": title(name),
        "command": f"python -m paper_figs {name}",
        "outputs": {path.name: sha256(path) for path in outputs},
        "drawn_by": [known(path) for path in own],
        "inputs": inputs,
        "seeds": sources.seeds(),
        "computed": to_jsonable(sources.computed),
        "missing": [{"what": note.what, "command": note.command} for note in sources.missing],
        "commit_means": "the commit that changed the file last; null where it is not committed or differs from it",
    }


def table(outcomes: Sequence[Outcome]) -> str:
    """The summary that is printed: a line a figure, then what is missing with its command, then remarks."""
    width = max(len(outcome.name) for outcome in outcomes)
    lines = [f"{'figure or table':<{width}}  status     files"]
    for each in outcomes:
        kinds = " ".join(path.name.removeprefix(each.name) for path in each.files) or "-"
        lines.append(f"{each.name:<{width}}  {each.status:<9}  {kinds}")
    commands: dict[str, dict[str, list[str]]] = {}
    for each in outcomes:
        for note in each.missing:
            commands.setdefault(note.command, {}).setdefault(note.what, []).append(each.name)
    if commands:
        lines.append("\nmissing, and the command that makes it:")
    for command, whats in commands.items():
        lines.append(f"  {command}")
        lines += [f"      {what}  (for {', '.join(names)})" for what, names in whats.items()]
    remarks = [f"  {each.name}: {remark}" for each in outcomes for remark in each.remarks]
    return "\n".join([*lines, *(["\nremarks:", *remarks] if remarks else [])])


def status(outcomes: Sequence[Outcome]) -> int:
    """Exit status: 0 all complete, 1 something is missing, 2 something failed."""
    if any(each.status == "failed" for each in outcomes):
        return 2
    return int(any(each.status != "complete" for each in outcomes))


def default_out() -> Path:
    """runs/paper_figs."""
    return PROJECT_ROOT / "runs" / "paper_figs"
