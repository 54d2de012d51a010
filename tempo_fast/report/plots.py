"""The report's pictures: time by stage against the floor, scaling with frames, tokens a second."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tempo_fast.errors import TempoError
from tempo_fast.report.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GREY, RULE = "#1f2933", "#66727f", "#e3e7eb"
COLOURS = {"engine": "#2f6f9f", "baseline": "#c8762b", "upstream": "#7b5ea7"}
FLOOR = "#8a2d2d"

Row = dict[str, Any]


def _comparisons(results: Sequence[Results]) -> list[Row]:
    return [row for each in results if each.kind == "benchmarks" for row in each.rows]


def _where(row: Row) -> str:
    """What must be the same of figures that stand side by side."""
    return f"{row.get('size', '?')} on {row.get('device', '?')}"


def draw_stages(results: Sequence[Results]) -> bytes | None:
    """Every stage's seconds beside the baseline's and its floor, at the most frames measured."""
    rows = [row for row in _comparisons(results) if row["suite"] == "stages" and "engine" in row]
    groups: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in sorted(rows, key=lambda row: row.get("frames", 0)):
        groups[_where(row)][row["name"]] = row
    return _draw(groups, _stages)


def _stages(axes: Axes, title: str, stages: dict[str, Row]) -> None:
    named: set[str] = set()
    for place, (_, row) in enumerate(stages.items()):
        for offset, side in ((-0.2, "engine"), (0.2, "baseline")):
            seconds = row.get(side, {}).get("seconds")
            if seconds is not None:
                _bar(axes, place + offset, seconds, side, named)
        if "floor" in row:
            floor = row["floor"]["seconds"]
            axes.plot([floor, floor], [place - 0.42, place + 0.42], color=FLOOR, linewidth=2)
    axes.plot([], [], color=FLOOR, linewidth=2, label="floor")
    axes.set_yticks(
        range(len(stages)), [f"{name}, {r.get('frames')} frames" for name, r in stages.items()]
    )
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("seconds")
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(axis="x", color=RULE)
    _legend(axes)


def draw_frames(results: Sequence[Results]) -> bytes | None:
    """Seconds to the first token over the number of frames, first and later question."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in _comparisons(results):
        if row["suite"] == "end to end" and "first_token_seconds" in row.get("engine", {}):
            groups[_where(row)].append(row)
    return _draw(groups, _frames)


def _frames(axes: Axes, title: str, rows: list[Row]) -> None:
    # One line holds one budget: the one that was measured with the most numbers of frames.
    frames_of: dict[int, set[int]] = defaultdict(set)
    for row in rows:
        frames_of[row["budget"]].add(row["frames"])
    budget = max(frames_of, key=lambda budget: len(frames_of[budget]))
    rows = [row for row in rows if row["budget"] == budget]
    lines: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for row in rows:
        for side in COLOURS:
            seconds = row.get(side, {}).get("first_token_seconds")
            if seconds is not None:
                lines[side, row["name"]][row["frames"]] = seconds
        if "first_token_floor" in row:
            lines["floor", row["name"]][row["frames"]] = row["first_token_floor"]["seconds"]
    for (side, name), points in sorted(lines.items()):
        frames = sorted(points)
        axes.plot(
            frames,
            [points[count] for count in frames],
            "o-" if name == "first question" else "s--",
            color=COLOURS.get(side, FLOOR),
            label=f"{side}, {name}",
        )
    counts = sorted({frames for points in lines.values() for frames in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_yscale("log")
    axes.set_xlabel("frames")
    axes.set_ylabel("seconds to the first token")
    axes.set_title(f"{title}, budget {budget}", loc="left", fontsize=10)
    axes.grid(color=RULE)
    _legend(axes, loc="center left", bbox_to_anchor=(1, 0.5))


def draw_tokens(results: Sequence[Results]) -> bytes | None:
    """Tokens a second of the answer, by the length of the prompt."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in _comparisons(results):
        if "tokens_per_second" in row.get("engine", {}):
            groups[_where(row)].append(row)
    return _draw(groups, _tokens)


def _tokens(axes: Axes, title: str, rows: list[Row]) -> None:
    labels, named = [], set()
    for place, row in enumerate(sorted(rows, key=lambda row: row.get("prompt_tokens", 0))):
        labels.append(f"{row['name']}, {row.get('frames', '?')} frames\n{_prompt(row)}")
        for offset, side in ((-0.2, "engine"), (0.2, "baseline")):
            rate = row.get(side, {}).get("tokens_per_second")
            if rate is not None:
                _bar(axes, place + offset, rate, side, named)
    axes.set_yticks(range(len(labels)), labels, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("tokens a second after the first")
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(axis="x", color=RULE)
    _legend(axes)


def _bar(axes: Axes, place: float, value: float, side: str, named: set[str]) -> None:
    """A side's bar; the first one of a side names it in the legend."""
    axes.barh(place, value, 0.36, color=COLOURS[side], label=None if side in named else side)
    named.add(side)


def _legend(axes: Axes, **place: Any) -> None:
    """A legend, where something has a label."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8, **place)


def _prompt(row: Row) -> str:
    return f"{row['prompt_tokens']} prompt tokens" if "prompt_tokens" in row else ""


def _draw(groups: dict[str, Any], panel: Callable[[Axes, str, Any], None]) -> bytes | None:
    """One panel a group as a PNG; None where there is none."""
    if not groups:
        return None
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TempoError(
            "drawing needs matplotlib, which isn't installed: pip install matplotlib"
        ) from error
    with mpl.rc_context({"font.size": 9, "text.color": INK, "axes.edgecolor": GREY}):
        heights = [max(2.6, 0.5 + 0.42 * len(group)) for group in groups.values()]
        figure = Figure(figsize=(9, sum(heights)), layout="constrained")
        panels = figure.subplots(len(groups), squeeze=False, height_ratios=heights)[:, 0]
        for axes, (title, group) in zip(panels, groups.items(), strict=True):
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            panel(axes, title, group)
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=120)
    return image.getvalue()


PICTURES: dict[str, Callable[[Sequence[Results]], bytes | None]] = {
    "stages.png": draw_stages,
    "frames.png": draw_frames,
    "tokens.png": draw_tokens,
}
TITLES = {
    "stages.png": "Time by stage against the floor",
    "frames.png": "Time to the first token over the number of frames",
    "tokens.png": "Tokens a second",
}
