"""What `AMVLTrainer` is given, as what it trains: a name as a model, rows as questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.utils.data import IterableDataset
from transformers import PreTrainedConfig, PreTrainedModel

from amvl_model.data.mixture import MixedQuestions
from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.rows import RowQuestions
from amvl_model.models.amvl import AMVLForConditionalGeneration
from amvl_model.models.backbone import AroundBackbone
from amvl_model.models.checkpoints import checkpoint_type, inspect_checkpoint
from amvl_model.models.configuration import PAUSE_TYPE
from amvl_model.models.loading import explained, resolve
from amvl_model.models.pause import PauseForConditionalGeneration
from amvl_model.training.arguments import LATENT_FIELDS, AMVLTrainingArguments
from amvl_model.training.batches import QuestionDataset, QuestionStream


def prepare_model(model: Any, args: AMVLTrainingArguments, processor: Any) -> tuple[Any, AMVLProcessor]:
    """The model to train and its processor.

    Args:
        model: name of a shipped checkpoint, folder, hub id, plain Qwen-VL model, or model of this package; None: the trainer
            makes it (``model_init``). A plain backbone gets fresh latents, or pause tokens, as the objective needs them; the
            vision tower of a model that is built here is frozen, and adapters are added, as ``args`` say.
        args: of the trainer.
        processor: an `AMVLProcessor`, a processor of transformers for Qwen-VL, or None: that of the model.

    Raises:
        ValueError: for a model that the objective cannot train, or a processor of another kind.
        FileNotFoundError: for a folder that does not exist.
        ConnectionError: for a hub that does not answer.
    """
    path = resolve(str(model)) if isinstance(model, str | Path) else None
    if path is not None and not Path(path).is_dir():
        inspect_checkpoint(path, expected_type=None)  # refuses what is neither a folder nor a hub id
    if path is None and model is not None:
        path = getattr(model.config, "_name_or_path", None) or getattr(model.config, "backbone_path", None)
    if processor is None and not path:
        raise ValueError(
            "processing_class: expected an AMVLProcessor, got none, and the model does not name its folder"
        )
    if processor is None:
        with explained(str(path)):
            processor = AMVLProcessor.from_pretrained(str(path))
    elif not isinstance(processor, AMVLProcessor):
        if not (hasattr(processor, "tokenizer") and hasattr(processor, "image_processor")):
            raise ValueError(
                f"processing_class: expected an AMVLProcessor, got {type(processor).__name__}; leave it out, or use "
                "AMVLProcessor.from_pretrained(FOLDER_OR_HUB_ID)"
            )
        processor = AMVLProcessor(
            processor.tokenizer, processor.image_processor, getattr(processor, "chat_template", None)
        )
    if isinstance(model, str | Path):
        model = _load(str(path), args)
    elif isinstance(model, PreTrainedModel) and not isinstance(model, AroundBackbone):
        model = _around(model, args)
    if model is not None:
        _refuse_other_objective(model, args)
    return model, processor


def _load(path: str, args: AMVLTrainingArguments) -> Any:
    settings = args.model_init_kwargs
    options: dict[str, Any] = {"dtype": torch.float32, **(settings if isinstance(settings, dict) else {})}
    with explained(path):
        kind = checkpoint_type(path) if Path(path).is_dir() else _hub_type(path, options)
        if kind in ("amvl", PAUSE_TYPE):
            cls: Any = PauseForConditionalGeneration if kind == PAUSE_TYPE else AMVLForConditionalGeneration
            return _adapted(cls.from_pretrained(path, **options), args)
        return _around(path, args, **options)


def _hub_type(path: str, options: dict[str, Any]) -> str | None:
    hub = {name: options[name] for name in ("cache_dir", "revision", "token", "local_files_only") if name in options}
    kind: str | None = PreTrainedConfig.get_config_dict(path, **hub)[0].get("model_type")
    return kind


def _around(backbone: Any, args: AMVLTrainingArguments, **options: Any) -> Any:
    """Fresh latents, or the baseline that the objective needs, on a plain backbone."""
    entry = args.objective_config().entry
    model: Any
    if entry.latents:
        latents = {name: getattr(args, name) for name in LATENT_FIELDS}
        model = AMVLForConditionalGeneration.from_backbone(backbone, seed=args.seed, **latents, **options)
    else:
        pauses = args.num_latents if "pause" in entry.passes else 0
        model = PauseForConditionalGeneration.from_backbone(backbone, pauses, seed=args.seed, **options)
    return _adapted(model, args)


def _adapted(model: Any, args: AMVLTrainingArguments) -> Any:
    if args.lora_rank and not model.config.lora:
        model.add_lora(args.lora_rank, args.lora_alpha, args.lora_dropout)
    if args.freeze_vision:
        model.freeze_vision()
    return model


def _refuse_other_objective(model: Any, args: AMVLTrainingArguments) -> None:
    entry = args.objective_config().entry
    if not isinstance(model, AroundBackbone):
        raise ValueError(
            f"model: expected a name, a Qwen-VL model or a model of this package, got {type(model).__name__}; adapters of peft "
            "are added by AMVLTrainingArguments(lora_rank=...)"
        )
    computed: tuple[str, ...]
    if isinstance(model, AMVLForConditionalGeneration):
        computed = ("prior", "posterior")
    else:
        computed = ("pause",) if model.config.num_pauses else ("plain",)
    if not set(entry.passes) <= set(computed):
        raise ValueError(
            f"objective {entry.name!r} reads the passes {', '.join(entry.passes)}, but the model computes "
            f"{', '.join(computed)}; choose another objective, or give the plain backbone"
        )


def prepare_dataset(dataset: Any, processor: AMVLProcessor, place: str, multiple: int = 1) -> Any:
    """Encoded questions, or a stream of questions where the set has no length; None and prepared sets unchanged.

    Args:
        dataset: `VisualQuestion` objects or rows (data/rows.py): a sequence, datasets.Dataset, datasets.IterableDataset, a torch
            data set.
        processor: encodes them.
        place: name of the set, for messages.
        multiple: a stream is filled up to a multiple of it.

    Raises:
        ValueError: for columns from which no question can be made, or something that is no data set.
    """
    if dataset is None or isinstance(dataset, QuestionDataset | QuestionStream):
        return dataset
    if isinstance(dataset, MixedQuestions):
        return QuestionDataset(dataset, processor)
    if isinstance(dataset, str | dict):
        raise ValueError(
            f"{place}: expected a data set, got {type(dataset).__name__}; load it, or choose one of its splits"
        )
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset):
        if not len(dataset):
            raise ValueError(f"{place}: expected at least one question, got none")
        return QuestionDataset(RowQuestions(dataset, place), processor)
    if hasattr(dataset, "__iter__"):
        return QuestionStream(dataset, place, multiple)
    raise ValueError(
        f"{place}: expected a data set with __getitem__ and __len__, or one to iterate over, got {type(dataset).__name__}"
    )


def name_of(dataset: Any) -> str | None:
    """The name that a datasets.Dataset or its builder has, for the model card."""
    return getattr(getattr(dataset, "info", None), "dataset_name", None)
