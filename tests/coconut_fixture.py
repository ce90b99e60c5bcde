"""A tiny checkpoint of Coconut's own code, and what that code computes from it.

    python tests/coconut_fixture.py prepare OUT              here: OUT/base, OUT/questions.json, OUT/tokens.json
    python tests/coconut_fixture.py train OUT CHECKOUT       with transformers 4.46: OUT/checkpoint_1, OUT/reference.json

CHECKOUT is a clone of facebookresearch/coconut; its class Coconut is imported and run, none of its code is here. The second
call trains for some steps, saves as run.py does, and writes the thoughts and the options' log-probabilities of every question
by Coconut's own forward pass. The result is committed as tests/model/diagnostics/peers/coconut.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

LATENTS, STEPS = 3, 60
NAMES, KINDS = ("Tom", "Sally", "Bob", "Rex"), ("gerpus", "terpus", "lempus", "yimpus", "worpus", "zumpus")


def records() -> list[dict[str, str]]:
    """Two-hop questions in the manner of ProsQA, of two lengths."""
    result = []
    for i in range(12):
        name, (a, b, c, d) = NAMES[i % 4], (KINDS[(i + j) % 6] for j in range(4))
        right, wrong = (c, d) if i % 3 else (d, c)
        facts = f"Every {a} is a {b}. Every {b} is a {right}. {name} is a {a}." + f" Every {wrong} is a {a}." * (i % 2)
        result.append({"question": f"{facts} Is {name} a {c} or {d}?", "answer": f"{name} is a {right}."})
    return result


def prepare(out: Path) -> None:
    """Base and questions, and the token ids that Coconut's code is given."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, PreTrainedTokenizerFast

    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from amvl_model.diagnostics.peers.coconut import MARKS, read_questions

    base = out / "base"
    base.mkdir(parents=True)
    (out / "questions.json").write_text(json.dumps(records(), indent=1) + "\n")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [text for record in records() for text in record.values()]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([*texts, "### "], trainer)
    eos = "<|endoftext|>"
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, unk_token=eos, pad_token=eos)
    wrapped.save_pretrained(base)
    end = wrapped.eos_token_id
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 256}
    drop = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    GPT2Config(vocab_size=len(wrapped), **sizes, **drop, bos_token_id=end, eos_token_id=end).save_pretrained(base)
    wrapped.add_tokens(list(MARKS))
    start, stop, latent = wrapped.convert_tokens_to_ids(list(MARKS))
    tokens = [
        {
            "query": [*wrapped(q.question + "\n")["input_ids"], start] + [latent] * LATENTS + [stop],
            "options": [[*wrapped("### " + choice)["input_ids"], end] for choice in q.choices],
            "answer": q.answer,
        }
        for q in read_questions(out / "questions.json")
    ]
    marks = {"latent": latent, "start": start, "end": stop, "eos": end, "vocab": len(wrapped), **sizes}
    (out / "tokens.json").write_text(json.dumps({"marks": marks, "questions": tokens}) + "\n")


def train(out: Path, checkout: Path) -> None:
    """Some steps of Coconut's own forward pass and loss, its checkpoint, and its figures."""
    sys.path[:0] = [str(checkout), str(Path(__file__).resolve().parents[1])]
    from coconut import Coconut  # type: ignore[import-not-found]
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.peer_fixture import some_steps, write_reference

    given = json.loads((out / "tokens.json").read_text())
    marks, questions = given["marks"], given["questions"]
    torch.manual_seed(0)
    sizes = {name: marks[name] for name in ("n_embd", "n_layer", "n_head", "n_positions")}
    drop = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
    # a wide initialisation, so that a few steps of a tiny model already use what stands in the context
    language_model = GPT2LMHeadModel(GPT2Config(vocab_size=marks["vocab"], initializer_range=0.2, **sizes, **drop))
    model = Coconut(language_model, marks["latent"], marks["start"], marks["end"], marks["eos"])

    def forward(question: dict, option: int):  # type: ignore[no-untyped-def, type-arg]
        ids = torch.tensor([question["query"] + question["options"][option]])
        labels = ids.clone()
        labels[:, : len(question["query"])] = -100
        positions = torch.arange(ids.shape[1])[None]
        return ids, model(ids, torch.ones_like(ids), labels, positions)

    losses = some_steps(questions, forward, model.parameters(), steps=STEPS, rate=3e-3)
    torch.save(model.state_dict(), out / "checkpoint_1")
    write_reference(out, questions, forward, losses, options="options", latents=LATENTS)


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]))
    else:
        train(Path(sys.argv[2]), Path(sys.argv[3]).resolve())
