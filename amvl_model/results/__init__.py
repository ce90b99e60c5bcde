"""Result files and the statistics on them; free of torch.

files         one schema for every result: writing, reading, checking
checks        units, ranges and digests of what is stored
frame         results as pandas tables (`load_results`)
provenance    commit, dirty flag, versions, device
statistics    over questions: bootstrap within tasks, paired differences, calibration
seeds         over seeds: intervals, paired differences with Holm's correction
thresholds    how large an effect must be before a sentence speaks of it
text          tables as plain text
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amvl_model.results.frame import load_results

__all__ = ["load_results"]


def __getattr__(name: str) -> Any:
    if name != "load_results":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from amvl_model.results.frame import load_results  # pandas is imported on first use

    return load_results
