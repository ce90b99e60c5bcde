"""Tables as plain text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tabulate import SEPARATING_LINE, tabulate

RULE = SEPARATING_LINE
"""A row that draws a horizontal rule."""


def text_table(rows: Iterable[Sequence[str]], header: Sequence[str]) -> str:
    """Aligned columns: the first to the left, the others to the right."""
    alignment = ["left", *["right"] * (len(header) - 1)]
    return tabulate(
        rows, header, tablefmt="simple", disable_numparse=True, preserve_whitespace=True, colalign=alignment
    )
