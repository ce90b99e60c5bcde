"""Rows of foreign data sets as questions: datasets.Dataset, streams, torch data sets, lists of dicts.

    messages, images               chat messages; the last one, the assistant's, is the answer
    prompt, completion, images     texts, or lists of messages

``images`` is a list, ``image`` one; PIL images, encoded bytes or paths, as the data set decodes them. Both may be missing where
messages carry their images, {"type": "image", "image": ...}, or are text alone. An image stands where {"type": "image"} or, in
a plain text, ``<image>`` says so; where all contents are plain texts that name none, all stand before the first user turn, as
in TRL.

Further columns are not read, except ``id``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from PIL import Image

from amvl_model.data.images import decode_image, read_image, to_rgb
from amvl_model.data.schema import VisualQuestion, short

PLACEHOLDER = "<image>"
ROLES = ("system", "user", "assistant")
EXPECTED = "expected the columns messages, or prompt and completion, with images where there are some"


def check_columns(names: Iterable[str], place: str) -> None:
    """Refuse columns from which no question can be made.

    Raises:
        ValueError: naming what is missing.
    """
    present = set(names)
    if "messages" in present or {"prompt", "completion"} <= present:
        return
    missing = {"prompt", "completion"} - present
    lacks = f"; {missing.pop()} is missing" if len(missing) == 1 else ""
    got = ", ".join(sorted(present)) or "no column"
    raise ValueError(f"{place}: {EXPECTED}, got {got}{lacks}; rename the columns (rename_column) or map the rows")


class RowQuestions(Sequence[VisualQuestion]):
    """A sequence of rows, or of questions, as questions; a row is read on access.

    Args:
        rows: anything with a length and integer indices.
        place: name of the set, for messages.

    Raises:
        ValueError: for columns from which no question can be made; for a bad row, when it is read.
    """

    def __init__(self, rows: Any, place: str) -> None:
        self.rows, self.place = rows, place
        if (names := getattr(rows, "column_names", None)) is not None:
            check_columns(names, place)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, item: int) -> VisualQuestion: ...
    @overload
    def __getitem__(self, item: slice) -> list[VisualQuestion]: ...
    def __getitem__(self, item: int | slice) -> VisualQuestion | list[VisualQuestion]:
        """Question ``item``, or the list of a slice."""
        if isinstance(item, slice):
            return [self[i] for i in range(*item.indices(len(self)))]
        return question_of(self.rows[item], item, self.place)


def question_of(row: Any, number: int, place: str) -> VisualQuestion:
    """A row as a question.

    Args:
        row: a mapping from column names, or a `VisualQuestion`, which is returned as it is.
        number: of the row, for its id and for messages.
        place: name of the set, for messages.

    Raises:
        ValueError: for missing columns, messages that are no dialogue with an answer at its end, images that no message names,
            and images that cannot be read.
    """
    if isinstance(row, VisualQuestion):
        return row
    place = f"{place}, row {number}"
    if not isinstance(row, Mapping):
        raise ValueError(f"{place}: {EXPECTED}, or a VisualQuestion, got {type(row).__name__}")
    check_columns([name for name, value in row.items() if value is not None], place)
    if row.get("messages") is not None:
        messages = _turns(row["messages"], "user", place)
    else:
        messages = [*_turns(row["prompt"], "user", place), *_turns(row["completion"], "assistant", place)]
    roles = [message["role"] for message in messages]
    if "user" not in roles[:-1] or roles[-1] != "assistant":
        raise ValueError(
            f"{place}: expected messages with a user turn and, at their end, the assistant's answer, got the roles "
            f"{', '.join(map(str, roles)) or 'of no message'}; add what is missing or leave the row out"
        )
    images = [_image(value, f"{place}, image {i}") for i, value in enumerate(_images(row, place), start=1)]
    before = [{"role": m["role"], "content": _parts(m["content"], place)} for m in messages[:-1]]
    if images and all(isinstance(m["content"], str) and PLACEHOLDER not in m["content"] for m in messages[:-1]):
        first = next(message for message in before if message["role"] == "user")
        first["content"] = [{"type": "image"} for _ in images] + first["content"]
    images = _in_order(before, images, place)
    return VisualQuestion(
        id=str(row["id"]) if row.get("id") is not None else str(number),
        images=tuple(images),
        prompt="\n".join(_text(message["content"]) for message in before if message["role"] == "user"),
        answer_text=_answer(messages[-1]["content"], place),
        messages=tuple(before),
    )


def _turns(value: Any, role: str, place: str) -> list[Mapping[str, Any]]:
    """A text as the one message of ``role``, messages as they are."""
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    if isinstance(value, Sequence) and all(isinstance(m, Mapping) and {"role", "content"} <= m.keys() for m in value):
        for message in value:
            further = [name for name in ("tool_calls", "tools") if message.get(name)]
            if message["role"] not in ROLES or further:
                raise ValueError(
                    f"{place}: expected messages of the roles {', '.join(ROLES)}, got "
                    f"{short(message['role'])}{f' with {further[0]}' if further else ''}; rename the role or leave the row out"
                )
        return list(value)
    raise ValueError(
        f'{place}: expected a text or a list of messages {{"role": ..., "content": ...}}, got {short(value)}'
    )


def _parts(content: Any, place: str) -> list[dict[str, Any]]:
    """A message's content as a list of parts; an image's part has the key ``image`` where it carries the image."""
    if isinstance(content, str):
        pieces = [piece for piece in re.split(f"({PLACEHOLDER})", content) if piece]
        return [{"type": "image"} if piece == PLACEHOLDER else {"type": "text", "text": piece} for piece in pieces]
    parts = []
    for part in content if isinstance(content, Sequence) else [content]:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append({"type": "text", "text": part["text"]})
        elif kind == "image":
            carried = next((part[key] for key in ("image", "path", "url") if part.get(key) is not None), None)
            parts.append({"type": "image"} | ({} if carried is None else {"image": carried}))
        else:
            raise ValueError(
                f'{place}: expected a text, {{"type": "text", "text": ...}} or {{"type": "image"}} in a message, '
                f"got {short(part)}"
            )
    return parts


def _in_order(messages: list[dict[str, Any]], images: list[Image.Image], place: str) -> list[Image.Image]:
    """The images in the order of their places; those that parts carry are taken out of them."""
    named = [part for message in messages for part in message["content"] if part["type"] == "image"]
    waiting = sum("image" not in part for part in named)
    if waiting != len(images):
        raise ValueError(
            f"{place}: its messages name {waiting} image(s) of the images column, which has {len(images)}; give each one a "
            f'place, {{"type": "image"}} or {PLACEHOLDER}, or write plain texts without places to put all before the question'
        )
    rest = iter(images)
    return [_image(part.pop("image"), place) if "image" in part else next(rest) for part in named]


def _images(row: Mapping[str, Any], place: str) -> list[Any]:
    if row.get("images") is not None and row.get("image") is not None:
        raise ValueError(f"{place}: expected images or image, got both; leave one out")
    value = row.get("images") if row.get("images") is not None else row.get("image")
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _image(value: Any, place: str) -> Image.Image:
    """A PIL image, the bytes or the path of one, or what datasets makes of an image that it does not decode."""
    if isinstance(value, Mapping) and {"bytes", "path"} & value.keys():
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes | bytearray):
        return decode_image(value, place)
    if isinstance(value, str | Path):
        return read_image(Path(value), place)
    return to_rgb(value, place)


def _answer(content: Any, place: str) -> str:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else _parts(content, place)
    if any(part["type"] != "text" for part in parts):
        raise ValueError(f"{place}: expected text in the assistant's answer, got an image; the model writes none")
    return _text(parts)


def _text(parts: Sequence[Mapping[str, Any]]) -> str:
    return "".join(part["text"] for part in parts if part["type"] == "text")
