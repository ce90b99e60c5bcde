"""diagnostics.json and one report.html that needs no other file: figures, plain sentences, and every number in a table."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from amvl_model.config import ObjectiveConfig
from amvl_model.diagnostics.report.figures import panels_figure, rows, similarity_figure
from amvl_model.diagnostics.report.sections import ABOUT, PANELS, TITLES
from amvl_model.diagnostics.report.suite import Diagnosed
from amvl_model.results.provenance import provenance, to_jsonable
from amvl_model.results.statistics import Interval
from amvl_model.results.thresholds import SMALLEST, is_effect, smallest
from amvl_style import METHODS, keys_of

Images = Mapping[str, Sequence[tuple[Figure, str]]]
"""Figures with their captions by diagnostic."""


def write_report(out: Path, diagnosed: Sequence[Diagnosed], settings: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write diagnostics.json (config and environment included) and report.html.

    Args:
        out: folder; it is made.
        diagnosed: the checkpoints, in the order of the columns.
        settings: how the questions were chosen and measured; both files contain it.

    Returns:
        the two paths.
    """
    out.mkdir(parents=True, exist_ok=True)
    record = {
        "config": to_jsonable(dict(settings)),
        "environment": provenance(),
        "checkpoints": {item.name: to_jsonable(item.to_dict()) for item in diagnosed},
    }
    data, page = out / "diagnostics.json", out / "report.html"
    data.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    page.write_text(report_html(record, _maps(diagnosed)), encoding="utf-8")
    return data, page


def report_html(record: Mapping[str, Any], images: Images | None = None) -> str:
    """The page of one diagnostics.json; its template escapes every value.

    Args:
        record: its content.
        images: figures that need more than the numbers (relevance maps over images).
    """
    checkpoints = record["checkpoints"]
    settings = {"config": record["config"], "environment": record["environment"]}
    settings["seconds"] = {name: item["seconds"] for name, item in checkpoints.items()}
    names = [name for name in TITLES if any(name in item["diagnostics"] for item in checkpoints.values())]
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html.jinja").render(
        checkpoints=checkpoints,
        colours={"finding": METHODS["amvl"].colour, "refused": METHODS["ntp+rev"].colour},
        config={"questions_are": "", **record["config"]},
        findings=sentences(checkpoints),
        objective=_objective_cells,
        sections=[_section(name, checkpoints, (images or {}).get(name, ())) for name in names],
        settings=json.dumps(settings, indent=1),
    )


def _section(name: str, checkpoints: Mapping[str, Any], images: Sequence[tuple[Figure, str]]) -> dict[str, Any]:
    """What the template shows of one diagnostic."""
    data = {item: value["diagnostics"].get(name) for item, value in checkpoints.items()}
    keys = keys_of({item: (value["objective"] or {}).get("name") for item, value in checkpoints.items()})
    panels = panels_figure(data, PANELS.get(name, ()), keys=keys)
    similarity = similarity_figure(data) if name == "stability" else None
    drawn = [(panels, "Means with their intervals"), (similarity, "Cosine similarity between slots"), *images]
    pngs = [(_png(figure), caption) for figure, caption in drawn if figure is not None]
    refused = [(item, value["refused"][name]) for item, value in checkpoints.items() if name in value["refused"]]
    return {
        "name": name,
        "title": TITLES[name],
        "about": ABOUT[name],
        "refused": refused,
        "images": pngs,
        "rows": rows(data),
    }


def _png(figure: Figure) -> str:
    """The figure as PNG in base64."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode()


def sentences(checkpoints: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The findings on every checkpoint as (checkpoint, sentence)."""
    result = []
    for name, item in checkpoints.items():
        if item.get("training_overlap"):
            result.append((name, item["training_overlap"]))
        for key, data in item["diagnostics"].items():
            if data is None:
                continue
            if key == "contamination":
                result.append((name, _leak_sentence(data["measures"])))
            elif key == "relevance":
                result.append((name, _relevance_sentence(data["parts"])))
            result += [(name, data[text]) for text in ("verdict", "sentence") if isinstance(data.get(text), str)]
    return result


def _leak_sentence(measures: Mapping[str, Any]) -> str:
    leaked, bound, gap = (measures[key] for key in ("leaked_information", "leakage_bound", "nll_gap_sample"))
    of_known_answers, entropy = measures.get("known_answer_leakage"), measures.get("answer_entropy")
    text = f"The posterior reveals {leaked['mean']:.3f} of {bound['mean']:.3f} nats about which option it was shown"
    if of_known_answers and entropy and entropy["mean"] > 0:
        text += f", and {of_known_answers['mean']:.3f} of {entropy['mean']:.3f} nats about a noisy label that no image can give"
    if leaked["mean"] < SMALLEST["information"]:
        text += f" (less than {smallest('information')}: nothing to speak of)"
    if not is_effect(Interval(mean=gap["mean"], low=gap["low"], high=gap["high"], n=gap["n"]), "nll"):
        return (
            f"{text}. The answer NLL with posterior samples does not differ from that with prior samples beyond its interval "
            f"and {smallest('nll')} ({gap['mean']:+.3f} nats)."
        )
    side = "lower" if gap["mean"] < 0 else "higher"
    return (
        f"{text}. With posterior samples the answer NLL is {abs(gap['mean']):.3f} nats {side} than with prior samples."
    )


def _relevance_sentence(parts: Mapping[str, Any]) -> str:
    image, text = parts["latents"]["image"]["mean"], parts["latents"]["text"]["mean"]
    n = parts["latents"]["image"]["n"]
    return (
        f"Of {image + text:.3g} nats by which the question moves the latents, {image:.3g} come through the image and "
        f"{text:.3g} through the words (integrated gradients, mean of {n} questions)."
    )


def _objective_cells(objective: Mapping[str, Any] | None) -> tuple[str, str, str]:
    """Name, beta and gamma of an objective; "-" for a weight that it does not use."""
    if objective is None:
        return "-", "-", "-"
    name = objective["name"]
    used = ObjectiveConfig(name=name, beta=1.0, gamma=1.0).weights(1.0)
    beta, gamma = (
        str(objective[key]) if weight > 0 else "-" for key, weight in zip(("beta", "gamma"), used, strict=True)
    )
    return name, beta, gamma


def _maps(diagnosed: Sequence[Diagnosed]) -> Images:
    """Relevance maps of every checkpoint, question by question, and the slots of the first question."""
    from amvl_model.diagnostics.report.relevance_figures import relevance_figure, slot_targets

    reports = {item.name: item.reports["relevance"].maps for item in diagnosed if "relevance" in item.reports}
    images = []
    for i in range(max((len(maps) for maps in reports.values()), default=0)):
        for name, maps in reports.items():
            caption = f"{name}: relevance for all latents together, and for the answer"
            images.append((relevance_figure(maps[i]), caption))
            if i == 0:
                caption = f"{name}: relevance for every slot of the same question"
                images.append((relevance_figure(maps[i], slot_targets(maps[i])[:8]), caption))
    return {"relevance": images}
