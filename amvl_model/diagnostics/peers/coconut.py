"""Coconut (facebookresearch/coconut, arXiv 2412.06769): a language model whose last hidden states come back as its input.

    [ question \\n <|start-latent|> | z_1 ... z_k | <|end-latent|> ### answer <eos> ]        z_i = h(x, z_1 ... z_{i-1})

h is the last layer's hidden state at the last position, as the language head reads it. A checkpoint is one file, a state
dictionary by ``torch.save``: keys ``base_causallm....`` and a second name of the input embeddings. It contains neither
configuration nor tokenizer: both come from the base that was trained (``model_id`` of the run), to whose vocabulary the
three marks were added in a fixed order.

Shapes: B questions, N query tokens, k latents, h hidden size, V vocabulary.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amvl_model.data.schema import VisualQuestion
from amvl_model.two_pass.transformers_compat import CACHE

MARKS = ("<|start-latent|>", "<|end-latent|>", "<|latent|>")
"""Added to the tokenizer in this order."""
_PREFIX = "base_causallm."
_EITHER = re.compile(r"(?s).*\bIs (?P<name>\w+) an? (?P<first>\w+) or (?:an? )?(?P<second>\w+)\?\s*")


@dataclass(frozen=True)
class EncodedText:
    """Encoded questions.

    Attributes:
        cache: keys and values of x.
        mask: (B, N) 1 at real tokens, which stand to the right.
        last: (B, h) hidden state at the last token.
        answers: per question, the token ids of every option.
    """

    cache: Any
    mask: Tensor
    last: Tensor
    answers: list[list[Tensor]]


class CoconutModel:
    """A Coconut checkpoint as a `LatentModel`; options are scored by their texts.

    Args:
        module: the language model, with the three marks in its vocabulary.
        tokenizer: likewise.
        num_latents: k, continuous thoughts behind a question: c_thought times max_latent_stage of the run.

    Raises:
        ValueError: for k below 1, or a tokenizer without the marks.
    """

    def __init__(self, module: Any, tokenizer: Any, num_latents: int) -> None:
        if num_latents < 1:
            raise ValueError(f"expected at least one latent, got {num_latents}; give c_thought * max_latent_stage")
        self.module, self.tokenizer, self.num_latents = module, tokenizer, num_latents
        ids = tokenizer.convert_tokens_to_ids(list(MARKS))
        if None in ids or tokenizer.unk_token_id in ids:
            raise ValueError(f"expected a tokenizer with {', '.join(MARKS)}, got one without; add them in this order")
        self.start_id, self.end_id, _ = ids

    @classmethod
    def from_pretrained(
        cls, checkpoint: str | Path, *, base: str | None = None, num_latents: int | None = None
    ) -> CoconutModel:
        """Load the file that Coconut's run.py wrote.

        Args:
            checkpoint: ``checkpoint_N``.
            base: folder or hub id with configuration and tokenizer of the model that was trained; default: the
                checkpoint's folder.
            num_latents: k; default 6, that of the published ProsQA runs.

        Raises:
            FileNotFoundError, ValueError: if the file is missing, or its weights are not those of a Coconut of this base.
        """
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        file = Path(checkpoint)
        if not file.is_file():
            raise FileNotFoundError(f"{file}: expected the file checkpoint_N that Coconut's run.py wrote, found none")
        stored = _weights(file)
        source = base or str(file.parent)
        try:
            tokenizer, config = AutoTokenizer.from_pretrained(source), AutoConfig.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"{source}: expected tokenizer and configuration of the model that was trained, found none "
                f"({str(error).splitlines()[0]}); give the folder or hub id that the run's model_id names as base"
            ) from error
        tokenizer.add_tokens([mark for mark in MARKS if mark not in tokenizer.get_vocab()])
        module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        embeddings = [value for name, value in stored.items() if name.endswith(("wte.weight", "embed_tokens.weight"))]
        if embeddings:
            module.resize_token_embeddings(len(embeddings[0]), mean_resizing=False)
        ties = {"lm_head.weight"} if config.get_text_config().tie_word_embeddings else set()
        try:
            missing, unexpected = module.load_state_dict(stored, strict=False)
        except RuntimeError as error:
            raise ValueError(
                f"{file}: its weights do not fit {source}: {str(error).splitlines()[-1].strip()}"
            ) from error
        buffers = (".attn.bias", ".attn.masked_bias", "inv_freq")  # causal masks that older versions stored
        wrong = [n for n in missing if n not in ties] + [n for n in unexpected if not n.endswith(buffers)]
        if wrong:
            raise ValueError(
                f"{file}: expected the weights of {source}, got others (missing or unknown: {', '.join(wrong[:3])}); give the "
                "base that the run's model_id names"
            )
        return cls(module.eval(), tokenizer, 6 if num_latents is None else num_latents)

    def encode(self, questions: Sequence[VisualQuestion]) -> EncodedText:
        """Read question, line break and start mark; rows are padded on the left."""
        for question in questions:
            if question.images:
                raise ValueError(f"question {question.id!r}: expected a text, got images; Coconut reads none")
        rows = [[*self.tokenizer(q.question + "\n")["input_ids"], self.start_id] for q in questions]
        longest = max(map(len, rows))
        device = self.module.get_input_embeddings().weight.device
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
        hidden, cache = self._pass(self.module.get_input_embeddings()(ids), mask, None)
        return EncodedText(
            cache, mask, hidden[:, -1], [[self._answer(c, device) for c in q.choices] for q in questions]
        )

    def latents(self, query: EncodedText) -> Tensor:
        """The continuous thoughts (B, k, h), one pass over one position after the other."""
        thoughts, mask, cache = [query.last], query.mask, copy.deepcopy(query.cache)
        while len(thoughts) < self.num_latents:
            mask = _longer(mask, 1)
            hidden, cache = self._pass(thoughts[-1][:, None], mask, cache)
            thoughts.append(hidden[:, -1])
        return torch.stack(thoughts, dim=1)

    def option_log_probs(self, query: EncodedText, z: Tensor) -> Tensor:
        """log p(a|x,Z) (B, O): a pass over latents, end mark and answer behind x for every option."""
        embed, columns = self.module.get_input_embeddings(), []
        end = embed(torch.full((len(z), 1), self.end_id, device=z.device))
        for option in range(max(map(len, query.answers))):
            item = [answers[min(option, len(answers) - 1)] for answers in query.answers]
            ids = torch.nn.utils.rnn.pad_sequence(item, batch_first=True)
            real = torch.nn.utils.rnn.pad_sequence([torch.ones_like(a) for a in item], batch_first=True)
            rows = torch.cat([z.to(end.dtype), end, embed(ids[:, :-1])], dim=1)
            mask = _longer(query.mask, rows.shape[1])
            hidden, _ = self._pass(rows, mask, copy.deepcopy(query.cache))
            logits = self.module.get_output_embeddings()(hidden[:, z.shape[1] :])
            log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
            scores = log_probs.gather(-1, ids[..., None])[..., 0]
            columns.append((scores * real).sum(1))
        return torch.stack(columns, dim=1)

    def _answer(self, text: str, device: torch.device) -> Tensor:
        ids = self.tokenizer("### " + text, add_special_tokens=False)["input_ids"]
        return torch.tensor([*ids, self.tokenizer.eos_token_id], device=device)

    def _pass(self, embeddings: Tensor, mask: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Hidden states of new positions behind a cache; ``mask`` (B, old and new positions)."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -embeddings.shape[1] :]
        given = {} if cache is None else {CACHE: cache}
        output = self.module.base_model(
            inputs_embeds=embeddings, attention_mask=mask, position_ids=positions, use_cache=True, **given
        )
        return output.last_hidden_state, getattr(output, CACHE)


def read_questions(path: str | Path, *, options: int = 4, seed: int = 0) -> list[VisualQuestion]:
    """Coconut's own data files as multiple-choice questions.

    A question that ends in "Is A a B or C?" (ProsQA) has these two options; any other one has, beside its own answer, the
    answers of other questions of the file.

    Args:
        path: JSON, a list of records with ``question`` and ``answer``.
        options: of a question that names none.
        seed: of the drawn options and of all orders.

    Raises:
        FileNotFoundError, ValueError: if the file is missing, is no such list, or has too few different answers.
    """
    try:
        records = json.loads(Path(path).read_text(encoding="utf-8"))
        pairs = [(str(record["question"]), str(record["answer"]).strip()) for record in records]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f'{path}: expected a JSON list of {{"question": text, "answer": text}}, as in Coconut\'s data folder'
        ) from error
    answers = sorted({answer for _, answer in pairs})
    return [_question(i, *pair, answers, options, np.random.default_rng([seed, i])) for i, pair in enumerate(pairs)]


def _question(
    number: int, question: str, answer: str, answers: Sequence[str], options: int, rng: np.random.Generator
) -> VisualQuestion:
    match = _EITHER.fullmatch(question)
    named = [f"{match['name']} is a {match[item]}." for item in ("first", "second")] if match else []
    if answer in named:
        choices = named
    else:
        others = [item for item in answers if item != answer]
        if len(others) < options - 1:
            raise ValueError(
                f"expected at least {options} different answers in the file, got {len(answers)}; add questions"
            )
        drawn = rng.choice(len(others), options - 1, replace=False)
        choices = [answer, *(others[i] for i in drawn)]
        choices = [choices[i] for i in rng.permutation(options)]
    return VisualQuestion(
        id=str(number),
        images=(),
        prompt=question,
        question=question,
        answer_text=answer,
        choices=tuple(choices),
        answer=choices.index(answer),
        task="coconut",
        source="coconut",
    )


def _weights(file: Path) -> dict[str, Tensor]:
    """The language model's weights under its own names."""
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different class for every way in which a file can be wrong
        raise ValueError(f"{file}: expected a state dictionary by torch.save, got something else ({error})") from error
    result = {n.removeprefix(_PREFIX): v for n, v in dict(stored).items() if n.startswith(_PREFIX)}
    if not result:
        raise ValueError(f"{file}: expected weights named {_PREFIX}..., got none; give a checkpoint of a Coconut run")
    return result


def _longer(mask: Tensor, rows: int) -> Tensor:
    return torch.cat([mask, mask.new_ones(len(mask), rows)], dim=1)
