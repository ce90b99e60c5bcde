r"""Which option a reply chooses: one parser, the same for every benchmark and every model.

Published scores of one model differ by 16 points because of this step: a parser that takes the first letter reads
"The answer is (B)" as T, one that looks at the last words misses ``<answer>B</answer>``, and several pick at random
where they cannot read. `parse_choice` never picks: a reply is read only where it says which option it means, and an
unread reply is None, to be counted wrong and reported as unparsed (`accuracy_report` in
`amvl_model.results.statistics`).

Options are labelled A, B, C, ... in the order of ``choices``. A reply is read in four steps:

1. Text (`text`). Thoughts are dropped; reply and option texts are cleaned by one function.
2. Items (`items`). The text becomes a list of items: options (a label, or an option text), the concepts of `lexicon`
   (negation, condition, "the answer", ...), signs, other words. Of all that begins at one word the longest counts.
3. Groups. Options named together are one group ("A, B and C", "(A) red, (B) blue"; "B: 3" is one option, named
   twice). A group is negated as a whole ("neither A nor B", "A and C are wrong"), and it is open in a question or under
   a condition. This is decided once, and holds for every rule.
4. Rules, of which the first that applies decides:

   whole        the reply is nothing but one group
   statements   the last of: a marked answer (``<answer>``, ``\boxed{}``); an option after "the answer is", "I choose",
                "therefore", "leaves"; one before "is correct", "remains"; a line that is nothing but one group
   opening      the reply opens with an option and goes on after a stop: "(B) Because ..", "Yes, .."
   mention      the reply is no refusal, and puts forward one option only: its text anywhere, or its letter where a
                clause ends ("It must be B.")

Wherever two readings compete the reply is unread: a group of two options, options or verdicts gone through one by one,
an answer taken back ("A. No wait, B"), a letter beyond the options, a label with the text of another option. What the
rules cannot exclude: a sentence that mentions one option's text, and only that, while meaning another.

The time is linear in the length of the reply, of which at most the last `LIMIT` characters and `MAX_TOKENS` tokens are read.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final

from amvl_model.evaluation.parsing.groups import Group, find_groups
from amvl_model.evaluation.parsing.items import UNSURE, Item, find_items, find_options, skip, skip_back
from amvl_model.evaluation.parsing.kinds import ADVERBS, CUTS, ENDS, IS, LISTS, QUOTES, SIGNS, STOPS
from amvl_model.evaluation.parsing.kinds import Kind as K
from amvl_model.evaluation.parsing.lexicon import CONCESSIONS, TOO
from amvl_model.evaluation.parsing.text import clean, tokens, without_thoughts

LIMIT: Final = 12_288
MAX_TOKENS: Final = 3_072
"""Characters and tokens that are read; of a longer reply the last ones, and in them only statements."""

_SIGNS = frozenset(SIGNS.values()) | {K.SUFFIX, K.TAIL}
_LINKS = IS | {K.COLON, K.LINK, K.DASH, K.CHOOSE}
_PASSED = IS | ADVERBS | QUOTES | {K.COLON, K.LINE, K.LINK, K.DASH, K.OPEN_MARK, K.CLOSE_MARK, K.BECAUSE, K.RIGHT}
"""What may stand between "the answer is" and the option."""
_ADJECTIVES = frozenset({K.ANSWER, K.CHOICE, K.CORRECT, K.RIGHT, K.QUOTE, K.CLOSE, K.CLOSE_MARK, K.FILLER})
_BETWEEN_ITEMS = frozenset({K.LINE, K.STOP, K.SEMICOLON, K.COMMA})
_TO = 16
"""Items of "the answer to the question is" from "to" on."""
_SENTENCE = 60
"""Items after "the answer is" in which the option may stand, if it is the only one that is put forward."""


def parse_choice(reply: str, choices: Sequence[str]) -> int | None:
    """Index of the option that ``reply`` chooses, or None where the reply does not say; never a guess.

    The rules and their order are in the docstring of this module: whole reply, last statement, opening, the only
    option mentioned.

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
    text = without_thoughts(reply)
    is_cut = len(text) > LIMIT
    text = clean(text[-LIMIT:])
    words = tokens(text)
    is_cut = is_cut or len(words) > MAX_TOKENS
    items = find_items(text, words[-MAX_TOKENS:], find_options(tuple(choices)))
    value = _Reading(items, is_lower=text.islower()).read(is_cut=is_cut)
    return value if value is not None and value >= 0 else None


class _Reading:
    """The rules for the items of one reply, or of one marked answer in it."""

    def __init__(self, items: list[Item], *, is_lower: bool) -> None:
        self.items = items
        self.is_lower = is_lower
        self.groups = find_groups(items)
        self.group_at = {position: group for group in self.groups for position in range(group.start, group.end)}

    def read(self, *, is_cut: bool = False) -> int | None:
        """Index of the option that is chosen, `UNSURE` for several or an unknown one, or None for none."""
        whole = self._whole(0, len(self.items) - 1)
        if whole is not None and not is_cut:
            return whole
        lines = list(self._lines())
        agree = len({value for _, value in lines}) == 1
        statements = sorted([*self._marked(), *self._after_cues(), *self._affirmed(), *(lines if agree else [])])
        if statements:
            end = statements[-1][0]
            value = statements[-1][1] if len({value for at, value in statements if at == end}) == 1 else UNSURE
            if end in self._added() and any(other != value for at, other in statements if at < end):
                return UNSURE  # "The answer is A. B is also correct."
            return UNSURE if self._is_taken_back(end, value) else value
        if lines or is_cut:
            return UNSURE
        opening = self._opening()
        if opening is not None:
            return opening
        return None if self._is_refusal(0) else self._only_mention(0, len(self.items))

    # Rules.

    def _whole(self, start: int, end: int) -> int | None:
        """The items from ``start`` to before ``end`` are nothing but one group."""
        group = self._first_group(start)
        if group is None or group.end > end:
            return None
        rest = skip(self.items, group.end, _SIGNS, end - group.end)
        if rest < end or group.open:
            return None
        if group.end < end and self.items[group.end].kind is K.COLON and group.is_letter and group.start == start:
            return UNSURE  # "A:" announces an answer as often as it is one
        return group.value

    def _lines(self) -> Iterator[tuple[int, int]]:
        """Lines that are nothing but one group."""
        start = 0
        for position, item in enumerate(self.items):
            if item.kind in {K.LINE, K.END}:
                if position > start and (value := self._whole(start, position)) is not None:
                    yield position, value
                start = position + 1

    def _marked(self) -> Iterator[tuple[int, int]]:
        """Answers in tags and boxes, of which the innermost count; two that stand together must agree."""
        start: int | None = None
        previous: tuple[int, int | None] = (-1, None)
        for position, item in enumerate(self.items):
            if item.kind is K.OPEN_MARK:
                start = position + 1
            elif item.kind is K.LOST_MARK:
                yield position, UNSURE
                start = None
            elif start is not None and item.kind in {K.CLOSE_MARK, K.END}:
                content = [*self.items[start:position], Item(K.END, "", item.start, item.start)]
                value = _Reading(content, is_lower=self.is_lower).read()
                if previous[0] == start - 1 and previous[1] != value:
                    value = UNSURE
                yield position, UNSURE if value is None else value
                previous = (
                    skip(self.items, min(position + 1, len(self.items) - 1), _SIGNS - {K.OPEN_MARK} | LISTS),
                    value,
                )
                start = None

    def _after_cues(self) -> Iterator[tuple[int, int]]:
        """Options after "the answer is", "I choose", "so", "leaves" and the like."""
        previous_end, previous = -1, UNSURE
        for position, item in enumerate(self.items):
            is_weak = item.kind in {K.SO, K.LEAVES}
            after = position + 1 if is_weak or item.kind is K.CHOOSE else self._after_noun(position)
            if after is None:
                continue
            first = skip(self.items, after, _PASSED)
            group = self.group_at.get(first)
            if group is None or group.start != first:
                if not is_weak:
                    yield from self._later(after, first)
                continue
            end = skip(self.items, group.end, {K.CLOSE, K.QUOTE, K.SUFFIX, K.COMPARE})
            if group.open or group.negated or (is_weak and self.items[end].kind not in STOPS):
                continue
            is_second = position > 0 and self.items[skip_back(self.items, position - 1, ADVERBS)].kind is K.OR
            value = UNSURE if is_second or group.goes_on or self._is_cut_off(group, after) else group.value
            if previous_end == position and previous not in {UNSURE, value}:
                value = UNSURE  # "Answer: B. Answer: C."
            previous_end, previous = skip(self.items, end, _SIGNS), value
            yield group.end, value

    def _after_noun(self, position: int) -> int | None:
        """The item after "answer is", "correct option:", "correct is" and the like, or None."""
        items, kind = self.items, self.items[position].kind
        if kind not in {K.ANSWER, K.CHOICE, K.CORRECT, K.RIGHT}:
            return None
        before = items[position - 1].kind if position else K.END
        end = skip(items, position + 1, _ADJECTIVES)
        if kind in {K.ANSWER, K.CHOICE}:
            if items[end].kind in {K.PLACE, K.STANDS}:  # the answer to the question is
                end = next((e for e in range(end, min(end + _TO, len(items))) if items[e].kind in _LINKS | ENDS), end)
            is_cue = before is not K.EACH and items[end].kind in _LINKS
        else:
            start = skip_back(items, position - 1, ADVERBS | {K.QUOTE})
            is_first = start < 0 or items[start].kind in CUTS
            is_cue = before not in IS and (
                items[end].kind in IS | {K.LINK} or (items[end].kind is K.COLON and is_first)
            )
        return skip(items, end, _LINKS | ADVERBS) if is_cue else None

    def _later(self, after: int, first: int) -> Iterator[tuple[int, int]]:
        """After a cue without an option: the only one that the rest of the sentence puts forward."""
        limit = min(first + _SENTENCE, len(self.items) - 1)
        end = next((e for e in range(first, limit) if self.items[e].kind in ENDS), limit)
        if self.items[end].kind is not K.QUESTION:
            value = self._only_mention(first, end)
            if value is not None:
                yield end, value
        if all(item.kind in _SIGNS for item in self.items[after:-1]):
            yield len(self.items), UNSURE  # cut off

    def _affirmed(self) -> Iterator[tuple[int, int]]:
        """Options that are called right afterwards; UNSURE from the second one on."""
        seen: set[int] = set()
        for group in self.groups:
            if group.affirmed is not None and not group.open and not group.negated:
                seen.add(group.value)
                yield group.affirmed, group.value if len(seen) == 1 else UNSURE

    def _added(self) -> set[int]:
        """Where options are called right beside others: "B is also correct", "B is correct too", "though B is correct"."""
        added = set()
        for group in self.groups:
            if group.affirmed is not None and not group.open and not group.negated:
                before = self.items[max(skip_back(self.items, group.start - 1, QUOTES | {K.FILLER, K.LABEL}), 0)]
                said = self.items[group.end : group.affirmed + 2]
                if before.text in CONCESSIONS or any(set(item.text.split()) & TOO for item in said):
                    added.add(group.affirmed)
        return added

    def _opening(self) -> int | None:
        """The reply opens with an option and goes on after a stop."""
        group = self._first_group(0)
        if group is None or group.negated or group.open:
            return None
        if group.value == UNSURE or group.goes_on:
            return UNSURE
        if self._lists_others(group):
            return UNSURE
        end = skip(self.items, group.end, {K.SUFFIX, K.CLOSE, K.QUOTE})
        qualified = skip(self.items, end, ADVERBS)  # "B of course"
        if self.items[qualified].kind in STOPS:
            end = qualified
        after, text = self.items[end].kind, group.members[-1].text.lower()
        if group.is_letter:
            runs_on = end > group.end and group.members[-1].is_bracketed and self.items[end].text[:1].isalnum()
            accepted = runs_on or after in STOPS | {K.DASH, K.OPEN, K.BUT, K.NOT} or self.items[group.end].kind in STOPS
        elif self._is_refusal(end):
            return None
        elif text.isdecimal():
            accepted = after in {K.COMMA, K.SEMICOLON, K.LINE, K.BECAUSE, K.END} or self.items[end].text == "!"
        else:
            accepted = after in STOPS | {K.DASH} or text == "yes"
        if not accepted:
            return None
        return UNSURE if self._is_taken_back(group.end, group.value) else group.value

    def _only_mention(self, start: int, end: int) -> int | None:
        """The one option that is put forward from ``start`` to ``end``, UNSURE for several, None for none."""
        values, negated = self._mentions(start, end)
        if not values:
            return None
        rivals = {group.value for group in self.groups if start <= group.start < end and self._is_rival(group)}
        return UNSURE if len(values) > 1 or values & negated or rivals - values else values.pop()

    def _is_rival(self, group: Group) -> bool:
        """Whether a group is spoken for without being put forward: "but B is better", the B of "1. A 2. B 3. C"."""
        if group.negated or group.open:
            return False
        before = skip_back(self.items, group.start - 1, QUOTES | {K.FILLER, K.LABEL})
        if before > 0 and self.items[before].kind is K.BUT:
            return self.items[skip(self.items, group.end, {K.CLOSE, K.QUOTE})].kind in IS
        is_mark = before > 0 and self.items[before].kind in {K.STOP, K.COLON}
        return group.is_letter and is_mark and self.items[before - 1].text[-1:].isdecimal()

    def _mentions(self, start: int, end: int) -> tuple[set[int], set[int]]:
        """Options named from ``start`` to ``end``: those put forward, and those negated or compared with."""
        values: set[int] = set()
        negated: set[int] = set()
        first, last = (bisect_left(self.groups, position, key=lambda group: group.start) for position in (start, end))
        for group in self.groups[first:last]:
            named = {item.in_sentence for item in group.members}
            if group.negated:
                negated |= named
            elif group.put_forward and not group.open:
                values |= named
        return values, negated

    # What is said around a group.

    def _first_group(self, start: int) -> Group | None:
        """The group at ``start``, after quotes, brackets, and "option" before a letter."""
        first = skip(self.items, start, QUOTES)
        group = self.group_at.get(first)
        if group is None or group.start != first:
            return None
        is_numbered = first > start and self.items[first - 1].kind is K.MARK and not group.is_letter  # image 2
        return None if is_numbered else group

    def _is_cut_off(self, group: Group, after: int) -> bool:
        """Whether a final "a" may be the article of what is missing: "The answer is a"."""
        is_last = self.items[group.end].kind is K.END and group.members[0].text == "a"
        return is_last and self.items[after - 1].kind in IS and not self.is_lower

    def _is_taken_back(self, start: int, value: int) -> bool:
        """Whether another option is put forward from ``start`` on after a "wait" or the like."""
        for position in range(start, len(self.items)):
            if self.items[position].kind in {K.WAIT, K.NO, K.REFUSAL}:
                return bool(self._mentions(position, len(self.items))[0] - {value})
            if self.items[position].kind is K.BUT:
                other = self.group_at.get(skip(self.items, position + 1, QUOTES | {K.FILLER, K.COPULA, K.SO}))
                if other is not None and other.value != value and other.put_forward and not other.negated:
                    return True
        return False

    def _lists_others(self, first: Group) -> bool:
        """Whether the reply goes through other options after the first one, each marked like a list item."""
        for group in self.groups:
            is_other = group.start > first.end and group.is_letter == first.is_letter and group.value != first.value
            if not is_other or group.negated:
                continue
            before = self.items[skip_back(self.items, group.start - 1, QUOTES | {K.DASH})]
            if before.kind not in _BETWEEN_ITEMS and not before.text[-1:].isdecimal() and before.text != "%":
                continue
            end = skip(self.items, group.end, {K.CLOSE, K.QUOTE})
            after = self.items[end].kind
            is_label = group.is_letter and (end > group.end or after is K.STOP)
            if (is_label or after in {K.COLON, K.DASH, K.OPEN}) and after not in IS | {K.END, K.LINE}:
                return True
        return False

    def _is_refusal(self, start: int) -> bool:
        """Whether the reply says that it does not answer."""
        for position in range(start, len(self.items)):
            kind = self.items[position].kind
            if kind is K.REFUSAL:
                return True
            verbs = self.items[position + 1 : position + 4] if kind is K.CANNOT else []
            if any(item.kind in {K.TELL, K.ANSWER} for item in verbs):
                return True
        return start == 0 and self.items[skip(self.items, 0, _SIGNS)].kind is K.SOME
