"""Schedules of beta(t) and gamma(t)."""

import numpy as np
import pytest

from amvl_model.config import ObjectiveConfig
from amvl_theory.dynamics.schedules import Ramp, Schedule, Segment, as_segments, piecewise_constant


@pytest.mark.parametrize("order", ["forward-first", "reverse-first", "simultaneous"])
@pytest.mark.parametrize("lengths", [(0.1, 0.2, 0.2), (0.0, 0.5, 0.0), (0.7, 0.3, 0.7)])
def test_weights_equal_those_that_the_model_trains_with(order, lengths):
    warmup, delay, second = lengths
    settings = ObjectiveConfig(
        beta=0.3, gamma=0.7, order=order, beta_warmup=warmup, gamma_delay=delay, gamma_warmup=second
    )
    schedule = Schedule(0.3, 0.7, order, 40.0, warmup, delay, second)
    progress = np.linspace(0.0, 1.0, 101)
    expected = np.array([settings.weights(value) for value in progress])
    found = np.stack(schedule.weights(40.0 * progress), axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("order", ["forward-first", "reverse-first", "simultaneous", "constant"])
def test_segments_interpolate_to_the_weights(order):
    schedule = Schedule(0.3, 0.7, order, 10.0, 0.35, 0.2, 0.3)
    segments = schedule.segments()
    assert segments[0].start == 0
    assert np.isinf(segments[-1].end)
    for segment in segments:
        end = min(segment.end, 20.0)
        for share in (0.1, 0.5, 0.9):
            time = segment.start + share * (end - segment.start)
            expected = [(1 - share) * ends[0] + share * ends[1] for ends in (segment.beta, segment.gamma)]
            np.testing.assert_allclose([float(value) for value in schedule.weights(time)], expected, atol=1e-12)


def test_constant_order_has_full_weights_from_the_start_in_one_segment():
    (segment,) = Schedule(0.3, 0.7).segments()
    assert (segment.start, segment.end, segment.beta, segment.gamma) == (0.0, np.inf, (0.3, 0.3), (0.7, 0.7))


def test_a_ramp_of_no_length_is_a_jump():
    np.testing.assert_array_equal(Ramp(2.0, 1.0, 1.0)([0.0, 0.999, 1.0, 3.0]), [0.0, 0.0, 2.0, 2.0])


def test_weights_keep_their_values_after_the_horizon():
    beta, gamma = Schedule(0.3, 0.7, "forward-first", 2.0).weights([2.0, 50.0])
    np.testing.assert_array_equal([beta, gamma], [[0.3, 0.3], [0.7, 0.7]])


def test_piecewise_constant_has_a_segment_for_each_start():
    first, second = piecewise_constant([0.0, 2.0], 1.0, [0.0, 3.0])
    assert (first.end, first.gamma, second.start, second.gamma) == (2.0, (0.0, 0.0), 2.0, (3.0, 3.0))
    assert second.beta == (1.0, 1.0)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Ramp(1.0, 2.0, 1.0), r"^end: expected a time of at least the ramp's start 2, received 1$"),
        (
            lambda: Segment(2.0, 1.0, (0.0, 0.0), (0.0, 0.0)),
            r"^end: expected a time after the segment's start 2, received 1$",
        ),
        (lambda: Segment(0.0, np.inf, (0.0, 1.0), (0.0, 0.0)), "^end: expected a finite time"),
        (lambda: Segment(0.0, 1.0, (0.0, -1.0), (0.0, 0.0)), "^beta: expected numbers of at least 0"),
        (lambda: Segment(0.0, 1.0, (0.0,), (0.0, 0.0)), "^beta: expected its values at start and end"),
        (lambda: Schedule(1.0, 1.0, "backward"), "^order: expected one of forward-first, .* received 'backward'"),
        (lambda: Schedule(-1.0, 1.0), "^beta: expected numbers of at least 0, received -1.0"),
        (lambda: Schedule(1.0, np.nan), "^gamma: expected finite numbers"),
        (lambda: Schedule(1.0, 1.0, horizon=0.0), "^horizon: expected numbers above 0"),
        (lambda: Schedule(1.0, 1.0, beta_warmup=1.5), "^beta_warmup: expected a fraction of the horizon"),
        (
            lambda: Schedule(1.0, 1.0, "forward-first", 1.0, 0.1, 0.9, 0.2),
            "^gamma_warmup: expected at most 0.1 beside gamma_delay 0.9 .* received 0.2",
        ),
        (lambda: piecewise_constant([0.0, 2.0, 1.0], 1.0, 1.0), "^starts: expected times that rise strictly from 0"),
        (lambda: piecewise_constant([0.0, 2.0], [1.0, 1.0, 1.0], 1.0), r"^beta: expected a number or shape \(2,\)"),
        (lambda: as_segments(piecewise_constant([0.0, 2.0], 1.0, 1.0)[1:]), "^schedule: expected segments from time 0"),
        (
            lambda: as_segments([Segment(0.0, 1.0, (1.0, 1.0), (1.0, 1.0)), Segment(2.0, 3.0, (1.0, 1.0), (1.0, 1.0))]),
            "^schedule: expected a segment that starts at 1",
        ),
    ],
)
def test_bad_schedules_are_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build()
