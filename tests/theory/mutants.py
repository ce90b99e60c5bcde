"""Mutation check of the theory: one wrong operator, number, weight, comparison, flag or stop-gradient at a time.

    python tests/theory/mutants.py --seed 20261128 --count 40 --out results/theory_mutants/mutants.json

Draws mutations at random from the source of `amvl_theory` (all but figures, verification and command lines), runs the tests of
the mutated part in a copy of the tree, with a time limit, and writes a table of killed and surviving mutants. Not part of the
test suite: it takes half an hour on one core. A survivor is killed by a new test, or listed in `HARMLESS`
with the reason.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from amvl_model.results.provenance import provenance

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = ("figures", "verification", "__main__.py", "__init__.py", "report.py", "titles.py")
COPIED = ("amvl_theory", "tests", "pyproject.toml", "README.md")
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.MatMult: ast.Add}
COMPARISONS = {
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq
}  # fmt: skip
SWAPS = ("beta gamma", "Lambda_q Lambda_p", "lambda_q lambda_p", "eta_q eta_p", "eta_s eta_r", "s_q s_p", "eta_w eta_q")
SWAPPED = {a: b for pair in SWAPS for a, b in (pair.split(), pair.split()[::-1])}
ROUNDING, CLOSED = "tests/theory/test_rounding.py", "tests/theory/theorems/test_closed_forms.py"
TESTS = {
    "dynamics/in_training": ("tests/theory/dynamics", CLOSED),
    "dynamics": (
        "tests/theory/dynamics/test_trajectories.py",
        "tests/theory/dynamics/test_schedules.py",
        ROUNDING,
        CLOSED,
    ),
    "equilibria": ("tests/theory/equilibria", ROUNDING, CLOSED),
    "game": ("tests/theory/game",),
    "learnt_prior": ("tests/theory/learnt_prior", CLOSED),
    "nonlinear": ("tests/theory/nonlinear", CLOSED),
    "theorems": ("tests/theory/theorems",),
}
"""Part of the package -> its tests; all theory tests for what lies beside the parts."""

HARMLESS: dict[str, str] = {
    "amvl_theory/theorems/t12_coadaptation.py:199 flag: True -> False": (
        "the sign of the gain's swing: it enters one identity, which holds for either sign"
    ),
    "amvl_theory/game/shared_kernel.py:205 flag: True -> False": (
        "`strict` of a zip over one row of a K by K matrix and the K answers, which are equally many"
    ),
}
"""Surviving mutation ("file:line kind: before -> after") -> why nothing that is stated depends on it."""


@dataclass(frozen=True)
class Mutant:
    """One mutation and what became of it.

    Attributes:
        place: "file:line". kind: of mutation. change: "before -> after".
        outcome: "killed", "out of time" (run it again, or look why it hangs), "survived", "harmless" or "not run".
        by: the test that failed first, or the reason why the mutation is harmless.
        seconds: wall time of the tests.
        commit: of the tree that was mutated.
    """

    place: str
    kind: str
    change: str
    outcome: str = "not run"
    by: str = ""
    seconds: float = 0.0
    commit: str | None = None

    @property
    def name(self) -> str:
        """By which `HARMLESS` knows it."""
        return f"{self.place} {self.kind}: {self.change}"


def mutations(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """(kind, mutated copy) of one node; nothing for nodes that no kind applies to."""
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield "operator", ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Add | ast.Pow):
        yield "factor 2", ast.BinOp(ast.Constant(2), ast.Mult(), node)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
        yield "sign" if isinstance(node.op, ast.USub) else "condition", node.operand
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        yield "condition", ast.Compare(node.left, [COMPARISONS[type(node.ops[0])]()], node.comparators)
    if isinstance(node, ast.BoolOp):
        yield "condition", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "flag", ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float) and node.value:
        yield "number", ast.Constant(2 * node.value)
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in SWAPPED:
        yield "swapped weight", ast.Name(SWAPPED[node.id], ast.Load())
    if isinstance(node, ast.Attribute) and node.attr in SWAPPED:
        yield "swapped weight", ast.Attribute(node.value, SWAPPED[node.attr], node.ctx)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "sg":
        yield "dropped stop-gradient", node.args[0]


def within(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that computes: no messages of errors, no annotations, no subscripts, no f-strings."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "slice") or isinstance(value, ast.Raise | ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.Raise | ast.JoinedStr | ast.Assert):
                yield child
                yield from within(child)


def candidates(root: Path) -> list[tuple[Path, int, int, Mutant]]:
    """(file, number of the node, number of its mutation, description) of every possible mutation, in a fixed order."""
    result = []
    for file in sorted((root / "amvl_theory").rglob("*.py")):
        if set(file.relative_to(root).parts) & set(LEFT_OUT):
            continue
        for number, node in enumerate(within(ast.parse(file.read_text(encoding="utf-8")))):
            for which, (kind, mutated) in enumerate(mutations(node)):
                place = f"{file.relative_to(root).as_posix()}:{getattr(node, 'lineno', 0)}"
                change = f"{_short(node)} -> {_short(mutated)}"
                result.append((file, number, which, Mutant(place, kind, change)))
    return result


def mutated_source(file: Path, number: int, which: int) -> str:
    """The file with one node mutated."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    target = list(within(tree))[number]
    replacement = list(mutations(target))[which][1]

    class Replace(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return replacement if node is target else self.generic_visit(node)

    return ast.unparse(ast.fix_missing_locations(Replace().visit(tree)))


def run_mutant(root: Path, entry: tuple[Path, int, int, Mutant], limit: float) -> Mutant:
    """Run the tests of the mutated part on one mutant."""
    file, number, which, mutant = entry
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in COPIED:
            source = root / name
            ignore = shutil.ignore_patterns("__pycache__", ".*")
            shutil.copytree(source, tree / name, ignore=ignore) if source.is_dir() else shutil.copy(source, tree / name)
        inside = file.relative_to(root)
        (tree / inside).write_text(mutated_source(file, number, which), encoding="utf-8")
        part = inside.relative_to("amvl_theory").parent.as_posix()
        tests = next((tests for start, tests in TESTS.items() if part.startswith(start)), ("tests/theory",))
        began = time.monotonic()
        outcome, by = _prove(tree, file.stem, limit) if part.startswith("theorems") else ("survived", "")
        if outcome == "survived":
            outcome, by = _run_tests(tree, tests, limit)
    if outcome == "survived" and mutant.name in HARMLESS:
        outcome, by = "harmless", HARMLESS[mutant.name]
    seconds, commit = round(time.monotonic() - began, 1), provenance()["commit"]
    return replace(mutant, outcome=outcome, by=by, seconds=seconds, commit=commit)


def _prove(tree: Path, name: str, limit: float) -> tuple[str, str]:
    """The proof of the mutated file alone, which is most of what the tests would do, or all proofs for shared parts."""
    only = ["--only", name.split("_")[0].upper()] if name.startswith("t") else []
    return _run(tree, ["-m", "amvl_theory.theorems", *only], limit, "FAIL ", "the proof does not run")


def _run_tests(tree: Path, tests: tuple[str, ...], limit: float) -> tuple[str, str]:
    command = ["-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", "--timeout=0", *tests]
    return _run(tree, command, limit, ("FAILED", "ERROR "), "the tests do not start")


def _run(tree: Path, command: list[str], limit: float, mark: str | tuple[str, ...], otherwise: str) -> tuple[str, str]:
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, *command], cwd=tree, env=environment, capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return "out of time", f"more than {limit:g} s"
    if done.returncode == 0:
        return "survived", ""
    failed = [line.strip() for line in done.stdout.splitlines() if line.strip().startswith(mark)]
    return "killed", failed[0][:120] if failed else otherwise


def _short(node: ast.AST) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 80 else f"{text[:77]}..."


def main() -> None:
    """Draw, run, and write the table after every mutant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True, help="of the draw; state it before the run")
    parser.add_argument("--count", type=int, default=40, help="mutants to draw")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds that the tests of a mutant may take")
    parser.add_argument("--only", type=int, nargs="+", help="run these of the drawn mutants again, by number from 0")
    parser.add_argument("--list", action="store_true", help="show the drawn mutants and stop")
    parser.add_argument("--out", type=Path, required=True, help="JSON; outcomes in it of mutants not run now are left")
    options = parser.parse_args()
    every = candidates(ROOT)
    drawn = random.Random(options.seed).sample(every, options.count)
    earlier = json.loads(options.out.read_text(encoding="utf-8"))["mutants"] if options.out.exists() else []
    table = [Mutant(**row) for row in earlier] or [entry[3] for entry in drawn]
    for number, entry in enumerate(drawn):
        if options.list:
            print(number, entry[3].name)
        elif options.only is None or number in options.only:
            if table[number].name != entry[3].name:
                raise SystemExit(f"{options.out} has other mutants than this tree: draw them anew into another file")
            table[number] = run_mutant(ROOT, entry, options.limit)
            print(number, table[number].outcome, table[number].name, table[number].by, flush=True)
            outcomes = [mutant.outcome for mutant in table]
            summary = {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))}
            content = {"seed": options.seed, "candidates": len(every), "outcomes": summary, "environment": provenance()}
            options.out.parent.mkdir(parents=True, exist_ok=True)
            rows = {**content, "mutants": [asdict(mutant) for mutant in table]}
            options.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
