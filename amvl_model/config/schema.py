"""Every setting of a run: keyword-only dataclasses, presets, dotted overrides, command-line arguments. Free of torch.

    config = load_preset("tiny", {"objective.beta": "0.01"})        a preset with one value replaced
    config.objective.weights(progress=0.5)                          beta(t), gamma(t) half-way through training
    RunConfig.from_dict(config.to_dict()) == config                 what a run folder stores

A preset is a complete YAML file in ``amvl_model/presets``: copy it, edit it, pass its path in place of a name.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from amvl_model.config.loading import (
    add_field_arguments,
    build,
    check_fields,
    did_you_mean,
    given_fields,
    option,
    parse_text,
    plain,
    problem,
    suggest_nearest,
    walk,
)
from amvl_model.objectives import OBJECTIVES, Loss, Objective, Weights, objective_named, schedule

PRESET_FOLDER = Path(__file__).parents[1] / "presets"

Order = Literal["forward-first", "reverse-first", "simultaneous"]


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The training loss and the schedule of its weights (amvl_model/objectives.py: names, equations, the schedule).

    Objectives without KL terms, among them the baselines sft and pause, have no use for weights, order and schedule; pause takes
    ``model.num_latents`` for its number of tokens.
    """

    name: str = option("amvl", f"which terms the loss has: {', '.join(OBJECTIVES)}, or an entry of your own")
    beta: float = option(0.003, "full weight of the forward KL (prior to posterior)", unit="per nat", low=0)
    gamma: float = option(0.0003, "full weight of the reverse KL (posterior to prior)", unit="per nat", low=0)
    order: Order = option("forward-first", "which of the two weights rises first")
    beta_warmup: float = option(
        0.1, "length of the first weight's rise from 0", unit="fraction of training", low=0, high=1
    )
    gamma_delay: float = option(
        0.2, "when the second weight starts to rise", unit="fraction of training", low=0, high=1
    )
    gamma_warmup: float = option(0.2, "length of the second weight's rise", unit="fraction of training", low=0, high=1)
    kl_reduction: Literal["sum", "mean"] = option("sum", "KL: sum over slots and dimensions, or mean a dimension")
    nll_reduction: Literal["sum", "token_mean"] = option("sum", "answer NLL: sum over its tokens, or mean a token")

    def __post_init__(self) -> None:
        check_fields(self)
        try:
            objective_named(self.name)
        except ValueError as error:
            raise ValueError(f"objective.name: {error}") from None
        if self.gamma_delay + self.gamma_warmup > 1 + 1e-9:
            raise problem(
                "objective.gamma_warmup",
                f"at most {1 - self.gamma_delay:g} beside gamma_delay {self.gamma_delay:g}",
                self.gamma_warmup,
                "the second weight would not reach its full value within the training; shorten one of them",
            )

    def weights(self, progress: float) -> tuple[float, float]:
        """beta(t) and gamma(t), 0 for a term that the objective lacks.

        Args:
            progress: share of the training that is done, 0 to 1.

        Raises:
            ValueError: for a progress outside [0, 1].
        """
        beta, gamma = schedule(progress, self.order, self.beta_warmup, self.gamma_delay, self.gamma_warmup)
        used = self.entry.weights
        return self.beta * beta * ("beta" in used), self.gamma * gamma * ("gamma" in used)

    def loss(self, progress: float) -> Loss:
        """The loss at this progress: what a model's ``forward`` takes."""
        return Loss(self.entry, Weights(*self.weights(progress)), self.kl_reduction, self.nll_reduction)

    @property
    def entry(self) -> Objective:
        """The objective's entry in the registry."""
        return objective_named(self.name)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Backbone, latents, and what is trained."""

    base: str = option("tiny", "tiny (shipped), scratch (random weights), a checkpoint folder or a hub id")
    num_latents: int = option(8, "k, the latents of a question (objective pause: its tokens)", unit="slots", low=1)
    latent_dim: int = option(512, "d, the size of a latent", unit="dimensions", low=1)
    posterior_std: Literal["per-answer", "shared"] = option(
        "per-answer", "the posterior's standard deviation: of each answer, or shared by all answers of a question"
    )
    freeze_vision: bool = option(True, "keep the vision encoder as it is")
    lora_rank: int = option(0, "rank of LoRA on the language model; 0 trains all of its weights", low=0)
    lora_alpha: float | None = option(None, "LoRA's update is scaled by this / lora_rank; null: 2 x lora_rank", above=0)
    lora_dropout: float = option(0.0, "dropout on LoRA's input", unit="probability", low=0, high=1)
    dtype: Literal["auto", "float32", "bfloat16"] = option("auto", "weights in memory; auto: as stored")
    scratch_hidden_size: int = option(192, "base scratch: width of the language model, a multiple of 96", low=96)
    scratch_layers: int = option(4, "base scratch: layers of the language model", low=1)
    scratch_vision_size: int = option(128, "base scratch: width of the vision encoder, a multiple of 32", low=32)

    def __post_init__(self) -> None:
        check_fields(self)
        for name, multiple in (("scratch_hidden_size", 96), ("scratch_vision_size", 32)):
            if getattr(self, name) % multiple:
                raise problem(
                    f"model.{name}", f"a multiple of {multiple}", getattr(self, name), "round it (heads are 32 wide)"
                )
        if self.base == "scratch" and self.freeze_vision:
            fix = "a random vision encoder has to be trained: set model.freeze_vision to false"
            raise problem("model.freeze_vision", "false with model.base scratch", True, fix)
        if self.base == "scratch" and self.lora_rank:
            fix = "adapters are stored without the weights they belong to, which random ones are nowhere else: name a base"
            raise problem("model.lora_rank", "0 with model.base scratch", self.lora_rank, fix)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Training and evaluation questions."""

    source: str = option(
        "synthetic-blink",
        "training questions: synthetic-blink, multihop, blink, visual-cot, refocus, cogcom, zebra-cot, a file of questions "
        "(.jsonl) or a folder in BLINK's schema; several joined by +, with weights if wanted (visual-cot:4+refocus:1)",
    )
    eval_source: str | None = option(
        None,
        "evaluation questions: synthetic-blink, multihop, either with -shifted, blink, vstar, hrbench4k, hrbench8k, "
        "visual-puzzles, a file or a folder; null: held-out questions of source",
    )
    path: str | None = option(None, "folder with local copies of the sources; null: the Hugging Face cache or hub")
    tasks: tuple[str, ...] | None = option(None, "only these tasks, for example Counting,Jigsaw; null: all")
    train_size: int | None = option(600, "training questions; null: all there are", unit="questions in all", low=1)
    eval_size: int | None = option(50, "evaluation questions; null: all there are", unit="questions a task", low=1)
    label_noise: float = option(0.3, "drawn questions: share of training labels moved to another option", low=0, high=1)
    difficulty: float = option(0.25, "synthetic-blink: from 0, plain drawings, to 1, crowded ones", low=0, high=1)
    seed: int = option(0, "of the drawn questions and of the order in which they are shown", low=0)
    min_pixels: int | None = option(
        None, "smaller pictures are enlarged to this; null: as the base", unit="pixels", low=1
    )
    max_pixels: int | None = option(None, "larger pictures are shrunk to this; null: as the base", unit="pixels", low=1)

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("source", "eval_source"):
            value = getattr(self, name)
            if value is not None and not all(part.strip() for part in value.split("+")):
                raise problem(f"data.{name}", "a name, a path, or names joined by +", value, "name a source")
        endless = [name for name in ("synthetic-blink", "multihop") if name in self.sources]
        if self.train_size is None and endless:
            fix = "say how many questions to draw, for example 600"
            raise problem("data.train_size", f"a number with the endless source {endless[0]}", None, fix)
        if self.min_pixels is not None and self.max_pixels is not None and self.min_pixels > self.max_pixels:
            fix = "lower it or raise data.max_pixels"
            raise problem("data.min_pixels", f"at most data.max_pixels ({self.max_pixels})", self.min_pixels, fix)

    @property
    def sources(self) -> tuple[str, ...]:
        """The training sources, one by one; a path is one source."""
        return _split_sources(self.source)

    @property
    def eval_sources(self) -> tuple[str, ...]:
        """The evaluation sources, one by one."""
        return _split_sources(self.eval_source if self.eval_source is not None else self.source)


def _split_sources(text: str) -> tuple[str, ...]:
    return (text,) if os.sep in text else tuple(part.strip() for part in text.split("+"))


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Optimisation: AdamW; an optimiser step sees batch_size x grad_accumulation x devices questions."""

    steps: int = option(400, "length of training", unit="optimiser steps", low=1)
    batch_size: int = option(32, "questions in one forward pass of one device", unit="questions", low=1)
    grad_accumulation: int = option(1, "forward passes that make an optimiser step", low=1)
    learning_rate: float = option(5e-4, "peak learning rate", above=0)
    latent_learning_rate: float | None = option(
        None, "peak learning rate of latent queries, heads and projection; null: learning_rate", above=0
    )
    warmup: float = option(0.05, "rise of the learning rate from 0", unit="fraction of training", low=0, high=1)
    weight_decay: float = option(0.0, "AdamW's decoupled weight decay", low=0)
    max_grad_norm: float = option(1.0, "gradients are scaled down to this norm", above=0)
    precision: Literal["fp32", "bf16"] = option("fp32", "arithmetic of the forward and backward pass")
    gradient_checkpointing: bool = option(False, "store less, compute layers again in the backward pass")
    sharding: Literal["none", "fsdp2", "deepspeed-zero3"] = option(
        "none", "share weights and optimiser between processes (torchrun); none: each process holds all of them"
    )
    workers: int = option(0, "processes that draw or read questions; 0: the training process", low=0)
    group_by_length: bool = option(False, "batches of questions of similar length, so that less is padded")
    seed: int = option(0, "of new weights, latent samples and dropout", low=0)
    log_every: int = option(10, "steps between two log lines", unit="optimiser steps", low=1)
    probe_every: int = option(
        20, "steps between two probes of the leak, at log lines; 0: none", unit="optimiser steps", low=0
    )
    eval_every: int = option(0, "steps between two evaluations; 0: at the end", unit="optimiser steps", low=0)
    save_every: int = option(0, "steps between two checkpoints; 0: at the end", unit="optimiser steps", low=0)
    report_to: tuple[str, ...] = option((), "trackers of transformers' Trainer, for example tensorboard,wandb")

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluation and diagnostics after training."""

    samples: int = option(4, "draws from the prior a question, beside the prior mean", unit="draws", low=1)
    temperature: float = option(1.0, "scale of the prior's standard deviation when drawing; 0: the mean", low=0)
    max_new_tokens: int = option(8, "longest generated reply", unit="tokens", low=1)
    bootstrap: int = option(1000, "resamples of the questions behind a confidence interval", unit="resamples", low=1)
    batch_size: int = option(64, "questions in one forward pass", unit="questions", low=1)
    leakage_questions: int = option(140, "questions behind the leakage diagnostics", unit="questions", low=1)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that a run needs to be repeated, apart from code and machine."""

    preset: str = option("custom", "name of the preset that the values were taken from")
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)

    def __post_init__(self) -> None:
        check_fields(self)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain data, fit for JSON and YAML."""
        return plain(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, complete: bool = False) -> RunConfig:
        """The inverse of `to_dict`.

        Args:
            values: nested plain data; a field that is left out gets its default.
            complete: refuse data that leaves a field out.

        Raises:
            ValueError: for an unknown key (with the nearest valid one), a missing one, or a value that is not accepted.
        """
        return build(cls, values, complete=complete)


def preset_names() -> tuple[str, ...]:
    """The shipped presets, smallest first."""
    order = ("tiny", "small-gpu")
    names = sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml"))
    return tuple(sorted(names, key=lambda name: order.index(name) if name in order else len(order)))


def config_paths() -> tuple[str, ...]:
    """Dotted path of every field, ``objective.beta`` for example."""
    return tuple(path for path, _, _ in walk(RunConfig) if "." in path)


def load_preset(name: str | Path, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """A preset by name, or a complete YAML or JSON file, with some values replaced.

    Args:
        name: ``tiny``, ``small-gpu``, ``qwen2.5-vl-7b``, or the path of a file that states every field.
        overrides: dotted path to value; a text is read as the field needs it (``{"objective.beta": "1e-3"}``).

    Raises:
        ValueError: for an unknown preset or key (with the nearest valid one), an incomplete file, or a bad value.
    """
    import yaml

    file = PRESET_FOLDER / f"{name}.yaml" if str(name) in preset_names() else Path(name)
    if not file.is_file():
        raise ValueError(f"{name} is neither a preset nor a file; {did_you_mean(str(name), preset_names())}")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no valid YAML: {error}; compare it with {PRESET_FOLDER / 'tiny.yaml'}") from error
    try:
        config = RunConfig.from_dict(values, complete=True)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return override(config, overrides or {})


def override(config: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    """``config`` with the fields at the given dotted paths replaced; see `load_preset`.

    Raises:
        ValueError: for an unknown path (with the nearest valid one) or a value that is not accepted.
    """
    rules = {path: rule for path, _, rule in walk(RunConfig) if "." in path}
    values = config.to_dict()
    for path, value in overrides.items():
        if path not in rules:
            raise ValueError(f"unknown configuration key {path}; {did_you_mean(path, rules)}")
        section, key = path.split(".")
        values[section][key] = parse_text(path, rules[path], value) if isinstance(value, str) else value
    return RunConfig.from_dict(values)


def add_config_arguments(parser: argparse.ArgumentParser, preset: str = "tiny") -> None:
    """Let a script accept ``--preset`` and every field of `RunConfig`, such as ``--objective.beta 0.01``.

    ``--help`` shows the fields in groups with their unit and the value in ``preset``. Unknown arguments are refused
    with the nearest known one. Follow with `config_from_args`, or with `overrides_from_args` and `load_preset`.

    Args:
        parser: grown in place.
        preset: default of ``--preset``.
    """
    parser.add_argument(
        "--preset",
        default=preset,
        metavar="NAME|FILE",
        help=f"{', '.join(preset_names())}, or a file (default: {preset}); the settings below replace its values",
    )
    add_field_arguments(parser, RunConfig, load_preset(preset).to_dict(), label=preset)
    suggest_nearest(parser)


def overrides_from_args(arguments: argparse.Namespace) -> dict[str, str]:
    """The fields given on the command line, as `load_preset` takes them."""
    return given_fields(arguments, RunConfig)


def config_from_args(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> RunConfig:
    """The configuration that the parsed command line asks for; a bad value ends the script with the parser's usage."""
    try:
        return load_preset(arguments.preset, overrides_from_args(arguments))
    except ValueError as error:
        parser.error(str(error))
