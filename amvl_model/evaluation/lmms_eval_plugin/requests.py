"""What lmms-eval asks for, as questions and decoding settings of this project. Free of lmms-eval and torch.

Images stand where lmms-eval's messages put them. A text may name them itself: if it holds as many marks ``<image>`` as
there are images, and the images come before all text, they stand at the marks. Other marks are dropped, as lmms-eval's
own Qwen2.5-VL does. Numbered marks such as ``<image 1>`` are words of the question and stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from PIL import Image

from amvl_model.data.images import decode_base64, decode_image, read_image, to_rgb
from amvl_model.data.schema import VisualQuestion

IMAGE_MARK: Final = "<image>"
_PARAGRAPH: Final = "\n\n"  # stop that lmms-eval gives to every task which names none


@dataclass(frozen=True, kw_only=True)
class DecodingSettings:
    """How a reply is decoded.

    Attributes:
        max_new_tokens: longest reply [tokens].
        until: the reply ends before the first of these texts.
        sample: draw tokens instead of taking the most likely one.
        temperature, top_p, top_k: of the draws; None leaves the distribution as it is.
        num_beams: beams of the search; 1 is none.
        repetition_penalty: transformers' factor against repeated tokens; 1 is none.
    """

    max_new_tokens: int
    until: tuple[str, ...] = ()
    sample: bool = False
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    num_beams: int = 1
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_beams"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}; correct --gen_kwargs")
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(f"temperature must be above 0 when sampling, got {self.temperature}; correct --gen_kwargs")

    def generate_options(self) -> dict[str, Any]:
        """Arguments of transformers' generate; nothing is left to a checkpoint's generation_config."""
        drawn = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        if self.sample:  # top_k: transformers' default is 50, 0 switches it off
            defaults = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
            drawn = {name: defaults[name] if value is None else value for name, value in drawn.items()}
        return {
            "max_new_tokens": self.max_new_tokens,
            "do_sample": self.sample,
            "num_beams": self.num_beams,
            "repetition_penalty": self.repetition_penalty,
            **drawn,
        }

    def cut(self, reply: str) -> str:
        """The reply up to the first stop text."""
        for stop in self.until:
            reply = reply.split(stop, 1)[0]
        return reply


def decoding_settings(
    generation_kwargs: Mapping[str, Any], *, max_new_tokens: int = 1024
) -> tuple[DecodingSettings, tuple[str, ...]]:
    """Settings from a task's ``generation_kwargs`` (with those of ``--gen_kwargs``).

    A temperature above 0 samples, unless ``do_sample`` is false; ``do_sample`` with a temperature of 0 does not.
    The stop text of a blank line is dropped: lmms-eval adds it where a task names no stop, its own Qwen2.5-VL drops it
    too, and a reply that opens with a blank line would be empty.

    Args:
        generation_kwargs: until, max_new_tokens (or max_gen_toks), temperature, do_sample, top_p, top_k, num_beams,
            repetition_penalty; a null is a setting that is not given.
        max_new_tokens: where the task gives none.

    Returns:
        the settings, and the names of the keys that mean nothing to this model.

    Raises:
        ValueError: for a value that cannot be used.
    """
    given = {name: value for name, value in generation_kwargs.items() if value is not None}
    until = given.pop("until", ())
    until = (until,) if isinstance(until, str) else tuple(until)
    if not all(isinstance(stop, str) for stop in until):
        raise ValueError(f"until must be a text or a list of texts, got {until!r}; correct --gen_kwargs or the task")
    temperature = float(given.pop("temperature", 0.0 if not given.get("do_sample") else 1.0))
    sample = temperature > 0 and bool(given.pop("do_sample", True))
    given.pop("do_sample", None)
    for name in ("top_p", "top_k"):  # they mean nothing without sampling, and tasks set them all the same
        value = given.pop(name, None)
        if sample and value is not None:
            given[f"drawn_{name}"] = value
    length = given.pop("max_new_tokens", given.pop("max_gen_toks", max_new_tokens))
    settings = DecodingSettings(
        max_new_tokens=length,
        until=tuple(stop for stop in until if stop and stop != _PARAGRAPH),
        sample=sample,
        temperature=temperature if sample else None,
        top_p=given.pop("drawn_top_p", None),
        top_k=given.pop("drawn_top_k", None),
        num_beams=given.pop("num_beams", 1),
        repetition_penalty=float(given.pop("repetition_penalty", 1.0)),
    )
    return settings, tuple(sorted(given))


def question_from_messages(messages: Sequence[Mapping[str, Any]], name: str) -> VisualQuestion:
    """A question from lmms-eval's chat messages: one user turn of texts and images.

    Args:
        messages: dictionaries with ``role`` and ``content`` (a text, or entries of type text or image).
        name: of the question, for messages.

    Raises:
        ValueError: for another number of turns, another role than user, a video or sound, or an unreadable image.
    """
    roles = [message["role"] for message in messages]
    if roles != ["user"]:
        raise ValueError(
            f"question {name!r}: expected one user turn, got {roles}; AMVL answers single questions, so leave tasks with "
            "system prompts, examples or several turns out"
        )
    content = messages[0]["content"]
    entries = [{"type": "text", "text": content}] if isinstance(content, str) else content
    parts: list[Any] = []
    for entry in entries:
        if entry["type"] == "text":
            parts.append(str(entry["text"]))
        elif entry["type"] == "image":
            parts += [as_image(visual, name) for visual in _flat([entry["url"]])]
        else:
            raise ValueError(f"question {name!r}: expected texts and images, got a {entry['type']}; leave the task out")
    return _question(parts, name)


def question_from_context(context: str, visuals: Iterable[Any] | None, name: str) -> VisualQuestion:
    """A question from the simple interface: a text and its images, which stand before it.

    Raises:
        ValueError: for an unreadable image.
    """
    return _question([*(as_image(visual, name) for visual in _flat(visuals or ())), context], name)


def as_image(visual: Any, name: str) -> Image.Image:
    """An image as RGB, from PIL, a path, base64 with or without a data URL, or the datasets library's cell.

    Raises:
        ValueError: for anything else, or what cannot be decoded.
    """
    if isinstance(visual, Image.Image):
        return to_rgb(visual, f"question {name!r}")
    if isinstance(visual, Mapping) and visual.get("bytes") is not None:
        return decode_image(visual["bytes"], f"question {name!r}")
    if isinstance(visual, str) and visual.startswith("data:image/"):
        return decode_base64(visual.partition("base64,")[2], f"question {name!r}")
    if isinstance(visual, str | Path) and Path(visual).is_file():
        return read_image(Path(visual), f"question {name!r}")
    shown = repr(visual)
    raise ValueError(
        f"question {name!r}: expected an image (PIL, file, data URL), got {shown[:80]}; AMVL reads images only, so leave "
        "tasks with videos, sound or images behind addresses out"
    )


def _flat(visuals: Iterable[Any]) -> list[Any]:
    result: list[Any] = []
    for visual in visuals:
        if isinstance(visual, list | tuple):
            result += _flat(visual)
        elif visual is not None:
            result.append(visual)
    return result


def _question(parts: Sequence[Any], name: str) -> VisualQuestion:
    images = tuple(part for part in parts if not isinstance(part, str))
    lead = next((i for i, part in enumerate(parts) if isinstance(part, str)), len(parts))
    leading = not any(not isinstance(part, str) for part in parts[lead:])
    text = "".join(part for part in parts if isinstance(part, str))
    if leading:
        marked = bool(images) and text.count(IMAGE_MARK) == len(images)
        prompt = text if marked else text.replace(IMAGE_MARK, "")
    else:
        prompt = "".join(p.replace(IMAGE_MARK, "") if isinstance(p, str) else IMAGE_MARK for p in parts)
    return VisualQuestion(id=name, images=images, prompt=prompt, answer_text="", source="lmms-eval")
