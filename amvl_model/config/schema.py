"""Every setting of a run, as frozen pydantic models: one line a field, with bound, unit and documentation. Free of torch.

    config = RunConfig(objective=ObjectiveConfig(beta=0.01))        every other setting has its default
    config.objective.weights(progress=0.5)                          beta(t), gamma(t) half-way through training
    RunConfig.from_dict(config.to_dict()) == config                 what a run folder stores

Values are checked strictly: an int is accepted for a float and a list for a tuple, but no text for a number.
`RunConfig.from_dict`, which gets files and command lines, reads a text as its field needs it. Every error names the dotted path
of the setting, what was expected, what was received, and the fix.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from amvl_model.objectives import OBJECTIVES, Loss, Objective, Weights, objective_named, schedule

Order = Literal["forward-first", "reverse-first", "simultaneous"]


def setting(default: Any, doc: str, **constraints: Any) -> Any:
    """A field with its default, its documentation (unit in brackets), and pydantic's constraints."""
    return Field(default, description=doc, **constraints)


def did_you_mean(name: str, names: Iterable[str], prefix: str = "") -> str:
    """``did you mean X?`` with the most similar of ``names`` (``beta`` is ``objective.beta``), or the list of them."""
    names = list(names)
    same_end = [entry for entry in names if entry.rpartition(".")[2] == name]
    for match in (same_end or difflib.get_close_matches(name, names, n=1, cutoff=0.5))[:1]:
        return f"did you mean {prefix}{match}?"
    return "use one of " + ", ".join(prefix + entry for entry in names)


def problem(path: str, expected: str, received: Any, fix: str) -> ValueError:
    """The one form of every configuration error."""
    return ValueError(f"{path}: expected {expected}, received {received!r}; {fix}")


class Settings(BaseModel):
    """A frozen section of the configuration.

    Raises:
        ValueError: for the first unknown or unacceptable value.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise self._refusal(error) from None

    @classmethod
    def _refusal(cls, error: ValidationError) -> ValueError:
        """pydantic's first complaint as a `problem`."""
        detail = error.errors(include_url=False)[0]
        if isinstance(cause := detail.get("ctx", {}).get("error"), ValueError):  # raised by a section or a validator
            return cause
        section = cls.__name__.removesuffix("Config").lower()
        prefix, name = "" if section == "run" else f"{section}.", str(detail["loc"][0])
        if detail["type"] == "extra_forbidden":
            return ValueError(
                f"unknown configuration key {prefix}{name}; {did_you_mean(name, cls.model_fields, prefix)}"
            )
        field = cls.model_fields[name]
        fix = {"tuple_type": "write it as a list", "model_type": "compare it with a preset"}.get(detail["type"], "")
        if detail["type"] == "literal_error":
            fix = did_you_mean(str(detail["input"]), get_args(field.annotation))
        return problem(
            prefix + name, _expected(field), detail["input"], fix or f"the default is {text_of(field.default)}"
        )


def _expected(field: FieldInfo) -> str:
    """What a field accepts, in words."""
    kind = get_args(field.annotation | None)[0]  # type: ignore[operator]
    if get_origin(kind) is Literal:
        words = "one of " + ", ".join(get_args(kind))
    elif get_origin(kind) is tuple:
        words = "a list of texts"
    else:
        plain = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}
        words = plain.get(kind) or f"a mapping of settings or an instance of {kind.__name__}"
    phrases = {"gt": "above", "ge": "of at least", "le": "to", "multiple_of": "and a multiple of"}
    bounds = {name: getattr(item, name) for name in phrases for item in field.metadata if hasattr(item, name)}
    if {"ge", "le"} <= set(bounds):
        phrases["ge"] = "from"
    words += "".join(f" {phrases[name]} {bound:g}" for name, bound in bounds.items())
    return words + " or null" * (type(None) in get_args(field.annotation))


class ObjectiveConfig(Settings):
    """The training loss and the schedule of its weights (amvl_model/objectives.py: names, equations, the schedule).

    Objectives without KL terms, among them the baselines sft and pause, have no use for weights, order and schedule; pause takes
    ``model.num_latents`` for its number of tokens.
    """

    name: str = setting("amvl", f"which terms the loss has: {', '.join(OBJECTIVES)}, or an entry of your own")
    beta: float = setting(0.003, "full weight of the forward KL (prior to posterior) [per nat]", ge=0)
    gamma: float = setting(0.0003, "full weight of the reverse KL (posterior to prior) [per nat]", ge=0)
    alpha: float = setting(1.0, "weight of the NLL with a sample of the prior, in objectives that add it", ge=0)
    order: Order = setting("forward-first", "which of the two weights rises first")
    beta_warmup: float = setting(0.1, "length of the first weight's rise from 0 [fraction of training]", ge=0, le=1)
    gamma_delay: float = setting(0.2, "when the second weight starts to rise [fraction of training]", ge=0, le=1)
    gamma_warmup: float = setting(0.2, "length of the second weight's rise [fraction of training]", ge=0, le=1)
    prior_steps: int = setting(
        0, "prior-sample training before the objective: at most so many steps; 0: none [optimiser steps]", ge=0
    )
    prior_until: float | None = setting(
        None,
        "answer NLL of an evaluation, with a sample of the prior, that ends it; null: its steps alone [nats]",
        gt=0,
    )
    kl_reduction: Literal["sum", "mean"] = setting("sum", "KL: sum over slots and dimensions, or mean a dimension")
    nll_reduction: Literal["sum", "token_mean"] = setting("sum", "answer NLL: sum over its tokens, or mean a token")

    def model_post_init(self, context: Any, /) -> None:
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
        alpha = self.alpha * ("alpha" in self.entry.weights)
        return Loss(self.entry, Weights(*self.weights(progress), alpha), self.kl_reduction, self.nll_reduction)

    @property
    def entry(self) -> Objective:
        """The objective's entry in the registry."""
        return objective_named(self.name)


class ModelConfig(Settings):
    """Backbone, latents, and what is trained."""

    base: str = setting("tiny", "tiny (shipped), scratch (random weights), a checkpoint folder or a hub id")
    num_latents: int = setting(8, "k, the latents of a question (objective pause: its tokens) [slots]", ge=1)
    latent_dim: int = setting(512, "d, the size of a latent [dimensions]", ge=1)
    posterior_std: Literal["per-answer", "shared"] = setting(
        "per-answer", "the posterior's standard deviation: of each answer, or shared by all answers of a question"
    )
    answer_bias: float | None = setting(
        None, "initial bias of the posterior's attention to the answer, learnt; -5 begins almost blind; null: none"
    )
    latent_order: Literal["parallel", "sequential"] = setting(
        "parallel", "the prior's slots: in one pass, or one after another, each reading the means before it"
    )
    initial_log_std: float = setting(-1.0, "log standard deviation of fresh priors and posteriors", gt=-5, lt=5)
    freeze_vision: bool = setting(True, "keep the vision encoder as it is")
    lora_rank: int = setting(0, "rank of LoRA on the language model; 0 trains all of its weights", ge=0)
    lora_alpha: float | None = setting(None, "LoRA's update is scaled by this / lora_rank; null: 2 x lora_rank", gt=0)
    lora_dropout: float = setting(0.0, "dropout on LoRA's input [probability]", ge=0, le=1)
    dtype: Literal["auto", "float32", "bfloat16"] = setting("auto", "weights in memory; auto: as stored")
    scratch_hidden_size: int = setting(
        192, "base scratch: width of the language model, a multiple of 96", gt=0, multiple_of=96
    )
    scratch_layers: int = setting(4, "base scratch: layers of the language model", ge=1)
    scratch_vision_size: int = setting(
        128, "base scratch: width of the vision encoder, a multiple of 32", gt=0, multiple_of=32
    )

    def model_post_init(self, context: Any, /) -> None:
        if self.base == "scratch" and self.freeze_vision:
            fix = "a random vision encoder has to be trained: set model.freeze_vision to false"
            raise problem("model.freeze_vision", "false with model.base scratch", True, fix)
        if self.base == "scratch" and self.lora_rank:
            fix = "adapters are stored without the base weights, and random ones are stored nowhere: name a base"
            raise problem("model.lora_rank", "0 with model.base scratch", self.lora_rank, fix)


class DataConfig(Settings):
    """Training and evaluation questions."""

    source: str = setting(
        "synthetic-blink",
        "training questions: synthetic-blink, multihop, blink, visual-cot, refocus, cogcom, zebra-cot, a file of questions "
        "(.jsonl) or a folder in BLINK's schema; several joined by +, with weights if wanted (visual-cot:4+refocus:1)",
    )
    eval_source: str | None = setting(
        None,
        "evaluation questions: synthetic-blink, multihop, either with -shifted, blink, vstar, hrbench4k, hrbench8k, "
        "visual-puzzles, a file or a folder; null: held-out questions of source",
    )
    path: str | None = setting(None, "folder with local copies of the sources; null: the Hugging Face cache or hub")
    tasks: tuple[str, ...] | None = setting(
        None, "only these tasks, for example Counting,Jigsaw; null: all", strict=False
    )
    train_size: int | None = setting(600, "training questions; null: all there are [questions in all]", ge=1)
    eval_size: int | None = setting(50, "evaluation questions; null: all there are [questions a task]", ge=1)
    label_noise: float = setting(0.3, "drawn questions: share of training labels moved to another option", ge=0, le=1)
    outside: bool = setting(False, "files of questions: images may lie outside the file's folder")
    difficulty: float = setting(0.25, "synthetic-blink: from 0, plain drawings, to 1, crowded ones", ge=0, le=1)
    seed: int = setting(0, "of the drawn questions and of the order in which they are shown", ge=0)
    min_pixels: int | None = setting(None, "smaller images are enlarged to this; null: as the base [pixels]", ge=1)
    max_pixels: int | None = setting(None, "larger images are shrunk to this; null: as the base [pixels]", ge=1)

    def model_post_init(self, context: Any, /) -> None:
        for name in ("source", "eval_source"):
            value = getattr(self, name)
            if value is not None and not all(part.strip() for part in value.split("+")):
                raise problem(f"data.{name}", "a name, a path, or names joined by +", value, "name a source")
        names = ["all"] if self.tasks is None else [name.strip() for name in self.tasks]
        if not names or not all(names) or len({*names}) < len(names):
            raise problem("data.tasks", "names of tasks, each once, or null for all", self.tasks, "correct the list")
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


class TrainConfig(Settings):
    """Optimisation: AdamW; an optimiser step sees batch_size x grad_accumulation x devices questions."""

    steps: int = setting(400, "length of training [optimiser steps]", ge=1)
    batch_size: int = setting(32, "questions in one forward pass of one device [questions]", ge=1)
    grad_accumulation: int = setting(1, "forward passes that make an optimiser step", ge=1)
    learning_rate: float = setting(5e-4, "peak learning rate", gt=0)
    latent_learning_rate: float | None = setting(
        None, "peak learning rate of latent queries, heads and projection; null: learning_rate", gt=0
    )
    warmup: float = setting(0.05, "rise of the learning rate from 0 [fraction of training]", ge=0, le=1)
    weight_decay: float = setting(0.0, "AdamW's decoupled weight decay", ge=0)
    max_grad_norm: float = setting(1.0, "gradients are scaled down to this norm", gt=0)
    precision: Literal["fp32", "bf16"] = setting("fp32", "arithmetic of the forward and backward pass")
    gradient_checkpointing: bool = setting(False, "store less, compute layers again in the backward pass")
    sharding: Literal["none", "fsdp2", "deepspeed-zero3"] = setting(
        "none", "share weights and optimiser between processes (torchrun); none: each process holds all of them"
    )
    workers: int = setting(0, "processes that draw or read questions; 0: the training process", ge=0)
    group_by_length: bool = setting(False, "batches of questions of similar length, so that less is padded")
    seed: int = setting(0, "of new weights, latent samples and dropout", ge=0)
    log_every: int = setting(10, "steps between two log lines [optimiser steps]", ge=1)
    probe_every: int | None = setting(
        None,
        "steps between two probes of the leak, at log lines; 0: none; null: 640 questions apart [optimiser steps]",
        ge=0,
    )
    eval_every: int = setting(0, "steps between two evaluations; 0: at the end [optimiser steps]", ge=0)
    save_every: int = setting(0, "steps between two checkpoints; 0: at the end [optimiser steps]", ge=0)
    report_to: tuple[str, ...] = setting(
        (), "trackers of transformers' Trainer, for example tensorboard,wandb", strict=False
    )


class EvalConfig(Settings):
    """Evaluation and diagnostics after training."""

    samples: int = setting(4, "draws from the prior a question, beside the prior mean [draws]", ge=1)
    temperature: float = setting(1.0, "scale of the prior's standard deviation when drawing; 0: the mean", ge=0)
    max_new_tokens: int = setting(8, "longest generated reply [tokens]", ge=1)
    bootstrap: int = setting(1000, "resamples of the questions behind a confidence interval [resamples]", ge=1)
    batch_size: int = setting(64, "questions in one forward pass [questions]", ge=1)
    leakage_questions: int = setting(140, "questions behind the leakage diagnostics [questions]", ge=1)


class RunConfig(Settings):
    """Everything that a run needs to be repeated, apart from code and machine."""

    preset: str = setting("custom", "name of the preset that the values were taken from")
    model: ModelConfig = Field(default_factory=ModelConfig)
    objective: ObjectiveConfig = Field(default_factory=ObjectiveConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain data, fit for JSON and YAML."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """The inverse of `to_dict`.

        Args:
            values: nested plain data; a field that is left out gets its default. A text is read as the field needs it (YAML
                reads ``1e-4`` as a text).

        Raises:
            ValueError: for an unknown key (with the nearest valid one), or a value that is not accepted.
        """
        if not isinstance(values, Mapping):
            raise problem("configuration", "a mapping of sections to settings", values, "compare it with a preset")
        return cls(**_read(cls, values))


def config_paths() -> tuple[str, ...]:
    """Dotted path of every field, ``objective.beta`` for example."""
    return tuple(
        f"{section}.{key}" for section, values in RunConfig().to_dict().items() if section != "preset" for key in values
    )


def _read(annotation: Any, value: Any) -> Any:
    """``value`` with the texts in it read as their fields need them."""
    if isinstance(value, Mapping) and hasattr(annotation, "model_fields"):
        fields = annotation.model_fields
        return {str(key): _read(fields[key].annotation, v) if key in fields else v for key, v in value.items()}
    return read_text(annotation, value) if isinstance(value, str) else value


def read_text(annotation: Any, text: str) -> Any:
    """The value of a YAML scalar, or of a list in brackets or separated by commas, for a field of this annotation.

    The field decides: ``1e-4`` is a number for a number field, ``7`` a text for a text field. A text that the field does not
    accept is returned, for the model to refuse.
    """
    text, kind = text.strip(), get_args(annotation | None)[0]
    if type(None) in get_args(annotation) and text.lower() in ("null", "none", "~"):
        return None
    if get_origin(kind) is tuple:
        inner = text.removeprefix("[").removesuffix("]").strip()
        return tuple(entry.strip().strip("'\"") for entry in inner.split(",")) if inner else ()
    with suppress(ValidationError):
        return TypeAdapter(kind).validate_strings(text)
    return text


def text_of(value: Any) -> str:
    """A value as it is written in YAML or on the command line."""
    if isinstance(value, tuple):
        return ",".join(value) or "[]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
