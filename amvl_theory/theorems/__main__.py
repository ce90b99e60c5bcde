"""`python -m amvl_theory.theorems`: prove the statements, print the table, exit 1 if one fails."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from amvl_theory.theorems import THEOREMS, latex_document, prove_all, table, with_table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 1 if a statement failed."""
    parser = argparse.ArgumentParser(prog="python -m amvl_theory.theorems", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=list(THEOREMS), metavar="T", help="prove these statements only, e.g. T3"
    )
    parser.add_argument(
        "--latex", type=Path, metavar="FILE", help="write statements and proof steps as a LaTeX document"
    )
    parser.add_argument("--readme", type=Path, metavar="FILE", help="rewrite the table of statements in this README")
    parser.add_argument("--verbose", action="store_true", help="print every check, not only the failed ones")
    options = parser.parse_args(argv)
    theorems = prove_all(options.only)
    print(table(theorems, verbose=options.verbose))
    if options.latex is not None:
        options.latex.write_text(latex_document(theorems), encoding="utf-8")
        print(f"wrote {options.latex}")
    if options.readme is not None:
        text = with_table(options.readme.read_text(encoding="utf-8"), theorems)
        options.readme.write_text(text, encoding="utf-8")
        print(f"wrote {options.readme}")
    return 0 if all(item.verified for item in theorems) else 1


if __name__ == "__main__":
    sys.exit(main())
