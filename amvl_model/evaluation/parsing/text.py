r"""Cleaning and tokens of replies and option texts.

`clean` is the one function that cleans both, so that an option text, whatever signs it contains, is found in a reply
that repeats it: "$x^3$", "x³" and "x^{3}" are one text, "5*3" and "53" are two.

Marked answers (``<answer>..</answer>``, ``\boxed{..}``) become `OPEN_MARK` and `CLOSE_MARK` around their content;
`LOST_MARK` at the end stands for a box that is never closed. Every function takes linear time.
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import NamedTuple

OPEN_MARK, CLOSE_MARK, LOST_MARK = "\ue000", "\ue001", "\ue002"
MARKS = frozenset({OPEN_MARK, CLOSE_MARK, LOST_MARK, "\n"})
"""Tokens that no option text contains."""

_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛´ʼ′", "'"),
        **dict.fromkeys("“”„‟«»‹›「」『』《》〈〉", '"'),
        **dict.fromkeys("【〔〖［", "["),
        **dict.fromkeys("】〕〗］", "]"),
        **dict.fromkeys("−﹣", "-"),
        **{sup: f"^{plain}" for sup, plain in zip("⁰¹²³⁴⁵⁶⁷⁸⁹ⁿ", "0123456789n", strict=True)},
        **dict.fromkeys("\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufe0e\ufe0f\ufeff"),
        **dict.fromkeys((OPEN_MARK, CLOSE_MARK, LOST_MARK)),
        **dict.fromkeys("\r\u2028\u2029\x0b\x0c", "\n"),
        **dict.fromkeys("¿¡"),
        "≤": "<=",
        "≥": ">=",
        "≠": "!=",
    }
)
_SLASH = str.maketrans("⁄∕", "//")

_THOUGHT = re.compile(
    r"<(/?)(?:think|thinking|thoughts?|reasoning|reason|analysis|scratchpad|reflection)\s*>", re.IGNORECASE
)
_SPECIAL_TOKEN = re.compile(
    r"<\|[^|<>\n]{0,80}\|>|</?(?:s|pad|bos|eos|unk|start_of_turn|end_of_turn)>|\[/?INST\]", re.IGNORECASE
)
_ANSWER_TAG = re.compile(
    r"<(/?)\s*(?:answer|ans|final[ _-]?answer|final)(?:\s[^<>\n]{0,80})?>",
    re.IGNORECASE,
)
_BREAK_TAG = re.compile(r"</?(?:br|p|div|li|ul|ol|tr|table|hr|h[1-6]|pre)(?:\s[^<>\n]{0,80})?/?>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-z][a-z0-9_-]{1,30}(?:\s[^<>\n]{0,80})?/?>", re.IGNORECASE)
_SHORT_TAG = re.compile(r"</([a-z])>", re.IGNORECASE)
_BRACE = re.compile(
    r"(?P<box>[\\\x08]?(?<![A-Za-z])(?:f?box|b?oxed)\s*\{)"
    r"|(?P<drop>\\(?:text|mbox|math|operatorname)[a-z]*\s*\{|(?<=[\^_])\{)|\\(?P<frac>[dt]?frac)\s*\{"
    r"|(?P<open>\{)|(?P<close>\})"
)
_LATEX_SPACE = re.compile(
    r"\\[()\[\],;:! ]|\\(?:left|right|displaystyle|bf|it|rm|tt|large|Large|quad|qquad|limits)(?![A-Za-z])|~"
)
_LATEX_SIGNS = {"pi": "π", "alpha": "α", "beta": "β", "theta": "θ", "times": "×", "cdot": "·", "div": "÷", "pm": "±"}
_LATEX_SIGNS |= {"le": "<=", "leq": "<=", "ge": ">=", "geq": ">=", "ne": "!=", "neq": "!=", "infty": "∞", "circ": "°"}
_LATEX_SIGNS |= {"degree": "°", "rightarrow": "→", "to": "→"}
_LATEX_SIGN = re.compile(rf"\\({'|'.join(_LATEX_SIGNS)})(?![A-Za-z])")
_MATH = re.compile(r"(?<!\\)(\$\$?)(?=[^\s$])([^$\n]*[^\s$\\])\1(?!\d)")
_LONE_DOLLAR = re.compile(r"\\?\$(?!\s?\d)")
_EMPHASIS = re.compile(r"\*+|_+|`+|~~+")
_MARKUP = frozenset("*_`~$# \t")
_LINE_START = re.compile(r"^[ \t]*(?:(?:#{1,6}|-(?![ \t]+\d)|[•*·‣▪●])[ \t]+)+", re.MULTILINE)
_MINUS = re.compile(r"(?<![\w.)\]])(?:[‐–—]|\b(?:minus|negative)\s)(?=\d)", re.IGNORECASE)
_WIDE = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_TOKEN = re.compile(rf"\d+(?:[.,/:]\d+)*|[{_WIDE}]|[^\W\d_{_WIDE}]+|[-=~]{{1,3}}>|[<>!]=|[!?]{{2,3}}|\.\.+|[^\s]|\n")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?\Z")


class Token(NamedTuple):
    """A word in lower case, a number, a sign, a line break, or one Chinese, Japanese or Korean character."""

    text: str
    raw: str
    start: int
    end: int


def without_thoughts(reply: str) -> str:
    """What stands outside ``<think>..</think>``: an unclosed thought runs to the end, an unopened one from the start."""
    pieces: list[str] = []
    depth = position = 0
    for tag in _THOUGHT.finditer(reply):
        if tag[1]:
            if depth == 0:
                pieces.clear()
            depth = 0
        else:
            if depth == 0:
                pieces += [reply[position : tag.start()], "\n"]
            depth = 1
        position = tag.end()
    return "".join(pieces) + ("" if depth else reply[position:])


def clean(text: str) -> str:
    """Plain text: Unicode, HTML, LaTeX and Markdown reduced to what is meant, marked answers marked.

    A text of nothing but signs of Markdown or LaTeX ("*", "$") means them.
    """
    if set(stripped := text.strip()) <= _MARKUP:
        return _cleaned(stripped) or stripped
    return _cleaned(text)


def _cleaned(text: str) -> str:
    longest = 2 * len(text) + 16  # some characters stand for whole phrases
    text = unicodedata.normalize("NFKC", text.replace("\r\n", "\n").translate(_CHARACTERS)).translate(_SLASH)[-longest:]
    text = _MINUS.sub("-", text)
    if "&" in text:
        text = html.unescape(text)
    if "<" in text or "INST]" in text:
        text = _without_tags(_SPECIAL_TOKEN.sub("\n", text))
    text = _LATEX_SIGN.sub(lambda m: _LATEX_SIGNS[m[1]], _LATEX_SPACE.sub(" ", text))
    if "{" in text:
        text = _without_braces(text)
    text = text.replace("\\%", "%").replace("\\#", "#").replace("\\_", "_").replace("^°", "°")
    if "$" in text:
        text = _LONE_DOLLAR.sub(" ", _MATH.sub(r" \2 ", text)).replace("\\$", "$")
    text = _LINE_START.sub("", text)
    return _EMPHASIS.sub(_emphasis, text).strip()


def tokens(text: str) -> list[Token]:
    """The tokens of a cleaned text."""
    result = []
    for match in _TOKEN.finditer(text):
        raw = match[0]
        word = raw.replace(",", "") if "," in raw and _THOUSANDS.match(raw) else raw.lower()
        result.append(Token(word, raw, match.start(), match.end()))
    return result


def _without_tags(text: str) -> str:
    opened = False

    def mark(tag: re.Match[str]) -> str:
        nonlocal opened
        closes, was_open, opened = bool(tag[1]), opened, not tag[1]
        return (CLOSE_MARK if was_open else " ") if closes else OPEN_MARK

    text = _ANSWER_TAG.sub(mark, text)
    for letter in set(_SHORT_TAG.findall(text)):
        text = text.replace(f"<{letter}>", "").replace(f"</{letter}>", "")
    return _TAG.sub(lambda tag: "^" if tag[0].lower() == "<sup>" else " ", _BREAK_TAG.sub("\n", text))


def _without_braces(text: str) -> str:
    r"""Braces of font commands, exponents, fractions and boxes resolved; ``\frac{a}{b}`` becomes a/b."""
    pieces: list[str] = []
    stack: list[str] = []
    position = 0
    for match in _BRACE.finditer(text):
        kind = match.lastgroup or ""
        pieces.append(text[position : match.start()])
        position = match.end()
        if kind != "close":
            if kind == "open" and pieces[-2:] == ["/", ""]:
                kind = "drop"  # the denominator
            stack.append(kind)
            pieces.append({"box": OPEN_MARK, "open": "{"}.get(kind, ""))
        else:
            pieces.append({"box": CLOSE_MARK, "frac": "/", "drop": ""}.get(stack.pop() if stack else "", "}"))
    lost = LOST_MARK if "box" in stack else ""
    return "".join(pieces) + text[position:] + lost


def _emphasis(match: re.Match[str]) -> str:
    """A run of * _ ` is kept where it is an operator (5*3, x**2, 5 * 3, snake_case), and dropped where it is emphasis."""
    text, (start, end) = match.string, match.span()
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    joins = before.isascii() and after.isascii() and before.isalnum() and after.isalnum()
    is_operator = {
        "*": joins or before + after in {"  ", ")("} or (before.isdecimal() and after == "("),
        "**": joins and after.isdecimal(),
        "_": joins,
    }
    return match[0] if is_operator.get(match[0], False) else ""


def is_wide(character: str) -> bool:
    """Whether a character belongs to Chinese, Japanese or Korean, which write words without blanks."""
    return "\u3040" <= character <= "\u30ff" or "\u3400" <= character <= "\u9fff" or "\uac00" <= character <= "\ud7af"
