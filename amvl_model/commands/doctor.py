"""Report versions, devices and memory, compute what each preset needs, and say what to do.

Exit status 1 if something that is needed is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amvl_model.config import command_line


@dataclass(frozen=True)
class Options:
    """The command line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; returns the exit status."""
    command_line(Options, arguments)
    from amvl_model.profiling.doctor import report

    text, complete = report()
    print(text)
    return 0 if complete else 1
