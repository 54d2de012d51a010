"""The rows of an ablation as aligned plain text."""

from __future__ import annotations

from collections.abc import Sequence

from tempo_fast.evaluation.ablation import REFERENCE, WITHOUT_BUDGET
from tempo_fast.evaluation.relevance import Separation
from tempo_fast.evaluation.summary import Accuracy, Row

NOTHING = "–"
NOTES = {
    "too_small": "were not asked for, as the budget is below the least that the strategy can keep",
    "failed": "failed (the file of replies says why)",
    "full_context": "filled the model's context, so that the video's end may have been cut off",
    "equal_shares": "gave every segment the same, so that it made no difference which are relevant",
}
EQUAL_ANYWAY = ("uniform", WITHOUT_BUDGET)


def format_rows(rows: Sequence[Row]) -> str:
    """The main table, and below it what its figures leave out."""
    header = (
        *("strategy", "budget", "questions", "accuracy", "95 % interval"),
        *(f"against {REFERENCE} (95 %)", "tokens/frame", "s/question"),
    )
    lines = [
        (
            row.strategy,
            row.budget or NOTHING,
            str(row.accuracy.questions if row.accuracy else 0),
            _percent(row.accuracy),
            _interval(row.accuracy.interval, "") if row.accuracy else NOTHING,
            _difference(row),
            _number(row.tokens_per_frame),
            _number(row.seconds),
        )
        for row in rows
    ]
    return "\n".join((align(header, lines, left=2), *_notes(rows)))


def format_types(rows: Sequence[Row]) -> str:
    """Accuracy by type of question, a column each; "" where no question has a type."""
    names = sorted({name for row in rows for name in row.types})
    if not names:
        return ""
    counts = {name: max(_questions(row, name) for row in rows) for name in names}
    header = ("strategy", "budget", *(f"{name} ({counts[name]})" for name in names))
    lines = [
        (row.strategy, row.budget or NOTHING, *(_percent(row.types.get(name)) for name in names))
        for row in rows
        if row.types
    ]
    return align(header, lines, left=2)


def format_separation(found: Separation) -> str:
    """The AUROC of the relevance in a line or two; "" where no question says what is relevant."""
    if not found.pairs:
        return ""
    return (
        f"relevance, AUROC: {_number(found.pooled)} over {found.pairs} pairs of question and "
        f"segment, {found.relevant} of them relevant;\n"
        f"                  {_number(found.mean)} in the mean of {found.questions} questions that "
        "have segments of both kinds"
    )


def align(header: Sequence[str], lines: Sequence[Sequence[str]], left: int) -> str:
    """Columns two spaces apart: the first `left` flush left, the others flush right."""
    table = [header, *lines]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    )


def _notes(rows: Sequence[Row]) -> list[str]:
    notes = []
    for name, note in NOTES.items():
        counts = [
            f"{row.strategy} {row.budget or ''}".rstrip() + f" {getattr(row, name)}"
            for row in rows
            if getattr(row, name) and not (name == "equal_shares" and row.strategy in EQUAL_ANYWAY)
        ]
        if counts:
            notes.append(f"replies that {note}: {', '.join(counts)}")
    return notes


def _questions(row: Row, name: str) -> int:
    return row.types[name].questions if name in row.types else 0


def _percent(accuracy: Accuracy | None) -> str:
    return NOTHING if accuracy is None else f"{100 * accuracy.accuracy:.1f} %"


def _interval(interval: tuple[float, float], sign: str) -> str:
    low, high = (f"{100 * each:{sign}.1f}" for each in interval)
    return f"{low} … {high}"


def _difference(row: Row) -> str:
    found = row.against_reference
    if found is None:
        return NOTHING
    return f"{100 * found.mean:+.1f} ({_interval(found.interval, '+')})"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"
