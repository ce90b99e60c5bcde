"""Options that a reply names together, and what it says of them.

`find_groups` joins options that are listed ("A, B and C", "(A) red, (B) blue") or are one option named twice ("B: 3"),
and says of each group, once for every rule of `parsing`, whether it is negated, called right, or open: in a question, or
under a condition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from amvl_model.evaluation.parsing.items import UNSURE, Item, skip, skip_back
from amvl_model.evaluation.parsing.kinds import ADVERBS, ANNOUNCERS, CUTS, ENDS, IS, LISTS, NOUNS, QUOTES, STOPS
from amvl_model.evaluation.parsing.kinds import Kind as K
from amvl_model.evaluation.parsing.lexicon import LINKING_WORDS, MODALS, NUMBER_WORDS, PRONOUNS

_SEPARATORS = LISTS | ANNOUNCERS | {K.COMMA, K.STOP, K.SEMICOLON, K.COLON, K.LINK, K.QUOTE, K.OPEN, K.CLOSE, K.SUFFIX}
_SEPARATORS |= {K.COMPARE, K.THEN}
_NEGATES_BEFORE = frozenset({K.NOT, K.IS_NOT, K.CANNOT, K.WAS_NOT, K.WRONG, K.EXCLUDE})
_NEGATES_AFTER = frozenset({K.NOT, K.IS_NOT, K.CANNOT, K.NOR, K.WRONG, K.EXCLUDE, K.EXCEPT, K.AT_FIRST})
_LIST_ENDS = STOPS | LISTS | _NEGATES_BEFORE | {K.OPTION, K.PLURAL, K.LEAVES, K.REMAINS, K.SUFFIX, K.OPEN, K.COMPARE}
_LIST_ENDS |= {K.SOME, K.BUT, K.LINK}
_STANDS = CUTS | IS | LISTS | ADVERBS | {K.STANDS, K.TELL, K.NOT, K.IS_NOT, K.SOME, K.CORRECT, K.RIGHT, K.AT_FIRST}
_STANDS |= {K.EXCEPT, K.LINK, K.OPEN_MARK, K.CLOSE_MARK, K.NO, K.WAS_NOT, K.REFUSAL}
"""Before what a bare letter is a label."""
_NUMBERED = frozenset({K.MARK, K.CHOICE, K.NUMBERED, K.LABEL})
_REACH = 8
"""Items over which a negation reaches."""


@dataclass(slots=True)
class Group:
    """Options that are named together: the items from ``start`` to before ``end``.

    Attributes:
        members: the options.
        negated: whether the reply excludes them.
        open: whether they stand in a question or under a condition.
        affirmed: item after the words that call them right ("B is correct", "B: yes"), or None.
        goes_on: whether another option may follow ("A or", "A, maybe B").
        put_forward: whether naming them where they stand is as good as choosing them.
    """

    start: int
    end: int
    members: list[Item] = field(default_factory=list)
    negated: bool = False
    open: bool = False
    affirmed: int | None = None
    goes_on: bool = False
    put_forward: bool = False

    @property
    def value(self) -> int:
        return self.members[0].value if len({item.value for item in self.members}) == 1 else UNSURE

    @property
    def is_letter(self) -> bool:
        return not any(item.is_text for item in self.members)


def find_groups(items: list[Item]) -> list[Group]:
    """The groups of options, each with what the reply says of it."""
    groups: list[Group] = []
    position = 0
    while position < len(items):
        if items[position].kind is K.OPTION:
            groups.append(_joined(items, position))
            position = groups[-1].end
        else:
            position += 1
    conditions, questions = _conditions(items), _questions(items)
    starts = {group.start: group for group in groups}
    spent: set[int] = set()
    for group in groups:
        _judge(items, group, spent)
    for group in groups:
        group.negated = group.negated or _is_negated_before(items, group, spent)
        group.open = conditions[group.start] or questions[group.end - 1] or _condition_follows(items, group)
        group.goes_on = _goes_on(items, group, starts)
        names = _is_put_forward(items, group, starts) if group.is_letter else not _is_counting_word(items, group)
        group.put_forward = names and not _is_looked_at(items, group)
    return groups


def _joined(items: list[Item], start: int) -> Group:
    """The group that begins at ``start``."""
    group = Group(start, start + 1, [items[start]])
    is_complete = False
    while True:
        last = group.members[-1]
        position = skip(items, group.end, _SEPARATORS)
        if items[position].text in LINKING_WORDS and not last.is_text:
            position = skip(items, position + 1, ANNOUNCERS | {K.OPEN, K.QUOTE})
        between = items[group.end : position]
        kinds = {item.kind for item in between} | {LINKING_WORDS.get(item.text, K.WORD) for item in between}
        following = items[position]
        if following.kind is not K.OPTION or position - group.end > 8:
            return group
        joins = kinds & LISTS
        if following.value != last.value or following.value == UNSURE:
            if kinds & {K.SEMICOLON, K.COLON, K.DASH} and start and items[start - 1].kind in _NEGATES_AFTER:
                return group
            if K.STOP in kinds and not (following.is_text and not last.is_text):
                return group
            if is_complete and not joins - {K.DASH}:
                return group
            if not following.is_text and not joins & {K.OR, K.NOR, K.SLASH} and not _may_end_list(items, position + 1):
                return group
        elif K.STOP in kinds and following.is_text == last.is_text:
            return group
        is_complete = is_complete or bool(joins & {K.AND, K.OR, K.NOR})
        group.members.append(following)
        group.end = position + 1


def _may_end_list(items: Sequence[Item], position: int) -> bool:
    """Whether a list of labels may end before ``position``; a label before a verb begins a clause of its own."""
    item = items[position]
    return item.kind in _LIST_ENDS or item.text in {"only", "too", "also"} or not item.text.isascii()


def _judge(items: Sequence[Item], group: Group, spent: set[int]) -> None:
    """What is said right after a group: that it is wrong or right. Negations used up are added to ``spent``."""
    position = skip(items, group.end, {K.QUOTE, K.SUFFIX, K.CLOSE, K.COMPARE})
    if not _judge_verdict(items, group, position, spent):
        _judge_sentence(items, group, position, spent)


def _judge_verdict(items: Sequence[Item], group: Group, position: int, spent: set[int]) -> bool:
    """One word after a sign: "A: no", "(A) yes", "A (wrong)", "A ✓"."""
    verdict = skip(items, position, {K.COLON, K.DASH, K.OPEN, K.COMMA, K.LINK, K.STOP}, reach=2)
    kind, after = items[verdict].kind, items[min(verdict + 1, len(items) - 1)].kind
    is_sign = kind in {K.YES, K.NO} and not items[verdict].text.isalpha()
    ends = (after in STOPS and after is not K.COLON) or after in {K.OPTION, K.OPEN, K.LABEL, K.DASH, K.SLASH}
    if not ends or not (is_sign or verdict > group.end):
        return False
    if kind in {K.YES, K.CORRECT, K.RIGHT}:
        group.affirmed = verdict + 1
    elif kind in {K.NO, K.WRONG, K.EXCLUDE} or (kind is K.IS_NOT and after in STOPS):
        group.negated = True
        spent.add(verdict)
    return group.negated or group.affirmed is not None


def _judge_sentence(items: Sequence[Item], group: Group, position: int, spent: set[int]) -> None:
    """The predicate of a sentence: "A is clearly wrong", "A and B can be ruled out", "B is the best answer"."""
    end = position if items[position].text in PRONOUNS else skip(items, position, IS | ADVERBS | {K.SOME}, reach=_REACH)
    if items[end].kind is K.RIGHT and items[end + 1].kind in NOUNS:
        end += 1
    kind, after = items[end].kind, items[min(end + 1, len(items) - 1)]
    copula = next((item for item in items[position:end] if item.kind in IS), None)
    is_said = copula is not None and copula.text not in MODALS
    stands_alone = not items[end].text.isascii()
    if kind in _NEGATES_BEFORE:
        needs_copula = kind is K.EXCLUDE or (kind is K.NOT and after.kind not in IS | {K.CORRECT})
        group.negated = copula is not None or not needs_copula or (kind is K.EXCLUDE and stands_alone)
        if group.negated:
            spent.add(end)
        return
    affirms = {
        K.AFFIRMS: True,
        K.REMAINS: True,
        K.STANDS: after.kind in STOPS and end == position,
        K.LEAVES: stands_alone and after.kind in STOPS,
        K.CORRECT: (is_said or stands_alone or after.kind in STOPS) and after.text != "only",
        K.ANSWER: is_said or (end > position and items[end - 1].kind is K.RIGHT),
        K.CHOICE: is_said and (items[end - 1].kind is K.RIGHT or items[end - 1].text == "my"),
        K.RIGHT: (is_said or stands_alone) and after.kind in STOPS,
    }
    if affirms.get(kind, False):
        group.affirmed = end + 1


def _is_negated_before(items: Sequence[Item], group: Group, spent: set[int]) -> bool:
    is_subject = items[skip(items, group.end, {K.CLOSE, K.QUOTE, K.SUFFIX})].kind in IS or group.affirmed is not None
    position = skip_back(items, group.start - 1, ANNOUNCERS | ADVERBS | {K.QUOTE, K.OPEN, K.SOME})
    if position > 0 and items[position].kind is K.COLON:
        noun = skip_back(items, position - 1, NOUNS | {K.CLOSE, K.QUOTE})
        return noun >= 0 and items[noun].kind in {K.WRONG, K.EXCLUDE} and noun not in spent
    is_no = position >= 0 and items[position].kind is K.NO and position not in spent
    if is_no and (position == 0 or items[position - 1].kind not in {K.WAIT, K.COMMA, K.STOP, K.DASH}):
        return True
    reach = _REACH
    while position >= 0 and reach:
        kind = items[position].kind
        if kind in CUTS or (kind is K.AND and is_subject):
            return False
        if kind in _NEGATES_AFTER and position not in spent:
            return True
        reach -= kind not in {K.QUOTE, K.OPEN, K.CLOSE}
        position -= 1
    return False


def _conditions(items: Sequence[Item]) -> list[bool]:
    """Whether each item stands under a condition that comes before it in its sentence."""
    result = []
    sentence = clause = False
    for item, after in zip(items, [*items[1:], items[-1]], strict=True):
        if item.kind in {K.BUT, K.SO} or (item.kind in ENDS and after.kind is not K.THEN):
            sentence = clause = False
        elif item.kind is K.IF:
            sentence = True
        elif item.kind is K.WHETHER:
            clause = True
        elif item.kind in {K.COMMA, K.SEMICOLON, K.COLON}:
            clause = False
        result.append(sentence or clause)
    return result


def _questions(items: Sequence[Item]) -> list[bool]:
    """Whether the sentence of each item ends with a question mark."""
    result = [False] * len(items)
    asks = False
    for index in range(len(items) - 1, -1, -1):
        if items[index].kind in ENDS:
            asks = items[index].kind is K.QUESTION
        result[index] = asks
    return result


def _condition_follows(items: Sequence[Item], group: Group) -> bool:
    position = group.affirmed if group.affirmed is not None else group.end
    for item in items[position : position + 4]:
        if item.kind in {K.IF, K.WHETHER}:
            return True
        if item.kind not in {K.WORD, K.FILLER, K.COMMA, K.OPEN, K.CLOSE, K.CORRECT, K.COPULA, K.RIGHT}:
            return False
    return False


def _goes_on(items: Sequence[Item], group: Group, starts: Mapping[int, Group]) -> bool:
    """Whether another option may follow: "A or", "A, maybe B", "A (but B"."""
    position = skip(items, group.end, {K.CLOSE, K.QUOTE, K.COMMA, K.SEMICOLON, K.STOP, K.OPEN, K.DASH})
    kind = items[position].kind
    if kind is K.MAYBE or (kind is K.AND and position > group.end):
        other = starts.get(skip(items, position, QUOTES | {K.MAYBE, K.AND}))
        return other is not None and other.value != group.value and items[other.end].kind in STOPS
    return kind is K.OR or (kind is K.BUT and any(item.kind is K.OPEN for item in items[group.end : position]))


def _is_looked_at(items: Sequence[Item], group: Group) -> bool:
    """Whether an option is only looked at: "consider the third image", "In the third image, ..."."""
    before = skip_back(items, group.start - 1, QUOTES | {K.FILLER})
    if before >= 0 and items[before].kind is K.PLACE and (before == 0 or items[before - 1].kind in CUTS):
        return True
    for item in reversed(items[max(0, group.start - 4) : group.start]):
        if item.kind in CUTS or item.kind is K.LOOK:
            return item.kind is K.LOOK
    return False


def _is_put_forward(items: Sequence[Item], group: Group, starts: Mapping[int, Group]) -> bool:
    """Whether labels end a clause, and are no item of a list, no place, and not the subject of a verb."""
    before = skip_back(items, group.start - 1, ANNOUNCERS | {K.QUOTE, K.OPEN})
    is_bare = before + 1 == group.start
    end = skip(items, group.end, {K.SUFFIX, K.QUOTE} if is_bare else {K.SUFFIX, K.QUOTE, K.CLOSE})
    kind = items[end].kind
    place = skip_back(items, before, ADVERBS)
    if place >= 0 and items[place].kind is K.PLACE:
        return False
    if before >= 0:
        is_item = items[before].kind in {K.LINE, K.DASH} and kind in {K.CLOSE, K.STOP, K.COLON}
        if is_item and items[end + 1].kind in ADVERBS | {K.WORD, K.PLACE, K.OPTION}:
            return False
        if is_bare and len(group.members) == 1 and items[before].kind not in _STANDS:
            return False
    if (kind is K.OPEN and group.goes_on) or (kind in {K.AND, K.OR} and skip(items, end + 1, QUOTES) in starts):
        return False
    return kind in STOPS | {K.SLASH, K.OR, K.AND, K.BUT, K.NOT, K.WAIT, K.EXCEPT, K.OPEN} or items[end].text == "→"


def _is_counting_word(items: Sequence[Item], group: Group) -> bool:
    """Whether an option text is something else: "image 2", the "1." of a list, "two of them", "this one"."""
    if len(group.members) > 1:
        return False
    word, after = group.members[0].text.lower(), items[group.end]
    before = items[group.start - 1].kind if group.start else K.STOP
    if word == "one" and before not in {K.THERE_IS, K.AND}:
        return True
    if word in NUMBER_WORDS or word.isdecimal():
        in_list = before in {K.STOP, K.QUESTION, K.COLON, K.LINE} and after.text in {".", ")"}
        is_item = in_list and items[group.end + 1].text[:1].isalnum()
        return after.text == "of" or (word.isdecimal() and (is_item or before in _NUMBERED))
    return False
