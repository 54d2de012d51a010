"""Intervals, paired differences and AUROC against values worked out by hand or by brute force."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempo_fast.errors import OptionError
from tempo_fast.evaluation.relevance import relevant_segments, separation
from tempo_fast.evaluation.statistics import Z95, auroc, paired_difference, wilson_interval


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        # z = 1.95996, z² = 3.84146: of none in n, 0 … z²/(n + z²).
        (0, 10, 0.0, 0.27753),
        (10, 10, 0.72247, 1.0),
        (8, 10, 0.49016, 0.94332),
        (50, 100, 0.40383, 0.59617),
    ],
)
def test_wilson_intervals(right, count, low, high):
    assert wilson_interval(right, count) == pytest.approx((low, high), abs=1e-5)


@settings(deadline=None)
@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.floats(0, n), st.just(n))))
def test_an_end_of_wilsons_interval_is_where_the_score_test_just_rejects(case):
    right, count = case
    share = right / count
    for end in wilson_interval(right, count):
        assert 0 <= end <= 1
        # (p̂ - p)² = z² p (1 - p) / n
        assert (share - end) ** 2 == pytest.approx(Z95**2 * end * (1 - end) / count, abs=1e-9)


@pytest.mark.parametrize(("right", "count"), [(0, 0), (3, 2), (-1, 5)])
def test_no_proportion_is_an_error(right, count):
    with pytest.raises(OptionError):
        wilson_interval(right, count)


def test_a_difference_of_wins_alone_has_the_quantiles_of_a_binomial():
    # 30 of 100 questions are won: resampled means are Binomial(100, 0.3) / 100, whose 2.5 % and
    # 97.5 % quantiles are 21 and 39.
    found = paired_difference([1.0] * 60 + [0.0] * 40, [1.0] * 30 + [0.0] * 70)
    assert found.questions == 100 and found.mean == pytest.approx(0.3)
    assert found.interval == pytest.approx((0.21, 0.39))


def test_the_bootstrap_draws_whole_questions():
    generator = np.random.default_rng(7)
    ours, reference = generator.integers(0, 4, (2, 40)) / 3
    found = paired_difference(ours, reference)
    drawn = generator.integers(0, 40, (20_000, 40))  # with replacement, by index
    expected = np.percentile((ours - reference)[drawn].mean(1), [2.5, 97.5])
    assert found.mean == pytest.approx((ours - reference).mean())
    assert found.interval == pytest.approx(tuple(expected), abs=0.02)
    assert paired_difference(ours, reference) == found


def test_the_bootstrap_draws_whole_videos():
    generator = np.random.default_rng(8)
    videos = generator.integers(0, 12, 90)
    ours, reference = generator.integers(0, 2, (2, 90)).astype(float)
    ours = np.where(videos < 4, 1.0, ours)  # about some videos it is always right
    found = paired_difference(ours, reference, [f"video {video}" for video in videos])
    totals = np.array([(ours - reference)[videos == video].sum() for video in range(12)])
    counts = np.bincount(videos)
    drawn = generator.integers(0, 12, (20_000, 12))
    means = totals[drawn].sum(1) / counts[drawn].sum(1)
    assert found.mean == pytest.approx((ours - reference).mean())
    assert found.interval == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])), abs=0.02)


def test_questions_that_go_together_say_less():
    ours, reference = [1.0] * 50 + [0.0] * 50, [0.5] * 100
    apart = paired_difference(ours, reference).interval
    together = paired_difference(ours, reference, [number // 10 for number in range(100)]).interval
    assert together[1] - together[0] > 2 * (apart[1] - apart[0])
    # About a single video there is nothing else to draw than its questions.
    assert paired_difference(ours, reference, ["one"] * 100).interval == apart


def test_pairing_makes_the_interval_narrower_than_the_two_apart():
    ours = [1.0] * 50 + [0.0] * 50
    low, high = paired_difference(ours, ours).interval
    assert (low, high) == (0, 0)
    low, high = paired_difference(ours, ours[::-1]).interval
    assert low < -0.15 and high > 0.15


@pytest.mark.parametrize(("ours", "reference"), [([], []), ([1.0], [1.0, 0.0])])
def test_a_difference_needs_the_same_questions(ours, reference):
    with pytest.raises(OptionError):
        paired_difference(ours, reference)
    with pytest.raises(OptionError):
        paired_difference([1.0, 0.0], [0.0, 0.0], ["one"])


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30))
def test_auroc_is_the_share_of_pairs_in_order(pairs):
    true = [score for score, label in pairs if label]
    false = [score for score, label in pairs if not label]
    found = auroc([score for score, _ in pairs], [label for _, label in pairs])
    if not true or not false:
        assert found is None
        return
    wins = sum(Fraction(1 + (a > b) - (a < b), 2) for a, b in product(true, false))
    assert found == pytest.approx(float(wins / (len(true) * len(false))))


def test_scores_without_labels_are_an_error():
    with pytest.raises(OptionError):
        auroc([0.5], [])


SEGMENTS = [(0.0, 4.0), (4.0, 8.0), (8.0, 12.0), (12.0, 12.5)]


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], [False, False, False, False]),
        ([(4.0, 8.0)], [False, True, False, False]),
        ([(3.5, 8.4)], [True, True, False, False]),
        ([(3.6, 8.5)], [False, True, True, False]),
        # Of a short span half is enough, so that no span between two segments is lost.
        ([(3.9, 4.1)], [True, True, False, False]),
        ([(3.9, 4.3)], [False, True, False, False]),
        ([(5.0, 5.1)], [False, True, False, False]),
        # And of a short segment.
        ([(12.2, 20.0)], [False, False, False, True]),
        ([(12.3, 20.0)], [False, False, False, False]),
        ([(0.0, 0.2), (11.0, 12.0)], [True, False, True, False]),
        ([(20.0, 30.0)], [False, False, False, False]),
    ],
)
def test_segments_that_overlap_a_span_are_relevant(spans, expected):
    assert relevant_segments(SEGMENTS, spans) == expected


def test_separation_is_told_pooled_and_question_by_question():
    found = separation(
        [
            ([0.9, 0.8, 0.1], [True, False, False]),  # 1
            ([0.2, 0.3], [True, False]),  # 0
            ([0.05, 0.95], [False, False]),  # no relevant segment
        ]
    )
    # Of the pooled pairs, 0.9 is above 4 of 5 and 0.2 above 2 of 5.
    assert found.pooled == pytest.approx(6 / 10)
    assert found.mean == pytest.approx(0.5)
    assert (found.pairs, found.relevant, found.questions) == (7, 2, 2)
    nothing = separation([])
    assert nothing.pooled is None and nothing.mean is None and nothing.pairs == 0
