"""The one runner of studies: a declared table of runs, each cell with several seeds, results in one schema.

    python experiments/ablations.py list
    python experiments/ablations.py pareto --workers 2                 # leaked information against NLL over beta and gamma
    python experiments/ablations.py pareto --submit slurm --slurm partition=gpu time=240      # jobs of submitit on a cluster
    python experiments/ablations.py pareto --figure                    # only draw what is there
    python experiments/ablations.py leakage --workers 2 --keep runs    # also save every run's checkpoint under runs/leakage
    python experiments/ablations.py objectives --workers 2 --keep runs # AMVL's orders, forward-only, ELBO, sft, pause tokens
    python experiments/ablations.py temperature --workers 2 --keep runs # evaluates the checkpoints of the study objectives

Finished runs are skipped, so the same command goes on after an interruption. Each run uses one CPU thread in a process of
its own and writes results/<study>/<cell>/seed<k>.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from amvl_model.studies.declared import STUDIES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=["list", *STUDIES], help="which study to run")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds of every cell (default: the study's)")
    parser.add_argument("--cells", nargs="+", metavar="NAME", help="only these cells")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, one CPU thread each (default 1)")
    parser.add_argument("--out", type=Path, default=ROOT / "results", help="folder of the results (default: results)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="also save checkpoints: DIR/<study>/<cell>/seed<k>")
    parser.add_argument(
        "--submit",
        nargs="?",
        const="local",
        choices=["local", "slurm"],
        help="runs as jobs of submitit, on this machine or (slurm) on a cluster; default: a pool of processes",
    )
    parser.add_argument(
        "--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="with --submit slurm: partition=gpu ..."
    )
    parser.add_argument("--figure", action="store_true", help="draw the study's picture from the results and stop")
    arguments = parser.parse_args()
    if arguments.study == "list":
        for study in STUDIES.values():
            print(f"{study.name}: {study.purpose}\n  {len(study.cells)} cells: {', '.join(study.cells)}")
            for cell, (other, name) in study.stand_ins.items():
                print(f"  read from the study {other} where not run: {cell} = {name}")
        return 0
    from amvl_model.studies import runner as study_runner
    from amvl_model.studies import runner as submission

    study = STUDIES[arguments.study]
    try:
        if not arguments.figure:
            failed = study_runner.run_study(
                study,
                arguments.out,
                seeds=arguments.seeds,
                cells=arguments.cells,
                workers=arguments.workers,
                keep=arguments.keep,
                cluster=arguments.submit,
                options=submission.slurm_options(arguments.slurm),
            )
            if failed:
                print(f"{len(failed)} runs failed: {', '.join(failed)}", file=sys.stderr)
                return 1
        print(study_runner.draw_study(study, arguments.out))
    except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
        print(f"ablations: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
