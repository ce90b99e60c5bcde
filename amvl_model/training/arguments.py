"""AMVLTrainingArguments: transformers' TrainingArguments with the objective and what is put on a backbone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from amvl_model.config import ModelConfig, ObjectiveConfig, RunConfig
from amvl_model.training.sharding import keep_float32, sharding_arguments

_OBJECTIVE, _MODEL = ObjectiveConfig.model_fields, ModelConfig.model_fields
OBJECTIVE_FIELDS = tuple(name for name in _OBJECTIVE if name != "name")
LATENT_FIELDS = ("num_latents", "latent_dim", "posterior_std", "latent_order", "answer_bias", "initial_log_std")
MODEL_FIELDS = (*LATENT_FIELDS, "freeze_vision", "lora_rank", "lora_alpha", "lora_dropout")


def _like(entry: Any) -> Any:
    """A dataclass field with default and documentation of a setting of a run."""
    return field(default=entry.default, metadata={"help": entry.description})


@dataclass
class AMVLTrainingArguments(TrainingArguments):
    """Arguments of `AMVLTrainer`: those of transformers' TrainingArguments, and these.

    Attributes:
        objective: a name of `amvl_model.objectives.OBJECTIVES`; `register_objective` adds one of your own.
        beta, gamma, alpha, order, beta_warmup, gamma_delay, gamma_warmup, prior_steps, prior_until, kl_reduction,
            nll_reduction: as in `ObjectiveConfig`.
        num_latents, latent_dim, posterior_std, latent_order, answer_bias, initial_log_std: of fresh latents on a plain backbone,
            as in `ModelConfig`; a checkpoint that has latents keeps its own.
        freeze_vision, lora_rank, lora_alpha, lora_dropout: as in `ModelConfig`.
        model_init_kwargs: for ``from_pretrained`` where the model is given by its name (``dtype``, ``device_map``, ...).
        latent_learning_rate: of the latent modules; None: the common one.
        data_name: name of the training set in the model card; None: the data set's own, if it has one.

    Raises:
        ValueError: for an unknown objective, a weight below 0, a schedule longer than the training, and for arguments that would
            drop columns or regroup batches.
    """

    objective: str = field(default="amvl", metadata={"help": _OBJECTIVE["name"].description})
    beta: float = _like(_OBJECTIVE["beta"])
    gamma: float = _like(_OBJECTIVE["gamma"])
    alpha: float = _like(_OBJECTIVE["alpha"])
    order: str = _like(_OBJECTIVE["order"])
    beta_warmup: float = _like(_OBJECTIVE["beta_warmup"])
    gamma_delay: float = _like(_OBJECTIVE["gamma_delay"])
    gamma_warmup: float = _like(_OBJECTIVE["gamma_warmup"])
    prior_steps: int = _like(_OBJECTIVE["prior_steps"])
    prior_until: float | None = _like(_OBJECTIVE["prior_until"])
    kl_reduction: str = _like(_OBJECTIVE["kl_reduction"])
    nll_reduction: str = _like(_OBJECTIVE["nll_reduction"])
    num_latents: int = _like(_MODEL["num_latents"])
    latent_dim: int = _like(_MODEL["latent_dim"])
    posterior_std: str = _like(_MODEL["posterior_std"])
    latent_order: str = _like(_MODEL["latent_order"])
    answer_bias: float | None = _like(_MODEL["answer_bias"])
    initial_log_std: float = _like(_MODEL["initial_log_std"])
    freeze_vision: bool = _like(_MODEL["freeze_vision"])
    lora_rank: int = _like(_MODEL["lora_rank"])
    lora_alpha: float | None = _like(_MODEL["lora_alpha"])
    lora_dropout: float = _like(_MODEL["lora_dropout"])
    model_init_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "for from_pretrained, where the model is given by its name"}
    )
    latent_learning_rate: float | None = field(
        default=None, metadata={"help": "of the latent modules; None: the common one"}
    )
    data_name: str | None = field(default=None, metadata={"help": "name of the training set in the model card"})
    ddp_find_unused_parameters: bool | None = field(
        default=True, metadata={"help": "True: some objectives leave a head without gradient"}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "False: the trainer reads the columns itself"})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "False: a loss that is not finite is logged before it stops the run"}
    )

    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "model_init_kwargs"]

    def __post_init__(self) -> None:
        self.objective_config()
        ModelConfig(**{name: getattr(self, name) for name in MODEL_FIELDS})
        if self.remove_unused_columns:
            raise ValueError("remove_unused_columns must be False: the trainer reads the columns of a row itself")
        if self.label_smoothing_factor:
            raise ValueError(
                f"label_smoothing_factor must be 0, got {self.label_smoothing_factor:g}: the loss is the objective's, which has "
                "no smoothing"
            )
        if self.fp16 and (self.use_cpu or not torch.accelerator.is_available()):
            raise ValueError("fp16 needs a GPU, got True on a CPU; use bf16 or leave it out")
        if self.train_sampling_strategy == "batch_rebalance":
            raise ValueError(
                "train_sampling_strategy must be random, group_by_length or sequential, got batch_rebalance, whose batches "
                "have different numbers of examples"
            )
        super().__post_init__()
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # torch warns of True
        if self.accelerator_config.dispatch_batches is None:
            self.accelerator_config.dispatch_batches = False  # questions of a stream have different lengths

    def objective_config(self) -> ObjectiveConfig:
        """The objective with its weights and schedule.

        Raises:
            ValueError: for a value out of its bounds.
        """
        return ObjectiveConfig(name=self.objective, **{name: getattr(self, name) for name in OBJECTIVE_FIELDS})


def training_arguments(config: RunConfig, folder: Path, **overrides: Any) -> AMVLTrainingArguments:
    """The trainer's arguments for a run configuration, writing to ``folder``.

    Args:
        config: the run.
        folder: checkpoints and logs go here.
        **overrides: any field of AMVLTrainingArguments, for what a `RunConfig` does not cover (fsdp, deepspeed, ...).
    """
    train = config.train
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "objective": config.objective.name,
        **{name: getattr(config.objective, name) for name in OBJECTIVE_FIELDS},
        **{name: getattr(config.model, name) for name in MODEL_FIELDS},
        "latent_learning_rate": train.latent_learning_rate,
        "train_sampling_strategy": "group_by_length" if train.group_by_length else "random",
        "data_name": config.data.source,
        "max_steps": train.steps,
        "per_device_train_batch_size": train.batch_size,
        "per_device_eval_batch_size": train.batch_size,
        "gradient_accumulation_steps": train.grad_accumulation,
        "learning_rate": train.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": round(train.warmup * train.steps),
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "bf16": train.precision == "bf16",
        "dataloader_num_workers": train.workers,
        "dataloader_persistent_workers": train.workers > 0,
        "seed": train.seed,
        "data_seed": config.data.seed,
        "logging_steps": train.log_every,
        "eval_strategy": "steps" if train.eval_every else "no",
        "eval_steps": train.eval_every or None,
        "save_strategy": "steps" if train.save_every else "no",
        "save_steps": train.save_every or train.steps,
        "save_total_limit": 2,
        "report_to": list(train.report_to) or "none",
        "use_cpu": not torch.cuda.is_available(),
        **sharding_arguments(train),
    }
    arguments = AMVLTrainingArguments(**{**settings, **overrides})
    keep_float32(arguments)
    return arguments
