r"""Which option a reply chooses: one parser, the same for every benchmark and every model.

Published scores of one model differ by 16 points because of this step: a parser that takes the first letter reads
"The answer is (B)" as T, one that looks at the last words misses ``<answer>B</answer>``, and several pick at random
where they cannot read. `parse_choice` never picks: a reply is read only where it says which option it means, and an
unread reply is None, to be counted wrong and reported as unparsed (`accuracy_report` in
`amvl_model.results.statistics`).

Options are labelled A, B, C, ... in the order of ``choices``. Order of the rules:

0. Cleaning. Unicode is normalised (full-width letters and brackets become plain ones); thoughts are dropped
   (``<think>`` to ``</think>``; to the end if never closed; from the start if never opened), and so are special
   tokens, Markdown emphasis and LaTeX wrappers.
1. Whole reply. The reply is nothing but a label ("(B)", "b)", "Option B"), an option text ("the third image", "two"
   for the option "2"), or a label with its own text ("B: 3").
2. Explicit statements, the last of which wins: ``<answer>..</answer>``, ``\boxed{..}``, "the answer is ..", "I choose
   ..", "so ..", ".. is correct", "答案是 ..", and a line that is nothing but one option (unless lines name different
   options). If the last one is unfinished ("The answer is ("), names two options, or names a letter beyond the
   options, the reply is unread. Questions, conditions and negated statements are no statements.
3. Opening. The reply opens with an option and goes on after a stop: "(B) Because ..", "Yes, ..". It does not count if
   the reply then goes through other options one by one ("A. .." and on a new line "B. ..") or takes it back.
4. Mentions. The reply is no refusal, and all that it mentions without negating or comparing ("not A", "darker than
   B", "C is wrong") is one option: its text anywhere ("There are 2 floats"), or its letter where a clause ends ("It
   must be B."). No mentions: a letter that is the subject of a clause ("A is ..") or a place ("at A"), the article A,
   the pronoun I, what is only looked at ("consider the third image").

Wherever two readings compete the reply is unread: "A or B", "A, B", "(B) 3" where 3 is the text of (A), and a bare "A"
where the text of option B is "A". What the rules cannot exclude: a sentence that mentions one option's text, and only
that, while meaning another.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from amvl_model.evaluation import reply_patterns as rp

_UNSURE = -1
"""A statement was made, but which option it means is not known."""


@dataclass(frozen=True)
class _Found:
    """An option named between ``start`` and ``end``; ``value`` is its index or _UNSURE."""

    start: int
    end: int
    value: int
    is_letter: bool


def parse_choice(reply: str, choices: Sequence[str]) -> int | None:
    """Index of the option that ``reply`` chooses, or None where the reply does not say; never a guess.

    The rules and their order are in the docstring of this module: whole reply, last explicit statement, opening,
    the only option mentioned.

    Args:
        reply: what the model generated, special tokens and thoughts included.
        choices: the option texts in the order in which the prompt labels them A, B, C, ...

    Returns:
        an index into ``choices``, or None.

    Raises:
        ValueError: if ``choices`` is empty.
        TypeError: if ``choices`` is one string, or ``reply`` is none.
    """
    if isinstance(choices, str):
        raise TypeError(f"expected a sequence of option texts, got the string {choices!r}; pass a list of options")
    if not isinstance(reply, str):
        raise TypeError(f"expected the reply as a string, got {type(reply).__name__}; decode the tokens first")
    if not choices:
        raise ValueError("expected at least one choice, got none; open questions are not scored by parse_choice")
    value = _reader(tuple(choices)).read(_clean(reply))
    return None if value == _UNSURE else value


def _normalise(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace("’", "'").replace("‘", "'").replace("\r\n", "\n")


def _clean(reply: str) -> str:
    """Rule 0."""
    text = rp.THOUGHT.sub("\n", _normalise(reply))
    text = rp.THOUGHT_UNOPENED.sub("\n", text)
    if "<answer>" not in text.lower():
        text = rp.STRAY_CLOSE.sub(" ", text)
    text = rp.LATEX_DELIMITER.sub(" ", rp.SPECIAL_TOKEN.sub(" ", text))
    text = rp.MARKDOWN.sub("", rp.LATEX_FONT.sub(r"\1", text))
    return text.strip()


@lru_cache(maxsize=4096)
def _reader(choices: tuple[str, ...]) -> _Reader:
    return _Reader(choices)


def _text_pattern(text: str) -> str:
    """Regular expression for an option text: any case and spacing, leading article optional, numbers also as words."""
    words = text.split()
    if len(words) > 1 and words[0].lower() in {"the", "a", "an"}:
        prefix, words = rf"(?:{words[0]}\s+)?", words[1:]
    else:
        prefix = ""
    body = r"\s+".join(re.escape(word) for word in words)
    number = text.lower()
    if number in rp.NUMBER_WORDS:
        number = str(rp.NUMBER_WORDS.index(number))
    if number.isdecimal() and len(number) <= 2 and int(number) < len(rp.NUMBER_WORDS):
        body = rf"(?:{number}|{rp.NUMBER_WORDS[int(number)]})"
    left = r"(?<![A-Za-z0-9_])(?<!\d[.,/:])(?<![\-−$]\b)" if text[0].isascii() and text[0].isalnum() else ""
    right = r"(?![A-Za-z0-9_])" if text[-1].isascii() and text[-1].isalnum() else ""
    if text[-1].isdecimal() or number.isdecimal():
        right += r"(?![.,/:]\d)(?!\s*[%°]|\s*[\-–]\s*\d)"
    if text.lower() == "no":
        right += rf"(?:{rp.STOP}|(?=\s+(?:it|the|they|this|that|he|she)\b))"
    elif text.lower() in rp.WEAK_TEXTS:
        right += rp.STOP
    return left + prefix + body + right


class _Reader:
    """The rules for one tuple of option texts; keeps the compiled expressions."""

    def __init__(self, choices: tuple[str, ...]) -> None:
        self.size = len(choices)
        texts = [" ".join(_normalise(choice).split()).rstrip(".") for choice in choices]
        self.letter_texts: dict[str, set[int]] = {}
        self.marks: dict[str, set[int]] = {}
        groups: dict[str, set[int]] = {}
        for index, text in enumerate(texts):
            if len(text) == 1 and text.isascii() and text.isalpha():
                self.letter_texts.setdefault(text.upper(), set()).add(index)
            elif text:
                groups.setdefault(text.lower(), set()).add(index)
            for mark in re.findall(r"(?<![A-Za-z0-9'])[A-Z](?![A-Za-z0-9'])", text.upper() if len(text) == 1 else text):
                self.marks.setdefault(mark, set()).add(index)
        ordered = sorted(groups, key=len, reverse=True)
        self.text_values = [next(iter(groups[t])) if len(groups[t]) == 1 else _UNSURE for t in ordered]
        patterns = [_text_pattern(text) for text in ordered] or ["(?!)"]
        any_text = "|".join(f"(?P<t{i}>{pattern})" for i, pattern in enumerate(patterns))
        self.bracketed_text = re.compile(rf"[(\[{{\"'“]?(?:{any_text})", re.IGNORECASE)
        self.named = re.compile(f"(?i:{any_text})|{rp.ANNOUNCED}(?!(?i:{'|'.join(patterns)})){rp.LETTER}")

    # One option at one place.

    def _letter(self, match: re.Match[str], text: str, end: int, *, in_sentence: bool) -> int | None:
        """Index that a letter names, _UNSURE for two readings or none, or None where it is no name (the article A)."""
        bracketed, bare = match["bracketed"], match["bare"]
        letter = (bracketed or bare).upper()
        if bare and not match["half"]:
            after = rp.AFTER_LETTER.match(text, match.end(), end)
            if bare.islower() and not after:
                return None
            if letter == "A" and not rp.AFTER_ARTICLE_LETTER.match(text, match.end(), end):
                return None
            if letter == "I" and (bare.islower() or not rp.AFTER_PRONOUN_LETTER.match(text, match.end(), end)):
                return None
        label = {ord(letter) - ord("A")} & set(range(self.size))
        if match["mark"]:
            readings = self.marks.get(letter, set())
        elif match["label"] or bracketed:
            readings = label
        else:
            readings = label | (self.marks if in_sentence else self.letter_texts).get(letter, set())
        return next(iter(readings)) if len(readings) == 1 else _UNSURE

    def _found(self, match: re.Match[str], text: str, end: int, *, in_sentence: bool) -> _Found | None:
        group = match.lastgroup or ""
        if re.fullmatch(r"t\d+", group):
            return _Found(match.start(), match.end(), self.text_values[int(group[1:])], is_letter=False)
        value = self._letter(match, text, end, in_sentence=in_sentence)
        return None if value is None else _Found(match.start(), match.end(), value, is_letter=True)

    def _option_at(self, text: str, start: int, end: int) -> _Found | None:
        """The option named at ``start``, after quotes, or None."""
        opened = rp.OPENERS.match(text, start, end)
        start = opened.end() if opened else start
        match = self.named.match(text, start, end) or self.bracketed_text.match(text, start, end)
        return self._found(match, text, end, in_sentence=False) if match else None

    def _options_at(self, text: str, start: int, end: int) -> _Found | None:
        """The options named one after the other from ``start``: one value if they agree ("B: 3"), else _UNSURE."""
        found = self._option_at(text, start, end)
        if found is None:
            return None
        while True:
            gap = rp.SEPARATOR.match(text, found.end, end)
            after = gap.end() if gap else found.end
            following = self._option_at(text, after, end) or self._option_at(text, found.end, end)
            if following is None or following.end <= found.end:
                return found
            if following.is_letter and not rp.AFTER_LETTER.match(text, following.end, end):
                return found
            value = found.value if following.value == found.value else _UNSURE
            found = _Found(found.start, following.end, value, found.is_letter and following.is_letter)

    def _whole(self, text: str, start: int, end: int) -> int | None:
        """Rule 1 for one stretch of text."""
        found = self._options_at(text, start, end)
        if found is None or not rp.ONLY_PUNCTUATION.match(text, found.end, end):
            return None
        if re.fullmatch(r"\W*[Aa]:\s*", text[start:end]):
            return _UNSURE  # "A:" announces an answer as often as it is one
        return found.value

    # The rules.

    def read(self, text: str) -> int | None:
        """Rules 1 to 4 on a cleaned reply: an index, _UNSURE, or None."""
        whole = self._whole(text, 0, len(text))
        if whole is not None:
            return whole
        marks, plain = self._marked(text)
        lines = list(self._lines(plain))
        statements = marks + list(self._stated(plain)) + list(self._affirmed(plain))
        if len({value for _, value in lines}) == 1:
            statements += lines
        if statements:
            end, value = max(statements, key=lambda item: item[0])
            return _UNSURE if self._is_retracted(plain, end, value) else value
        if len({value for _, value in lines}) > 1:
            return _UNSURE
        opening = self._opening(plain)
        if opening is not None:
            return opening
        if rp.REFUSAL.search(plain) or any(first != second for first, second in rp.RUN_ON.findall(plain)):
            return None
        return self._only_mention(plain, 0, len(plain))

    def _marked(self, text: str) -> tuple[list[tuple[int, int]], str]:
        """Statements in answer tags and boxes as (position, value), and the text with those marks blanked out."""
        statements: list[tuple[int, int]] = []
        spans: list[tuple[int, int]] = []
        for match in rp.ANSWER_TAG.finditer(text):
            value = self.read(match[1].strip())
            statements.append((match.end(1), _UNSURE if value is None else value))
            spans += [(match.start(), match.start(1)), match.span(2)]
        for match in rp.BOXED.finditer(text):
            close = _closing_brace(text, match.end())
            spans += [match.span(), *([(close, close + 1)] if close is not None else [])]
            content = "" if close is None else text[match.end() : close].strip()
            if not rp.BOXED.search(content):  # a box in a box makes its own statement
                value = self.read(content)
                statements.append((len(text) if close is None else close, _UNSURE if value is None else value))
        characters = list(text)
        for start, end in spans:
            characters[start:end] = " " * (end - start)
        return statements, "".join(characters)

    def _lines(self, text: str) -> Iterator[tuple[int, int]]:
        """Lines that are nothing but one option."""
        for match in re.finditer(r"[^\n]+", text):
            if (value := self._whole(text, *match.span())) is not None:
                yield match.end(), value

    def _stated(self, text: str) -> Iterator[tuple[int, int]]:
        """Statements after "the answer is", "I choose", "so" and the like."""
        for pattern, is_weak in ((rp.CUE, False), (rp.WEAK_CUE, True)):
            for cue in pattern.finditer(text):
                end = _sentence_end(text, cue.end())
                if _is_open(text, cue.start(), end):
                    continue
                found = self._after_cue(text, cue.end())
                if found is not None and is_weak and not rp.AT_STOP.match(text, found.end):
                    continue
                if found is not None and rp.OR.match(text, found.end):
                    found = _Found(found.start, found.end, _UNSURE, is_letter=found.is_letter)
                if found is not None and text[found.start : found.end] == "a" and not cue[0].endswith(":"):
                    found = _Found(found.start, found.end, _UNSURE, is_letter=True)  # "The answer is a", cut off
                if found is not None:
                    yield found.end, found.value
                elif not is_weak:
                    value = self._only_mention(text, cue.end(), end)
                    if value is not None:
                        yield end, value
                    elif rp.ONLY_PUNCTUATION.match(text, cue.end()):
                        yield len(text), _UNSURE

    def _after_cue(self, text: str, position: int) -> _Found | None:
        """The options named at ``position``, filler words such as "clearly the" skipped."""
        while True:
            blanks = rp.BLANKS.match(text, position)
            found = self._options_at(text, blanks.end() if blanks else position, len(text))
            filler = rp.FILLER.match(text, position)
            if found is not None or filler is None:
                return found
            position = filler.end()

    def _affirmed(self, text: str) -> Iterator[tuple[int, int]]:
        """Statements of the form "(B) is the correct answer"."""
        for match in self.named.finditer(text):
            found = self._found(match, text, len(text), in_sentence=False)
            if found is None:
                continue
            suffix = rp.IS_CORRECT.match(text, found.end)
            if suffix is None or _is_open(text, found.start, _sentence_end(text, suffix.end())):
                continue
            if not rp.NEGATED_BEFORE.search(_clause_before(text, found.start)):
                yield suffix.end(), found.value

    def _opening(self, text: str) -> int | None:
        """Rule 3."""
        found = self._options_at(text, 0, len(text))
        if found is None or rp.NEGATED_AFTER.match(text, found.end) or text[found.end :].lstrip()[:1] in {"?", "？"}:
            return None
        if found.value == _UNSURE or rp.OR.match(text, found.end):
            return _UNSURE
        opening = text[: found.end]
        rest = text[found.end :]
        if found.is_letter:
            goes_on = re.match(r"\s*[A-Z]" if opening.endswith((")", "]")) else r"(?!)", rest)
            accepted = goes_on or re.match(rp.STOP + r"|\s+[-–—]", rest)
        elif opening.lower().lstrip("\"'(") == "yes":
            accepted = re.match(r"\s", rest) or re.match(rp.STOP, rest)
        else:
            is_number = opening.strip("\"'(").isdecimal()
            accepted = re.match(r"\s*[,;!\n]|\s+because\b" if is_number else rp.STOP + r"|\s+[-–—]", rest)
        if found.is_letter and any(match[1].upper() not in opening.upper() for match in rp.LIST_ITEM.finditer(rest)):
            return _UNSURE  # the options are gone through one by one
        if not accepted or (not found.is_letter and rp.REFUSAL.search(rest)):
            return None
        return _UNSURE if self._is_retracted(text, found.end, found.value) else found.value

    def _is_retracted(self, text: str, start: int, value: int) -> bool:
        """Whether another option is put forward from ``start`` on after a "wait" or the like."""
        retraction = rp.RETRACTION.search(text, start)
        return retraction is not None and bool(self._mentions(text, start, len(text))[0] - {value})

    def _only_mention(self, text: str, start: int, end: int) -> int | None:
        """Rule 4 between two positions: the one option mentioned there, _UNSURE for several, None for none."""
        values, negated = self._mentions(text, start, end)
        if not values:
            return None
        return _UNSURE if len(values) > 1 or values & negated else values.pop()

    def _mentions(self, text: str, start: int, end: int) -> tuple[set[int], set[int]]:
        """Options named between two positions: those put forward, and those negated or compared with."""
        values: set[int] = set()
        negated: set[int] = set()
        for match in self.named.finditer(text, start, end):
            found = self._found(match, text, end, in_sentence=True)
            if found is None:
                continue
            before = _clause_before(text, found.start)
            if rp.NEGATED_AFTER.match(text, found.end) or rp.NEGATED_BEFORE.search(before):
                negated.add(found.value)
            elif not self._is_talked_about(text, found, before) and (
                self._is_put_forward(text, found, end) if found.is_letter else not _is_counting_word(text, found)
            ):
                values.add(found.value)
        return values, negated

    @staticmethod
    def _is_talked_about(text: str, found: _Found, before: str) -> bool:
        """Whether an option is named in a question, under a condition, or as something to look at."""
        stop = _sentence_end(text, found.end)
        return (
            text[stop : stop + 1] in {"?", "？"}
            or rp.CONDITION_BEFORE.search(text, max(0, found.start - 200), found.start) is not None
            or rp.TALKED_ABOUT.search(before) is not None
        )

    def _is_put_forward(self, text: str, letter: _Found, end: int) -> bool:
        """Whether a letter ends a clause or has its own text beside it, and is no item of a list and no place."""
        line_start = text.rfind("\n", 0, letter.start)
        is_first = line_start >= 0 and not text[line_start : letter.start].strip(" \n-•")
        before = _clause_before(text, letter.start)
        is_bare = len(text[letter.start : letter.end].strip("\"'“‘「 ")) == 1
        if is_first and rp.LIST_ITEM.match(text, line_start):
            return False
        if rp.LETTER_IN_A_PLACE.search(before) or (is_bare and not rp.LETTER_STANDS.search(before)):
            return False
        return rp.AFTER_MENTION.match(text, letter.end, end) is not None or self._has_own_text(text, letter, end)

    def _has_own_text(self, text: str, letter: _Found, end: int) -> bool:
        gap = rp.SEPARATOR.match(text, letter.end, end)
        following = self._option_at(text, gap.end() if gap else letter.end, end)
        return following is not None and not following.is_letter and following.value == letter.value


def _closing_brace(text: str, start: int) -> int | None:
    """Position of the brace that closes the one before ``start``, or None if it is never closed."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position
    return None


def _sentence_end(text: str, start: int) -> int:
    """Position of the stop that ends the sentence around ``start`` (leading blanks and brackets skipped)."""
    stop = rp.SENTENCE_STOP.search(text, start + len(text[start:]) - len(text[start:].lstrip()))
    return stop.start() if stop else len(text)


def _clause_before(text: str, position: int) -> str:
    """The part before ``position`` of the clause around it."""
    stretch = text[max(0, position - 100) : position]
    starts = [match.end() for match in rp.CLAUSE_START.finditer(stretch)]
    return stretch[starts[-1] :] if starts else stretch


def _is_open(text: str, start: int, end: int) -> bool:
    """Whether a statement from ``start`` to the end of its sentence is a question or a condition."""
    return text[end : end + 1] in {"?", "？"} or rp.CONDITION.search(_clause_before(text, start)) is not None


def _is_counting_word(text: str, found: _Found) -> bool:
    """Whether an option text is used as something else: "image 2", the "1." of a list, "this one", "all right"."""
    named, before = text[found.start : found.end].lower(), text[: found.start]
    if named == "one" and not rp.THERE_IS.search(before):
        return True
    if named == "right" and rp.RIGHT_IDIOM.search(text[max(0, found.start - 4) : found.end + 8]):
        return True
    if (named.isdecimal() or named in rp.NUMBER_WORDS) and re.match(r"\s+of\b", text[found.end :]):
        return True
    if not named.isdecimal():
        return False
    in_list = re.search(r"(?:\A|[.!?:\n])\s*\Z", before) and re.match(r"[.)]\s+\w", text[found.end :])
    return rp.NUMBERED_THING.search(before) is not None or in_list is not None
