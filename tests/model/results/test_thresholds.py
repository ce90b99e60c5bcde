"""A sentence speaks of an effect where the interval leaves out 0 and the mean is large enough, and of a model that answers."""

from __future__ import annotations

import pytest

from amvl_model.results.statistics import Interval
from amvl_model.results.thresholds import SMALLEST, answers, is_effect, smallest


@pytest.mark.parametrize("kind", SMALLEST)
@pytest.mark.parametrize("sign", [1, -1])
def test_an_effect_needs_both_an_interval_and_a_size(kind: str, sign: int) -> None:
    size = sign * SMALLEST[kind]

    def judged(mean: float, half: float | None) -> bool:
        ends = (None, None) if half is None else (mean - half, mean + half)
        return is_effect(Interval(mean=mean, low=ends[0], high=ends[1], n=100), kind)  # type: ignore[arg-type]

    assert judged(1.5 * size, abs(size))
    assert not judged(0.5 * size, 0.1 * abs(size))  # certain, and too small
    assert not judged(1.5 * size, 2 * abs(size))  # large, and uncertain
    assert not judged(1.5 * size, None)


def test_thresholds_in_words_have_their_unit() -> None:
    assert (smallest("accuracy"), smallest("nll"), smallest("log_odds")) == ("2 points", "0.02 nats", "0.1 nats")


def test_a_model_answers_that_beats_a_guess_in_nll_or_clearly_in_accuracy() -> None:
    assert answers(0.7, 0.4, 1.1, 0.3)
    assert answers(7.0, 0.9, 1.1, 0.3)
    assert not answers(8.4, 0.47, 1.0, 0.38)  # three steps of training
