"""Number of latents and latent dimension: reported on V*, ours on synthetic BLINK."""

from __future__ import annotations

from amvl_model.results.files import Result
from paper_figs.build import Drawn
from paper_figs.ours import SYNTHETIC, borrowed, setting
from paper_figs.sources import Sources
from paper_figs.tables.ablations import figures
from paper_figs.tables.table import NO_VALUE, NOT_RUN, Column, Table

TITLE = "number of latents and latent dimension"
STUDY = "latents"


def draw(sources: Sources) -> Drawn:
    """The table."""
    reported = {(int(r["num_latents"]), int(r["latent_dim"])): r["vstar"] for r in sources.reported("latent_tokens")}
    results = sources.merged(STUDY)
    ours: dict[tuple[int, int], list[Result]] = {}
    for result in results:
        size = (setting(result.config, "model.num_latents"), setting(result.config, "model.latent_dim"))
        ours.setdefault(size, []).append(result)
    rows = [
        [
            str(size[0]),
            str(size[1]),
            reported.get(size, NO_VALUE),
            *(figures(ours[size]) if size in ours else [NO_VALUE if ours else NOT_RUN] * 3 + [NO_VALUE]),
        ]
        for size in sorted(reported.keys() | ours.keys())
    ]
    columns = [
        Column("", "latents k"),
        Column("", "dimension d"),
        Column("reported", "V*\n[%]"),
        Column("ours, synthetic BLINK", "accuracy\n[%]"),
        Column("ours, synthetic BLINK", "answer NLL\n[nats]"),
        Column("ours, synthetic BLINK", "leaked\n[nats]"),
        Column("ours, synthetic BLINK", "seeds"),
    ]
    notes = [
        "reported: accuracy, AMVL on Qwen2.5-VL-7B, arXiv 2607.00461.",
        f"{SYNTHETIC} AMVL throughout. Study {STUDY}{borrowed(results, STUDY, {})}.",
    ]
    return Table("Number of latents and latent dimension", columns, rows, notes).drawn()
