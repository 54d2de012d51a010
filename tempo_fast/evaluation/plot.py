"""The picture of an ablation: accuracy against memory tokens per frame, a line a strategy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from math import floor
from typing import TYPE_CHECKING

from tempo_fast.errors import TempoError
from tempo_fast.evaluation.ablation import PRUNE, REFERENCE, WITHOUT_BUDGET
from tempo_fast.evaluation.summary import Row
from tempo_fast.plot import GREY, INK, render, style_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REFERENCE_COLOUR = "#2f6f9f"
COLOURS = ("#c8762b", "#8a2d2d", "#4f8a4c", "#7a5aa6", "#b0568f", "#2a8f8f", "#8f7a1e", "#555555")
MARKERS = "sD^vPX*p"
APART = 3.0  # points between the markers of strategies that have the same tokens per frame


def check_image_format(image_format: str) -> None:
    """Raise TempoError where `draw_ablation` would: before the work that goes into its rows."""
    render(lambda figure: None, image_format)


def draw_ablation(rows: Sequence[Row], title: str, image_format: str = "png") -> bytes:
    """The picture as the bytes of a file in `image_format` (png, pdf, svg, …).

    Bars are the 95 % intervals of `Row.accuracy`; `none` is a level with its interval as a band.
    Strategies stand some points apart, so that bars at the same tokens per frame can be told apart.
    Raises TempoError without an accuracy to draw, for an unknown format, and where matplotlib isn't
    installed.
    """
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if row.accuracy is not None:
            lines.setdefault(row.strategy, []).append(row)
    if not lines:
        raise TempoError("nothing to draw: no question has a reply")
    return render(lambda figure: _draw(figure, lines, title), image_format)


def _draw(figure: Figure, lines: dict[str, list[Row]], title: str) -> None:
    axes = figure.subplots()
    style_axes(axes)
    others = [name for name in lines if name not in (REFERENCE, WITHOUT_BUDGET)]
    looks = dict(zip(others, cycle(zip(COLOURS, MARKERS, strict=True)), strict=False))
    looks[REFERENCE] = (REFERENCE_COLOUR, "o")
    curves = [name for name in lines if name != WITHOUT_BUDGET]
    for place, name in enumerate(curves):
        _draw_curve(axes, name, lines[name], looks[name], place - (len(curves) - 1) / 2)
    if WITHOUT_BUDGET in lines:
        (row,) = lines[WITHOUT_BUDGET]
        label = f"{WITHOUT_BUDGET} ({row.tokens_per_frame:.3g} a frame)"
        axes.axhline(row.accuracy.accuracy, color=GREY, linestyle=(0, (4, 3)), label=label)
        axes.axhspan(*row.accuracy.interval, color=GREY, alpha=0.12, linewidth=0)
    if curves:
        _draw_scale(axes, [row.tokens_per_frame for name in curves for row in lines[name]])
    axes.set_ylim(_lowest(lines), 1.01)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set_ylabel("right answers, with 95 % intervals")
    axes.set_xlabel("memory tokens kept per frame", color=INK)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", parse_math=False)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)


def _lowest(lines: dict[str, list[Row]]) -> float:
    """Where the scale begins: at the last tenth that lies below all intervals."""
    low = min(row.accuracy.interval[0] for rows in lines.values() for row in rows)
    return max(0.0, floor(10 * low) / 10)


def _draw_curve(
    axes: Axes, name: str, rows: list[Row], look: tuple[str, str], offset: float
) -> None:
    from matplotlib.transforms import ScaledTranslation

    rows = sorted(rows, key=lambda row: row.tokens_per_frame)
    accuracies = [row.accuracy for row in rows]
    colour, marker = look
    shift = ScaledTranslation(offset * APART / 72, 0, axes.figure.dpi_scale_trans)
    # Rounding may put an accuracy of 0 or 1 a hair outside of its interval.
    below = [max(0.0, each.accuracy - each.interval[0]) for each in accuracies]
    above = [max(0.0, each.interval[1] - each.accuracy) for each in accuracies]
    axes.errorbar(
        [row.tokens_per_frame for row in rows],
        [each.accuracy for each in accuracies],
        yerr=(below, above),
        label=name,
        color=colour,
        marker=marker,
        markersize=5,
        linewidth=2 if name == REFERENCE else 1.2,
        linestyle=(0, (3, 2)) if name.startswith(PRUNE) else "-",
        elinewidth=1,
        capsize=2.5,
        transform=axes.transData + shift,
    )


def _draw_scale(axes: Axes, values: list[float]) -> None:
    low, high = min(values), max(values)
    if high > 4 * low:  # budgets that double each time stand evenly
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(LogLocator(base=2))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(low / 1.3, high * 1.3)
    else:
        room = 0.1 * (high - low) or 0.1 * high
        axes.set_xlim(max(0.0, low - room), high + room)
    axes.tick_params(axis="x", which="major", length=3)
