"""Stops a run at the first non-finite number, before it reaches a weight, a checkpoint or a score.

Every optimiser step is checked once, on its losses and on the gradient norm that clipping computes, before the optimiser
changes a weight. Weights are checked before they are saved or scored. The batches of the failed step and the weights they
met are stored in ``nonfinite-step-N.pt`` of the run folder; `replay` computes that step again. `GuardedTrainer` does so for
the Trainer, `LoopStep` for loops without it.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import Trainer

from amvl_model import distributed
from amvl_model.config import RunConfig
from amvl_model.models.checkpoints import (
    NonFiniteError,
    check_finite,
    check_weights,
    write_manifest,
    write_tensors,
    writing,
)
from amvl_model.models.loading import build_model
from amvl_model.objectives import Loss, objective_named
from amvl_model.training.batches import INDEX, WEIGHT, sample_noise
from amvl_model.training.run_folder import newest_checkpoint, rotate
from amvl_model.training.sharding import whole_state

STATUS = 3
"""Exit status of `amvl train` for a run that a non-finite number stopped."""


class GuardedTrainer(Trainer):
    """transformers' Trainer that raises `NonFiniteError` instead of training, saving or scoring non-finite numbers."""

    _batches: list[dict[str, Tensor]] = []
    _losses: list[Tensor] = []

    def _run_epoch(self, *args: Any, **kwargs: Any) -> Any:
        """One epoch; nothing when a run is resumed after its last step, where the Trainer would take another one."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return None
        return super()._run_epoch(*args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The micro-batches of the next optimiser step, which are remembered until the one after it."""
        self._batches, count = super().get_batch_samples(*args, **kwargs)
        self._losses = []
        return self._batches, count

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Forward and backward pass of one micro-batch."""
        loss: Tensor = super().training_step(*args, **kwargs)
        self._losses.append(loss)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The gradient norm, before the optimiser step (with DeepSpeed, which takes its step within the backward pass,
        after it).

        Raises:
            NonFiniteError: on all processes, if the norm or a loss is not finite.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        numbers = [*self._losses, torch.as_tensor(0.0 if norm is None else norm)]
        numbers = [number.full_tensor() if hasattr(number, "full_tensor") else number for number in numbers]
        finite = torch.stack([number.detach().float().to(self.args.device) for number in numbers]).isfinite().all()
        if distributed.any_of(not bool(finite)):
            self.state.global_step += 1  # the log line of the step that failed
            self.log({"loss": float(sum(numbers[:-1])), "grad_norm": float(numbers[-1])})
            self.state.global_step -= 1
            self._fail(f"the loss is {float(sum(numbers[:-1])):g} and the gradient norm {float(numbers[-1]):g}")
        return norm

    def check_weights(self) -> None:
        """Raise on all processes if a weight is not finite, or a moment of the optimiser.

        Raises:
            NonFiniteError: with the names of the weights.
        """
        problem = ""
        try:
            check_weights(self.model)
            states = getattr(self.optimizer, "state", {}) or {}
            check_finite((f"optimiser.{name}", value) for state in states.values() for name, value in state.items())
        except NonFiniteError as error:
            problem = str(error)
        problems = [text for text in distributed.gather(problem) if text]
        if problems:
            self._fail(problems[0], completed=True)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's evaluation, of finite weights only."""
        self.check_weights()
        return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save finite numbers, then the manifest, and only then remove older checkpoints."""
        self.check_weights()
        folder, step = Path(self.args.output_dir), self.state.global_step
        checkpoint = folder / f"checkpoint-{step}"
        if distributed.is_main():
            shutil.rmtree(checkpoint, ignore_errors=True)
        distributed.barrier()
        keep, self.args.save_total_limit = self.args.save_total_limit, None
        with writing(checkpoint):
            super()._save_checkpoint(*args, **kwargs)
        self.args.save_total_limit = keep
        distributed.barrier()
        if distributed.is_main():
            write_manifest(checkpoint)
            rotate(folder, step, keep)

    def _replayed_with(self, done: int) -> dict[str, Any]:
        """What the loss of a step depends on beside its batches and weights, after ``done`` steps: ``progress``, the share of
        the schedule, and ``warming``, whether the step belongs to a warm-up by prior-sample training."""
        return {"progress": done / max(1, self.state.max_steps), "warming": False}

    def _fail(self, problem: str, *, completed: bool = False) -> NoReturn:
        """Store the step and raise; all processes have to call this."""
        broken = [i for i, loss in enumerate(self._losses) if not bool(loss.isfinite())]
        dataset: Any = self.train_dataset
        parts = []
        for number, batch in enumerate(self._batches):
            places = [i if i >= 0 else ~i for i in batch[INDEX].tolist()] if INDEX in batch else []
            parts.append(
                {
                    "number": number + 1,
                    "of": len(self._batches),
                    "broken": number in broken,
                    "questions": [str(dataset.questions[i].id if hasattr(dataset, "questions") else i) for i in places],
                    "inputs": {name: value.cpu() for name, value in batch.items()},
                }
            )
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        folder, step = Path(self.args.output_dir), self.state.global_step + (0 if completed else 1)
        config = folder / "config.json"
        about = {
            "config": json.loads(config.read_text()) if config.is_file() else None,
            "step_of_noise": step - 1,
            "seed": self.args.seed,
            **self._replayed_with(step - 1),
        }
        weights = {name: value for name, value in whole_state(self).items() if name in trained}
        stop_run(folder, step, problem, parts=parts, weights=weights, about=about, completed=completed)


def stop_run(
    folder: Path | None,
    step: int,
    problem: str,
    *,
    parts: list[dict[str, Any]],
    weights: dict[str, Tensor],
    about: Mapping[str, Any],
    completed: bool = False,
    state: Path | None = None,
) -> NoReturn:
    """Store a step and raise; all processes have to call this.

    Args:
        folder: where ``nonfinite-step-N.pt`` goes, beside the run's checkpoints; None: nothing is stored.
        step: its number, from 1; ``problem``: which numbers are not finite.
        parts: this process's batches: number, of, broken (whether its loss is not finite), questions (ids), inputs;
            where they are known, ``wrong``, the ids of the questions whose loss is not.
        weights: those that the step met; ``about``: what else its losses depend on.
        completed: the optimiser has changed the weights already.
        state: the file of the last good state, in a run without checkpoints.

    Raises:
        NonFiniteError: always.
    """
    gathered = [part for process in distributed.gather(parts) for part in process]
    suspects = [part for part in gathered if part["broken"]] or gathered
    file, trouble = None if folder is None else folder / f"nonfinite-step-{step}.pt", ""
    if file is not None and distributed.is_main():
        try:
            with writing(file):
                file.parent.mkdir(parents=True, exist_ok=True)
                write_tensors(
                    file, {**about, "problem": problem, "step": step, "batches": gathered, "weights": weights}
                )
        except OSError as error:  # the run stops for its number, and not for this
            trouble = str(error)
    good = newest_checkpoint(folder) if folder is not None and distributed.is_main() else None
    good = state if good is None and state is not None and state.is_file() else good
    trouble, good = distributed.broadcast((trouble, good))
    stored = f"The step is stored in {file}; compute it again with `amvl train --replay {file}`. "
    if file is None or trouble:
        stored = f"The step is not stored{f': {trouble}' if trouble else ''}. "
    batches = "; ".join(
        f"batch {part['number']} of {part['of']}: {', '.join(part.get('wrong') or part['questions'])}"
        for part in suspects
    )
    raise NonFiniteError(
        f"stopped at step {step}, {'after' if completed else 'before'} the optimiser changed the weights: {problem}; "
        f"questions of {batches}. {stored}"
        + ("There is no earlier checkpoint." if good is None else f"The last good checkpoint is {good}.")
    )


@dataclass
class LoopStep:
    """One optimiser step of a loop without the Trainer, with what is stored of it where a number is not finite.

    Attributes:
        folder: see `stop_run`, as ``state``.
        number: of the step, from 1.
        model: whose gradients and weights are checked.
        batches: question ids and inputs of every batch.
        about: ``loop``, the name under which `replay` knows the loop, and what that needs beside batches and weights.
        losses: of the questions (B,) of every batch, where they are known.
    """

    folder: Path | None
    number: int
    model: torch.nn.Module
    batches: Sequence[tuple[list[str], dict[str, Tensor]]]
    about: Mapping[str, Any]
    state: Path | None = None
    losses: Sequence[Tensor] = ()

    def clip(self, loss: float) -> float:
        """Scale the gradients down to norm 1, ``loss`` being the step's; returns the norm before.

        Raises:
            NonFiniteError: on all processes, if loss or norm is not finite; the optimiser has not changed a weight.
        """
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0))
        if distributed.any_of(not (math.isfinite(norm) and math.isfinite(loss))):
            self._fail(f"the loss is {loss:g} and the gradient norm {norm:g}")
        return norm

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Store the step where the block, behind the optimiser, raises `NonFiniteError`, which it has to on all processes."""
        try:
            yield
        except NonFiniteError as error:
            self._fail(str(error), completed=True)

    def _fail(self, problem: str, *, completed: bool = False) -> NoReturn:
        parts = []
        for number, (questions, inputs) in enumerate(self.batches, 1):
            losses = self.losses[number - 1].detach() if self.losses else torch.zeros(len(questions))
            wrong = (~losses.isfinite()).nonzero().flatten().tolist()
            parts.append(
                {
                    "number": number,
                    "of": len(self.batches),
                    "broken": bool(wrong),
                    "questions": [*questions],
                    "wrong": [questions[i] for i in wrong],
                    "inputs": {name: value.detach().cpu() for name, value in inputs.items()},
                }
            )
        weights = {name: value.detach().cpu() for name, value in self.model.state_dict().items()}
        stop_run(
            self.folder, self.number, problem,
            parts=parts, weights=weights, about=self.about, completed=completed, state=self.state,
        )  # fmt: skip


def report(error: NonFiniteError) -> int:
    """Print why a number stopped the command, on the first of several processes; returns `STATUS`."""
    if distributed.is_main():
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr, flush=True)
    distributed.barrier()
    return STATUS


@contextmanager
def _readable(file: Path, *passed: type[Exception]) -> Iterator[None]:
    try:
        yield
    except passed:
        raise
    except Exception as error:  # a damaged pickle raises nearly everything
        raise ValueError(f"{file} is not a step stored by a stopped run ({type(error).__name__}: {error})") from error


Again = tuple[Any, Iterable[tuple[Tensor, dict[str, Tensor], Tensor]]]
"""A model, and of every batch the losses of its questions (B,), their named terms (B,), and what it adds to the step's loss."""
Loop = Callable[[dict[str, Any]], Again]
"""How the stored step of a loop is computed again."""


def replay(file: Path, loops: Mapping[str, Loop] | None = None) -> int:
    """Compute a stored step again in one process and print the loss of every question and the gradient norm.

    Args:
        file: ``nonfinite-step-N.pt``, which a stopped run names.
        loops: of loops without the Trainer, by the name that their steps store.

    Returns:
        The exit status: `STATUS` if a number is not finite again, 0 if all are finite.

    Raises:
        FileNotFoundError, ValueError: if there is no such file or it is something else.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist; give the file that the stopped run named")
    loops = {"trainer": _trainer_step, **(loops or {})}
    with _readable(file):
        stored = torch.load(file, map_location="cpu", weights_only=True)
        step, batches, name = stored["step"], stored["batches"], stored.get("loop", "trainer")
        problem, questions = stored["problem"], [(part["number"], part["questions"]) for part in batches]
        without = name == "trainer" and stored["config"] is None
    if without:
        raise ValueError(f"{file} has no settings, as its run folder had no config.json; it cannot be replayed")
    if name not in loops:
        raise ValueError(f"{file} was stored by the loop {name!r}; replay it with `amvl train --replay {file}`")
    with _readable(file, ValueError, OSError):
        model, results = loops[name](stored)
    print(f"step {step}: {problem}")
    finite = True
    for (number, ids), (totals, terms, share) in zip(questions, results, strict=True):
        share.backward()
        values = {name: value.tolist() for name, value in terms.items()}
        for row, (question, total) in enumerate(zip(ids, totals.tolist(), strict=True)):
            item = ", ".join(f"{name} {value[row]:.6g}" for name, value in values.items())
            print(f"  batch {number}, question {question}: loss {total:.6g}" + (f" ({item})" if item else ""))
            finite = finite and math.isfinite(total)
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    norm = float(torch.nn.utils.get_total_norm(gradients))
    print(f"gradient norm {norm:.6g}")
    return 0 if finite and math.isfinite(norm) else STATUS


def _trainer_step(stored: dict[str, Any]) -> Again:
    config = RunConfig.from_dict(stored["config"])
    model: Any = build_model(config)[0]
    model.load_state_dict(stored["weights"], strict=False)
    model.to(distributed.device()).train()
    items = sum(float(part["inputs"][WEIGHT].sum()) for part in stored["batches"])
    loss: Any = config.objective.loss(stored["progress"])
    if stored.get("warming"):  # files of earlier versions do not say
        loss = Loss(objective_named("prior"), nll_reduction=config.objective.nll_reduction)

    def results() -> Iterator[tuple[Tensor, dict[str, Tensor], Tensor]]:
        for part in stored["batches"]:
            inputs = {name: value.to(distributed.device()) for name, value in part["inputs"].items()}
            weight, index = inputs.pop(WEIGHT), inputs.pop(INDEX, None)
            if index is not None and config.objective.entry.latents:
                shape = (model.config.num_latents, model.config.latent_dim)
                inputs["noise"] = sample_noise(index, shape, seed=stored["seed"], step=stored["step_of_noise"])
            with torch.autocast(distributed.device().type, torch.bfloat16, enabled=config.train.precision == "bf16"):
                output = model(**inputs, loss=loss)
            yield output.terms.total, output.terms.named(), (output.terms.total * weight).sum() / items

    return model, results()
