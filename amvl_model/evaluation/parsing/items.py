"""The items of a reply: the options that it names, the concepts of `lexicon`, signs, and other words.

`find_items` takes at each word the longest of all phrases and option texts that begin there; an option text wins a tie.
A single letter is an option only where it can be no word: "a" before a stop, "A" not before a noun, "I" before a full
stop.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from string import punctuation
from typing import Any, Final
from unicodedata import category

from amvl_model.evaluation.parsing.kinds import (
    ADVERBS,
    CUTS,
    ENDS,
    IS,
    LISTS,
    NOUNS,
    SIGNS,
    STOPS,
    Kind,
)
from amvl_model.evaluation.parsing.kinds import Kind as K
from amvl_model.evaluation.parsing.lexicon import (
    ARTICLES,
    CLAUSE_CONDITIONS,
    LINKING_LETTERS,
    LINKING_WORDS,
    NUMBER_WORDS,
    PHRASES,
    WEAK_TEXTS,
    phrase_tree,
)
from amvl_model.evaluation.parsing.text import MARKS, Token, clean, is_wide, tokens

UNSURE: Final = -1
"""An option is named, but which one is not known."""

_TREE = phrase_tree(PHRASES)
_AFTER_LABEL_A = frozenset(
    {K.COPULA, K.IS_NOT, K.CANNOT, K.NOT, K.BUT, K.LEAVES, K.REMAINS, K.IF, K.WHETHER, K.LINK, K.AFFIRMS}
    | {K.WAIT, K.EXCEPT, K.SO, K.THEN, K.CHOOSE, K.AT_FIRST}
)
"""What comes after the label A, and not after the article."""
_AFTER_LOWER = frozenset({K.COPULA, K.IS_NOT, K.REMAINS, K.LEAVES, K.AFFIRMS, K.BUT, K.CANNOT})
_AFTER_LOWER_LISTED = frozenset({K.PLURAL, K.AUXILIARY, K.NOT, K.WRONG})
"""What comes after a label in lower case; the latter not after "a", unless it ends a list."""
_RUN = 24
"""Items that are passed over at most, which keeps the time linear."""


@dataclass(slots=True)
class Item:
    """A stretch of a reply.

    Attributes:
        kind: what it is.
        text: in lower case (of an option: as written).
        start, end: position in the cleaned reply.
        value: of an option, its index (or `UNSURE`), where it stands alone.
        in_sentence: the same inside a sentence, where "A" may be the mark in the image that an option text names.
        is_text: whether an option is named by its text rather than by its label.
        is_bracketed: whether a label stands in brackets.
    """

    kind: Kind
    text: str
    start: int
    end: int
    value: int = UNSURE
    in_sentence: int = UNSURE
    is_text: bool = False
    is_bracketed: bool = False


class Options:
    """The option texts as a tree of words, and the letters that occur in them."""

    def __init__(self, choices: Sequence[str]) -> None:
        self.size = len(choices)
        self.tree: dict[str, Any] = {}
        self.letter_texts: dict[str, set[int]] = {}
        self.marks: dict[str, set[int]] = {}
        for index, choice in enumerate(choices):
            result = [token for token in tokens(clean(choice)) if token.text not in MARKS]
            while len(result) > 1 and result[-1].text in {".", "。"}:
                result.pop()
            for token in result:
                if _is_letter(token.raw) and (token.raw.isupper() or len(result) == 1):
                    self.marks.setdefault(token.raw.upper(), set()).add(index)
            if len(result) == 1 and _is_letter(result[0].raw):
                self.letter_texts.setdefault(result[0].raw.upper(), set()).add(index)
            else:
                for words in _variants([token.text for token in result]):
                    node = self.tree
                    for word in words:
                        node = node.setdefault(word, {})
                    node.setdefault("", set()).add(index)

    def match(self, words: Sequence[Token], start: int) -> tuple[int, int]:
        """Index and number of words of the longest option text that begins at ``start``; no words if none does."""
        node, position, value, length = self.tree, start, UNSURE, 0
        while position < len(words):
            if words[position].text == "\n" and position > start:
                position += 1
                continue
            if (result := node.get(words[position].text)) is None:
                break
            node, position = result, position + 1
            if "" in node and _ends_well(words, start, position) and _is_apart(words, start, position):
                value, length = (next(iter(node[""])) if len(node[""]) == 1 else UNSURE), position - start
        return (value, length) if length and _begins_well(words, start) else (UNSURE, 0)

    def label(self, letter: str) -> set[int]:
        """The option that a letter labels, if any."""
        return {ord(letter) - ord("A")} & set(range(self.size))


@lru_cache(maxsize=4096)
def find_options(choices: tuple[str, ...]) -> Options:
    """`Options`, cached for the next reply to the same question."""
    return Options(choices)


def find_items(text: str, words: Sequence[Token], options: Options) -> list[Item]:
    """The items of a cleaned reply and its tokens; the last one is of kind END."""
    items: list[Item] = []
    position = 0
    while position < len(words):
        first = words[position]
        kind, length = _longest_phrase(words, position)
        if (
            kind is K.WAIT
            and first.text == "不"
            and items
            and items[-1].kind in {K.OPTION, K.LETTER, K.SUFFIX, K.CLOSE}
        ):
            kind, length = K.WRONG, length - 1  # "A is wrong, ..", not "A. No, .."
        value, n_words = options.match(words, position)
        if n_words >= length:
            kind, length = K.OPTION, n_words
        elif length == 1 and _is_letter(first.raw):
            kind = K.LETTER
        end = words[position + length - 1].end
        written = text[first.start : end]
        if kind is K.OPTION:
            items.append(Item(kind, written, first.start, end, value, value, is_text=True))
        else:
            items.append(Item(kind, written if kind is K.LETTER else written.lower(), first.start, end))
        position += length
    items.append(Item(K.END, "", len(text), len(text)))
    for index, item in enumerate(items):
        if item.kind is K.LETTER or item.kind is K.CHOICE or item.text in CLAUSE_CONDITIONS:
            _resolve(items, index, options)
    return items


def skip(items: Sequence[Item], position: int, kinds: Collection[Kind], reach: int = _RUN) -> int:
    """The first item from ``position`` on that is of none of ``kinds``, looked for among the next ``reach``."""
    stop = position + reach
    while position < stop and items[position].kind in kinds:
        position += 1
    return position


def skip_back(items: Sequence[Item], position: int, kinds: Collection[Kind], reach: int = _RUN) -> int:
    """The same towards the beginning; -1 if there is none."""
    stop = position - reach
    while position >= 0 and position > stop and items[position].kind in kinds:
        position -= 1
    return position


# Words.


def _variants(words: list[str]) -> list[list[str]]:
    """An option text, and the same without its article, without quotes, and with its number as a word or in digits."""
    result = [words] if words else []
    if len(words) > 2 and words[0] == words[-1] and SIGNS.get(words[0]) is K.QUOTE:
        words = words[1:-1]
        result.append(words)
    if len(words) > 1 and words[0] in ARTICLES and _TREE.get(words[1], {}).get("") not in IS:
        result.append(words[1:])
    if len(words) == 1 and words[0] in NUMBER_WORDS:
        result.append([str(NUMBER_WORDS.index(words[0]))])
    elif len(words) == 1 and words[0].isdecimal() and len(words[0]) <= 2 and int(words[0]) < len(NUMBER_WORDS):
        result.append([NUMBER_WORDS[int(words[0])]])
    return result


def _longest_phrase(words: Sequence[Token], start: int) -> tuple[Kind, int]:
    """Kind and length of the longest phrase of the lexicon at ``start``, else the sign or the word there."""
    kind, length = SIGNS.get(words[start].text, K.WORD), 1
    node, position = _TREE, start
    while position < len(words) and (result := node.get(words[position].text)) is not None:
        node, position = result, position + 1
        if "" in node:
            kind, length = node[""], position - start
    return kind, length


def _is_letter(raw: str) -> bool:
    return len(raw) == 1 and raw.isascii() and raw.isalpha()


def _is_plain(text: str) -> bool:
    """Whether a token is a word of an alphabet or a number, with which another one may not be run together."""
    return text == "_" or (text[:1].isalnum() and not is_wide(text[0]))


def _glued(words: Sequence[Token], position: int) -> bool:
    """Whether the tokens at ``position`` - 1 and ``position`` stand together without a blank."""
    return 0 < position < len(words) and words[position - 1].end == words[position].start


def _text(words: Sequence[Token], position: int) -> str:
    return words[position].text if 0 <= position < len(words) else "\n"


def _begins_well(words: Sequence[Token], start: int) -> bool:
    """Whether an option text at ``start`` is no part of a longer word, number or formula."""
    first, before = words[start].text, _text(words, start - 1)
    if not _is_plain(first):
        return True
    if _glued(words, start) and (_is_plain(before) or before in "$€£¥" or (before == "-" and _glued(words, start - 1))):
        return False
    if not first[0].isdecimal():
        return True
    if _glued(words, start) and (before == "-" or (before == "." and not _glued(words, start - 1))):
        return False
    further = _text(words, start - 2)
    if before in {"<", ">", "<=", ">=", "!="}:
        return before == ">" and further == "\n"
    return not (before in "+*×÷^" and (_is_plain(further) or further == ")"))


def _ends_well(words: Sequence[Token], start: int, end: int) -> bool:
    last, after, further = words[end - 1].text, _text(words, end), _text(words, end + 1)
    if end - start == 1 and last in WEAK_TEXTS:
        kind, _ = _longest_phrase(words, end) if end < len(words) else (K.END, 0)
        return kind in STOPS or (last == "no" and after in {"it", "the", "they", "this", "that", "he", "she"})
    if not _is_plain(last):
        return True
    if _glued(words, end) and (_is_plain(after) or (after == "-" and _glued(words, end + 1) and _is_plain(further))):
        return False
    if not last[-1].isdecimal():
        return True
    return after not in {"%", "°"} and not (after in "-–+*×÷^" and (further[0].isdecimal() or _is_letter(further)))


def _is_apart(words: Sequence[Token], start: int, end: int) -> bool:
    """Whether punctuation may be an option: it ends a clause or stands before "is", with a blank before it, or is quoted."""
    if not all(category(sign)[0] == "P" or sign in punctuation for word in words[start:end] for sign in word.text):
        return True
    before, after = (SIGNS.get(_text(words, position), K.WORD) for position in (start - 1, end))
    if _glued(words, start):
        return _glued(words, end) and before in {K.QUOTE, K.OPEN} and after in {K.QUOTE, K.CLOSE}
    return end == len(words) or after in STOPS or _longest_phrase(words, end)[0] in IS


# Letters.


def _resolve(items: list[Item], index: int, options: Options) -> None:
    """Decide what a letter, and a word that is a condition only at the start of a clause, stands for."""
    item, after = items[index], items[index + 1] if index + 1 < len(items) else items[index]
    before = items[index - 1] if index else Item(K.END, "", 0, 0)
    if item.text in CLAUSE_CONDITIONS and before.kind in CUTS and after.kind is not K.COMMA:
        item.kind = CLAUSE_CONDITIONS[item.text]
    if item.kind is K.CHOICE and before.kind is K.OPTION and is_wide(item.text[0]):
        item.kind = K.SUFFIX
    if item.kind is not K.LETTER:
        return
    linking = LINKING_LETTERS.get(item.text)
    if linking and before.kind in {K.OPTION, K.CLOSE} and after.kind in {K.LETTER, K.OPTION, K.OPEN, K.LABEL}:
        item.kind = linking
        return
    opens = before.kind is K.OPEN or before.text == "<"
    closes = after.kind in {K.OPEN, K.CLOSE, K.STOP, K.COLON, K.END, K.LOST_MARK} or after.text == ">"
    item.is_bracketed = opens and closes
    announcer = skip_back(items, index - 1, {K.QUOTE, K.OPEN})
    is_direct = announcer >= 0 and items[announcer].kind in NOUNS
    if announcer > 0 and (items[announcer].kind is K.COLON or items[announcer].text == "#"):
        announcer -= 1
    noun = items[announcer].kind if announcer >= 0 else K.WORD
    if not item.is_bracketed and not _is_name(items, index, is_announced=is_direct):
        item.kind = K.FILLER if item.text in "aA" else K.WORD
        return
    if is_direct:
        items[announcer].kind = K.LABEL
    letter = item.text.upper()
    label = options.label(letter)
    if noun is K.MARK:
        alone = in_sentence = options.marks.get(letter, set())
    elif noun in NOUNS or item.is_bracketed:
        alone = in_sentence = label
    else:
        alone, in_sentence = label | options.letter_texts.get(letter, set()), label | options.marks.get(letter, set())
    item.kind = K.OPTION
    item.value = next(iter(alone)) if len(alone) == 1 else UNSURE
    item.in_sentence = next(iter(in_sentence)) if len(in_sentence) == 1 else UNSURE


def _is_name(items: Sequence[Item], index: int, *, is_announced: bool) -> bool:
    """Whether a letter without brackets can be a label: it is no article, no pronoun, and no part of a word."""
    item, after = items[index], items[index + 1]
    before = items[index - 1] if index else Item(K.END, "", -1, -1)
    further = items[index + 2] if index + 2 < len(items) else after
    follows, precedes = after.start == item.end, before.end == item.start
    if (follows and _is_plain(after.text)) or (precedes and before.text and _is_plain(before.text[-1])):
        return False
    runs_on = further.start == after.end and further.text[:1].isalnum() and further.text.isascii()
    if follows and after.text in {"-", "'", "."} and runs_on and (after.text != "." or len(further.text) == 1):
        return False
    if precedes and before.text in {"-", "'", "."} and index > 1 and before.start == items[index - 2].end:
        previous = items[index - 2].text
        if previous and previous[-1].isalnum() and previous.isascii() and (before.text != "." or len(previous) == 1):
            return False
    may_end = after.kind in STOPS | LISTS | {K.OPEN} or not after.text.isascii()
    if item.text == "i":
        return is_announced and may_end
    if item.text == "I":
        return after.kind in {K.END, K.STOP, K.COLON, K.CLOSE, K.LINE, K.CLOSE_MARK} or (is_announced and may_end)
    if item.text.islower():
        in_list = item.text != "a" or before.kind in LISTS | {K.COMMA}
        has_text = item.text != "a" and after.kind is K.OPTION and before.kind in ENDS
        return may_end or after.kind in _AFTER_LOWER or (in_list and after.kind in _AFTER_LOWER_LISTED) or has_text
    if item.text != "A":
        return True
    if after.kind in {K.AUXILIARY, K.PLURAL} and after.text.isascii():
        return further.kind in {K.COPULA, K.NOT, K.FILLER, K.EXCLUDE, K.WRONG, K.CORRECT} or is_announced
    name = further if after.text in LINKING_WORDS else after
    names_follow = name.kind is K.LETTER and name.text.isupper() and name.text != "I"
    is_qualified = after.kind in ADVERBS and further.kind in STOPS
    return may_end or names_follow or is_qualified or after.kind in _AFTER_LABEL_A
