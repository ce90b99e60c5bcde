"""The classes that lmms-eval drives under the name ``amvl``.

    lmms-eval --model amvl --model_args pretrained=DIR,dtype=bfloat16 --tasks blink --batch_size 8

``--model_args`` (see `Options`): pretrained, dtype, latents, latent_samples, latent_temperature, seed, min_pixels,
max_pixels, max_new_tokens. A plain Qwen-VL folder is taken too, so a baseline goes through the same code.

lmms-eval counts a request that fails as a failed run, but its command then ends with status 0: look for the results file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from loguru import logger
from tqdm import tqdm

from amvl_model.data.schema import VisualQuestion
from amvl_model.evaluation.lmms_eval_plugin.decoding import Answerer, ModelOptions
from amvl_model.evaluation.lmms_eval_plugin.requests import (
    decoding_settings,
    question_from_context,
    question_from_messages,
)
from amvl_model.evaluation.question_batches import sorted_batches


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """``--model_args``.

    Attributes:
        latent_samples: samples behind a likelihood. For several replies a question use lmms-eval's ``--repeats``: each
            repetition reads a sample of its own (not with ``--use_cache``, which takes repetitions for the same request).
    """

    latent_samples: int = 1


class AMVLModel(lmms):
    """What both classes share: loading, batching, decoding.

    Args:
        pretrained, **options: see `ModelOptions` and `Options`.
        batch_size, max_batch_size, device: from lmms-eval's command line; "auto" is not supported.

    Raises:
        ValueError: for an unknown argument or a value that cannot be used.
        FileNotFoundError: if the checkpoint is missing or incomplete.
    """

    def __init__(
        self,
        pretrained: str = "",
        *,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        given = Options.of({"pretrained": pretrained, **options})
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(
                f"--batch_size must be a whole number of at least 1, got {batch_size!r}; auto is not supported"
            )
        from accelerate import Accelerator

        self.accelerator = Accelerator()
        self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
        self.batch_size, self.max_new_tokens = int(batch_size), given.max_new_tokens
        place = self.accelerator.device if self._world_size > 1 else device
        self.answerer: Answerer | None = given.load(place, samples=given.latent_samples)
        self._device = self.answerer.scorer.device
        self._ignored: set[str] = set()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._device

    def clean(self) -> None:
        """Let go of the model; lmms-eval calls this after the last request."""
        self.answerer = None
        super().clean()

    def _asked(self, request: Instance) -> VisualQuestion:
        *_, doc_id, task, split = request.args
        doc, name = self.task_dict[task][split][doc_id], f"{task}/{split}/{doc_id}"
        if _is_chat(request):
            return question_from_messages(request.args[1](doc), name)
        return question_from_context(request.args[0], request.args[2](doc), name)

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """A reply to every request, in order; see `requests.decoding_settings` for the generation settings.

        Raises:
            ValueError: for a question that this model cannot answer, named in the message.
        """
        answerer = self._ready()
        if answerer.settings.samples > 1:
            raise ValueError(
                f"latent_samples={answerer.settings.samples} is for likelihoods, and a reply is decoded from one sample; leave "
                "it out, and for several replies a question give lmms-eval --repeats"
            )
        keys = _keys(requests)
        groups: dict[Any, list[int]] = {}
        for index, request in enumerate(requests):
            given = request.args[2 if _is_chat(request) else 1]
            settings, ignored = decoding_settings(given, max_new_tokens=self.max_new_tokens)
            self._warn(ignored)
            groups.setdefault(settings, []).append(index)
        results: dict[int, GenerationResult] = {}
        with self._bar(len(requests)) as bar:
            for settings, members in groups.items():
                for chosen, questions in self._batches(requests, members):
                    replies = answerer.replies(questions, [keys[i] for i in chosen], settings)
                    for index, reply in zip(chosen, replies, strict=True):
                        counts = TokenCounts(input_tokens=reply.input_tokens, output_tokens=reply.output_tokens)
                        results[index] = GenerationResult(text=reply.text, token_counts=counts)
                    bar.update(len(chosen))
        return [results[index] for index in range(len(requests))]

    def _batches(
        self, requests: Sequence[Instance], members: Sequence[int]
    ) -> Iterator[tuple[list[int], list[VisualQuestion]]]:
        """Places and questions of every batch, questions of similar length together."""
        query_length = self._ready().processor.query_length

        def length(question: VisualQuestion) -> int:
            return -query_length(question) if self.batch_size > 1 else 0

        return sorted_batches(members, lambda i: self._asked(requests[i]), length, self.batch_size)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """-log p(continuation | question) in nats a token, and whether it is the greedy reply, in order.

        As lmms-eval's own models do, this is the mean loss of the tokens: its multiple-choice tasks take the smallest.

        Raises:
            NotImplementedError: under the chat interface, which has no such requests.
            ValueError: as `generate_until`.
        """
        raise NotImplementedError("lmms-eval asks for likelihoods under its simple interface only; add --force_simple")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not supported.

        Raises:
            NotImplementedError: always; AMVL answers single questions.
        """
        raise NotImplementedError(
            "AMVL answers single questions; leave tasks of output_type generate_until_multi_round out"
        )

    def _ready(self) -> Answerer:
        if self.answerer is None:
            raise RuntimeError("this model was released by clean(); create a new one")
        return self.answerer

    def _bar(self, total: int) -> Any:
        return tqdm(total=total, desc="amvl", unit="request", disable=self.rank != 0)

    def _warn(self, ignored: Sequence[str]) -> None:
        new = sorted(set(ignored) - self._ignored)
        self._ignored.update(new)
        if new:
            logger.warning(f"amvl: generation settings without meaning for this model are not used: {', '.join(new)}")


class AMVLChat(AMVLModel):
    """lmms-eval's chat interface, its default: images stand where the task's messages put them."""

    is_simple = False


class AMVLSimple(AMVLModel):
    """lmms-eval's simple interface (``--force_simple``): a text and images before it, and likelihoods of texts."""

    is_simple = True

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """See `AMVLModel.loglikelihood`; x is encoded once for all continuations of a question."""
        answerer = self._ready()
        by_document: dict[tuple[Any, ...], list[int]] = {}
        for index, request in enumerate(requests):
            context, _, _, doc_id, task, split = request.args
            by_document.setdefault((task, split, doc_id, context), []).append(index)
        groups = list(by_document.items())
        results: dict[int, tuple[float, bool]] = {}
        with self._bar(len(requests)) as bar:
            for start in range(0, len(groups), self.batch_size):
                chosen = groups[start : start + self.batch_size]
                questions = [self._asked(requests[members[0]]) for _, members in chosen]
                texts = [[self._continuation(requests[i]) for i in members] for _, members in chosen]
                keys = [f"{task}/{split}/{doc_id}/0" for (task, split, doc_id, _), _ in chosen]
                for (_, members), values in zip(chosen, answerer.likelihoods(questions, keys, texts), strict=True):
                    results.update(zip(members, values, strict=True))
                    bar.update(len(members))
        return [results[index] for index in range(len(requests))]

    def _continuation(self, request: Instance) -> str:
        _, continuation, _, doc_id, task, split = request.args
        return str(continuation(self.task_dict[task][split][doc_id]) if callable(continuation) else continuation)


def _is_chat(request: Instance) -> bool:
    """Whether a request to generate has the chat interface's arguments.

    lmms-eval 0.7.3 gives the simple ones to a chat model too, where ``--tasks`` names a folder of YAML files.
    """
    return isinstance(request.args[2], Mapping)


def _keys(requests: Sequence[Instance]) -> list[str]:
    """What distinguishes the requests: task, split, question, and the number of the repetition (``--repeats``)."""
    times: Counter[tuple[Any, ...]] = Counter()
    keys = []
    for request in requests:
        doc_id, task, split = request.args[-3:]
        keys.append(f"{task}/{split}/{doc_id}/{times[task, split, doc_id]}")
        times[task, split, doc_id] += 1
    return keys
