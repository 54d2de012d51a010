"""What can be said from a limited number of questions: intervals, paired differences, AUROC."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from tempo_fast.errors import OptionError

Z95 = 1.959963984540054  # the standard normal's 97.5 % quantile
RESAMPLES = 10_000
SEED = 0


@dataclass(frozen=True)
class Difference:
    """A mean difference over `questions` paired questions, and its 95 % interval."""

    questions: int
    mean: float
    interval: tuple[float, float]


def wilson_interval(successes: float, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927), within 0…1.

    successes: may be a fraction, where a trial is a mean over several seeds. Raises OptionError
    unless 0 <= successes <= trials and there is a trial.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise OptionError(f"{successes} successes in {trials} trials are no proportion")
    share, z2 = successes / trials, Z95**2
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_difference(
    ours: Sequence[float], reference: Sequence[float], groups: Sequence[Hashable] | None = None
) -> Difference:
    """The mean of ours - reference, a value a question each, with a paired bootstrap interval.

    groups: of each question its video; answers about one video tend to be right or wrong together,
    so whole videos are drawn (whole questions where there are no groups, or but one). Drawn with
    replacement, `RESAMPLES` times from a generator seeded with `SEED`; the interval is from the
    2.5th to the 97.5th percentile of the means. Where every question has the same difference it has
    no width, however few they are. Raises OptionError for lists that are empty or of different
    length.
    """
    questions = len(ours)
    groups = range(questions) if groups is None else groups
    if not questions or {len(reference), len(groups)} != {questions}:
        raise OptionError(
            "a paired comparison needs the same questions; got "
            f"{questions}, {len(reference)} and {len(groups)}"
        )
    if len(set(groups)) == 1:
        groups = range(questions)
    differences = np.asarray(ours, np.float64) - np.asarray(reference, np.float64)
    number = {group: at for at, group in enumerate(dict.fromkeys(groups))}
    members = np.array([number[group] for group in groups])
    totals = np.stack([np.bincount(members, differences), np.bincount(members)], 1)
    # Videos of equal totals are interchangeable: drawing how many of each kind come up is drawing
    # videos, without a table of resamples times videos.
    kinds, counts = np.unique(totals, axis=0, return_counts=True)
    drawn = np.random.default_rng(SEED).multinomial(len(totals), counts / counts.sum(), RESAMPLES)
    sums = drawn @ kinds
    low, high = np.percentile(sums[:, 0] / sums[:, 1], [2.5, 97.5])
    return Difference(questions, float(differences.mean()), (float(low), float(high)))


def auroc(scores: Sequence[float], labels: Sequence[bool]) -> float | None:
    """The chance that a true one scores above a false one; ties count half.

    From the ranks (Mann-Whitney), equal scores sharing their middle rank. None unless there are
    both kinds. Raises OptionError for lists of different length.
    """
    if len(scores) != len(labels):
        raise OptionError(f"{len(scores)} scores and {len(labels)} labels don't belong together")
    true = np.asarray(labels, bool)
    positives = int(true.sum())
    negatives = len(true) - positives
    if not positives or not negatives:
        return None
    _, place, counts = np.unique(
        np.asarray(scores, np.float64), return_inverse=True, return_counts=True
    )
    ranks = (counts.cumsum() - (counts - 1) / 2)[place]  # from 1
    wins = ranks[true].sum() - positives * (positives + 1) / 2
    return float(wins / (positives * negatives))
