"""Mixtures: exact shares, a fixed order, no repetition before a source is used up, damaged questions counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from amvl_model.data.mixture import MixedQuestions, Skipped, readable
from amvl_model.data.schema import VisualQuestion


class Source(Sequence[VisualQuestion]):
    """Numbered questions without images, some of them unreadable."""

    def __init__(self, name: str, size: int, bad: Sequence[int] = ()) -> None:
        self.name, self.size, self.bad, self.asked = name, size, set(bad), Counter[int]()

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, item: Any) -> Any:
        self.asked[item] += 1
        if item in self.bad:
            raise ValueError(f"record {item} of {self.name}.parquet: image is not a readable image")
        return VisualQuestion(id=f"{self.name}{item}", images=(), prompt="?", answer_text="!", source=self.name)


def test_shares_follow_the_weights_exactly() -> None:
    sources = {"a": Source("a", 100), "b": Source("b", 50), "c": Source("c", 10)}
    mixed = MixedQuestions(sources, {"a": 5, "b": 3, "c": 2}, size=101)
    assert mixed.counts == {"a": 51, "b": 30, "c": 20}
    assert Counter(q.source for q in mixed) == {"a": 51, "b": 30, "c": 20}
    assert len(mixed) == 101


def test_without_a_size_no_question_is_repeated_and_one_source_is_used_up() -> None:
    mixed = MixedQuestions({"a": Source("a", 100), "b": Source("b", 10)}, {"a": 3, "b": 1})
    assert mixed.counts == {"a": 30, "b": 10}
    assert len({q.id for q in mixed}) == 40


def test_without_weights_every_question_comes_once() -> None:
    mixed = MixedQuestions({"a": Source("a", 7), "b": Source("b", 5)})
    assert Counter(q.id for q in mixed) == Counter([f"a{i}" for i in range(7)] + [f"b{i}" for i in range(5)])


def test_a_small_source_is_gone_through_again_in_a_new_order() -> None:
    mixed = MixedQuestions({"a": Source("a", 6)}, {"a": 1}, size=15)
    assert sorted(Counter(q.id for q in mixed).values()) == [2, 2, 2, 3, 3, 3]
    orders = [[mixed._index(0, epoch * 6 + i) for i in range(6)] for epoch in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(6))
    assert orders[0] != orders[1]


def test_the_order_depends_on_the_seed_alone() -> None:
    def ids(seed: int) -> list[str]:
        return [q.id for q in MixedQuestions({"a": Source("a", 20), "b": Source("b", 20)}, seed=seed)]

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)
    mixed = MixedQuestions({"a": Source("a", 20), "b": Source("b", 20)}, seed=1)
    assert [f"{name}{index}" for name, index in map(mixed.place, range(40))] == ids(1)
    assert [q.id for q in mixed[3:5]] == ids(1)[3:5]


def test_questions_are_read_only_when_asked_for() -> None:
    source = Source("a", 1000)
    mixed = MixedQuestions({"a": source})
    assert not source.asked
    _ = mixed[0]
    assert source.asked.total() == 1


def test_one_bad_question_is_skipped_counted_named_and_never_read_again() -> None:
    source = Source("a", 50, bad=[7])
    mixed = MixedQuestions({"a": source})
    first, second = [[q.id for q in mixed] for _ in range(2)]
    assert first == second
    assert "a7" not in first
    assert len(first) == 50
    assert source.asked[7] == 1
    assert [(s.source, s.index, s.reason) for s in mixed.skipped] == [
        ("a", 7, "record 7 of a.parquet: image is not a readable image")
    ]


def test_more_bad_questions_than_allowed_are_fatal_and_listed() -> None:
    mixed = MixedQuestions({"a": Source("a", 50, bad=[7, 8])})
    with pytest.raises(ValueError, match=r"2 questions of \d+ could not be read; expected at most 1(.|\n)*a.parquet"):
        list(mixed)
    strict = MixedQuestions({"a": Source("a", 50, bad=[7])}, max_skipped_share=0)
    with pytest.raises(ValueError, match="expected at most 0"):
        list(strict)
    assert len(list(MixedQuestions({"a": Source("a", 50, bad=[7, 8])}, max_skipped_share=1.0))) == 50
    with pytest.raises(ValueError, match="none of its 3 questions can be read"):
        list(MixedQuestions({"a": Source("a", 3, bad=range(3))}, size=100, max_skipped_share=3.0))


def test_reading_in_order_leaves_out_the_bad_ones_and_logs_them(caplog: pytest.LogCaptureFixture) -> None:
    skipped: list[Skipped] = []
    result = [q.id for q in readable("a", Source("a", 5, bad=[2]), skipped)]
    assert result == ["a0", "a1", "a3", "a4"]
    assert [(s.source, s.index) for s in skipped] == [("a", 2)]
    assert "skipped question 2 of a: record 2 of a.parquet" in caplog.text
    with pytest.raises(ValueError, match="2 questions of 5 could not be read; expected at most 1"):
        list(readable("a", Source("a", 5, bad=[2, 3]), []))


def test_five_bad_ones_in_ten_thousand_are_borne() -> None:
    mixed = MixedQuestions({"a": Source("a", 10_000, bad=range(0, 10_000, 2_000))}, max_skipped_share=0.01)
    assert len(list(mixed)) == 10_000
    assert len(mixed.skipped) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({},), "at least one source"),
        (({"a": Source("a", 0)},), "got none from a"),
        (({"a": Source("a", 3)}, {"b": 1.0}), "a weight for each of a, got b"),
        (({"a": Source("a", 3)}, {"a": 0.0}), "weights above 0"),
        (({"a": Source("a", 3)}, {"a": float("nan")}), "weights above 0"),
        (({"a": Source("a", 3)}, None, 0), "size must be None or at least 1"),
    ],
)
def test_bad_mixtures_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixedQuestions(*arguments)
