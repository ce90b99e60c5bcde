"""The theory's predictions for other gammas from one checkpoint, beside the checkpoints trained at these gammas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from paper_figs.build import Drawn, NothingToDrawError
from paper_figs.ours import PREDICTION
from paper_figs.sources import Sources
from paper_figs.style import PAGE

if TYPE_CHECKING:
    from experiments.theory_vs_model.scoring.tables import Table

TITLE = "predicted and trained leaked information against gamma"
STUDY = "prediction"
QUANTITIES = ("leak", "spread")


def draw(sources: Sources) -> Drawn:
    """A row per reference checkpoint, a column per quantity; means over seeds, 95 % intervals for trained checkpoints."""
    tables = read(sources)
    if not tables:
        raise NothingToDrawError
    from experiments.theory_vs_model.plan import Plan
    from experiments.theory_vs_model.study import draw

    return Drawn(draw(tables, Plan(), QUANTITIES, width=PAGE))


def read(sources: Sources) -> dict[str, dict[int, Table]]:
    """Per reference and seed the table of its predictions, {} where there are none."""
    folder = sources.results / STUDY
    everything = sorted(folder.glob("*/seed*.csv"))
    paths = [path for path in everything if path.parent.name != "trained" and not path.parent.name.endswith(",heads")]
    if not paths:
        sources.lacks(f"results/{STUDY}", PREDICTION)
        return {}
    from experiments.theory_vs_model.study import read_tables

    references = sorted({path.parent.name for path in paths})
    sources.study(STUDY, PREDICTION, cells=sorted({path.parent.name for path in everything}))
    for path in everything:
        seed = int(path.stem.removeprefix("seed"))
        sources.file(path, kind="result", made_by=PREDICTION, cell=path.parent.name, seed=seed)
    return {reference: read_tables(folder, reference) for reference in references}
