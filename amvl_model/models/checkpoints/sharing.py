"""Sharing a checkpoint: its model card, its upload, and LoRA checkpoints on the Hub.

The card is written from config.json: what a run knows of itself is stored there as ``training`` (`TrainingRecord`), so that a
checkpoint that is loaded, merged and saved again keeps it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from amvl_model.data.hub import answering
from amvl_model.models.checkpoints.inspection import CARD, MANIFEST
from amvl_model.models.configuration import INSTALL, AroundBackboneConfig

ARXIV = "2607.00461"
MARK = "<!-- Written by amvl_model. Remove this line to keep changes of your own. -->"


class Metric(TypedDict, total=False):
    """A result of the model card; ``low`` and ``high`` bound the 95 % interval where it is known."""

    name: str
    value: float
    low: float
    high: float
    data: str


class TrainingRecord(TypedDict, total=False):
    """``config.training``.

    ``base_model``: the backbone's name on the Hub, if it has one; ``objective``: name, equation and settings; ``data``: name of
    the training set; ``steps``: optimiser steps done; ``metrics``: results; ``provenance``: commit and versions.
    """

    base_model: str | None
    objective: dict[str, Any]
    data: str
    steps: int
    metrics: list[Metric]
    provenance: dict[str, Any]


def write_card(folder: Path, config: AroundBackboneConfig, *, tags: Sequence[str] | str | None = None) -> None:
    """Write README.md, unless there is one that this package did not write.

    Args:
        folder: of the checkpoint.
        config: of the model, with its ``training``.
        tags: beside the package's own.
    """
    file = folder / CARD
    if not file.is_file() or MARK in file.read_text(encoding="utf-8"):
        file.write_text(model_card(config, tags=tags), encoding="utf-8")


def model_card(config: AroundBackboneConfig, *, tags: Sequence[str] | str | None = None) -> str:
    """The text of the model card, with the Hub's metadata: base_model, tags with the arXiv id, results."""
    from huggingface_hub import EvalResult, ModelCardData

    record: Any = config.training or {}
    metrics: list[Metric] = record.get("metrics", [])
    base = hub_id(config.backbone_path) or record.get("base_model")
    extra = [tags] if isinstance(tags, str) else list(tags or ())
    title = config.model_type.replace("_", "-")
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=[config.model_type, "latent-reasoning", f"arxiv:{ARXIV}", *extra],
        base_model=base,
        base_model_relation=None if base is None else "adapter" if config.lora else "finetune",
        datasets=hub_id(record.get("data")),
        model_name=title,
        eval_results=[
            EvalResult(
                task_type="image-text-to-text",
                dataset_type=metric.get("data", "unknown"),
                dataset_name=metric.get("data", "unknown"),
                metric_type=metric["name"],
                metric_value=metric["value"],
                metric_args=_interval(metric),
            )
            for metric in metrics
        ]
        or None,
    )
    sections = [
        f"---\n{data.to_yaml()}\n---",
        MARK,
        f"# {title}\n\n{_description(config)}",
        _USE,
        _table("Model", _model_rows(config, base)),
        _table("Training", _training_rows(record)),
        _table("Results", [(f"{m['name']} ({m['data']})" if m.get("data") else m["name"], _shown(m)) for m in metrics]),
        _table("Provenance", _provenance_rows(record.get("provenance") or {})),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


_USE = f"""## Use

Install: {INSTALL}.

Without the package transformers does not recognize the model type and raises a ValueError: no version of transformers
contains it.

```python
import amvl_model  # makes the model type known to transformers
from transformers import AutoModelForImageTextToText, AutoProcessor

checkpoint = "this folder, or its name on the Hub"
model = AutoModelForImageTextToText.from_pretrained(checkpoint)
processor = AutoProcessor.from_pretrained(checkpoint)

content = [{{"type": "image", "image": "photo.png"}}, {{"type": "text", "text": "Which one is nearer?"}}]
query = processor.apply_chat_template(
    [{{"role": "user", "content": content}}], add_generation_prompt=True, tokenize=True, return_dict=True
)
print(processor.decode(model.generate(**query, max_new_tokens=16)))
```"""


def _description(config: AroundBackboneConfig) -> str:
    kind = (
        "latent-reasoning vision-language model" if config.model_type == "amvl" else "vision-language model, a baseline"
    )
    paper = f"[arXiv {ARXIV}](https://arxiv.org/abs/{ARXIV})"
    return f"A {kind} of Asymmetric Mutual Variational Learning (AMVL, {paper})."


def _model_rows(config: AroundBackboneConfig, base: str | None) -> list[tuple[str, Any]]:
    sizes = [(name, getattr(config, name)) for name in (*config.sizes, *config.choices)]
    kind = getattr(config.vlm_config, "model_type", "not recorded")
    lora = config.lora and "LoRA, " + ", ".join(f"{name} {value:g}" for name, value in config.lora.items())
    return [("base model", base or f"{kind} (no name on the Hub)"), *sizes, ("adapter", lora)]


def _training_rows(record: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [*(record.get("objective") or {}).items(), ("data", record.get("data")), ("steps", record.get("steps"))]


def _provenance_rows(provenance: Mapping[str, Any]) -> list[tuple[str, Any]]:
    commit = provenance.get("commit")
    state = " (with changes)" if provenance.get("dirty") else ""
    return [("commit of amvl_model", commit and commit + state), *(provenance.get("versions") or {}).items()]


def _table(title: str, rows: Sequence[tuple[str, Any]]) -> str:
    cells = [(name, str(value).replace("|", "\\|")) for name, value in rows if value is not None]
    lines = [f"| {name} | {value} |" for name, value in cells]
    return f"## {title}\n\n| | |\n| --- | --- |\n" + "\n".join(lines) if lines else ""


def _shown(metric: Metric) -> str:
    bounds = f" [{metric['low']:.4g}, {metric['high']:.4g}]" if "low" in metric else ""
    return f"{metric['value']:.4g}{bounds}"


def _interval(metric: Metric) -> dict[str, float] | None:
    return {"low": metric["low"], "high": metric["high"], "level": 0.95} if "low" in metric else None


def hub_id(name: Any) -> str | None:
    """The name, if it is organisation/name and no local folder; else None."""
    named = isinstance(name, str) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and not Path(name).exists()
    return name if named else None


# ---------------------------------------------------------------------- the Hub


def upload(folder: Path, config: AroundBackboneConfig, *, repo_id: str, **options: Any) -> Any:
    """Create the repository if need be and upload a checkpoint folder in one commit.

    Args:
        folder: what `save_pretrained` wrote; checkpoints of a run (``checkpoint-*``) in it are left out.
        config: of the model.
        repo_id: organisation/name.
        **options: ``token``, ``private``, ``revision``, ``create_pr``, ``commit_message``, ``commit_description``.

    Returns:
        huggingface_hub's CommitInfo.

    Raises:
        ConnectionError: if the Hub does not answer.
        ValueError: for adapters whose backbone is a local folder, which no reader would have.
    """
    from huggingface_hub import HfApi

    if config.lora and hub_id(config.backbone_path) is None:
        raise ValueError(
            f"the adapters belong to the backbone {config.backbone_path!r}, expected a name on the Hub: set "
            "model.config.backbone_path to it, or call model.merge_lora() and upload the whole model"
        )
    api, private = HfApi(token=options.pop("token", None)), options.pop("private", None)
    with answering(f"upload to {repo_id}"):
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        options.setdefault("commit_message", "Upload model")
        return api.upload_folder(repo_id=name, folder_path=folder, ignore_patterns=["_*", "checkpoint-*"], **options)


_READ = ["*.json", "*.safetensors", "adapter/*"]
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "token")


def lora_snapshot(path: str | Path, options: dict[str, Any]) -> Path | None:
    """The downloaded folder of a LoRA checkpoint that a hub id names; None for a folder, and for a whole checkpoint.

    Args:
        path: folder or hub id.
        options: of ``from_pretrained``; those of the download are removed where a folder is returned.
    """
    if Path(path).is_dir():
        return None
    from huggingface_hub import snapshot_download
    from transformers import PreTrainedConfig

    hub = {name: options[name] for name in _HUB_OPTIONS if options.get(name) is not None}
    stored, _ = PreTrainedConfig.get_config_dict(str(path), **hub)
    if not stored.get("lora"):
        return None
    for name in _HUB_OPTIONS:
        options.pop(name, None)
    with answering(f"download of {path}"):
        return Path(snapshot_download(str(path), allow_patterns=_READ, ignore_patterns=[MANIFEST], **hub))
