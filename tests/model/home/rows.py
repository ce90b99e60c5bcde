"""The table of conventions: what a user of transformers expects, one function a row, run in fresh processes.

``python tests/model/home/rows.py GROUP...`` runs groups and prints {row: "" or what went wrong} as its last line;
``python tests/model/home/rows.py table`` prints the table of docs/howto/conventions.md.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

ROWS: dict[str, dict[str, Callable[[Any], None]]] = {}
ROOT = Path(__file__).resolve().parents[3]
TINY, AMVL = (ROOT / "amvl_model" / "assets" / name for name in ("tiny-base", "tiny-amvl"))


def row(*groups: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Add a function to the table."""

    def add(function: Callable[[Any], None]) -> Callable[[Any], None]:
        for group in groups:
            ROWS.setdefault(group, {})[function.__name__] = function
        return function

    return add


def refuses(pattern: str, call: Callable[[], Any], kind: type[Exception] = ValueError) -> None:
    """Check that a call raises one sentence that matches."""
    try:
        call()
    except kind as error:
        assert re.search(pattern, str(error)) and "\n" not in str(error), f"expected {pattern!r}, got {error}"
    else:
        raise AssertionError(f"nothing was refused; expected {pattern!r}")


class Home:
    """What the rows of one process share; everything is loaded once, by transformers' own Auto classes."""

    folder: Path  # one a row, removed behind it

    @cached_property
    def processor(self) -> Any:
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(AMVL)

    @cached_property
    def amvl(self) -> Any:
        from transformers import AutoModelForImageTextToText

        return AutoModelForImageTextToText.from_pretrained(AMVL)

    @cached_property
    def models(self) -> list[tuple[Any, dict[str, Any]]]:
        """AMVL, sft and pause, each with the options that make its replies repeatable."""
        from amvl_model import PauseForConditionalGeneration

        baselines = [PauseForConditionalGeneration.from_backbone(TINY, pauses).eval() for pauses in (0, 3)]
        return [(self.amvl, {"latent_temperature": 0.0}), *((model, {}) for model in baselines)]

    @cached_property
    def images(self) -> list[Any]:
        from PIL import Image

        return [Image.new("RGB", (112, 112), "red"), Image.new("RGBA", (56, 112), (0, 0, 255, 40))]

    @property
    def chats(self) -> list[list[dict[str, Any]]]:
        """One image, several images, several turns, text only."""
        first, second = self.images
        several = user("Which one is nearer, and why do you think so?", first, second)
        turns = [*user("How many?", first), reply("(A)"), *user("And now?")]
        return [user("How many circles are there?", first), several, turns, user("Text only")]

    def encode(self, chats: Any, side: str = "right", **options: Any) -> Any:
        options = {"add_generation_prompt": True, "processor_kwargs": {"padding_side": side}} | options
        return self.processor.apply_chat_template(chats, tokenize=True, return_dict=True, **options)

    @cached_property
    def batch(self) -> Any:
        return self.encode(self.chats)

    def labelled(self, side: str) -> tuple[Any, Any]:
        """A batch of questions with answers in one sequence, and its labels."""
        import torch

        batch = self.encode([[*chat, reply("(B)")] for chat in self.chats], side, add_generation_prompt=False)
        answer = self.processor.encode_answer("(B)")
        labels = torch.full_like(batch["input_ids"], -100)
        for ids, target in zip(batch["input_ids"], labels, strict=True):
            windows = ids.unfold(0, len(answer), 1)
            start = int((windows == answer).all(1).nonzero()[-1])
            target[start : start + len(answer)] = answer
        return batch, labels


def user(text: str, *images: Any) -> list[dict[str, Any]]:
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def reply(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


PAGE = ROOT / "docs" / "howto" / "conventions.md"
GROUPS = {
    "package first": "Auto classes, with `import amvl_model` first",
    "transformers first": "Auto classes, with transformers first",
    "processor": "Processor",
    "generate": "Generation",
    "model": "Model",
    "loading": "Loading and saving",
    "compiled": "Compilation",
    "quantised": "Quantisation, where bitsandbytes is installed",
    "trainer": "Training, peft",
}


def table() -> str:
    """The table of conventions as the documentation shows it."""
    lines = ["| | what a test of `tests/model/home` shows |", "| --- | --- |"]
    for group, title in GROUPS.items():
        for number, name in enumerate(ROWS[group]):
            lines.append(f"| {'' if number else title} | {name.replace('_', ' ')} |")
    return "\n".join(lines)


def main(*groups: str) -> None:
    import torch

    torch.set_num_threads(1)
    home, found = Home(), {}
    for name, function in [item for group in groups for item in ROWS[group].items()]:
        try:
            with tempfile.TemporaryDirectory() as folder:
                home.folder = Path(folder)
                function(home)
            found[name] = ""
        except Exception:
            found[name] = traceback.format_exc(limit=-3)
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    from tests.model.home import rows, rows_generate, rows_loading, rows_model, rows_processor, rows_trainer  # noqa: F401  they fill the table

    print(rows.table()) if sys.argv[1:] == ["table"] else rows.main(*sys.argv[1:])
