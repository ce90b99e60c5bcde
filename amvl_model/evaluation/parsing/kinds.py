"""What an item of a reply can be, and which signs stand for it."""

from __future__ import annotations

from enum import Enum, auto


class Kind(Enum):
    """What an item of a reply is: a concept of the tables below, a sign, an option, or another word."""

    ANSWER = auto()  # a noun: the answer
    CHOICE = auto()  # a noun that is also used of each option: the choice, option B
    LABEL = auto()  # announces labels only: letter B, options A and B
    MARK = auto()  # announces a mark in the image: point B
    NUMBERED = auto()  # other things with numbers: step 2
    EACH = auto()  # not one answer: each option is
    COPULA = auto()
    PLURAL = auto()  # a copula after several subjects
    AUXILIARY = auto()  # would .. be
    CHOOSE = auto()  # an option follows: I choose
    SO = auto()  # an option may follow: therefore
    LEAVES = auto()  # what is left follows: leaving D
    REMAINS = auto()  # what is left came before: D remains
    FILLER = auto()
    MAYBE = auto()
    STANDS = auto()  # a bare letter may follow: matches B
    AFFIRMS = auto()  # an option came before, no copula needed
    CORRECT = auto()
    RIGHT = auto()  # correct, if nothing follows
    YES = auto()
    NO = auto()
    WRONG = auto()
    WAS_NOT = auto()  # negates only what comes before
    NOT = auto()
    IS_NOT = auto()  # negates what comes before and what follows
    EXCLUDE = auto()
    EXCEPT = auto()  # negates only what follows: rather than
    AT_FIRST = auto()  # takes back what follows
    AND = auto()
    OR = auto()
    NOR = auto()
    IF = auto()
    WHETHER = auto()  # a condition within its clause
    BECAUSE = auto()
    BUT = auto()
    THEN = auto()
    WAIT = auto()
    REFUSAL = auto()
    CANNOT = auto()  # a refusal if a verb such as "tell" follows
    TELL = auto()
    SOME = auto()  # both, none, all: a refusal if it opens the reply
    LOOK = auto()  # what follows is only looked at
    PLACE = auto()  # a preposition
    THERE_IS = auto()
    SUFFIX = auto()  # part of an option's name: B选项
    TAIL = auto()  # ends a sentence: Bです
    # Signs.
    STOP = auto()
    QUESTION = auto()
    LINE = auto()
    COMMA = auto()
    SEMICOLON = auto()
    COLON = auto()
    DASH = auto()
    SLASH = auto()
    LINK = auto()
    QUOTE = auto()
    OPEN = auto()
    CLOSE = auto()
    COMPARE = auto()
    OPEN_MARK = auto()
    CLOSE_MARK = auto()
    LOST_MARK = auto()
    # The rest.
    LETTER = auto()
    OPTION = auto()
    WORD = auto()
    END = auto()


SIGNS: dict[str, Kind] = {
    **dict.fromkeys([".", "!", "!!", "!!!", "。"], Kind.STOP),
    **dict.fromkeys(["?", "؟", "??", "!?", "?!", "???"], Kind.QUESTION),
    **dict.fromkeys(",、，،", Kind.COMMA),
    **dict.fromkeys(["-", "–", "—", "..", "...", "…"], Kind.DASH),
    **dict.fromkeys("/&+|", Kind.SLASH),
    **dict.fromkeys(["=", "->", "=>", "-->", "→", "⇒", "➡", "==>"], Kind.LINK),
    **dict.fromkeys("\"'\\#", Kind.QUOTE),
    **dict.fromkeys("([{", Kind.OPEN),
    **dict.fromkeys(")]}", Kind.CLOSE),
    **dict.fromkeys(["<", ">", "<=", ">=", "!=", "±", "~"], Kind.COMPARE),
    "\n": Kind.LINE,
    ";": Kind.SEMICOLON,
    ":": Kind.COLON,
    "\ue000": Kind.OPEN_MARK,
    "\ue001": Kind.CLOSE_MARK,
    "\ue002": Kind.LOST_MARK,
}

ENDS = frozenset({Kind.STOP, Kind.QUESTION, Kind.LINE, Kind.END})
"""Where a sentence ends."""
STOPS = ENDS | {Kind.SEMICOLON, Kind.COLON, Kind.COMMA, Kind.CLOSE, Kind.QUOTE, Kind.BECAUSE, Kind.TAIL}
STOPS |= {Kind.OPEN_MARK, Kind.CLOSE_MARK, Kind.LOST_MARK}
"""What may follow an option that ends a statement."""
CUTS = ENDS | {Kind.COMMA, Kind.SEMICOLON, Kind.COLON, Kind.DASH, Kind.BUT, Kind.THEN, Kind.SO, Kind.BECAUSE}
CUTS |= {Kind.LEAVES, Kind.WAIT, Kind.CHOOSE, Kind.YES}
"""Where a clause begins anew."""
LISTS = frozenset({Kind.AND, Kind.OR, Kind.NOR, Kind.SLASH, Kind.DASH})
IS = frozenset({Kind.COPULA, Kind.PLURAL, Kind.AUXILIARY})
NOUNS = frozenset({Kind.ANSWER, Kind.CHOICE, Kind.LABEL})
ANNOUNCERS = frozenset({Kind.LABEL, Kind.MARK})
ADVERBS = frozenset({Kind.FILLER, Kind.MAYBE})
QUOTES = ANNOUNCERS | {Kind.QUOTE, Kind.OPEN, Kind.COMPARE}
"""What may stand before an option that is named alone: "option B", "(B", "> B"."""
