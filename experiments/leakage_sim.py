"""The twelve statements of the mean-leakage model: proven, in closed form, simulated, compared, and drawn.

    python experiments/leakage_sim.py                          # everything: a verdict per statement, CSV, JSON, figures
    python experiments/leakage_sim.py --quick                  # under a minute: fewer instances, coarser figures
    python experiments/leakage_sim.py --only T3 T6 --instances 2000 --no-figures
    python experiments/leakage_sim.py --curvature 2 --force-var 0.5 --gamma 0.01 0.1 1 10
    python experiments/leakage_sim.py --sweep grid.yaml        # closed-form equilibria on a grid, as CSV
    python experiments/leakage_sim.py --benchmark              # speed against torch autograd, as JSON

Exit status: 0 if every statement agrees, 1 if one does not, 2 for input that cannot be used. Every proof, comparison and
figure is made from what `amvl_theory` exports; see amvl_theory/README.md for the statements.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import Field, NonNegativeInt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from amvl_model.config import command_line, usage_error

NAMES = tuple(f"T{number}" for number in range(1, 13))
OWN_FILES = ("verdicts.json", "sweep.csv", "benchmark.json")
"""One of these marks a folder as written by this program."""


@dataclass(frozen=True)
class FigureMode:
    """The mode that the figures show."""

    curvature: float | None = None  # h, curvature of the answer loss
    posterior_precision: float | None = None  # lambda_q, for figures at fixed variances
    prior_precision: float | None = None  # lambda_p, likewise
    force_mean: float | None = None  # gbar, the answer force that x determines
    force_var: float | None = None  # v0, variance of the answer force that x does not determine
    anchor: float | None = None  # alpha, what holds the prior mean
    beta: float | None = None  # weight of the forward KL
    gamma: tuple[float, ...] = ()  # weights of the reverse KL to simulate, rising


@dataclass(frozen=True)
class Options:
    """The command line."""

    mode: Annotated[FigureMode, tyro.conf.arg(name="")]
    quick: bool = False  # 40 instances per comparison, none near critical; coarse figures
    only: tuple[Literal[NAMES], ...] = ()  # only these statements, and no figures
    seed: NonNegativeInt = 0  # seed of all random instances
    instances: Annotated[int, Field(ge=2)] | None = None  # random instances per comparison; None: 400, quick: 40
    figures: bool = False  # draw the figures beside --only, too
    no_figures: bool = False  # draw no figures
    proofs: bool = True  # without the symbolic proofs
    sweep: Path | None = None  # only this: a grid of equilibria from a YAML file
    benchmark: bool = False  # only this: speed side by side with torch autograd
    out: Path | None = None  # folder for the results; None: runs/leakage_sim/DATE-TIME
    force: bool = False  # replace the results of an earlier run in --out
    no_progress: bool = False  # no progress bars


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    options = command_line(Options, arguments)
    if options.sweep and options.benchmark:
        usage_error("expected one of --sweep and --benchmark, received both")
    # Before numpy is loaded: small matrices, and the proofs have the other core.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1" if not options.benchmark else str(os.cpu_count() or 1))
    out = options.out or Path("runs") / "leakage_sim" / time.strftime("%Y%m%d-%H%M%S")
    try:
        if options.benchmark:
            return benchmark(out, options)
        if options.sweep:
            return sweep(out, options)
        return compare(out, options)
    except (ValueError, OSError) as error:
        print(f"leakage_sim: {error}", file=sys.stderr)
        return 2


def prepare(out: Path, *, force: bool) -> None:
    """Make the output folder.

    Raises:
        FileExistsError: if it is not empty, unless ``force`` is given and an earlier run wrote it.
        NotADirectoryError: if it is a file.
    """
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out: expected a folder, {out} is a file")
    if out.exists() and any(out.iterdir()):
        ours = any((out / name).is_file() for name in OWN_FILES)
        if not ours:
            raise FileExistsError(
                f"--out: {out} is not empty and was not written by this program; choose another folder"
            )
        if not force:
            raise FileExistsError(
                f"--out: {out} contains an earlier run; pass --force to replace it, or choose another folder"
            )
    out.mkdir(parents=True, exist_ok=True)


def write_json(path: Path, record: Mapping[str, Any], config: Mapping[str, Any]) -> Path:
    """A record with the run's configuration, commit and versions."""
    import json

    from amvl_model.results.provenance import provenance, to_jsonable

    whole = {"config": config, **provenance(), **record}
    path.write_text(
        json.dumps(to_jsonable(whole), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )
    return path


def compare(out: Path, options: Options) -> int:
    """Numbers here, proofs and figures in a second process; prints and writes the verdicts."""
    from tqdm import tqdm

    from amvl_theory.figures.curves import Mode
    from amvl_theory.figures.figures import FIGURES, write_figure
    from amvl_theory.verification import report
    from amvl_theory.verification.statements import numbers, prove, second_process, verdict

    began = time.perf_counter()
    names = [name for name in NAMES if name in (options.only or NAMES)]
    mode = Mode(**{name: value for name, value in asdict(options.mode).items() if value not in (None, ())})
    prepare(out, force=options.force)
    instances = options.instances or (40 if options.quick else 400)
    drawn = list(FIGURES) if options.figures or not (options.only or options.no_figures) else []
    result: dict[str, Any] = {}
    proven: dict[str, Any] = {}
    with second_process() as beside, tqdm(disable=options.no_progress) as bar:
        proofs = [beside.submit(prove, names)] if options.proofs else []
        figures = [beside.submit(write_figure, name, out, mode, options.seed, quick=options.quick) for name in drawn]
        bar.total = len(names) + len(proofs) + len(figures)
        for name in names:
            bar.set_description(f"{name} numbers")
            result[name] = numbers(name, options.seed, instances)
            bar.update()
        for proof in proofs:
            bar.set_description("proofs")
            proven = proof.result()
            bar.update()
        for figure in figures:
            bar.set_description(f"drawn: {figure.result()}")
            bar.update()
    verdicts = [verdict(name, *result[name], proven.get(name)) for name in names]
    config: dict[str, Any] = {
        "seed": options.seed,
        "instances": instances,
        "quick": options.quick,
        "only": list(options.only) or None,
    }
    write_json(out / "verdicts.json", report.verdict_record(verdicts), config | {"mode": mode})
    report.write_tables(out, verdicts)
    print(f"\n{report.departure_table(verdicts)}\n\n{report.verdict_table(verdicts)}")
    print(f"{time.perf_counter() - began:.1f} s; results in {out}")
    return 0 if all(item.passed for item in verdicts) else 1


def sweep(out: Path, options: Options) -> int:
    """A grid of closed-form equilibria from a YAML file to CSV."""
    from amvl_theory.verification.core import write_csv
    from amvl_theory.verification.grid import read_sweep, run_sweep

    values, simulated = read_sweep(options.sweep)
    prepare(out, force=options.force)
    table = run_sweep(values, simulated=simulated, progress=not options.no_progress)
    write_csv(out / "sweep.csv", table)
    write_json(out / "sweep.json", {"points": len(table["gamma"])}, {"values": values, "simulate": simulated})
    print(f"{len(table['gamma'])} points in {out / 'sweep.csv'}")
    return 0


def benchmark(out: Path, options: Options) -> int:
    """Speed of sweep and simulation beside torch autograd, and the machine's memory bandwidth."""
    from experiments.leakage_speed import benchmark as speed

    prepare(out, force=options.force)
    small = ["--points", "100000", "--sample", "2000", "--instances", "4096", "--repeats", "3"] if options.quick else []
    return speed.main(["--out", str(out / "benchmark.json"), "--seed", str(options.seed), "--overwrite", *small])


if __name__ == "__main__":
    sys.exit(main())
