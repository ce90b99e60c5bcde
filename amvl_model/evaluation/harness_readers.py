"""How other harnesses read a reply, reimplemented from their description, so that their scores can be compared with ours.

`amvl_model.evaluation.parsing.parse_choice` is what this project scores with. The readers here are for comparison only:

    lmms-eval blink to 0.7.2   the first letter of the reply, after brackets and blanks: "The answer is (B)" is T
    lmms-eval blink 0.7.3      only letters of the question's options: a first line of at most four characters that is one;
                               else the last "answer is B"; else the last "(B)"; else the first letter of the reply, be it
                               that of a word: "Because" is B
    lmms-eval vstar            a leading letter A to D; "answer is B"; "(B)"; "B."; a letter between blanks; the only A to D
    lmms-eval visual-puzzles   the last "Answer: B", else the last "(B)", "B)", "{B}", "$B$", " B.", a bare letter in a reply
                               of at most five characters, the option text that stands last; else a random option
    VLMEvalKit exact           the only option letter among the words, if among the last four (it may be the article A); else
                               "answer is B"; else the only option text in a short reply; else a random option

lmms-eval's HRBench asks a GPT judge and has no reader of its own. A random option is not drawn: it counts as its expectation,
1 / options. (lmms-eval 0.7.2 and 0.7.3, VLMEvalKit of 2026.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from amvl_model.data.schema import LETTERS


@dataclass(frozen=True)
class HarnessReader:
    """One harness's way to read a reply.

    Attributes:
        name: of harness and task.
        read: reply and option texts to an index, or None where nothing is found; the index may lie beyond the options.
        otherwise: what happens to a reply it cannot read: counted wrong, or a random option.
    """

    name: str
    read: Callable[[str, Sequence[str]], int | None]
    otherwise: Literal["wrong", "random"]

    def credit(self, reply: str, choices: Sequence[str], answer: int) -> float:
        """1 if the reply is read as the right option, 0 if not, 1 / options where an option would be drawn."""
        result = self.read(reply, choices)
        if result is None:
            return 1 / len(choices) if self.otherwise == "random" else 0.0
        return float(result == answer)


def _first_letter(reply: str, choices: Sequence[str]) -> int | None:
    match = re.match(r"[(\s]*([A-Za-z])", reply.strip())
    return LETTERS.index(match[1].upper()) if match else None


def blink_rule(reply: str, choices: Sequence[str]) -> tuple[int | None, str]:
    """lmms-eval 0.7.3's reading of a BLINK reply, and which of its rules made it ("nothing found" if none did)."""
    text, letters = reply.strip(), LETTERS[: len(choices)]
    line = text.split("\n", 1)[0].strip()
    short = re.match(rf"(?i)\(?([{letters}])\)?[\s.:,)]*$", line) if len(line) <= 4 else None
    letters_after_answer = re.findall(rf"(?i)answers?(?:\s+is)?\s*[:\-]?\s*\(?([{letters}])\)?(?![A-Za-z])", text)
    opening = re.match(rf"(?i)[(\s]*([{letters}])", text)
    result = {
        "short first line": [short[1]] if short else [],
        "last statement": letters_after_answer,
        "last letter in brackets": re.findall(rf"\(([{letters}])\)", text),
        "first letter of the reply": [opening[1]] if opening else [],
    }
    for rule, hits in result.items():
        if hits:
            return LETTERS.index(hits[-1].upper()), rule
    return None, "nothing found"


def _blink_letter(reply: str, choices: Sequence[str]) -> int | None:
    return blink_rule(reply, choices)[0]


_VSTAR = (
    r"^([A-D])",
    r"(?:ANSWER|CHOICE|OPTION)(?: IS)?[\s:]+([A-D])",
    r"\(([A-D])\)",
    r"([A-D])\s*[.)\]]",
    r"(?:^|\s)([A-D])(?:\s|$)",
)


def _vstar_letter(reply: str, choices: Sequence[str]) -> int | None:
    text = reply.strip().upper()
    for pattern in _VSTAR:
        if match := re.search(pattern, text):
            return LETTERS.index(match[1])
    only = re.findall("[A-D]", text)
    return LETTERS.index(only[0]) if len(only) == 1 else None


_PUZZLES = (
    r"Answer:\s*\(([A-Za-z])\)",
    r"(?<!Final )Answer:\s*([A-Za-z])",
    r"Answer:\s*([A-Za-z])",
    r"\(([A-Za-z])\)",
    r"([A-Za-z])\)",
    r"\{([A-Za-z])\}",
    r"\$([A-Za-z])\$",
    r" ([A-Da-d])\.",
)


def _puzzle_letter(reply: str, choices: Sequence[str]) -> int | None:
    text = reply if re.search(_PUZZLES[0], reply) else " " + reply.strip()
    for pattern in (*_PUZZLES, *((r" ([A-Da-d])",) if len(text) <= 5 else ())):
        for letter in reversed(re.findall(pattern, text)):
            if letter.upper() in "ABCD":
                return LETTERS.index(letter.upper())
    if all(choice.upper() in set(LETTERS) for choice in choices):
        return None  # drawn in the image: no texts to look for
    last = max(range(len(choices)), key=lambda i: text.rfind(choices[i]))
    return last if text.rfind(choices[last]) >= 0 else None


def _last_words(reply: str, choices: Sequence[str]) -> int | None:
    letters = LETTERS[: len(choices)]
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", reply).split()
    present = [letter for letter in letters if letter in words]
    if len(present) == 1 and words.index(present[0]) > len(words) - 5:
        return letters.index(present[0])
    match = re.search(r"(?i)answer\s+is\s+\**([A-D])\**", reply)
    if match and match[1].upper() in letters:
        return letters.index(match[1].upper())
    text = reply.lower()
    if len(text) > 2 * sum(len(choice) for choice in choices):
        return None
    named = [i for i, choice in enumerate(choices) if choice.lower() in text]
    return named[0] if len(named) == 1 else None


LMMS_EVAL_BLINK: Final = HarnessReader("lmms-eval blink to 0.7.2", _first_letter, "wrong")
LMMS_EVAL_BLINK_073: Final = HarnessReader("lmms-eval blink 0.7.3", _blink_letter, "wrong")
LMMS_EVAL_VSTAR: Final = HarnessReader("lmms-eval vstar", _vstar_letter, "wrong")
LMMS_EVAL_PUZZLES: Final = HarnessReader("lmms-eval visual-puzzles", _puzzle_letter, "random")
VLMEVALKIT_EXACT: Final = HarnessReader("VLMEvalKit exact", _last_words, "random")
READERS: Final[dict[str, tuple[HarnessReader, ...]]] = {
    "blink": (LMMS_EVAL_BLINK, LMMS_EVAL_BLINK_073, VLMEVALKIT_EXACT),
    "vstar": (LMMS_EVAL_VSTAR, VLMEVALKIT_EXACT),
    "hrbench4k": (VLMEVALKIT_EXACT,),
    "hrbench8k": (VLMEVALKIT_EXACT,),
    "visual-puzzles": (LMMS_EVAL_PUZZLES,),
}
"""The readers that are used for each benchmark elsewhere."""
