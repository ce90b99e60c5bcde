"""The table of reply forms: what `parse_choice` reads, and what it refuses to guess."""

from __future__ import annotations

import time

import pytest

from amvl_model.evaluation.parsing import parse_choice

LETTERS = ("A", "B", "C", "D")
IMAGES = ("the first image", "the second image", "the third image")
PAIR = ("the second image", "the third image")
YES_NO = ("yes", "no")
COUNTS = ("3", "2", "1", "0")
SIDES = ("left", "right")
CLOSER = ("A is closer", "B is closer")
DARKER = ("A is darker", "B is darker", "about the same")
BOXES = ("Box A", "Box B")
NINE = tuple(f"object {i}" for i in range(1, 10))
CATS = ("A cat", "A dog")
COLOURS = ("red", "dark red", "blue", "green")

LABELS = [
    ("(B)", LETTERS, 1),
    ("B", LETTERS, 1),
    ("B.", LETTERS, 1),
    ("b)", LETTERS, 1),
    ("b", LETTERS, 1),
    ("a", LETTERS, 0),
    (" B \n", LETTERS, 1),
    ("[B]", LETTERS, 1),
    ("[[B]]", LETTERS, 1),
    ("<B>", LETTERS, 1),
    ("{B}", LETTERS, 1),
    ('"B"', LETTERS, 1),
    ("'B'", LETTERS, 1),
    ("**B**", LETTERS, 1),
    ("**(B)**", LETTERS, 1),
    ("__B__", LETTERS, 1),
    ("`B`", LETTERS, 1),
    ("### B", LETTERS, 1),
    ("(Ｂ)", LETTERS, 1),
    ("（Ｂ）", LETTERS, 1),
    ("【B】", LETTERS, 1),
    ("Ｂ。", LETTERS, 1),
    ("Option B", LETTERS, 1),
    ("option (b)", LETTERS, 1),
    ("Choice B.", LETTERS, 1),
    ("Answer B", LETTERS, 1),
    ("Answer (B)", LETTERS, 1),
    ("Point B", LETTERS, 1),
    ("B选项", LETTERS, 1),
    ("选项B", LETTERS, 1),
    ("(B", LETTERS, 1),
    ("B<|im_end|>", LETTERS, 1),
    ("(B)</s>", LETTERS, 1),
    ("$B$", LETTERS, 1),
    (r"\(B\)", LETTERS, 1),
    ("(I)", NINE, 8),
    ("(A)", IMAGES, 0),
    ("(C)", IMAGES, 2),
    ("A", CATS, 0),
]

LABELS_WITH_TEXT = [
    ("B: 3", ("2", "3", "4"), 1),
    ("(B) 3", ("2", "3", "4"), 1),
    ("B. 3", ("2", "3", "4"), 1),
    ("B - 3", ("2", "3", "4"), 1),
    ("(B) the second image", IMAGES, 1),
    ("B, the second image.", IMAGES, 1),
    ("(B): no", YES_NO, 1),
    ("(B) (no)", YES_NO, 1),
    ("A. A is closer", CLOSER, 0),
    ("(A) A is closer", CLOSER, 0),
    ("The answer is (B) the second image.", IMAGES, 1),
    ("The answer is **B: right**", SIDES, 1),
]

STATEMENTS = [
    ("The answer is (B)", LETTERS, 1),
    ("The answer is (B).", LETTERS, 1),
    ("The answer is B", LETTERS, 1),
    ("The answer is A", LETTERS, 0),
    ("the answer is b.", LETTERS, 1),
    ("The correct answer is: B", LETTERS, 1),
    ("The correct option is B.", LETTERS, 1),
    ("The correct answer is option B.", LETTERS, 1),
    ("The answer is\n\n(B)", LETTERS, 1),
    ("The answer is B because it has the same colour as C.", LETTERS, 1),
    ("The answer should therefore be B.", LETTERS, 1),
    ("The answer to the question is B.", LETTERS, 1),
    ("The answer choice is B", LETTERS, 1),
    ("Answer: B", LETTERS, 1),
    ("Answer: a", LETTERS, 0),
    ("answer:B", LETTERS, 1),
    ("Answer: (B) and nothing else", LETTERS, 1),
    ("ANSWER: B", LETTERS, 1),
    ("**Answer:** B", LETTERS, 1),
    ("**Final Answer**: (B)", LETTERS, 1),
    ("## Final answer\n\nB", LETTERS, 1),
    ("Ans: B", LETTERS, 1),
    ('{"answer": "B"}', LETTERS, 1),
    ("Answer = B", LETTERS, 1),
    ("answer=B", LETTERS, 1),
    ("Answer->B", LETTERS, 1),
    ("我认为是B", LETTERS, 1),
    ("A: The answer is B", LETTERS, 1),
    ("I choose B.", LETTERS, 1),
    ("I would go with (B).", LETTERS, 1),
    ("I think it's B.", LETTERS, 1),
    ("My guess is B.", LETTERS, 1),
    ("My best guess would be B.", LETTERS, 1),
    ("(B) is the correct answer.", LETTERS, 1),
    ("B is correct.", LETTERS, 1),
    ("Option B is correct, since A is too small.", LETTERS, 1),
    ("The second image is the right choice; the third image is not.", IMAGES, 1),
    ("答案是B", LETTERS, 1),
    ("答案：B", LETTERS, 1),
    ("正确答案是（Ｂ）。", LETTERS, 1),
    ("我选择B", LETTERS, 1),
    ("故选B。", LETTERS, 1),
    ("应该是B", LETTERS, 1),
    ("The answer is the third image.", IMAGES, 2),
    ("The answer is that the third image fits.", IMAGES, 2),
    ("The answer is 2.", COUNTS, 1),
    ("The answer is two.", COUNTS, 1),
    ("The answer is one.", COUNTS, 2),
    ("The answer is no.", YES_NO, 1),
    ("The right answer is left.", SIDES, 0),
    ("The answer is clearly the left.", SIDES, 0),
    ("The answer is B. I am confident in this answer.", LETTERS, 1),
    ("If the answer were A, it would be darker. The answer is B.", LETTERS, 1),
    ("I'm not sure, but the answer is B.", LETTERS, 1),
    ("I'm not sure, but I think it's B.", LETTERS, 1),
    ("The answer is B, not A.", LETTERS, 1),
    ("The answer is not A but B.", LETTERS, 1),
]

MARKED = [
    ("<answer>B</answer>", LETTERS, 1),
    ("<answer>(B)</answer>", LETTERS, 1),
    ("<answer> B. </answer>", LETTERS, 1),
    ("<ANSWER>b</ANSWER>", LETTERS, 1),
    ("<answer>B", LETTERS, 1),
    ("<answer>The answer is B</answer>", LETTERS, 1),
    ("<answer>the third image</answer>", IMAGES, 2),
    (r"\boxed{B}", LETTERS, 1),
    (r"\boxed{(B)}", LETTERS, 1),
    (r"\boxed{\text{B}}", LETTERS, 1),
    (r"\boxed{\textbf{(B) } 3}", ("2", "3"), 1),
    (r"$\boxed{\mathrm{B}}$", LETTERS, 1),
    ("\boxed{B}", LETTERS, 1),  # the backslash lost to an escape: "\b" is a backspace
    (r"The answer is \boxed{B}.", LETTERS, 1),
    (r"<answer>\boxed{B}</answer>", LETTERS, 1),
    (r"A looks good at first. \boxed{B}", LETTERS, 1),
    (r"\boxed{2}", COUNTS, 1),
    ("<think>maybe A</think> B", LETTERS, 1),
    ("<think>The answer is A.</think>\n<answer>B</answer>", LETTERS, 1),
    ("<THINKING>maybe A</THINKING>(B)", LETTERS, 1),
    ("it could be A, or C</think>B", LETTERS, 1),
    ("<think>A</think>no idea<think>C</think>\n\nB", LETTERS, 1),
]

REASONING = [
    ("A is closer because it is lower in the picture, so the answer is B", CLOSER, 1),
    ("A is closer because... so the answer is B", LETTERS, 1),
    ("The answer is A. Wait, on second thought the answer is C.", LETTERS, 2),
    ("At first I thought the answer is A.\nFinal answer: B", LETTERS, 1),
    (r"The answer is \boxed{A}. Let me check again: the answer is B.", LETTERS, 1),
    ("A is too dark, so B.", LETTERS, 1),
    ("A is red and C is blue. Therefore, it is D.", LETTERS, 3),
    ("Point A lies on the handle and B on the rim.\nB", LETTERS, 1),
    ("Point A lies on the handle.\n\n(B)", LETTERS, 1),
    ("(B)\nThe other points, A and C, are on the rim.", LETTERS, 1),
    ("(B) Because the handle is there; (A) is on the rim.", LETTERS, 1),
    ("B. The handle is there.", LETTERS, 1),
    ("B, because the handle is there.", LETTERS, 1),
    ("B because of the handle", LETTERS, 1),
    ("B) It matches.", LETTERS, 1),
    ("B\n\nExplanation: it matches.", LETTERS, 1),
    ("Choices: (A) 3 (B) 2 (C) 1 (D) 0. Answer: (B)", COUNTS, 1),
    ("The answer is A or B. I choose B.", LETTERS, 1),
    ("Let's see:\nA. on the rim\nB. on the handle\nSo the correct answer is B.", LETTERS, 1),
    ("C</answer>", LETTERS, 2),
    ("The answer is C.\n\nA. on the rim\nB. on the handle", LETTERS, 2),
    ("The answer cannot be B or C. The answer must be D.", LETTERS, 3),
    ("C\n\nthe third image", IMAGES, 2),
    ("The handle corresponds to C.", LETTERS, 2),
    ("C is most likely.", LETTERS, 2),
    ("C seems right.", LETTERS, 2),
    ("Is the cup on the table? Yes, it is.", YES_NO, 0),
    ("There is one bird.", COUNTS, 2),
]

TEXTS = [
    ("the third image", IMAGES, 2),
    ("The third image.", IMAGES, 2),
    ("third image", IMAGES, 2),
    ("THE  THIRD\nIMAGE", IMAGES, 2),
    ("It is the third image that looks most alike.", IMAGES, 2),
    ("The style of the third image is the closest.", PAIR, 1),
    ("The third image is unlike the second image", PAIR, 1),
    ("A is closer", CLOSER, 0),
    ("Point B is closer to the camera.", CLOSER, 1),
    ("They are about the same.", DARKER, 2),
    ("B is darker than A.", DARKER, 1),
    ("Box B", BOXES, 1),
    ("Box B fits the car more tightly.", BOXES, 1),
    ("Box A.", BOXES, 0),
    ("yes", YES_NO, 0),
    ("Yes.", YES_NO, 0),
    ("No", YES_NO, 1),
    ("NO!", YES_NO, 1),
    ("Yes, the cup is on the table.", YES_NO, 0),
    ("Yes, there is no doubt.", YES_NO, 0),
    ("Yes it is.", YES_NO, 0),
    ("No, the cup is under the table.", YES_NO, 1),
    ("No it is not.", YES_NO, 1),
    ("No, I was wrong: the answer is yes", YES_NO, 0),
    ("2", COUNTS, 1),
    ("2.", COUNTS, 1),
    ("(2)", COUNTS, 1),
    ("**2**", COUNTS, 1),
    ("two", COUNTS, 1),
    ("Zero.", COUNTS, 3),
    ("There are 2 floats", COUNTS, 1),
    ("There are two floats.", COUNTS, 1),
    ("There are 2 floats in image 3.", COUNTS, 1),
    ("1. Look at the sea.\n2. Count.\nThere are 3 floats.", ("4", "3", "5"), 1),
    ("I count 10 floats", ("1", "10", "100"), 1),
    ("It is to the left of the car.", SIDES, 0),
    ("left, not right", SIDES, 0),
    ("A dog", CATS, 1),
    ("It shows a dog.", CATS, 1),
    ("It is dark red.", COLOURS, 1),
    ("The colour is red", COLOURS, 0),
    ("not touching", ("touching", "not touching"), 1),
    ("They are not touching.", ("touching", "not touching"), 1),
    ("y", ("x", "y", "z"), 1),
    ("none of the above", ("red", "none of the above"), 1),
    ("Both", ("left", "right", "both"), 2),
    ("左边", ("左", "右"), 0),
    ("答案是右边", ("左", "右"), 1),
    ("It must be B.", LETTERS, 1),
    ("Not A, but B.", LETTERS, 1),
    ("It is not (A); it is (B).", LETTERS, 1),
    ("A is not the answer, it is B.", LETTERS, 1),
    ("B rather than A", LETTERS, 1),
    ("C, not D", LETTERS, 2),
    ("Not the second image. The third image.", PAIR, 1),
]

BASED_ON = [
    ("Based on the image, the answer is (B).", LETTERS, 1),
    ("Based on the image, B.", LETTERS, 1),
    ("Based on the picture, the correct option is C", LETTERS, 2),
    ("Based on the colours shown, the sign is blue.", COLOURS, 2),
    ("Based on the image, I would choose option C: blue.", COLOURS, 2),
    ("Based on what is seen, there are two floats.", COUNTS, 1),
]

FULL_WIDTH = [
    ("Ｂ", LETTERS, 1),
    ("ｂ", LETTERS, 1),
    ("Ｂ！", LETTERS, 1),
    ("选Ｂ", LETTERS, 1),
    ("答案：Ｂ。", LETTERS, 1),
    ("答案是：（Ｃ）", LETTERS, 2),
    ("正确选项是 C。", LETTERS, 2),
    ("选择B选项", LETTERS, 1),
    ("答案：蓝色", ("红色", "蓝色"), 1),
    ("图中是蓝色", ("红色", "蓝色"), 1),
]


@pytest.mark.parametrize(
    ("reply", "choices", "expected"),
    [*LABELS, *LABELS_WITH_TEXT, *STATEMENTS, *MARKED, *REASONING, *TEXTS, *BASED_ON, *FULL_WIDTH],
)
def test_reply_that_says_it_is_read(reply: str, choices: tuple[str, ...], expected: int) -> None:
    assert parse_choice(reply, choices) == expected


@pytest.mark.parametrize("form", ["({})", "{}", "{}.", "The answer is ({})", "<answer>{}</answer>", "{} because of it"])
@pytest.mark.parametrize("size", [2, 4, 9])
def test_every_label_is_read_in_every_position(form: str, size: int) -> None:
    """Letter shuffling moves the right option; the parser must not prefer a letter (I before a word is the pronoun)."""
    choices = [f"thing number {i}" for i in range(size)]
    for index in range(size):
        expected = None if form == "{} because of it" and index == 8 else index
        assert parse_choice(form.format("ABCDEFGHI"[index]), choices) == expected


@pytest.mark.parametrize("choices", [LETTERS, IMAGES, YES_NO, COUNTS, SIDES, CLOSER, DARKER, BOXES, CATS, COLOURS])
def test_every_option_text_names_its_option(choices: tuple[str, ...]) -> None:
    for index, text in enumerate(choices):
        for form in ("{}", "{}.", "The answer is {}.", "Answer: {}", r"\boxed{{{}}}", "<answer>{}</answer>"):
            assert parse_choice(form.format(text), choices) == index, form.format(text)


def test_shuffled_option_texts_keep_their_labels() -> None:
    shuffled = ("B is closer", "A is closer")
    assert parse_choice("(A)", shuffled) == 0
    assert parse_choice("The answer is (A)", shuffled) == 0
    assert parse_choice("A is closer", shuffled) == 1
    assert parse_choice("(A) A is closer", shuffled) is None
    assert parse_choice("(C)", ("C", "A", "B")) == 2


def test_no_choices_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one choice"):
        parse_choice("B", [])


def test_a_string_of_choices_is_an_error() -> None:
    with pytest.raises(TypeError, match="sequence of option texts"):
        parse_choice("B", "ABCD")


def test_a_reply_that_is_no_string_is_an_error() -> None:
    with pytest.raises(TypeError, match="decode"):
        parse_choice(None, LETTERS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "unit", ["a ", "The answer is ", "(A) ", "not ", "<answer>", "\\boxed{", "<think>", "1. ", "\n", "?", "answer to "]
)
def test_long_degenerate_replies_are_read_in_bounded_time(unit: str) -> None:
    start = time.process_time()
    assert parse_choice(unit * (4096 // len(unit)), LETTERS) in (None, 0)
    assert time.process_time() - start < 2.0


SIGNS = [*"!\"#%&'()+,-./:;<=>?@[]^{|}", "“", "”", "。", "、", "?!", "—"]


@pytest.mark.parametrize("sign", SIGNS)
def test_an_option_that_is_a_sign_is_read_where_it_stands_apart_and_nowhere_else(sign: str) -> None:
    choices = [sign, "zebra"]
    assert parse_choice(sign, choices) == 0
    assert parse_choice(f"(A) {sign}", choices) == 0
    for reply in (
        *('The answer is "B".', '"zebra"', "(B) zebra", "The answer is zebra.", "Not A but B.", "B: zebra!"),
        *("It is 'zebra', not that.", "B, because of /that/ + {this} = [it] & 5% #1 ^ | @ <x>", "**B**", r"\boxed{B}"),
    ):
        assert parse_choice(reply, choices) == 1, reply


@pytest.mark.parametrize("sign", ["*", "_", "$", "~", "`", "**", "#"])
def test_a_text_of_nothing_but_markup_means_its_signs(sign: str) -> None:
    assert parse_choice(sign, [sign, "zebra"]) == 0
    assert parse_choice(f"  {sign}\n", [sign, "zebra"]) == 0
    assert parse_choice(f"{sign} B {sign}", [sign, "zebra"]) in (1, None)
