"""What a declared study is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Study:
    """A table of runs.

    Attributes:
        name: folder under results/.
        purpose: the question it answers, one line.
        preset: configuration that every cell starts from.
        common: dotted settings shared by all cells.
        cells: per cell the dotted settings that make it.
        seeds: seeds of every cell; a seed sets weights, data and latent samples.
        stand_ins: per cell the (study, cell) with the same settings whose results are read where this study has none; a cell
            that stands here and not in ``cells`` is never run again.
        checkpoints: per cell the (study, cell) whose saved checkpoint is evaluated; such a cell trains nothing.
        measures: what is recorded, by the functions' names in measurement.py; none: all of `measure` of a trained cell.
        cell_seeds: per cell its own seeds, where cells are to be independent of each other; such a study runs cell by cell.
        reference: the cell that the others are compared with; None: the first.
        bases: of a study in the laboratory, its multi-hop bases, which take turns from seed to seed; the settings are then
            those of `amvl_model.studies.laboratory.arm.Arm`, and ``preset`` is not used.
    """

    name: str
    purpose: str
    cells: Mapping[str, Mapping[str, object]]
    preset: str = "tiny"
    common: Mapping[str, object]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    stand_ins: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    checkpoints: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    measures: tuple[str, ...] = ()
    cell_seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    reference: str | None = None
    bases: tuple[str, ...] = ()

    @property
    def all_cells(self) -> tuple[str, ...]:
        """Cells that are run and cells that only stand in, in the order of a table."""
        return (*self.cells, *(name for name in self.stand_ins if name not in self.cells))
