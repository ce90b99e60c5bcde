"""What a step is made of: the data set, samplers that fill the last batch, the collator, latent noise by question."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from amvl_model.data.mixture import MixedQuestions
from amvl_model.data.processing import AMVLProcessor
from amvl_model.data.rows import check_columns, question_of
from amvl_model.data.schema import VisualQuestion

T = TypeVar("T")
WEIGHT = "example_weight"
INDEX = "example_index"


class QuestionDataset(Dataset[dict[str, Tensor]]):
    """Encoded questions; item ~i (negative) is item i with weight 0.

    Args:
        questions: any sequence of `VisualQuestion`, drawn or read on access.
        processor: encodes them.
        cache: keep what was encoded (for sets that fit in memory and are seen many times).
    """

    def __init__(self, questions: Sequence[VisualQuestion], processor: AMVLProcessor, *, cache: bool = False) -> None:
        self.questions, self.processor = questions, processor
        self.cache: dict[int, dict[str, Tensor]] | None = {} if cache else None
        self._lengths: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        index = item if item >= 0 else ~item
        encoded = None if self.cache is None else self.cache.get(index)
        if encoded is None:
            encoded = self._converted(index, self.processor.encode)
            if self.cache is not None:
                self.cache[index] = encoded
        return placed(encoded, item)

    def _converted(self, index: int, convert: Callable[[VisualQuestion], T]) -> T:
        """A question encoded; one of a file that cannot be encoded is skipped and counted like a damaged file."""
        if isinstance(self.questions, MixedQuestions):
            return self.questions.read(index, convert)
        return convert(self.questions[index])

    def length(self, index: int) -> int:
        """Query tokens of one question, from its text and the sizes of its images; they are not processed for it."""
        if index not in self._lengths:
            cached = None if self.cache is None else self.cache.get(index)
            length = self._converted(index, self.processor.query_length) if cached is None else len(cached["input_ids"])
            self._lengths[index] = length
        return self._lengths[index]


def placed(encoded: dict[str, Tensor], item: int) -> dict[str, Tensor]:
    """An encoded question with its place in the set and its weight, 0 for a filler ~place."""
    return {**encoded, WEIGHT: torch.tensor(1.0 if item >= 0 else 0.0), INDEX: torch.tensor(item)}


class QuestionStream(IterableDataset[tuple[int, VisualQuestion]]):
    """Questions of a set without a length, each with its place in the stream; the collator encodes them.

    Every process reads the whole stream and keeps its share of every batch (accelerate's IterableDatasetShard), which is why
    rows are encoded later. The stream is filled up to a multiple of ``multiple`` with its last row, as item ~place. Workers of
    a loader share the rows as the set itself does (datasets.IterableDataset: by its shards).

    Args:
        rows: iterable; read again in every epoch.
        place: name of the set, for messages.
        multiple: examples of one step over all processes.

    Raises:
        ValueError: for columns from which no question can be made; for a bad row, when it is read.
    """

    def __init__(self, rows: Any, place: str, multiple: int = 1) -> None:
        self.rows, self.place, self.multiple = rows, place, multiple
        if (names := getattr(rows, "column_names", None)) is not None:
            check_columns(names, place)

    def set_epoch(self, epoch: int) -> None:
        """Passed on to the set, which may shuffle by it."""
        if hasattr(self.rows, "set_epoch"):
            self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[int, VisualQuestion]]:
        worker = get_worker_info()
        index, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        count, question = 0, None
        for row in self.rows:
            question = question_of(row, index, self.place)
            yield index, question
            index, count = index + stride, count + 1
        if question is not None:
            yield from ((~(index - stride), question) for _ in range(-count % self.multiple))


def filled_order(size: int, multiple: int) -> list[int]:
    """0 .. size - 1, filled up to a multiple of ``multiple`` with items of weight 0."""
    return [*range(size), *(~(i % size) for i in range(-size % multiple))]


class FilledRandomSampler(Sampler[int]):
    """A random order of each epoch, filled up to a multiple of ``multiple`` with items of weight 0.

    The order depends on (seed, epoch) alone, so a resumed run sees what the uninterrupted one would have seen.

    With ``length_of`` the batches are made of items of similar length: the random order is cut into windows of
    `WINDOW` x ``group`` items, each window is sorted by length and cut into groups, and its groups are shuffled. Lengths are
    asked for one window at a time.

    Args:
        size: number of items.
        seed: of the order.
        multiple: the epoch's length is a multiple of this.
        length_of: tokens of an item; None: lengths play no part.
        group: items of one step over all processes, which should be alike.
    """

    WINDOW = 32

    def __init__(
        self,
        size: int,
        *,
        seed: int,
        multiple: int = 1,
        length_of: Callable[[int], int] | None = None,
        group: int = 1,
    ) -> None:
        self.size, self.seed, self.multiple, self.epoch = size, seed, multiple, 0
        self.length_of, self.group = length_of, group

    def __len__(self) -> int:
        return math.ceil(self.size / self.multiple) * self.multiple

    def set_epoch(self, epoch: int) -> None:
        """Called by the loader at the start of each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        spare = len(self) - self.size
        yield from order if self.length_of is None else self._grouped(order, self.length_of, generator)
        yield from (~order[i % self.size] for i in range(spare))

    def _grouped(self, order: list[int], length_of: Callable[[int], int], generator: torch.Generator) -> Iterator[int]:
        window = self.WINDOW * self.group
        for start in range(0, len(order), window):
            alike = sorted(order[start : start + window], key=length_of)
            groups = [alike[i : i + self.group] for i in range(0, len(alike), self.group)]
            ragged = [groups.pop()] if len(groups[-1]) < self.group else []  # the epoch's last items stay last
            for index in torch.randperm(len(groups), generator=generator).tolist():
                yield from groups[index]
            for rest in ragged:
                yield from rest


class AMVLCollator:
    """`AMVLProcessor.collate` that keeps the weights and the places of the examples, and encodes those of a stream."""

    def __init__(self, processor: AMVLProcessor) -> None:
        self.processor = processor

    def __call__(self, items: Sequence[dict[str, Tensor] | tuple[int, VisualQuestion]]) -> dict[str, Tensor]:
        rows = [placed(self.processor.encode(item[1]), item[0]) if isinstance(item, tuple) else item for item in items]
        batch = self.processor.collate(rows)
        batch[WEIGHT] = torch.stack([row.get(WEIGHT, torch.tensor(1.0)) for row in rows])
        if all(INDEX in row for row in rows):
            batch[INDEX] = torch.stack([row[INDEX] for row in rows])
        return batch


EVALUATION = 2**32
"""In place of a training step, which it is none of: an evaluation's noise depends on the question alone."""


def sample_noise(index: Tensor, shape: tuple[int, ...], *, seed: int, step: int) -> Tensor:
    """(B, *shape) standard normal float32 numbers, the same for a question in one step whatever batch it stands in.

    Args:
        index: (B,) places of the questions in their set, ~i for the filled-up copy of question i.
        shape: (k, d).
        seed, step: of the run and of the optimiser; 0 and `EVALUATION` in an evaluation.
    """
    rows = [np.random.default_rng([seed, step, int(i < 0), i if i >= 0 else ~i]) for i in index.tolist()]
    return torch.from_numpy(np.stack([row.standard_normal(shape, dtype=np.float32) for row in rows]))
