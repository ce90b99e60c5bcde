"""The inputs of the figures and tables: results and reported numbers, with a record of what was read, computed and missing."""

from __future__ import annotations

import csv
import hashlib
import inspect
import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from amvl_model.results.checks import stored_problems
from amvl_model.results.files import Result, ResultError, read_study
from amvl_model.results.provenance import PROJECT_ROOT
from amvl_model.studies.declared import STUDIES
from amvl_model.studies.runner import stand_ins
from paper_figs.ours import command, setting

REPORTED = Path(__file__).with_name("reported")
PAPER = "as reported by arXiv 2607.00461, read off a public summary (paper_figs/reported/README.md)"


@dataclass(frozen=True)
class Missing:
    """A missing result.

    Attributes:
        what: which one.
        command: the command that makes it.
    """

    what: str
    command: str

    def __str__(self) -> str:
        return f"{self.what}; run: {self.command}"


@dataclass
class Sources:
    """The inputs of one figure.

    Attributes:
        results: folder of the results.
        root: files below it are named relative to it, in provenance.
        files: files read so far, with their provenance.
        computed: functions called while drawing, with their arguments.
        missing: results requested and not found.
    """

    results: Path = PROJECT_ROOT / "results"
    root: Path = PROJECT_ROOT
    files: dict[Path, dict[str, Any]] = field(default_factory=dict)
    computed: list[dict[str, Any]] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)

    def reported(self, name: str) -> pd.DataFrame:
        """The table reported/<name>.csv; every cell as text.

        Raises:
            FileNotFoundError: if there is no such table.
            ValueError: if a row has more or fewer cells than the header.
        """
        path = REPORTED / f"{name}.csv"
        if not path.is_file():
            known = ", ".join(sorted(each.stem for each in REPORTED.glob("*.csv")))
            raise FileNotFoundError(f"no reported numbers named {name!r}; there are {known}")
        with path.open(newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        for row in rows:
            if len(row) != len(header):
                raise ValueError(f"{path.name}: row has {len(row)} cells, header has {len(header)}: {','.join(row)}")
        self.files[path] = {"kind": "reported", "source": PAPER}
        return pd.DataFrame(rows, columns=header)

    def study(self, name: str, command: str, *, cells: Sequence[str] | None = None) -> list[Result]:
        """All results of a study, or none; declared cells and seeds without results are recorded as missing.

        Args:
            name: of the study.
            command: the command that makes it.
            cells: only these cells (default: all that have results).

        Raises:
            ResultError: if a file is damaged, is not a result, or has other settings than its declared cell.
        """
        try:
            stored = read_study(self.results / name)
        except FileNotFoundError:
            for each in [f"{name}/{cell}" for cell in cells] if cells and name not in STUDIES else [name]:
                self.lacks(f"results/{each}", command)
            return []
        stored = [result for result in stored if cells is None or result.cell in cells]
        for result in stored:
            self._read(self.results / name / result.cell / f"seed{result.seed}.json", result, command)
        self._record_missing(name, stored, cells, command)
        return stored

    def merged(self, name: str) -> list[Result]:
        """All results of a declared study by its own cells' names; where a cell has none, those of its stand-in
        (``Result.study`` names the study that made them). Missing results are recorded with the command of that study.

        Raises:
            ResultError: if a file is damaged or is not a result.
        """
        study = STUDIES[name]
        own = self.study(name, command(name)) if study.cells else []
        borrowed = stand_ins(study, self.results)
        for _, result in borrowed:
            path = self.results / result.study / result.cell / f"seed{result.seed}.json"
            self._read(path, result, command(result.study))
        for cell, (other, source) in study.stand_ins.items():
            there = {result.seed for at, result in borrowed if at == cell}
            if cell not in study.cells and not any(r.cell == cell for r in own) and not there.issuperset(study.seeds):
                lacking = len(set(study.seeds) - there)
                self.lacks(f"{lacking} of {len(study.seeds)} runs of results/{other}/{source}", command(other))
        return [*own, *(replace(result, cell=cell) for cell, result in borrowed)]

    def _record_missing(self, name: str, stored: Sequence[Result], cells: Sequence[str] | None, command: str) -> None:
        study = STUDIES.get(name)
        declared = cells if cells is not None else tuple(study.cells) if study is not None else ()
        seeds = study.seeds if study is not None else ()
        there = {(result.cell, result.seed) for result in stored}
        wanted = [(cell, seed) for cell in declared for seed in (seeds or (0,))]
        undone = [pair for pair in wanted if pair not in there]
        if undone:
            names = list(dict.fromkeys(cell for cell, _ in undone))
            some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            self.lacks(f"{len(undone)} of {len(wanted)} runs of results/{name} ({some})", command)

    def json(self, relative: str, command: str) -> Any | None:
        """A JSON file below the results, or None if missing; commit and seed from the run's files beside it.

        Raises:
            ResultError: if it is not JSON, or a value in it cannot be right.
        """
        path = self.results / relative
        if not path.is_file():
            self.lacks(f"results/{relative}", command)
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ResultError(f"{path} is not complete JSON ({error}); run: {command}") from error
        for problem in stored_problems(record):
            raise ResultError(f"{path} contains a value that cannot be right: {problem}; run: {command}")
        self.files[path] = {"kind": "result", "made_by": command, **_run(path.parent)}
        return record

    def file(self, path: Path, **known: Any) -> Path:
        """Record a file that was read."""
        self.files[path] = known
        return path

    def compute(self, function: Callable[..., Any], **arguments: Any) -> None:
        """Record a function called while drawing, and its arguments."""
        source = inspect.getsourcefile(function)
        self.computed.append({"function": f"{function.__module__}.{function.__qualname__}", "arguments": arguments})
        if source is not None:
            self.files[Path(source)] = {"kind": "code"}

    def lacks(self, what: str, command: str) -> None:
        """Record a missing result, once."""
        note = Missing(what, command)
        if note not in self.missing:
            self.missing.append(note)

    def seeds(self) -> list[int]:
        """Seeds of all results read."""
        return sorted({known["seed"] for known in self.files.values() if "seed" in known})

    def _read(self, path: Path, result: Result, command: str) -> None:
        _check_cell(path, result)
        self.files[path] = {
            "kind": "result",
            "made_by": command,
            "study": result.study,
            "cell": result.cell,
            "seed": result.seed,
            "run_commit": result.commit,
            "run_dirty": result.dirty,
            "device": result.device,
        }


def _check_cell(path: Path, result: Result) -> None:
    """Raises ResultError where the config of a run differs from what its study declares of its cell."""
    study = STUDIES.get(result.study)
    for name, declared in ({} if study is None else study.cells.get(result.cell, {})).items():
        own = setting(result.config, name)
        if own is not None and own != (list(declared) if isinstance(declared, tuple) else declared):
            raise ResultError(
                f"{path}: the cell {result.cell} of the study {result.study} has {name} = {declared!r}, this run {own!r}; "
                "move the file to its own cell or run this one"
            )


def _run(folder: Path) -> dict[str, Any]:
    """Commit and seed of a run of the main job, where its files name them."""
    known: dict[str, Any] = {}
    environment, config = folder / "environment.json", folder / "config.json"
    if environment.is_file():
        stored = json.loads(environment.read_text(encoding="utf-8"))
        starts = stored if isinstance(stored, list) else [stored]  # a resumed run has several
        commits, dirty = {start.get("commit") for start in starts}, [start.get("dirty") for start in starts]
        known |= {"run_commit": starts[-1].get("commit"), "run_dirty": len(commits) > 1 or any(dirty) or dirty[-1]}
    if config.is_file():
        known["seed"] = json.loads(config.read_text(encoding="utf-8"))["train"]["seed"]
    return known


def sha256(path: Path) -> str:
    """Of a file, 64 hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def file_commits(root: Path = PROJECT_ROOT) -> dict[str, str | None]:
    """The last commit of every tracked file, None for a file with uncommitted changes; {} outside git."""
    log = _git(root, "log", "--format=@%H", "--name-only", "--no-renames")
    status = _git(root, "status", "--porcelain", "-z", "--untracked-files=no", "--no-renames")
    if log is None or status is None:
        return {}
    commits: dict[str, str | None] = {}
    commit = ""
    for line in log.splitlines():
        if line.startswith("@"):
            commit = line[1:]
        elif line:
            commits.setdefault(line.strip('"'), commit)
    for entry in status.split("\0"):
        if entry:
            commits[entry[3:]] = None
    return commits


def relative(path: Path, root: Path) -> str:
    """A path below ``root`` without it; any other by its last three parts."""
    try:
        return path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        return "/".join(path.parts[-3:])


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-c", "core.quotepath=off", "-C", str(root), *arguments],
            capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
