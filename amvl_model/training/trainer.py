"""AMVLTrainer: transformers.Trainer with the AMVL objective, its schedules, and losses averaged over examples.

transformers averages micro-batches, which weights the examples of a short last micro-batch more than the others. Here the
loss of every optimiser step is the sum over its examples divided by their number, over all micro-batches and processes.
Where several processes have to be given equally many examples, the epoch is filled up with examples of weight 0.

The noise of a latent sample depends on the seed, the optimiser step and the question alone, so several processes train what
one would train, and a resumed run what the uninterrupted one would.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard
from torch import Tensor
from torch.utils.data import Sampler
from transformers import TrainerCallback, TrainingArguments

from amvl_model import distributed
from amvl_model.config import ObjectiveConfig, RunConfig
from amvl_model.data.processing import AMVLProcessor
from amvl_model.models.checkpoints import writing
from amvl_model.results.provenance import to_jsonable
from amvl_model.training.batches import INDEX, WEIGHT, AMVLCollator, FilledRandomSampler, sample_noise
from amvl_model.training.guard import GuardedTrainer
from amvl_model.training.health import ACTIVE_FROM, HealthLine, latent_state
from amvl_model.training.run_folder import tell
from amvl_model.training.sharding import keep_float32, sharding_arguments


class JsonlLog(TrainerCallback):
    """Appends every log line of the Trainer to a JSON-lines file; NaN and infinities become null."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            with writing(self.path), self.path.open("a") as file:
                file.write(json.dumps(to_jsonable({"step": state.global_step, **logs}), allow_nan=False) + "\n")


class AMVLTrainer(GuardedTrainer):
    """Trains an `AMVLForConditionalGeneration`, or a baseline of pause.py, on an `ObjectiveConfig`.

    Logged beside the loss, averaged over the examples since the last line (nats): ``ntp``, ``forward_kl``, ``reverse_kl``,
    ``weighted_forward``, ``weighted_reverse``; and ``beta``, ``gamma`` (now), ``prior_std``, ``posterior_std``,
    ``latent_norm_ratio``, and further terms of the objective by name; ``saturated``, ``kl_per_dimension`` and
    ``active_dimensions`` (health.py, which also writes the line and the warnings). Of a baseline ``ntp`` alone. With a
    probe, its numbers as ``probe_...`` at its interval (training/probe.py).

    Args:
        objective: which loss, with its weights and schedule.
        latent_learning_rate: of the latent modules; None = the common one.
        processor: makes batches, and is saved beside every checkpoint.
        group_by_length: make batches of questions of similar length; train_dataset then needs `QuestionDataset.length`.
        probe: a `LeakProbe`, whose numbers join the log lines; None: none.
        **kwargs: as transformers' Trainer takes them (model, args, train_dataset, callbacks, ...).
    """

    def __init__(
        self,
        *,
        objective: ObjectiveConfig,
        processor: AMVLProcessor,
        latent_learning_rate: float | None = None,
        group_by_length: bool = False,
        probe: Any = None,
        **kwargs: Any,
    ) -> None:
        self.objective = objective
        self.group_by_length = group_by_length
        self.probe = probe
        self.latent_learning_rate = latent_learning_rate
        kwargs.setdefault("data_collator", AMVLCollator(processor))
        if (arguments := kwargs.get("args")) is not None and arguments.n_gpu > 1:
            tell(
                f"one of {arguments.n_gpu} GPUs is used, because a plain python process cannot split batches of images; for "
                f"all of them start with `torchrun --nproc-per-node {arguments.n_gpu}`"
            )
            arguments._n_gpu = 1  # else the Trainer cuts batches with DataParallel, pixel_values in equal parts
        super().__init__(processing_class=processor, **kwargs)
        config = self.model.config
        self._latent_shape = (config.num_latents, config.latent_dim) if objective.entry.latents else None
        if self.args.fsdp and not self.is_fsdp_enabled:
            raise ValueError("train.sharding fsdp2 needs GPUs, as accelerate shards on no CPU; set it to none")
        # the loss below is normalised over the whole accumulated batch, and must not be divided once more
        self.model_accepts_loss_kwargs = True
        self._sums: dict[str, float] = defaultdict(float)
        self._count = 0.0
        self._kl = torch.zeros((), device=self.args.device)  # summed over examples, (k, d) from the first on
        self.add_callback(HealthLine)

    @property
    def progress(self) -> float:
        """Share of the optimiser steps that are done, 0 to 1: what schedules depend on."""
        return self.state.global_step / max(1, self.state.max_steps)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Sum of the examples' losses over the number of examples in the global batch, times the number of processes
        (whose gradients are averaged)."""
        batch = dict(inputs)
        weight, index = batch.pop(WEIGHT), batch.pop(INDEX, None)
        if index is not None and self._latent_shape is not None:
            batch["noise"] = sample_noise(index, self._latent_shape, seed=self.args.seed, step=self.state.global_step)
        output = model(**batch, loss=self.objective.loss(self.progress))
        total = (output.terms.total * weight).sum()
        items = weight.sum() if num_items_in_batch is None else num_items_in_batch
        scale = 1 if num_items_in_batch is None else self.accelerator.num_processes
        loss = total * scale / items
        if model.training:
            self._remember(output, weight)
        return (loss, output) if return_outputs else loss

    def autocast_smart_context_manager(self, *args: Any, **kwargs: Any) -> Any:
        """Autocast under FSDP2, whose weights stay float32; elsewhere accelerate or DeepSpeed does it."""
        if self.is_fsdp_enabled and self.args.bf16:
            return torch.autocast(self.args.device.type, torch.bfloat16)
        return super().autocast_smart_context_manager(*args, **kwargs)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> Any:
        if not batch_samples:
            return None
        count = torch.stack([batch[WEIGHT].sum() for batch in batch_samples]).sum().to(device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    def prediction_step(
        self, model: Any, inputs: dict[str, Tensor], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        """Loss of an evaluation batch (mean over its examples)."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None

    def _remember(self, output: Any, weight: Tensor) -> None:
        count = float(weight.sum())
        with torch.no_grad():
            for name, values in output.terms.named().items():
                self._sums[name] += float((values * weight).sum())
            if self._latent_shape is not None:
                has_posterior = output.posterior_mean is not None
                for name in ("prior", "posterior")[: 1 + has_posterior]:
                    self._sums[f"{name}_std"] += float(getattr(output, name).std.mean()) * count
                saturated, kl = latent_state(output.prior, output.posterior if has_posterior else None)
                self._sums["saturated"] += float((saturated * weight).sum())
                if kl is not None:
                    self._kl = self._kl + (kl * weight[:, None, None]).sum(0)
                self._sums["latent_norm_ratio"] += float(output.latent_norm_ratio) * count
                for name, value in zip(("beta", "gamma"), self.objective.weights(self.progress), strict=True):
                    self._sums[name] += value * count
        self._count += count

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the terms of the objective to the Trainer's own log line."""
        if "loss" in logs:
            parts = distributed.gather((self._count, dict(self._sums), self._kl.cpu()))
            count = sum(number for number, _, _ in parts)
            names = parts[0][1] if count else ()
            logs = {**logs, **{name: sum(sums.get(name, 0.0) for _, sums, _ in parts) / count for name in names}}
            if "posterior_std" in logs:
                kl = torch.stack([part for _, _, part in parts]).sum(0) / count
                logs["kl_per_dimension"] = float(kl.mean())
                logs["active_dimensions"] = int((kl > ACTIVE_FROM).sum())
            self._sums.clear()
            self._count, self._kl = 0.0, torch.zeros((), device=self.args.device)
            if self.probe is not None:
                logs |= self.probe.measure(self)
        super().log(logs, *args, **kwargs)

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)
        if self.probe is not None:
            self.probe.norms.append(norm)
        return norm

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with weight decay on matrices only, and a learning rate of their own for the latent modules."""
        existing: Any = getattr(self, "optimizer", None)
        if existing is not None:
            return existing
        model = self.model if model is None else model
        decayed = set(self.get_decay_parameter_names(model))
        rate = self.args.learning_rate
        latent_rate = rate if self.latent_learning_rate is None else self.latent_learning_rate
        groups: dict[tuple[bool, bool], list[Any]] = defaultdict(list)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                latent = any(part in self.model.own_modules for part in name.split("."))
                groups[latent, name in decayed].append(parameter)
        kind, options = self.get_optimizer_cls_and_kwargs(self.args, model)
        created: torch.optim.Optimizer = kind(
            [
                {
                    "params": parameters,
                    "lr": latent_rate if latent else rate,
                    "weight_decay": self.args.weight_decay if decay else 0.0,
                }
                for (latent, decay), parameters in groups.items()
            ],
            **options,
        )
        self.optimizer = created
        return created

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """The Trainer's warning about weights that a checkpoint lacks, without those a LoRA checkpoint is not to hold."""
        if getattr(self.model.config, "lora", None):
            load_result = load_result._replace(
                missing_keys=[name for name in load_result.missing_keys if self.model.owns(name)]
            )
        super()._issue_warnings_after_load(load_result)

    def get_train_dataloader(self) -> Any:
        """The Trainer's loader, whose sampler hears of the epoch also when the loader skips the batches of a resumed run:
        accelerate (1.15) looks for a sampler two wrappers deep, and several processes that skip batches have three."""
        loader = super().get_train_dataloader()
        shard = loader.batch_sampler
        if isinstance(shard, BatchSamplerShard):
            shard.sampler = shard.batch_sampler.sampler
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        world = self.args.world_size
        multiple = world * self.args.per_device_train_batch_size if world > 1 else 1
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        group = world * self.args.per_device_train_batch_size
        length_of = dataset.length if self.group_by_length else None
        return FilledRandomSampler(len(dataset), seed=seed, multiple=multiple, length_of=length_of, group=group)


def training_arguments(config: RunConfig, folder: Path, **overrides: Any) -> TrainingArguments:
    """transformers' TrainingArguments for a run configuration, writing to ``folder``.

    Args:
        config: the run.
        folder: checkpoints and logs go here.
        **overrides: any TrainingArguments field, for what a `RunConfig` does not cover (fsdp, deepspeed, ...).
    """
    train = config.train
    settings: dict[str, Any] = {
        "output_dir": str(folder),
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
        "dataloader_pin_memory": torch.cuda.is_available(),
        "dataloader_persistent_workers": train.workers > 0,
        "seed": train.seed,
        "data_seed": config.data.seed,
        "logging_steps": train.log_every,
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps" if train.eval_every else "no",
        "eval_steps": train.eval_every or None,
        "save_strategy": "steps" if train.save_every else "no",
        "save_steps": train.save_every or train.steps,
        "save_total_limit": 2,
        "report_to": list(train.report_to) or "none",
        "remove_unused_columns": False,
        "ddp_find_unused_parameters": True,  # some objectives leave a head without gradient
        "use_cpu": not torch.cuda.is_available(),
        **sharding_arguments(train),
    }
    arguments = TrainingArguments(**{**settings, **overrides})
    keep_float32(arguments)
    return arguments
