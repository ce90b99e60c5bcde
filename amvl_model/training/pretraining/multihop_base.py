"""A small base for the multi-hop tasks: its configuration, and training without latents on shared scenes.

The base is transformers' own Qwen2.5-VL with L text layers and a vision tower in which each cell of 28 x 28 pixels is a
window of its own (no full attention), so that the tower reads single arrows and cannot compose them. One step draws S scenes
with Q questions each; the tower runs once per scene and its features are shared by the scene's questions:

    features (S, T, hidden)  ->  embeddings (S Q, N, hidden)  ->  logits (S Q, M, vocabulary)

S scenes, Q questions per scene, T image tokens, N query and answer tokens, M answer tokens. The same loop pre-trains (hops 1
and 2, fresh weights) and fine-tunes (all hops, pre-trained weights, frozen tower): what differs is the recipe. It is the
baseline that latents are compared with, "SFT".
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from amvl_model.data.processing import AMVLProcessor, pad_right
from amvl_model.data.schema import LETTERS, VisualQuestion, option_letter
from amvl_model.data.synthetic.multihop import MULTIHOP_TASKS, MultihopQuestions, multihop_task
from amvl_model.models.checkpoints import check_weights
from amvl_model.models.tiny import qwen_config, tiny_image_processor, tiny_tokenizer
from amvl_model.training.monitoring.guard import Again, LoopStep
from amvl_model.training.pretraining.records import append_row, described, rebuilt, target_nll
from amvl_model.training.pretraining.tiny_base import patchify
from amvl_model.two_pass.attention import install_attention

LARGEST_IMAGE = 28 * 28 * 72  # pixels: 12 cells in six rows


@dataclass(kw_only=True)
class BaseShape:
    """Size of the base.

    Attributes:
        num_layers: L, text layers.
        hidden_size: of the text model; heads have 16 dimensions.
        vision_size, vision_layers: of the vision tower.
        window: side of the tower's attention windows in pixels; 28 is one cell.
        vocabulary: most tokens of the tokenizer; with 384 the four moves of Grid_Walk are several tokens each.
        initializer_range: standard deviation of the text model's fresh weights.
    """

    num_layers: int = 2
    hidden_size: int = 64
    vision_size: int = 64
    vision_layers: int = 1
    window: int = 28
    vocabulary: int = 384
    initializer_range: float = 0.1

    def __post_init__(self) -> None:
        for name, unit in (("hidden_size", 16), ("vision_size", 32), ("window", 28)):
            value = getattr(self, name)
            if value < unit or value % unit:
                raise ValueError(f"{name} must be a multiple of {unit}, got {value}")


@dataclass(kw_only=True)
class MultihopRecipe:
    """One training without latents.

    Attributes:
        task: of `MULTIHOP_TASKS`.
        hops: weight of each number of hops.
        objects, colours, shuffled, listed, repeats, shifted: as for `multihop_record`.
        label_noise: share of training answers that are replaced by another option.
        different: number of different training questions, asked again in the same order; 0: all are different.
        scenes, questions_per_scene: S and Q.
        steps: optimiser steps.
        learning_rate: peak; linear warm-up over ``warmup`` steps, then cosine to 5 %.
        weight_decay: AdamW's, on matrices only.
        freeze_vision: leave the tower as it is.
        reading_weight: weight of the NLL of single steps (`collate_readings`) against the answers'.
        seed: of new weights and of the questions.
        eval_every: steps between looks at the validation split (``eval_size`` questions for each number of hops).
    """

    task: str = "Coloured_Cells"
    hops: Mapping[int, float] = field(default_factory=lambda: {1: 1.0, 2: 1.0})
    objects: int = 8
    colours: int = 8
    shuffled: bool = False
    listed: bool = False
    repeats: int = 1
    shifted: bool = False
    label_noise: float = 0.0
    different: int = 0
    scenes: int = 16
    questions_per_scene: int = 8
    steps: int = 1_000
    learning_rate: float = 2e-3
    warmup: int = 50
    weight_decay: float = 0.01
    freeze_vision: bool = False
    reading_weight: float = 0.0
    seed: int = 0
    eval_every: int = 100
    eval_size: int = 256

    def rate(self, step: int, *, decay: bool = True) -> float:
        """Learning rate at ``step``; without ``decay`` constant after its rise."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        if not decay:
            return self.learning_rate * rise
        return self.learning_rate * rise * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))

    def questions(self, split: str, hops: int | Mapping[int, float], size: int) -> MultihopQuestions:
        """A set of questions of this task; the training set of another seed is another one."""
        of_scenes = ("objects", "colours", "shuffled", "listed", "repeats", "shifted", "questions_per_scene")
        settings: dict[str, Any] = {name: getattr(self, name) for name in of_scenes}
        seed, noise = (self.seed, self.label_noise) if split == "train" else (0, 0.0)
        return MultihopQuestions((self.task,), split, seed, size, hops=hops, label_noise=noise, **settings)


def base_config(tokenizer: Any, shape: BaseShape) -> Any:
    """Qwen2_5_VLConfig of the given shape whose token ids are those of ``tokenizer``."""
    hidden, heads = shape.hidden_size, shape.hidden_size // 16
    return qwen_config(
        tokenizer,
        text={
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": shape.num_layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "max_position_embeddings": 1024,
            "initializer_range": shape.initializer_range,
            # head_dim / 2 = 8 rotary frequencies: 2 for time, 3 for height, 3 for width
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [2, 3, 3]},
        },
        vision={
            "depth": shape.vision_layers,
            "hidden_size": shape.vision_size,
            "intermediate_size": shape.vision_size * 2,
            "num_heads": shape.vision_size // 32,
            "window_size": shape.window,
            "fullatt_block_indexes": [],
        },
    )


def build_multihop_base(shape: BaseShape, *, seed: int = 0, words: Sequence[str] = ()) -> tuple[Any, AMVLProcessor]:
    """A randomly initialised base and its processor; the tokenizer knows the text of every multi-hop task, and ``words``."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    texts = []
    for shuffled in (False, True):
        tasks = [task for task in MULTIHOP_TASKS if task != "Dots_And_Arrows"]  # the text of cells, and slow to draw
        questions = MultihopQuestions(tasks, split="train", seed=1, size=640, shuffled=shuffled)
        texts += [f"user\n{q.prompt}" for q in questions] + [f"assistant\n{q.answer_text}" for q in questions]
        texts += [f" {word}" for word in words] * len(questions)
    processor = AMVLProcessor(tiny_tokenizer(texts, shape.vocabulary), tiny_image_processor())
    size = dict(processor.image_processor.size)
    size.update(shortest_edge=28 * 28, longest_edge=LARGEST_IMAGE)
    processor.image_processor.size = type(processor.image_processor.size)(**size)
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(base_config(processor.tokenizer, shape))
    install_attention(model)
    return model, processor


def deepened(model: Any, extra: int) -> Any:
    """The same function with ``extra`` more text layers in front of the last one: the ceiling that depth alone allows.

    A new layer is a copy of the one before the last, with zero output projections, so that at first it adds nothing.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration

    config = copy.deepcopy(model.config)
    last = config.text_config.num_hidden_layers - 1
    config.text_config.num_hidden_layers += extra
    config.text_config.layer_types = None  # derived from the number of layers
    config = type(config).from_dict(config.to_dict())
    deep = Qwen2_5_VLForConditionalGeneration(config)
    old, new = model.model.language_model.layers, deep.model.language_model.layers
    state = {name: value for name, value in model.state_dict().items() if ".language_model.layers." not in name}
    deep.load_state_dict(state, strict=False)
    for i, layer in enumerate(new):
        source = i if i < last else last - 1 if i < last + extra else last
        layer.load_state_dict(old[source].state_dict())
        if last <= i < last + extra:
            torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
            torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    install_attention(deep)
    return deep


def collate_scenes(processor: AMVLProcessor, questions: list[VisualQuestion], per_scene: int) -> dict[str, Tensor]:
    """Encode S Q consecutive questions of S scenes.

    Returns:
        images (S, H, W, 3) bytes; ids (S Q, N), right-padded, answer included; target (S Q, M), the answer's ids; where
        (S Q, M), the places whose outputs predict them.
    """
    images = np.stack([np.asarray(question.images[0]) for question in questions[::per_scene]])
    texts = [question.prompt for question in questions]
    answers = {text: processor.encode_answer(text) for text in {question.answer_text for question in questions}}
    target = torch.stack([answers[question.answer_text] for question in questions])
    rows = query_rows(processor, texts, images.shape[1:3])
    lengths = torch.tensor([len(row) for row in rows])
    rows = [torch.cat([row, tail]) for row, tail in zip(rows, target, strict=True)]
    return {
        "images": torch.from_numpy(images),
        "ids": pad_right(rows, processor.pad_token_id)[0],
        "target": target,
        "where": lengths[:, None] - 1 + torch.arange(target.shape[1]),
    }


def collate_readings(
    processor: AMVLProcessor, scenes: list[list[str]], size: tuple[int, int], rng: np.random.Generator
) -> dict[str, Tensor]:
    """One row for each scene in which the model reads single steps: those of the image in random order.

    Only the last word of a step is a target, so that no composition is taught, and no order.

    Args:
        processor: of the base.
        scenes: the single steps of each scene, such as ``red blue`` and ``green red``; all of as many words, each one token.
        size: height and width of the images in pixels.
        rng: of the order.

    Returns:
        ids (S, N); target and where (S, n), the ids of the last words and the places before them.

    Raises:
        ValueError: if a word is more than one token of the base's tokenizer.
    """
    prompt, *_ = query_rows(processor, ["Read the arrows."], size)
    rows, places = [], []
    for steps in scenes:
        words = [word for i in rng.permutation(len(steps)) for word in steps[i].split()]
        listed = processor.tokenizer(["".join(f" {word}" for word in words)], add_special_tokens=False)["input_ids"][0]
        if len(listed) != len(words):
            raise ValueError(
                f"a reading needs words of one token each; {len(words)} words such as {words[:3]} are {len(listed)} tokens: "
                "make the base with a larger vocabulary"
            )
        rows.append(torch.cat([prompt, torch.tensor(listed)]))
        each = len(words) // len(steps)
        places.append(len(prompt) + torch.arange(each - 2, len(listed), each))
    ids, where = torch.stack(rows), torch.stack(places)
    return {"ids": ids, "target": ids.gather(1, where + 1), "where": where}


def query_rows(processor: AMVLProcessor, texts: list[str], size: tuple[int, ...]) -> list[Tensor]:
    """Token ids of each query: an image of ``size`` pixels, then the text."""
    cell = processor.image_processor.patch_size * processor.image_processor.merge_size
    tokens = (size[0] // cell) * (size[1] // cell)
    template = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "\0"}]}],
        tokenize=False,
        add_generation_prompt=True,
    ).replace("<|image_pad|>", "<|image_pad|>" * tokens)
    ids = processor.tokenizer([template.replace("\0", text) for text in texts], add_special_tokens=False)["input_ids"]
    return [torch.tensor(row) for row in ids]


def scene_features(model: Any, processor: AMVLProcessor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Tower features (S, T, hidden) of images (S, H, W, 3), and their grid (S, 3)."""
    pixels, grid = patchify(images, processor)
    frozen = not any(parameter.requires_grad for parameter in model.model.visual.parameters())
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        return torch.stack(list(model.model.get_image_features(pixels, grid).pooler_output)), grid


def target_logits(
    model: Any, processor: AMVLProcessor, batch: dict[str, Tensor], features: Tensor, grid: Tensor
) -> Tensor:
    """Logits (R, M, vocabulary) at the places ``where`` of R rows; each scene's features serve R / S consecutive rows."""
    ids, inner = batch["ids"], model.model
    features = features.repeat_interleave(len(ids) // len(features), dim=0)
    is_image = ids == processor.image_token_id
    embeddings = inner.get_input_embeddings()(ids).masked_scatter(is_image.unsqueeze(-1), features)
    # one row's positions serve all: the image stands at the same place of each, and padding at the end
    position, _ = inner.get_rope_index(ids[:1], is_image[:1].int(), image_grid_thw=grid[:1])
    hidden = inner.language_model(
        inputs_embeds=embeddings, position_ids=position.expand(-1, len(ids), -1), use_cache=False
    ).last_hidden_state
    return model.lm_head(hidden[torch.arange(len(ids))[:, None], batch["where"]])


@torch.no_grad()
def hop_accuracy(model: Any, processor: AMVLProcessor, recipe: MultihopRecipe, hops: int, split: str = "val") -> float:
    """Share of right letters among the options, for questions with this number of hops."""
    letters = torch.stack([processor.encode_answer(option_letter(i))[0] for i in range(len(LETTERS[: recipe.objects]))])
    questions, hits = recipe.questions(split, hops, recipe.eval_size), 0
    for start in range(0, recipe.eval_size, 128):
        part = questions[start : start + 128]
        batch = collate_scenes(processor, part, recipe.questions_per_scene)
        features, grid = scene_features(model, processor, batch["images"])
        best = target_logits(model, processor, batch, features, grid)[:, 0, letters].argmax(-1)
        hits += int((best == torch.tensor([question.answer for question in part])).sum())
    return hits / recipe.eval_size


def train_multihop(
    model: Any, processor: AMVLProcessor, recipe: MultihopRecipe, curve: Path | None = None, max_hops: int = 4
) -> list[dict[str, float]]:
    """Train in place; returns (and appends to ``curve``, a CSV file) the validation accuracy at each number of hops.

    Rows: step, seconds of processor time, loss (nats a question), with a ``reading_weight`` reading (nats a token of the single
    steps), hop_1 ... hop_``max_hops`` (0 to 1).

    Raises:
        NonFiniteError: at the first loss, gradient or weight that is NaN or infinite; the step is stored beside ``curve``.
    """
    model.model.visual.requires_grad_(not recipe.freeze_vision)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    item = recipe.scenes * recipe.questions_per_scene
    questions = recipe.questions("train", recipe.hops, recipe.steps * item)
    about = {"loop": "multihop", "reading_weight": recipe.reading_weight, **described(model, processor)}
    began, losses, rows = time.process_time(), [], []
    model.train()
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        batches = _batches(processor, recipe, questions, step)
        loss, parts = _losses(model, processor, [inputs for _, inputs in batches], recipe.reading_weight)
        loss.backward()
        now = LoopStep(None if curve is None else curve.parent, step + 1, model, batches, about)
        now.clip(float(loss.detach()))
        optimizer.step()
        optimizer.zero_grad()
        losses.append(parts)
        if (step + 1) % recipe.eval_every == 0 or step + 1 == recipe.steps:
            with now.checked():
                check_weights(model)
            row = {"step": step + 1, "seconds": round(time.process_time() - began, 1)}
            row |= {name: float(np.mean([parts[name] for parts in losses])) for name in parts}
            row |= {f"hop_{h}": hop_accuracy(model, processor, recipe, h) for h in range(1, max_hops + 1)}
            rows.append(row)
            losses = []
            append_row(curve, row)
    return rows


def _batches(
    processor: AMVLProcessor, recipe: MultihopRecipe, questions: MultihopQuestions, step: int
) -> list[tuple[list[str], dict[str, Tensor]]]:
    """Question ids and tensors of one step's answers, and with a ``reading_weight`` of its readings (ids: of their scenes)."""
    item = recipe.scenes * recipe.questions_per_scene
    numbers = range(step * item, (step + 1) * item)
    asked = questions[numbers.start : numbers.stop]
    batch = collate_scenes(processor, asked, recipe.questions_per_scene)
    batches = [([question.id for question in asked], batch)]
    if recipe.reading_weight:
        firsts = numbers[:: recipe.questions_per_scene]
        size = (batch["images"].shape[1], batch["images"].shape[2])
        rng = np.random.default_rng([recipe.seed, step])
        groups = [multihop_task(recipe.task).steps(questions.record(i)["explanation"]) for i in firsts]
        # one group is not drawn, so that the shipped bases of such tasks see the order of before
        steps = [own[int(rng.integers(len(own)))] if len(own) > 1 else own[0] for own in groups]
        ids = [question.id for question in asked[:: recipe.questions_per_scene]]
        batches.append((ids, collate_readings(processor, steps, size, rng)))
    return batches


def _losses(
    model: Any, processor: AMVLProcessor, batches: list[dict[str, Tensor]], weight: float
) -> tuple[Tensor, dict[str, float]]:
    """What one step minimises, and its parts: the answers' NLL (nats a question) and the readings' (nats a token)."""
    features, grid = scene_features(model, processor, batches[0]["images"])
    answers, *readings = [
        _sum_nll(target_logits(model, processor, each, features, grid), each["target"]) for each in batches
    ]
    loss = answers / len(batches[0]["target"])
    parts = {"loss": loss.item()}
    for nll, batch in zip(readings, batches[1:], strict=True):
        reading = nll / batch["target"].numel()
        loss, parts["reading"] = loss + weight * reading, reading.item()
    return loss, parts


def recompute(stored: dict[str, Any]) -> Again:
    """A step that a number stopped, as ``amvl_model.training.monitoring.guard.replay`` takes it."""
    model, processor = rebuilt(stored)
    batches = [part["inputs"] for part in stored["batches"]]
    features, grid = scene_features(model, processor, batches[0]["images"])
    rows = [target_nll(target_logits(model, processor, batch, features, grid), batch["target"]) for batch in batches]
    scales = [1 / len(rows[0]), *(stored["reading_weight"] / row.numel() for row in rows[1:])]
    total = sum(row.sum() * scale for row, scale in zip(rows, scales, strict=True))
    shares = [total, *(torch.zeros((), requires_grad=True) for _ in rows[1:])]  # features are shared: one backward pass
    return model, [(row.detach().sum(1), {}, share) for row, share in zip(rows, shares, strict=True)]


def _sum_nll(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum")


def save_multihop_base(model: Any, processor: AMVLProcessor, folder: Path, recipe: MultihopRecipe) -> None:
    """Write a checkpoint that `from_pretrained` reads, with the recipe beside it; refuses weights that are not finite."""
    check_weights(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
