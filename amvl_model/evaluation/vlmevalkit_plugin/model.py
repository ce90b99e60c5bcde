"""The class that VLMEvalKit drives under the name ``AMVL``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmeval.vlm.base import BaseModel

from amvl_model.data.schema import LETTERS, format_prompt
from amvl_model.evaluation.lmms_eval_plugin.decoding import ModelOptions
from amvl_model.evaluation.lmms_eval_plugin.requests import DecodingSettings, question_from_messages

PROMPTS = ("vlmevalkit", "blink")


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions):
    """What a configuration of VLMEvalKit says.

    Attributes:
        prompt: "vlmevalkit", the benchmark's own, or "blink": question and lettered options as BLINK and our training write
            them, for multiple-choice benchmarks with images.
        device: default: a GPU if there is one.
    """

    prompt: str = "vlmevalkit"
    device: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prompt not in PROMPTS:
            raise ValueError(f"prompt must be one of {', '.join(PROMPTS)}, got {self.prompt!r}")


class AMVL(BaseModel):
    """An AMVL checkpoint or a plain Qwen-VL folder; tokens are decoded greedily, one question at a time.

    Args:
        pretrained, **options: see `ModelOptions` and `Options`.

    Raises:
        ValueError: for an unknown argument or a value that cannot be used.
        FileNotFoundError: if the checkpoint is missing or incomplete.
    """

    INTERLEAVE = True
    allowed_types = ["text", "image"]
    is_api = False

    def __init__(self, pretrained: str = "", **options: Any) -> None:
        super().__init__()
        given = Options.of({"pretrained": pretrained, **options})
        self.prompt = given.prompt
        self.decoding = DecodingSettings(max_new_tokens=given.max_new_tokens)
        self.answerer = given.load(given.device)

    def generate_inner(self, message: Sequence[Mapping[str, str]], dataset: str | None = None) -> str:
        """The reply to one message.

        Args:
            message: dictionaries with ``type`` ("text" or "image") and ``value`` (a text, or a file).
            dataset: name of the benchmark, for messages.

        Raises:
            ValueError: for an unreadable image, or a message without one.
        """
        name = dataset or "message"
        content = [
            {"type": "text", "text": part["value"]}
            if part["type"] == "text"
            else {"type": part["type"], "url": part["value"]}
            for part in message
        ]
        question = question_from_messages([{"role": "user", "content": content}], name)
        # VLMEvalKit gives no index; a question is told from the others by its text and the names of its files
        key = "\0".join(Path(p["value"]).name if p["type"] == "image" else p["value"] for p in message)
        return self.answerer.replies([question], [f"{name}\0{key}"], self.decoding)[0].text

    def use_custom_prompt(self, dataset: str) -> bool:
        """Whether `build_prompt` takes the benchmark's place."""
        if self.prompt == "vlmevalkit":
            return False
        from vlmeval.dataset import DATASET_MODALITY, DATASET_TYPE

        return DATASET_MODALITY(dataset) == "IMAGE" and DATASET_TYPE(dataset) == "MCQ"

    def build_prompt(self, line: Mapping[str, Any], dataset: str | None = None) -> list[dict[str, str]]:
        """Images, question and lettered options of one row of the benchmark's table."""
        texts = (line.get(letter) for letter in LETTERS)
        choices = [str(text) for text in texts if text is not None and text == text]  # an absent option is NaN
        images = [{"type": "image", "value": str(path)} for path in self.dump_image(line, dataset)]
        return [*images, {"type": "text", "value": format_prompt(str(line["question"]), choices)}]
