"""The table of reply forms (reply_forms.txt), read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

LABELS = "ABCDEFGHI"


class Form(NamedTuple):
    """A reply to a question with these options, and the values that are right."""

    kind: str
    reply: str
    choices: tuple[str, ...]
    right: frozenset[int | None]


def _plain(text: str) -> str:
    return re.sub(r"⟨([0-9A-F]{4})⟩", lambda m: chr(int(m[1], 16)), text.replace("⏎", "\n"))


def _template(line: str, kind: str, choices: tuple[str, ...]) -> list[Form]:
    forms = []
    for index, text in enumerate(choices):
        label = LABELS[index].lower() if "english" in kind else LABELS[index]
        reply = line.format(label, t=text)
        upper = line.format(LABELS[index], t=text)
        for written in {reply, upper, upper[0].upper() + upper[1:]} if "english" in kind else {reply}:
            forms.append(Form(kind, written, choices, frozenset({index})))
    return forms


def load_forms() -> list[Form]:
    """All lines of the table; a template gives one form for each label."""
    forms: list[Form] = []
    kind, choices = "", ()
    for line in Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").splitlines():
        if header := re.fullmatch(r"\[([a-z, ]+): (.+)\]", line):
            kind, choices = header[1], tuple(_plain(text) for text in header[2].split(" | "))
        elif kind.startswith("templates") and line:
            forms += _template(_plain(line), kind, choices)
        elif kind and line:
            mark, reply = line[:3].strip(), _plain(line[3:])
            right = {None} if "?" in mark or mark == "-" else set()
            forms.append(Form(kind, reply, choices, frozenset(right | {LABELS.index(x) for x in mark if x in LABELS})))
    return forms
