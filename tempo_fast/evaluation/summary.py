"""From single replies to accuracies: one row for each strategy and budget, and for each type."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from tempo_fast.evaluation.ablation import REFERENCE, Cell
from tempo_fast.evaluation.question_set import Question
from tempo_fast.evaluation.relevance import Separation, relevant_segments, separation
from tempo_fast.evaluation.scoring import is_right
from tempo_fast.evaluation.statistics import Difference, paired_difference, wilson_interval

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Accuracy:
    """accuracy: the mean over `questions` of the share of their replies that are right.

    right, replies: those of all seeds. interval: Wilson's, 95 %, of as many trials as there are
    questions, since replies to one question with several seeds are no new evidence about others.
    """

    questions: int
    replies: int
    right: int
    accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Row:
    """What a strategy reaches at a budget, all seeds together.

    accuracy: None where there is no reply. against_reference: accuracy less that of `head` at the
    same budget, over the questions that both answered; None for `head` itself and for `none`.
    tokens_per_frame: kept memory tokens for each sampled frame; seconds: of a question on an open
    video; both means over replies. types: accuracy by the questions' type. too_small, failed,
    full_context, equal_shares: how many replies a budget didn't allow, ended in an error, filled
    the model's context with their prompt, and read equally much of every segment (give or take a
    token), so that it made no difference which are relevant.
    """

    strategy: str
    budget: str | None
    accuracy: Accuracy | None
    against_reference: Difference | None
    tokens_per_frame: float | None
    seconds: float | None
    too_small: int
    failed: int
    full_context: int
    equal_shares: int
    types: dict[str, Accuracy] = field(default_factory=dict)


def summarise(cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> list[Row]:
    """The rows of a plan, budget by budget. outcomes: of each cell in turn, as `ask_cell` returns
    them, or {"error": …}.
    """
    groups: dict[tuple[str, str | None], list[tuple[Cell, Outcome]]] = {}
    for cell, outcome in zip(cells, outcomes, strict=True):
        label = None if cell.budget is None else cell.budget.label
        groups.setdefault((cell.strategy, label), []).append((cell, outcome))
    scores = {key: _scores(group) for key, group in groups.items()}
    budgets = list(dict.fromkeys(label for _, label in groups))
    return [
        _row(*key, groups[key], scores[key], scores.get((REFERENCE, key[1])))
        for key in sorted(groups, key=lambda key: (key[1] is None, budgets.index(key[1])))
    ]


def measure_relevance(
    questions: Iterable[Question], outcomes: Iterable[tuple[int, Outcome]]
) -> Separation:
    """How well the relevance separates, over the questions that say what is relevant.

    outcomes: (index of the question, outcome); of those of a question, one has its relevance and
    segments.
    """
    scored = {index: outcome for index, outcome in outcomes if "relevance" in outcome}
    return separation(
        (
            scored[each.index]["relevance"],
            relevant_segments(scored[each.index]["segments"], each.relevant),
        )
        for each in questions
        if each.relevant is not None and each.index in scored
    )


def _scores(group: list[tuple[Cell, Outcome]]) -> dict[int, list[bool]]:
    """Whether the replies to a question, by its index, are right."""
    scores: dict[int, list[bool]] = {}
    for cell, outcome in group:
        if "text" in outcome:
            right = is_right(cell.question, outcome["text"])
            scores.setdefault(cell.question.index, []).append(right)
    return scores


def _accuracy(scores: Collection[list[bool]]) -> Accuracy | None:
    if not scores:
        return None
    total = sum(map(fmean, scores))
    return Accuracy(
        questions=len(scores),
        replies=sum(map(len, scores)),
        right=sum(map(sum, scores)),
        accuracy=total / len(scores),
        interval=wilson_interval(total, len(scores)),
    )


def _row(
    strategy: str,
    budget: str | None,
    group: list[tuple[Cell, Outcome]],
    scores: dict[int, list[bool]],
    reference: dict[int, list[bool]] | None,
) -> Row:
    replies = [outcome for _, outcome in group if "text" in outcome]
    types: dict[str, dict[int, list[bool]]] = {}
    for cell, _ in group:
        question = cell.question
        if question.type is not None and question.index in scores:
            types.setdefault(question.type, {})[question.index] = scores[question.index]
    both = [index for index in scores if index in (reference or {})]
    difference = None
    if reference is not None and strategy != REFERENCE and both:
        videos = {cell.question.index: cell.question.video for cell, _ in group}
        difference = paired_difference(
            [fmean(scores[index]) for index in both],
            [fmean(reference[index]) for index in both],
            [videos[index] for index in both],
        )
    return Row(
        strategy=strategy,
        budget=budget,
        accuracy=_accuracy(scores.values()),
        against_reference=difference,
        tokens_per_frame=_mean(reply["kept"] / reply["frames"] for reply in replies),
        seconds=_mean(reply["seconds"] for reply in replies),
        too_small=sum("too_small" in outcome for _, outcome in group),
        failed=sum("error" in outcome for _, outcome in group),
        full_context=sum(reply["full_context"] for reply in replies),
        equal_shares=sum(reply["equal_shares"] for reply in replies),
        types={name: _accuracy(each.values()) for name, each in sorted(types.items())},
    )


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return fmean(numbers) if numbers else None
