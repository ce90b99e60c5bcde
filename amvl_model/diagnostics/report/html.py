"""diagnostics.json and one report.html that needs no other file: figures, plain sentences, and every number in a table."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from amvl_model.config import ObjectiveConfig
from amvl_model.diagnostics.report.figures import panels_figure, rows, similarity_figure
from amvl_model.diagnostics.report.sections import ABOUT, PANELS, TITLES
from amvl_model.diagnostics.report.suite import Diagnosed
from amvl_model.results.provenance import provenance, to_jsonable

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
h1 { font-size: 1.6em } h2 { margin-top: 2em; border-bottom: 1px solid #ccc }
img { max-width: 100%; height: auto } figure { margin: 1em 0 } figcaption { color: #555 }
table { border-collapse: collapse; font-size: 13px } th, td { padding: 2px 10px; text-align: right; }
td { border-bottom: 1px solid #eee }
th:first-child, td:first-child { text-align: left }
.said { background: #f3f6fa; padding: .5em 1em; border-left: 4px solid #0072B2 }
.refused { background: #fdf3e7; border-left-color: #E69F00 } summary { cursor: pointer }
details { overflow-x: auto } code { font-size: 13px }
"""


def write_report(out: Path, diagnosed: Sequence[Diagnosed], settings: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write diagnostics.json (config and environment included) and report.html.

    Args:
        out: folder; it is made.
        diagnosed: the checkpoints, in the order of the columns.
        settings: how the questions were chosen and measured, as it is to stand in both files.

    Returns:
        the two paths.
    """
    out.mkdir(parents=True, exist_ok=True)
    record = {
        "config": to_jsonable(dict(settings)),
        "environment": provenance(),
        "checkpoints": {each.name: to_jsonable(each.to_dict()) for each in diagnosed},
    }
    data, page = out / "diagnostics.json", out / "report.html"
    data.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    page.write_text(report_html(record, _maps(diagnosed)), encoding="utf-8")
    return data, page


def report_html(record: Mapping[str, Any], pictures: Mapping[str, Sequence[tuple[str, Figure]]] | None = None) -> str:
    """The page of one diagnostics.json.

    Args:
        record: its content.
        pictures: per diagnostic, captions and figures that need more than the numbers (relevance maps over pictures).
    """
    checkpoints = record["checkpoints"]
    names = [name for name in TITLES if any(name in each["diagnostics"] for each in checkpoints.values())]
    parts = [_head(record), _in_short(checkpoints)]
    parts += [_section(name, checkpoints, (pictures or {}).get(name, ())) for name in names]
    parts.append(_settings(record))
    title = "Diagnostics of " + ", ".join(checkpoints)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def sentences(checkpoints: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is found on each checkpoint in plain words: (checkpoint, sentence)."""
    found = []
    for name, each in checkpoints.items():
        for key, data in each["diagnostics"].items():
            if data is None:
                continue
            if key == "contamination":
                found.append((name, _leak_sentence(data["measures"])))
            elif key == "relevance":
                found.append((name, _relevance_sentence(data["parts"])))
            for said in ("verdict", "sentence"):
                if isinstance(data.get(said), str):
                    found.append((name, data[said]))
    return found


def _leak_sentence(measures: Mapping[str, Any]) -> str:
    leaked, bound, gap = (measures[key] for key in ("leaked_information", "leakage_bound", "nll_gap_sample"))
    known, entropy = measures.get("known_answer_leakage"), measures.get("answer_entropy")
    text = f"The posterior reveals {leaked['mean']:.3f} of {bound['mean']:.3f} nats about which option it was shown"
    if known and entropy and entropy["mean"] > 0:
        text += f", and {known['mean']:.3f} of {entropy['mean']:.3f} nats about a noisy label that no picture can give"
    if gap["low"] is None or gap["low"] <= 0 <= gap["high"]:
        return f"{text}. The answer NLL with posterior samples does not differ from that with prior samples beyond its interval."
    side = "lower" if gap["mean"] < 0 else "higher"
    return (
        f"{text}. With posterior samples the answer NLL is {abs(gap['mean']):.3f} nats {side} than with prior samples."
    )


def _relevance_sentence(parts: Mapping[str, Any]) -> str:
    image, text = parts["latents"]["image"]["mean"], parts["latents"]["text"]["mean"]
    n = parts["latents"]["image"]["n"]
    return (
        f"Of {image + text:.3g} nats by which the question moves the latents, {image:.3g} come through the pictures and "
        f"{text:.3g} through the words (integrated gradients, mean of {n} questions)."
    )


def _head(record: Mapping[str, Any]) -> str:
    questions = html.escape(str(record["config"].get("questions_are", "")))
    columns = "".join(
        "<tr><td>{}</td>{}</tr>".format(
            html.escape(name),
            "".join(f"<td>{html.escape(text)}</td>" for text in _objective_cells(each["objective"])),
        )
        for name, each in record["checkpoints"].items()
    )
    return (
        f"<h1>Diagnostics</h1><p>{questions} Figures are means over questions with 95 % bootstrap intervals, unless they say "
        "otherwise; the intervals say nothing of training seeds.</p>"
        f"<table><tr><th>checkpoint</th><th>objective</th><th>beta</th><th>gamma</th></tr>{columns}</table>"
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


def _in_short(checkpoints: Mapping[str, Any]) -> str:
    found = sentences(checkpoints)
    if not found:
        return ""
    items = "".join(f"<p class=said><b>{html.escape(name)}</b>: {html.escape(text)}</p>" for name, text in found)
    return f"<h2>In short</h2>{items}"


def _section(name: str, checkpoints: Mapping[str, Any], pictures: Sequence[tuple[str, Figure]]) -> str:
    data = {each: value["diagnostics"].get(name) for each, value in checkpoints.items()}
    parts = [f"<h2 id={name}>{TITLES[name]}</h2><p>{html.escape(ABOUT[name])}</p>"]
    parts += [
        f"<p class='said refused'><b>{html.escape(each)}</b>: not measured. {html.escape(value['refused'][name])}</p>"
        for each, value in checkpoints.items()
        if name in value["refused"]
    ]
    figure = panels_figure(data, PANELS.get(name, ()))
    if figure is not None:
        parts.append(_image(figure, "Means with their intervals"))
    if name == "stability" and (similarity := similarity_figure(data)) is not None:
        parts.append(_image(similarity, "Cosine similarity between slots"))
    parts += [_image(each, caption) for caption, each in pictures]
    lines = rows(data)
    if lines:
        head = "".join(f"<th>{html.escape(each)}</th>" for each in data)
        body = "".join(
            f"<tr><td>{html.escape(label)}</td>{''.join(f'<td>{html.escape(text)}</td>' for text in cells)}</tr>"
            for label, cells in lines
        )
        parts.append(
            f"<details><summary>all {len(lines)} figures</summary><table><tr><th></th>{head}</tr>{body}</table></details>"
        )
    return "".join(parts)


def _settings(record: Mapping[str, Any]) -> str:
    shown = {"config": record["config"], "environment": record["environment"]}
    seconds = {name: each["seconds"] for name, each in record["checkpoints"].items()}
    text = html.escape(json.dumps({**shown, "seconds": seconds}, indent=1))
    return (
        f"<h2>How this was made</h2><details><summary>settings, versions, seconds</summary><pre>{text}</pre></details>"
    )


def _maps(diagnosed: Sequence[Diagnosed]) -> dict[str, list[tuple[str, Figure]]]:
    """Relevance maps of every checkpoint, question by question, and the slots of the first question."""
    from amvl_model.diagnostics.report.relevance_figures import relevance_figure, slot_targets

    reports = {each.name: each.reports["relevance"].maps for each in diagnosed if "relevance" in each.reports}
    pictures = []
    for i in range(max((len(maps) for maps in reports.values()), default=0)):
        for name, maps in reports.items():
            caption = f"{name}: relevance for all latents together, and for the answer"
            pictures.append((caption, relevance_figure(maps[i])))
            if i == 0:
                caption = f"{name}: relevance for every slot of the same question"
                pictures.append((caption, relevance_figure(maps[i], slot_targets(maps[i])[:8])))
    return {"relevance": pictures}


def _image(figure: Figure, caption: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    encoded = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{encoded}"><figcaption>{text}</figcaption></figure>'
