"""Does the relevance tell the segments that matter from those that don't?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tempo_fast.evaluation.statistics import auroc

LEAST_OVERLAP = 0.5  # seconds
ROUNDING = 1e-6  # seconds; no time is known better

Span = tuple[float, float]


@dataclass(frozen=True)
class Separation:
    """How well the relevance separates segments, as AUROC: 1 is perfect, 0.5 is chance.

    pooled: over all pairs of a question and a segment, so that the relevance must also mean the
    same from question to question. mean: over the `questions` that have segments of both kinds.
    Either is None where there are not both kinds. pairs, relevant: how many pairs, and how many of
    them are of a segment that matters.
    """

    pooled: float | None
    mean: float | None
    pairs: int
    relevant: int
    questions: int


def relevant_segments(segments: Iterable[Span], spans: Sequence[Span]) -> list[bool]:
    """Which segments matter, both in seconds: those that overlap a span by half a second or more.

    Of a span or a segment shorter than a second, half of it is enough.
    """
    return [any(_overlap(segment, span) for span in spans) for segment in segments]


def _overlap(segment: Span, span: Span) -> bool:
    shared = min(segment[1], span[1]) - max(segment[0], span[0])
    shorter = min(segment[1] - segment[0], span[1] - span[0])
    return shared > 0 and shared >= min(LEAST_OVERLAP, shorter / 2) - ROUNDING


def separation(questions: Iterable[tuple[Sequence[float], Sequence[bool]]]) -> Separation:
    """Over questions, each the relevance of its segments and which of them matter."""
    scores: list[float] = []
    labels: list[bool] = []
    single: list[float] = []
    for relevance, matters in questions:
        scores += relevance
        labels += matters
        alone = auroc(relevance, matters)
        if alone is not None:
            single.append(alone)
    return Separation(
        pooled=auroc(scores, labels),
        mean=sum(single) / len(single) if single else None,
        pairs=len(labels),
        relevant=sum(labels),
        questions=len(single),
    )
