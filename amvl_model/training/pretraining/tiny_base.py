"""Pre-training of the tiny base: plain supervised answers to clean synthetic BLINK, fresh questions at every step.

The base plays the part that Qwen2.5-VL-7B plays for the paper: a model that can see, before any latent is added. Each step
draws the same number of new questions from every task, in groups of equal image count so that little is padded; no
question is ever seen twice, so there is nothing to overfit. Behind the answer's end-of-turn token the model also writes the
record's explanation, a list of what the images show. That dense caption is what makes the matching tasks learnable within
an hour of CPU time: the letter alone carries at most two bits, and the tasks that compare marked points across images stay
at chance for thousands of steps without it. The learning rate is warmed up, held, and annealed linearly over the last part.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from amvl_model.data.processing import AMVLProcessor, pad_right
from amvl_model.data.schema import LETTERS, VisualQuestion, option_letter, question_from_blink
from amvl_model.data.synthetic import DEFAULT_DIFFICULTY, TASKS, synthetic_blink, synthetic_question
from amvl_model.models.checkpoints import check_weights, write_tensors
from amvl_model.models.tiny import build_base
from amvl_model.training.monitoring.guard import Again, LoopStep
from amvl_model.training.pretraining.records import append_row, described, rebuilt, target_nll
from amvl_model.two_pass.attention import install_attention
from amvl_model.two_pass.transformers_compat import call_backbone

PAD_TO = 16  # queries and captions are padded to a multiple of this, so that few shapes occur and each is compiled once
# Tasks that still stood at chance when a first run with equal shares had solved the other eight (see LOG.md): they match what
# stands at one point with what stands at another.
HARD_TASKS = (
    "Counting",
    "Functional_Correspondence",
    "IQ_Test",
    "Semantic_Correspondence",
    "Spatial_Relation",
    "Visual_Correspondence",
)


@dataclass(kw_only=True)
class PretrainConfig:
    """Recipe of the tiny base.

    Attributes:
        steps: optimiser steps.
        per_task: fresh questions of each task in a step, over all processes; a multiple of their number.
        hard_factor: the tasks of `HARD_TASKS` get this many times as many.
        learning_rate: peak of the schedule.
        warmup: steps of linear warm-up.
        anneal: fraction of the steps at the end over which the rate falls linearly to 0.
        weight_decay: AdamW's, on matrices only.
        easy_steps: steps over which the highest drawn difficulty rises from 0.05 to ``max_difficulty``.
        max_difficulty: difficulty is drawn uniformly between 0 and this.
        caption_weight: weight of an explanation token against an answer token in the loss.
        seed: of the weights and of the questions.
        hidden_size, num_layers, vision_size: see `tiny_config`.
        vocab_size: of the tokenizer.
        eval_every: steps between looks at the validation split (``eval_size`` questions a task).
    """

    steps: int = 3_200
    per_task: int = 2
    hard_factor: int = 3
    learning_rate: float = 1.5e-3
    warmup: int = 200
    anneal: float = 0.2
    weight_decay: float = 0.02
    easy_steps: int = 1_000
    max_difficulty: float = 0.4
    caption_weight: float = 0.25
    seed: int = 0
    hidden_size: int = 192
    num_layers: int = 4
    vision_size: int = 128
    vocab_size: int = 640
    eval_every: int = 250
    eval_size: int = 16

    def __post_init__(self) -> None:
        for name in ("steps", "per_task", "eval_every", "eval_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    def rate(self, step: int) -> float:
        """Learning rate at ``step``."""
        rise = min(1.0, (step + 1) / self.warmup)
        fall = min(1.0, (self.steps - step) / max(1.0, self.anneal * self.steps))
        return self.learning_rate * rise * fall

    def difficulty(self, step: int, rng: np.random.Generator) -> float:
        """Difficulty of one question at ``step``."""
        grown = min(1.0, step / max(1, self.easy_steps))
        return float(rng.uniform(0.0, 0.05 + (self.max_difficulty - 0.05) * grown))


def _groups() -> list[list[str]]:
    """Tasks with about equally many images, which are padded together: one, two, three and more."""
    counts = {task: len(synthetic_question(task, split="train", seed=0, index=0).images) for task in TASKS}
    return [
        [t for t in TASKS if counts[t] == 1],
        [t for t in TASKS if counts[t] == 2],
        [t for t in TASKS if counts[t] > 2],
    ]


def collate_fast(
    processor: AMVLProcessor, questions: list[VisualQuestion], captions: list[str] | None = None, weight: float = 0.0
) -> dict[str, Tensor]:
    """`AMVLProcessor` for images of one size, with pixels left as bytes: (I, H, W, 3) uint8 in ``images``.

    With ``captions`` the target goes on behind the answer's end-of-turn token, and ``answer_mask`` holds ``weight`` there.
    """
    patch, merge = processor.image_processor.patch_size, processor.image_processor.merge_size
    rows, answers, images = [], [], []
    for question in questions:
        images += [np.asarray(image) for image in question.images]
        height, width = images[-1].shape[:2]
        tokens = (height // (patch * merge)) * (width // (patch * merge))
        text = processor._query_text(question).replace("<|image_pad|>", "<|image_pad|>" * tokens)
        rows.append(torch.tensor(processor.tokenizer(text, add_special_tokens=False)["input_ids"]))
        answers.append(processor.encode_answer(question.answer_text))
    plain = torch.tensor([len(answer) for answer in answers])
    if captions is not None:
        texts = processor.tokenizer([f"\n{caption}<|endoftext|>" for caption in captions], add_special_tokens=False)
        pairs = zip(answers, texts["input_ids"], strict=True)
        answers = [torch.cat([answer, torch.tensor(text)]) for answer, text in pairs]
    ids, mask = _pad_to(*pad_right(rows, processor.pad_token_id), processor.pad_token_id)
    answer_ids, real = pad_right(answers, processor.pad_token_id)
    if captions is not None:
        answer_ids, real = _pad_to(answer_ids, real, processor.pad_token_id)
    is_caption = torch.arange(answer_ids.shape[1]) >= plain[:, None]
    answer_mask = torch.where(is_caption, weight * real, real.float())
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "images": torch.from_numpy(np.stack(images)),
        "answer_ids": answer_ids,
        "answer_mask": answer_mask,
    }


def _pad_to(ids: Tensor, mask: Tensor, value: int) -> tuple[Tensor, Tensor]:
    """Pad the columns on to a multiple of `PAD_TO`."""
    spare = -ids.shape[1] % PAD_TO
    return F.pad(ids, (0, spare), value=value), F.pad(mask, (0, spare))


def patchify(images: Tensor, processor: AMVLProcessor) -> tuple[Tensor, Tensor]:
    """(I, H, W, 3) bytes -> the ``pixel_values`` and ``image_grid_thw`` that the image processor would give."""
    settings = processor.image_processor
    p, m, t = settings.patch_size, settings.merge_size, settings.temporal_patch_size
    mean, std = (
        torch.tensor(v, dtype=torch.float32).view(1, 3, 1, 1) for v in (settings.image_mean, settings.image_std)
    )
    x = (images.permute(0, 3, 1, 2).float() / 255.0 - mean) / std
    count, _, height, width = x.shape
    x = x.view(count, 3, height // (p * m), m, p, width // (p * m), m, p).permute(0, 2, 5, 3, 6, 1, 4, 7)
    x = x.unsqueeze(6).expand(*x.shape[:6], t, p, p)
    grid = torch.tensor([[1, height // p, width // p]]).expand(count, 3).clone()
    return x.reshape(count * (height // p) * (width // p), -1), grid


class _Steps(Dataset[list[tuple[list[str], dict[str, Tensor]]]]):
    """Item i: the batches (question ids and tensors, one per group of tasks) of step i."""

    def __init__(
        self, config: PretrainConfig, processor: AMVLProcessor, first: int = 0, rank: int = 0, world: int = 1
    ) -> None:
        self.config, self.processor, self.first, self.groups = config, processor, first, _groups()
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return self.config.steps - self.first

    def indices(self, task: str, step: int) -> range:
        """Which questions of a task this process draws at a step; none is drawn twice."""
        count = self.config.per_task * (self.config.hard_factor if task in HARD_TASKS else 1)
        share = count // self.world
        return range(step * count + self.rank * share, step * count + (self.rank + 1) * share)

    def __getitem__(self, item: int) -> list[tuple[list[str], dict[str, Tensor]]]:
        step = self.first + item
        rng = np.random.default_rng([self.config.seed, step, self.rank])
        batches = []
        for tasks in self.groups:
            records = [
                synthetic_blink(
                    task,
                    split="train",
                    seed=1_000 + self.config.seed,
                    index=index,
                    difficulty=self.config.difficulty(step, rng),
                )
                for task in tasks
                for index in self.indices(task, step)
            ]
            questions = [question_from_blink(record) for record in records]
            captions = [record["explanation"] for record in records]
            batch = collate_fast(self.processor, questions, captions, self.config.caption_weight)
            batches.append(([question.id for question in questions], batch))
        return batches


def answer_logits(model: Any, processor: AMVLProcessor, batch: dict[str, Tensor]) -> Tensor:
    """Logits (B, M, vocabulary) of the answer tokens under teacher forcing, without any latent."""
    pixels, grid = patchify(batch["images"], processor)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    length, rows = mask.sum(1), torch.arange(len(ids))
    answer, answer_mask = batch["answer_ids"], batch["answer_mask"]
    spare = answer.shape[1]
    full = F.pad(ids, (0, spare), value=processor.pad_token_id)
    full_mask = F.pad(mask, (0, spare))
    where = length[:, None] + torch.arange(spare)
    full[rows[:, None], where] = answer
    full_mask[rows[:, None], where] = (answer_mask > 0).long()
    position, _ = call_backbone(
        model.model.get_rope_index,
        input_ids=full,
        mm_token_type_ids=(full == processor.image_token_id).int(),
        image_grid_thw=grid,
        attention_mask=full_mask,
    )
    with torch.autocast("cpu", torch.bfloat16):
        hidden = call_backbone(
            model.model,
            input_ids=full,
            pixel_values=pixels,
            image_grid_thw=grid,
            position_ids=position,
            use_cache=False,
        ).last_hidden_state
        return model.lm_head(hidden[rows[:, None], where - 1])


@torch.no_grad()
def letter_accuracy(
    model: Any,
    processor: AMVLProcessor,
    *,
    split: str,
    size: int,
    seed: int = 0,
    difficulty: float = DEFAULT_DIFFICULTY,
) -> dict[str, float]:
    """Share of right letters per task among the letters of the question's own options (teacher-forced first token)."""
    model.eval()
    letters = [processor.encode_answer(option_letter(i))[0] for i in range(len(LETTERS[:6]))]
    result = {}
    for task in TASKS:
        hits = 0
        for start in range(0, size, 64):
            questions = [
                synthetic_question(task, split=split, seed=seed, index=i, difficulty=difficulty)
                for i in range(start, min(size, start + 64))
            ]
            first = answer_logits(model, processor, collate_fast(processor, questions))[:, 0].float()
            for row, question in zip(first, questions, strict=True):
                options = torch.stack([row[letters[i]] for i in range(len(question.choices))])
                hits += int(options.argmax()) == question.answer
        result[task] = hits / size
    model.train()
    return result


def pretrain(
    config: PretrainConfig,
    folder: Path,
    *,
    workers: int = 1,
    resume: bool = False,
    compile_layers: bool = False,
    rank: int = 0,
    world: int = 1,
) -> tuple[Any, AMVLProcessor]:
    """Run the recipe; rank 0 writes ``curve.csv`` and a resumable state at every look at the validation split.

    Args:
        config: the recipe.
        folder: where to write.
        workers: processes that draw questions.
        resume: go on from the state in ``folder``.
        compile_layers: about two minutes of waiting (needs a C++ compiler), then steps are about 1.5 times faster.
        rank, world: of this process, if torch.distributed is initialised; gradients are summed over the processes, whose
            questions differ. On a CPU two processes of one thread are faster than one process of two.

    Raises:
        ValueError: if ``per_task`` cannot be shared out evenly, or the state to resume from is damaged or has other settings.
        NonFiniteError: at the first loss, gradient or weight that is NaN or infinite; the step is stored in ``folder``.
    """
    if config.per_task % world:
        raise ValueError(f"per_task must be a multiple of the {world} processes, got {config.per_task}")
    folder.mkdir(parents=True, exist_ok=True)
    model, processor = build_base(
        config.seed,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        vision_size=config.vision_size,
        vocab_size=config.vocab_size,
    )
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    state_file, first = folder / "state.pt", 0
    if resume and state_file.exists():
        state = _load_state(state_file, config)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    loader = DataLoader(
        _Steps(config, processor, first, rank, world),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=8 if workers else None,
        multiprocessing_context="fork" if workers else None,
    )
    model.train()
    if compile_layers:
        torch._dynamo.config.recompile_limit = 64
        for layer in (*model.model.language_model.layers, *model.model.visual.blocks):
            layer.compile(dynamic=False)
    about = {"loop": "tiny-base", "world": world, **described(model, processor)}
    began, losses = time.perf_counter(), []
    for step, batches in enumerate(loader, start=first):
        for group in optimizer.param_groups:
            group["lr"] = config.rate(step)
        now = LoopStep(folder, step + 1, model, batches, about, state_file)
        losses.append(_update(now, processor, optimizer, world))
        at_look = (step + 1) % config.eval_every == 0 or step + 1 == config.steps
        if at_look:
            with now.checked():
                check_weights(model)
        if at_look and rank == 0:
            accuracy = letter_accuracy(model, processor, split="val", size=config.eval_size)
            _save_state(model, optimizer, step + 1, state_file, asdict(config))
            row = {"step": step + 1, "seconds": round(time.perf_counter() - began, 1), "loss": float(np.mean(losses))}
            append_row(folder / "curve.csv", {**row, "accuracy": float(np.mean(list(accuracy.values()))), **accuracy})
            losses = []
    return model, processor


def _load_state(file: Path, config: PretrainConfig) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(file, weights_only=True)
        stored = state.get("config") or asdict(config)  # earlier versions stored none
    except Exception as error:  # a damaged pickle raises nearly everything
        raise ValueError(f"{file} is damaged ({error}); remove it to begin again") from error
    if changed := [f"{n} is {stored.get(n)} there, got {v}" for n, v in asdict(config).items() if stored.get(n) != v]:
        raise ValueError(f"{file} was started with other settings: {'; '.join(changed)}; resume with its own settings")
    return state


def _save_state(model: Any, optimizer: Any, step: int, file: Path, config: dict[str, Any] | None = None) -> None:
    """Replace the state that a resumed run begins with; a process that dies here leaves the one before."""
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "config": config}
    write_tensors(file, state)


def _update(now: LoopStep, processor: AMVLProcessor, optimizer: Any, world: int = 1) -> float:
    """Take a step; returns the mean answer-letter NLL of this process's questions, in nats."""
    total = sum(len(ids) for ids, _ in now.batches)
    value = 0.0
    for _, batch in now.batches:
        logits = answer_logits(now.model, processor, batch).float()
        loss = F.cross_entropy(logits.flatten(0, 1), batch["answer_ids"].flatten(), reduction="none")
        loss = (loss * batch["answer_mask"].flatten()).sum() / total
        loss.backward()
        first = F.cross_entropy(logits[:, 0].detach(), batch["answer_ids"][:, 0], reduction="sum")
        value += first.item() / total
    if world > 1:
        _average_gradients(now.model, world)
    now.clip(value)
    optimizer.step()
    optimizer.zero_grad()
    return value


def recompute(stored: dict[str, Any]) -> Again:
    """A step that a number stopped, as ``amvl_model.training.monitoring.guard.replay`` takes it."""
    model, processor = rebuilt(stored)
    items = sum(len(part["questions"]) for part in stored["batches"])

    def results() -> Iterator[tuple[Tensor, dict[str, Tensor], Tensor]]:
        for part in stored["batches"]:
            batch = part["inputs"]
            nll = target_nll(answer_logits(model, processor, batch), batch["answer_ids"]) * batch["answer_mask"]
            yield nll.sum(1), {}, nll.sum() / items

    return model, results()


def _average_gradients(model: Any, world: int) -> None:
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    torch.distributed.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient) / world)


def recipe(config: PretrainConfig) -> dict[str, Any]:
    """The recipe as plain data, to stand beside the checkpoint."""
    return asdict(config)


def finish(model: Any, processor: AMVLProcessor, config: PretrainConfig, folder: Path, *, test_size: int = 200) -> None:
    """Round to bf16, measure on the held-out test split, and write checkpoint, recipe and accuracies to ``folder``.

    The accuracies are those of the rounded weights, which are what is shipped. They are written raw and normalised by
    chance, (accuracy - chance) / (1 - chance), per task and as the unweighted mean over the tasks.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration

    rounded = Qwen2_5_VLForConditionalGeneration(model.config)
    rounded.load_state_dict(model.state_dict())
    rounded.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    rounded.float()
    install_attention(rounded)
    raw = letter_accuracy(rounded, processor, split="test", size=test_size)
    options = {t: len(synthetic_question(t, split="test", seed=0, index=0).choices) for t in TASKS}
    normalised = {task: (raw[task] - 1 / n) / (1 - 1 / n) for task, n in options.items()}
    report = {
        "split": "test",
        "seed": 0,
        "difficulty": DEFAULT_DIFFICULTY,
        "questions_per_task": test_size,
        "mean_accuracy": float(np.mean(list(raw.values()))),
        "mean_chance_normalised": float(np.mean(list(normalised.values()))),
        "accuracy": raw,
        "chance_normalised": normalised,
    }
    (folder / "accuracy.json").write_text(json.dumps(report, indent=2) + "\n")
    (folder / "recipe.json").write_text(json.dumps(recipe(config), indent=2) + "\n")
    print(
        f"mean accuracy over {len(TASKS)} tasks on {test_size} held-out questions each: {report['mean_accuracy']:.3f}"
    )
