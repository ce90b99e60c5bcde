"""AMVLTrainer: transformers.Trainer with the AMVL objective, its schedules, and losses averaged over examples.

transformers averages micro-batches, which weights the examples of a short last micro-batch more than the others. Here the
loss of every optimiser step is the sum over its examples divided by their number, over all micro-batches and processes.
Where several processes have to be given equally many examples, the epoch is filled up with examples of weight 0.

The noise of a latent sample depends on the seed, the optimiser step and the question alone, so several processes train what
one would train, and a resumed run what the uninterrupted one would. In an evaluation it depends on the question alone: two
evaluations, and two runs, differ by their weights and not by the draw.
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import BatchSamplerShard
from torch import Tensor
from transformers import TrainerCallback

from amvl_model import distributed
from amvl_model.data.hub import answering
from amvl_model.models.checkpoints import writing
from amvl_model.models.checkpoints.adapters import FOLDER, read_lora_state, refuse_other_base
from amvl_model.models.checkpoints.sharing import write_card
from amvl_model.results.provenance import to_jsonable
from amvl_model.training.arguments import AMVLTrainingArguments
from amvl_model.training.batches import (
    EVALUATION,
    INDEX,
    WEIGHT,
    AMVLCollator,
    FilledRandomSampler,
    filled_order,
    sample_noise,
)
from amvl_model.training.monitoring.guard import GuardedTrainer
from amvl_model.training.monitoring.health import ACTIVE_FROM, HealthLine, latent_state
from amvl_model.training.monitoring.measures import WithPrior, record_metrics, training_record
from amvl_model.training.preparation import name_of, prepare_dataset, prepare_model
from amvl_model.training.run_folder import tell
from amvl_model.training.warm_up import PriorWarmUp


class JsonlLog(TrainerCallback):
    """Appends every log line of the Trainer to a JSON-lines file; NaN and infinities become null."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            with writing(self.path), self.path.open("a") as file:
                file.write(json.dumps(to_jsonable({"step": state.global_step, **logs}), allow_nan=False) + "\n")


class AMVLTrainer(GuardedTrainer):
    """Trains an `AMVLForConditionalGeneration`, or a baseline of pause.py, on an objective of the registry.

        args = AMVLTrainingArguments(output_dir="out", beta=0.01, gamma=0.001, order="forward-first", max_steps=1000)
        trainer = AMVLTrainer(model="Qwen/Qwen2.5-VL-3B-Instruct", args=args, train_dataset=data)
        trainer.train()
        trainer.save_model()

    Logged beside the loss, averaged over the examples since the last line (nats): ``ntp``, ``forward_kl``, ``reverse_kl``,
    ``weighted_forward``, ``weighted_reverse``; and ``beta``, ``gamma`` (now), ``prior_std``, ``posterior_std``,
    ``latent_norm_ratio``, and further terms of the objective by name; ``saturated``, ``kl_per_dimension`` and
    ``active_dimensions`` (health.py, which also writes the line and the warnings). Of a baseline ``ntp`` alone. With a
    probe, its numbers as ``probe_...`` at its interval (training/monitoring/probe.py).

    An evaluation logs ``eval_ntp``, ``eval_forward_kl`` and ``eval_reverse_kl``, averaged over the examples, whatever the
    weights are by then (those in ``eval_loss`` move with the schedule), and ``eval_prior_ntp``, the answer NLL under samples of
    the prior, from which the model answers. To select a model or to stop early, set ``metric_for_best_model`` to one of the
    last two NLLs. ``compute_metrics`` gets the answer's logits (N, M, V) under samples of the prior (a baseline's own), and
    its tokens (N, M), -100 where there are none.

    Args:
        model: name of a shipped checkpoint, folder, hub id, or a model; a plain Qwen-VL gets fresh latents (or pause tokens).
        args: `AMVLTrainingArguments`.
        train_dataset, eval_dataset: rows of messages, or of prompt and completion, with images (data/rows.py): datasets.Dataset,
            IterableDataset (read in its own order; set max_steps), a torch data set, a list; or `VisualQuestion` objects. The
            latter also as a dictionary of sets.
        processing_class: an `AMVLProcessor`, which makes batches and is saved beside every checkpoint; default: the model's.
        probe: a `LeakProbe`, whose numbers join the log lines; None: none.
        objective: an ObjectiveConfig in place of the one that ``args`` names.
        processor: older name of ``processing_class``.
        **kwargs: as transformers' Trainer takes them (compute_metrics, callbacks, ...).

    Raises:
        ValueError: for arguments, columns or a model that do not fit.
        ConnectionError: if the model is on a hub that does not answer.
    """

    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        probe: Any = None,
        objective: Any = None,
        processor: Any = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(args, AMVLTrainingArguments):
            raise ValueError(
                f"args: expected AMVLTrainingArguments, which name the objective and its weights, got {type(args).__name__}"
            )
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError(
                "compute_loss_func: expected none, as the loss is the objective's; register a loss of your own with "
                "amvl_model.objectives.register_objective"
            )
        if kwargs.get("peft_config") is not None:
            raise ValueError(
                "peft_config: expected none; adapters are added by AMVLTrainingArguments(lora_rank=..., lora_alpha=...)"
            )
        if not isinstance(kwargs.get("data_collator"), AMVLCollator | None):
            raise ValueError(
                f"data_collator: expected an AMVLCollator or none, got {type(kwargs['data_collator']).__name__}, whose batches "
                "name no questions, weights and answers; prepare the rows of the data set instead"
            )
        self.objective, self.probe = objective or args.objective_config(), probe
        model, processor = prepare_model(model, args, processor if processing_class is None else processing_class)
        kwargs.setdefault("data_collator", AMVLCollator(processor))
        self._prepared = {"processor": processor, "world_size": args.world_size}
        if args.n_gpu > 1:
            tell(
                f"one of {args.n_gpu} GPUs is used, because a plain python process cannot split batches of images; for "
                f"all of them start with `torchrun --nproc-per-node {args.n_gpu}`"
            )
            args._n_gpu = 1  # else the Trainer cuts batches with DataParallel, pixel_values in equal parts
        super().__init__(
            model=model,
            args=args,
            train_dataset=self._questions(train_dataset, "train_dataset", args.per_device_train_batch_size),
            eval_dataset=self._questions(eval_dataset, "eval_dataset", args.per_device_eval_batch_size),
            processing_class=processor,
            **kwargs,
        )
        config = self.model.config
        self._record = training_record(args, config.backbone_path, name_of(train_dataset))
        self._latent_shape = (config.num_latents, config.latent_dim) if self.objective.entry.latents else None
        if self.args.fsdp and not self.is_fsdp_enabled:
            raise ValueError("train.sharding fsdp2 needs GPUs, as accelerate shards on no CPU; set it to none")
        # the loss below is normalised over the whole accumulated batch, and must not be divided once more
        self.model_accepts_loss_kwargs = True
        self._sums: dict[str, float] = defaultdict(float)
        self._count = 0.0
        self._kl = torch.zeros((), device=self.args.device)  # summed over examples, (k, d) from the first on
        self.add_callback(HealthLine)
        self.warm_up = self._warm_up()
        self._evaluated: dict[str, list[Tensor]] = defaultdict(list)

    @property
    def progress(self) -> float:
        """Share of the optimiser steps that are done, those of a warm-up left out, 0 to 1: what schedules depend on."""
        begun = 0 if self.warm_up is None else self.warm_up.ended
        if begun is None:
            return 0.0
        return (self.state.global_step - begun) / max(1, self.state.max_steps - begun)

    def _replayed_with(self, done: int) -> dict[str, Any]:
        ended = 0 if self.warm_up is None else self.warm_up.ended
        if ended is None or done < ended:
            return {"progress": 0.0, "warming": True}
        return {"progress": (done - ended) / max(1, self.state.max_steps - ended), "warming": False}

    def _warm_up(self) -> PriorWarmUp | None:
        """The warm-up that the objective asks for, as a callback of this trainer; None: none, or no posterior to warm up for.

        Raises:
            ValueError: if it is to be ended by evaluations that are not made, or the weights are spread by DeepSpeed.
        """
        if not self.objective.prior_steps or "posterior" not in self.objective.entry.passes:
            return None
        if self.objective.prior_until is not None and self.args.eval_strategy == "no":
            raise ValueError(
                f"prior_until={self.objective.prior_until:g} is looked at in evaluations, and there are none; set eval_strategy "
                "and eval_steps (train.eval_every), or leave prior_until out"
            )
        if self.is_deepspeed_enabled:
            raise ValueError(
                "expected no prior_steps with DeepSpeed, whose weights cannot be copied; use fsdp2 or leave them out"
            )
        warm_up = PriorWarmUp(self.objective)
        self.add_callback(warm_up)
        return warm_up

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
            seed, step = (self.args.seed, self.state.global_step) if model.training else (0, EVALUATION)
            batch["noise"] = sample_noise(index, self._latent_shape, seed=seed, step=step)
        objective: Any = self.objective.loss(self.progress)
        if model.training and self.warm_up is not None and self.warm_up.ended is None:
            objective = self.warm_up.loss
        if not model.training and objective.passes == ("posterior",):
            objective = WithPrior(objective)
        output = model(**batch, loss=objective)
        total = (output.terms.total * weight).sum()
        items = weight.sum() if num_items_in_batch is None else num_items_in_batch
        scale = 1 if num_items_in_batch is None else self.accelerator.num_processes
        loss = total * scale / items
        if model.training:
            self._remember(output, weight)
        else:
            for name, values in {"loss": output.terms.total, **output.terms.named()}.items():
                self._evaluated[name].append(values.detach()[weight > 0])
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
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Loss of an evaluation batch (mean over its examples); logits (B, M, V) and answers (B, M) where they are wanted."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, output = self.compute_loss(model, inputs, return_outputs=True)
        if prediction_loss_only:
            return loss.detach(), None, None
        present = inputs["answer_mask"].bool() & (inputs[WEIGHT] > 0)[:, None]
        return loss.detach(), output.logits.detach(), inputs["answer_ids"].masked_fill(~present, -100)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """The Trainer's, with means over the examples of the loss and of the objective's unweighted terms."""
        self._evaluated = defaultdict(list)
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        parts = distributed.gather({name: torch.cat(values).tolist() for name, values in self._evaluated.items()})
        terms = {name: np.concatenate([part.get(name, []) for part in parts]) for name in parts[0]}
        terms = {name: values for name, values in terms.items() if not name.startswith("weighted_")}
        for name, values in terms.items():
            output.metrics[f"{metric_key_prefix}_{name}"] = float(values.mean())
        if metric_key_prefix.startswith("eval"):
            record_metrics(self._record, metric_key_prefix, terms)
        return output

    def _remember(self, output: Any, weight: Tensor) -> None:
        count, terms = float(weight.sum()), output.terms.named()
        if (
            self._count and "forward_kl" in terms and "forward_kl" not in self._sums
        ):  # the warm-up ended in this log line
            self._sums.clear()
            self._count = 0.0
        with torch.no_grad():
            for name, values in terms.items():
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
        kind, options = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, model)
        rate = options.get("lr", self.args.learning_rate)
        latent_rate = rate if self.args.latent_learning_rate is None else self.args.latent_learning_rate
        groups: dict[tuple[bool, bool], list[Any]] = defaultdict(list)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                latent = any(part in self.model.own_modules for part in name.split("."))
                groups[latent, name in decayed].append(parameter)
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
        """The Trainer's warning about weights that a checkpoint lacks, without those that are tied, or that a LoRA checkpoint
        is not to hold."""
        tied, lora = self.model.all_tied_weights_keys, getattr(self.model.config, "lora", None)
        missing = [
            name for name in load_result.missing_keys if name not in tied and (not lora or self.model.owns(name))
        ]
        super()._issue_warnings_after_load(load_result._replace(missing_keys=missing))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The Trainer's, which knows nothing of heads and adapters in two files."""
        if not self._load_adapters(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if not self._load_adapters(self.state.best_model_checkpoint):
            super()._load_best_model()

    def _load_adapters(self, checkpoint: Any) -> bool:
        """Whether ``checkpoint`` is a LoRA checkpoint in peft's format, whose weights are then loaded."""
        if self.is_deepspeed_enabled or not (Path(checkpoint) / FOLDER).is_dir():
            return False
        refuse_other_base(self.model, Path(checkpoint), str(self.model.config.backbone_path))
        self._issue_warnings_after_load(self.model.load_state_dict(read_lora_state(Path(checkpoint)), strict=False))
        return True

    def _save(self, *args: Any, **kwargs: Any) -> None:
        self._record["steps"] = self.state.global_step
        self.model.config.training = self._record
        super()._save(*args, **kwargs)

    def create_model_card(self, *, tags: Any = None, **_: Any) -> None:
        """Write README.md of the output folder from the model's config (models/checkpoints/sharing.py)."""
        if self.is_world_process_zero():
            self.model.config.training = self._record
            write_card(Path(self.args.output_dir), self.model.config, tags=tags)

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None:
        """The Trainer's, with one error for a Hub that does not answer."""
        with answering(f"push_to_hub to {self.args.hub_model_id or Path(self.args.output_dir).name}"):
            super().init_hf_repo(*args, **kwargs)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """The Trainer's, with the adapter's folder."""
        if (Path(checkpoint_folder) / FOLDER).is_dir() and self.is_world_process_zero():
            shutil.copytree(Path(checkpoint_folder) / FOLDER, Path(self.args.output_dir) / FOLDER, dirs_exist_ok=True)
        super()._push_from_checkpoint(checkpoint_folder)

    def _questions(self, dataset: Any, place: str, batch_size: int) -> Any:
        """A data set, or each of a dictionary of them, as encoded questions or as a stream of questions."""
        if isinstance(dataset, dict) and place != "train_dataset":
            return {name: self._questions(part, f"{place}[{name!r}]", batch_size) for name, part in dataset.items()}
        world = self._prepared["world_size"]
        multiple = world * batch_size if world > 1 else 1
        return prepare_dataset(dataset, self._prepared["processor"], place, multiple)

    def _get_dataloader(self, dataset: Any, description: str, batch_size: int, *args: Any, **kwargs: Any) -> Any:
        return super()._get_dataloader(
            self._questions(dataset, f"the {description.lower()} set", batch_size),
            description,
            batch_size,
            *args,
            **kwargs,
        )

    def get_train_dataloader(self) -> Any:
        """The Trainer's loader, whose sampler hears of the epoch also when the loader skips the batches of a resumed run:
        accelerate (1.15) looks for a sampler two wrappers deep, and several processes that skip batches have three."""
        loader = super().get_train_dataloader()
        shard = loader.batch_sampler
        if isinstance(shard, BatchSamplerShard):
            shard.sampler = shard.batch_sampler.sampler
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        world, strategy = self.args.world_size, self.args.train_sampling_strategy
        group = world * self.args.per_device_train_batch_size
        multiple = group if world > 1 else 1
        if strategy == "sequential":
            return filled_order(len(dataset), multiple)
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        length_of = dataset.length if strategy == "group_by_length" else None
        return FilledRandomSampler(len(dataset), seed=seed, multiple=multiple, length_of=length_of, group=group)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        world = self.args.world_size
        return filled_order(len(eval_dataset), world * self.args.per_device_eval_batch_size if world > 1 else 1)
