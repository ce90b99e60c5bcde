"""The one runner of studies: a declared table of runs, each cell with several seeds, results in one schema.

    python experiments/ablations.py list
    python experiments/ablations.py pareto --workers 2                 # leaked information against NLL over beta and gamma
    python experiments/ablations.py pareto --submit slurm --slurm partition=gpu time=240      # jobs of submitit on a cluster
    python experiments/ablations.py pareto --figure                    # only draw what is there
    python experiments/ablations.py leakage --workers 2 --keep runs    # also save every run's checkpoint under runs/leakage
    python experiments/ablations.py objectives --workers 2 --keep runs # AMVL's orders, forward-only, ELBO, sft, pause tokens
    python experiments/ablations.py reading --workers 2                # planned test of T11; --figure prints its analysis
    python experiments/ablations.py temperature --workers 2 --keep runs # evaluates the checkpoints of the study objectives

Finished runs are skipped, so the same command goes on after an interruption. Each run uses one CPU thread in a process of
its own and writes results/<study>/<cell>/seed<k>.json.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from amvl_model.config import command_line
from amvl_model.studies.declared import STUDIES, Study


@dataclass(frozen=True)
class Options:
    """The command line."""

    study: tyro.conf.Positional[Literal[("list", *STUDIES)]]  # the study to run
    seeds: tuple[int, ...] = ()  # seeds of every cell; default: the study's
    cells: tuple[str, ...] = ()  # only these cells
    workers: int = 1  # runs at a time, one CPU thread each
    out: Path = ROOT / "results"  # folder of the results
    keep: Path | None = None  # also save checkpoints: KEEP/<study>/<cell>/seed<k>
    submit: Literal["local", "slurm"] | None = None
    """Run as jobs of submitit, on this machine or (slurm) on a cluster; None: a pool of processes."""
    slurm: tuple[str, ...] = ()  # with --submit slurm: KEY=VALUE, for example partition=gpu
    figure: bool = False  # draw the study's figure from the results and stop


def planned_report(study: Study, out: Path) -> str:
    """The planned analysis of a study that needs the theory beside its results; also written beside its table."""
    from amvl_model.studies.runner import study_results
    from experiments.theory_vs_model import collapse, floor, forecasts

    if study.name == "reading":
        results = study_results(study, out)
        text = f"{collapse.report(results, ROOT / 'results')}\n\n{forecasts.report(results)}"
    elif study.name == "posterior-std":
        text = floor.report(study_results(study, out))
    else:
        return ""
    (out / study.name / "analysis.txt").write_text(text + "\n", encoding="utf-8")
    return text


def main() -> int:
    options = command_line(Options)
    if options.study == "list":
        for study in STUDIES.values():
            print(f"{study.name}: {study.purpose}\n  {len(study.cells)} cells: {', '.join(study.cells)}")
            for cell, (other, name) in study.stand_ins.items():
                print(f"  read from the study {other} where not run: {cell} = {name}")
        return 0
    from amvl_model.config import RunStopped, signals, stop_now
    from amvl_model.studies import runner
    from amvl_model.training.run_folder import tell

    study = STUDIES[options.study]
    try:
        if not options.figure:
            with signals(stop_now):
                failed = runner.run_study(
                    study,
                    options.out,
                    seeds=options.seeds or None,
                    cells=options.cells or None,
                    workers=options.workers,
                    keep=options.keep,
                    cluster=options.submit,
                    options=runner.slurm_options(options.slurm),
                )
            if failed:
                print(f"{len(failed)} runs failed: {', '.join(failed)}", file=sys.stderr)
                return 1
        print(runner.draw_study(study, options.out))
        if text := planned_report(study, options.out):
            print(f"\n{text}")
    except RunStopped:
        tell(f"stopped; what is finished is stored, go on with: {shlex.join(['python', *sys.argv])}")
        raise
    except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
        print(f"ablations: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
