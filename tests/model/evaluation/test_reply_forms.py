"""Kinds of replies (reply_forms.txt): cleaning, lists, negations, conditions, retractions, languages; any text; time."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amvl_model.evaluation.harness_readers import LMMS_EVAL_BLINK_073, VLMEVALKIT_EXACT
from amvl_model.evaluation.parsing import parse_choice, parser
from amvl_model.evaluation.parsing.lexicon import PHRASES
from tests.model.evaluation.reply_forms import LABELS, Form, load_forms

FORMS = load_forms()
COLOURS = ("red", "blue", "green", "yellow")
WORDS = sorted({phrase.strip() for table in PHRASES.values() for phrase in table.replace("\n", "|").split("|")})
SIGNS = [
    *"().,:;!?\"'[]{}<>$*_`-–/&+=\n\\、。，",
    "<answer>",
    "</answer>",
    "\\boxed{",
    "<think>",
    "</think>",
    "\\frac{",
    "->",
]


def kinds() -> Iterable[str]:
    return dict.fromkeys(form.kind for form in FORMS)


def shown(form: Form) -> str:
    return f"{form.reply!r} to {', '.join(form.choices)}"


@pytest.mark.parametrize("kind", kinds())
def test_every_form_of_the_table_is_read_or_left_unread_as_it_says(kind: str) -> None:
    forms = [form for form in FORMS if form.kind == kind]
    wrong = {
        shown(form): result for form in forms if (result := parse_choice(form.reply, form.choices)) not in form.right
    }
    assert not wrong


def test_the_table_is_as_long_as_it_claims() -> None:
    assert len(FORMS) > 2500
    assert len({(form.reply, form.choices) for form in FORMS}) > 2400


def test_a_reply_that_both_harnesses_read_rightly_is_read_here_too() -> None:
    """Where lmms-eval and VLMEvalKit agree on a right option, so do we, but for double negations and three idioms."""
    agreed, unread = 0, set()
    for form in FORMS:
        theirs = {reader.read(form.reply, form.choices) for reader in (LMMS_EVAL_BLINK_073, VLMEVALKIT_EXACT)}
        if len(theirs) == 1 and theirs != {None} and theirs <= form.right:
            agreed += 1
            if parse_choice(form.reply, form.choices) not in theirs:
                unread.add(form.reply)
    assert agreed > 400
    idioms = {"B it is.", "B if anything", "B I think"}
    assert unread == idioms | {"A isn't wrong", "B is not wrong.", "B is not incorrect."}


@pytest.mark.parametrize(
    "template", ["The answer is {}.", "({})", "not {}", "{} is wrong, so it is {}.", "{} or {}", "{}: no, {}: yes"]
)
def test_no_label_is_preferred_in_either_case(template: str) -> None:
    pairs = [(0, 1), (1, 0), (1, 2), (2, 3), (3, 0)]
    for letters in (LABELS, LABELS.lower()):
        result = [parse_choice(template.format(letters[a], letters[b]), COLOURS) for a, b in pairs]
        assert result in ([None] * 5, [a for a, _ in pairs], [b for _, b in pairs])


@given(st.text())
def test_any_text_is_read_without_an_error(reply: str) -> None:
    assert parse_choice(reply, COLOURS) in (None, 0, 1, 2, 3)


@given(st.text(), st.lists(st.text(), min_size=1, max_size=5))
def test_any_option_texts_are_accepted(reply: str, choices: list[str]) -> None:
    result = parse_choice(reply, choices)
    assert result is None or 0 <= result < len(choices)


pieces = st.lists(st.sampled_from([*"BCD" * 8, *COLOURS * 4, *SIGNS, *WORDS]), min_size=1, max_size=12)


@settings(max_examples=300, deadline=None)
@given(pieces, st.sampled_from([" ", ""]))
def test_renaming_the_options_renames_what_is_read(words: list[str], blank: str) -> None:
    renamed = {"B": "C", "C": "D", "D": "B", "blue": "green", "green": "yellow", "yellow": "blue"}
    result = parse_choice(blank.join(words), COLOURS)
    other = parse_choice(blank.join(renamed.get(word, word) for word in words), COLOURS)
    assert other == {1: 2, 2: 3, 3: 1}.get(result if result is not None else -1, result)


@settings(max_examples=200, deadline=None)
@given(pieces, st.permutations(range(4)))
def test_the_order_of_the_options_does_not_change_which_text_is_read(words: list[str], order: list[int]) -> None:
    reply = " ".join(word for word in words if word.upper() not in {"A", "B", "C", "D"})
    result = parse_choice(reply, COLOURS)
    shuffled = parse_choice(reply, [COLOURS[i] for i in order])
    assert (None if result is None else COLOURS[result]) == (None if shuffled is None else COLOURS[order[shuffled]])


def process_time(reply: str) -> float:
    """The best of three, so that a busy machine does not count."""
    times = []
    for _ in range(3):
        start = time.process_time()
        parse_choice(reply, COLOURS)
        times.append(time.process_time() - start)
    return min(times)


UNITS = [
    "A ",
    "A\n",
    "B, ",
    "red ",
    "not ",
    "answer ",
    "The answer is ",
    "the answer to ",
    "答案",
    "是",
    "B。",
    "(B",
    "- ",
    "--",
    "{",
    "}",
]
UNITS += [
    "\\boxed{",
    "\\frac{",
    "<answer>A",
    "<think>",
    "</think>",
    "<b",
    "$ ",
    "**",
    "if A ",
    "wait ",
    "A and B ",
    "wrong: ",
    "A is the ",
]


@pytest.mark.parametrize("unit", UNITS)
def test_time_is_linear_in_the_length(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parser, "LIMIT", 10**9)
    monkeypatch.setattr(parser, "MAX_TOKENS", 10**9)
    short, long = (process_time(unit * (size // len(unit))) for size in (2_000, 12_000))
    assert long < 18 * short + 0.05, "6 times the length: 6 times the time if linear, 36 times if quadratic"


@pytest.mark.parametrize("unit", [*UNITS, "word ", "The sign is blue, not red. "])
def test_a_reply_of_100_kilobytes_is_read_at_once(unit: str) -> None:
    assert process_time(unit * (100_000 // len(unit))) < 1.0, "some 0.05 s on an idle machine"


def test_of_a_long_reply_only_a_statement_near_its_end_counts() -> None:
    filler = "The sign is far away. " * 5_000
    assert parse_choice(filler + "The answer is B.", COLOURS) == 1
    assert parse_choice("<think>" + filler + "</think>B", COLOURS) == 1
    assert parse_choice("B. " + filler, COLOURS) is None
    assert parse_choice(filler + "It is blue.", COLOURS) is None
