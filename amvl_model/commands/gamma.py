"""Say how probable it is that a run's decoder reads the leak by a step, and which gamma would hold until then (T11).

    amvl gamma --run runs/full_blink/DATE-TIME/amvl --until 3000

Reads the probes that the run has logged (``train.probe_every``); says why where it cannot be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import PositiveInt

from amvl_model.commands import stoppable
from amvl_model.config import command_line, usage_errors


@dataclass(frozen=True)
class Options:
    """The command line."""

    run: Path  # folder of a run
    until: PositiveInt  # optimiser steps from its start


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the forecast; returns the exit status."""
    options = command_line(Options, arguments)
    with stoppable(), usage_errors():
        from amvl_model.diagnostics.reading.forecast import forecast_run

        print(forecast_run(options.run, options.until).report())
    return 0
