"""The three plain passes that the tests compare with; their home is the package, because they are also timed."""

from __future__ import annotations

from amvl_model.profiling.throughput.three_pass import three_pass

__all__ = ["three_pass"]
