"""What can be said from a limited number of questions: intervals, paired differences, AUROC."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


def paired_difference(ours: Sequence[float], reference: Sequence[float]) -> Difference:
    """The mean of ours - reference, a value a question each, with a paired bootstrap interval.

    Whole questions are drawn with replacement, `RESAMPLES` times from a generator seeded with
    `SEED`; the interval is from the 2.5th to the 97.5th percentile of the means. Where every
    question has the same difference it has no width, however few they are. Raises OptionError for
    lists that are empty or of different length.
    """
    if len(ours) != len(reference) or not len(ours):
        raise OptionError(
            f"a paired comparison needs the same questions; got {len(ours)} and {len(reference)}"
        )
    differences = np.asarray(ours, np.float64) - np.asarray(reference, np.float64)
    values, counts = np.unique(differences, return_counts=True)
    questions = len(differences)
    # Questions of equal difference are interchangeable: drawing how many of each value come up is
    # drawing questions, without a table of resamples times questions.
    drawn = np.random.default_rng(SEED).multinomial(questions, counts / questions, RESAMPLES)
    low, high = np.percentile(drawn @ values / questions, [2.5, 97.5])
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
