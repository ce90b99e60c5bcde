"""Rebuild every figure and table of the paper, and our own, from results/ and from the reported numbers.

    python -m paper_figs                                 # all of them, into runs/paper_figs
    python -m paper_figs fig2_kl_geometry table_blink    # these
    python -m paper_figs --list
    python -m paper_figs --out DIR --results DIR

Figures are written as PDF and PNG, tables as Markdown, LaTeX and CSV, each with <name>.provenance.json: every input file with
its hash, commit, command and seeds. The same inputs give the same bytes. Missing results are listed with the command that makes
them, and the rest is drawn. Exit status: 0 all complete, 1 something is missing, 2 something failed or the command line is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    from amvl_model.config import quiet_on_closed_pipe

    quiet_on_closed_pipe()
    page = argparse.ArgumentParser(
        prog="python -m paper_figs", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    page.add_argument("names", nargs="*", metavar="NAME", help="figures and tables to build (default: all)")
    page.add_argument("--list", action="store_true", help="print names and titles, and stop")
    page.add_argument("--out", type=Path, help="folder to write to (default: runs/paper_figs)")
    page.add_argument("--results", type=Path, help="folder of the results (default: results)")
    options = page.parse_args(arguments)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # before numpy: small matrices
        os.environ.setdefault(variable, "1")
    from paper_figs import build

    unknown = [name for name in options.names if name not in build.NAMES]
    if unknown:
        page.error(f"no figure or table named {unknown[0]!r}; there are {', '.join(build.NAMES)}")
    if options.results is not None and not options.results.is_dir():
        page.error(f"--results: expected a folder, found none at {options.results}")
    if options.list:
        width = max(map(len, build.NAMES))
        print("\n".join(f"{name:<{width}}  {build.title(name)}" for name in build.NAMES))
        return 0
    began = time.perf_counter()
    commits = build.file_commits()
    out = options.out or build.default_out()
    outcomes = []
    for name in dict.fromkeys(options.names or build.NAMES):
        outcomes.append(build.build(name, out, results=options.results, commits=commits))
        print(f"{time.perf_counter() - began:5.1f} s  {name}: {outcomes[-1].status}", flush=True)
    print(f"\n{build.table(outcomes)}\n\n{len(outcomes)} in {out}, {time.perf_counter() - began:.0f} s")
    return build.status(outcomes)


if __name__ == "__main__":
    sys.exit(main())
