"""A picture of one answer: relevance and memory tokens of each segment over the video's time."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tempo_fast.errors import TempoError
from tempo_fast.options import AskOptions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

INK, GREY, RULE = "#1f2933", "#66727f", "#e3e7eb"
RELEVANCE, TOKENS, SHARE = "#2f6f9f", "#c8762b", "#8a2d2d"
STEPS = (0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)  # seconds


@dataclass(frozen=True)
class _Segments:
    """One value per segment. starts and widths in seconds of the video, relevance 0…1."""

    starts: list[float]
    widths: list[float]
    relevance: list[float]
    tokens: list[int]

    @property
    def span(self) -> tuple[float, float]:
        ends = (start + width for start, width in zip(self.starts, self.widths, strict=True))
        return min(self.starts), max(ends)


def draw_answer(record: Mapping[str, Any], image_format: str = "png") -> bytes:
    """The picture as the bytes of a file in `image_format` (png, pdf, svg, …).

    record: `Answer.to_dict()`, with "query" and "options" where they are known (they give the
    title, the budget, and the place of a clip in its video). Raises TempoError for a record without
    segments or of a failed case, for an unknown format, and where matplotlib isn't installed.
    """
    segments = _read_segments(record)

    def draw(figure: Figure) -> None:
        top, bottom = figure.subplots(2, 1, sharex=True)
        title = _draw_title(figure, record)
        _draw_relevance(top, segments)
        _draw_tokens(bottom, segments, record)
        _draw_time(bottom, segments)
        _align(figure, title)

    return render(draw, image_format)


def render(draw: Callable[[Figure], None], image_format: str = "png") -> bytes:
    """What `draw` puts on an empty figure of our style, as the bytes of a file.

    Raises TempoError for an unknown format, and where matplotlib isn't installed.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise TempoError(
            "drawing needs matplotlib, which isn't installed: pip install matplotlib"
        ) from error
    with mpl.rc_context({"font.size": 9, "text.color": INK, "svg.fonttype": "none"}):
        figure = Figure(figsize=(10, 5.2), layout="constrained")
        if image_format not in figure.canvas.get_supported_filetypes():
            raise TempoError(f"can't draw a .{image_format}; use .png, .pdf or .svg")
        draw(figure)
        image = io.BytesIO()
        with warnings.catch_warnings():
            # It draws a box for a letter that its font lacks, which is all that can be done.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(image, format=image_format, dpi=150)
    return image.getvalue()


def format_time(seconds: float, hours: bool = False, step: float = 1) -> str:
    """mm:ss, or h:mm:ss with `hours`; with tenths where the axis has a finer step than a second."""
    tenths = round(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    text = f"{tenths / 10:04.1f}" if step < 1 else f"{tenths // 10:02d}"
    if not hours:
        return f"{minutes:02d}:{text}"
    return f"{minutes // 60}:{minutes % 60:02d}:{text}"


def _read_segments(record: Mapping[str, Any]) -> _Segments:
    if "error" in record:
        raise TempoError(f"this case has no answer to draw; it failed: {record['error']}")
    try:
        relevance = [float(value) for value in record["relevance"]]
        tokens = [int(value) for value in record["allocations"]]
        spans = [(float(start), float(end)) for start, end in record["segments"]]
        clip = (record.get("options") or {}).get("clip")
        offset = float(clip[0]) if clip else 0.0
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise TempoError(
            "no answer to draw: it needs relevance, allocations and segments, as `answer --output` "
            f"writes them ({type(error).__name__}: {error})"
        ) from error
    if not len(relevance) == len(tokens) == len(spans):
        raise TempoError(
            f"no answer to draw: {len(relevance)} values of relevance, {len(tokens)} allocations "
            f"and {len(spans)} segments don't belong together"
        )
    widths = [end - start for start, end in spans]
    if not widths or min(widths) < 0 or not max(widths) > 0:
        raise TempoError("nothing to draw: the answer has no segments of time (was it an image?)")
    starts = [start + offset for start, _ in spans]
    return _Segments(starts, widths, relevance, tokens)


def _draw_title(figure: Figure, record: Mapping[str, Any]) -> Text:
    # The texts are data: no mathematics between their dollar signs.
    answer = _wrapped(record.get("text") or "(no answer)", 120)
    figure.axes[0].set_title(answer, loc="left", fontsize=9.5, color=GREY, pad=10, parse_math=False)
    question = _wrapped(record.get("query") or "(no question)", 78)
    return figure.suptitle(question, ha="left", fontsize=12, fontweight="bold", parse_math=False)


def _wrapped(text: object, width: int) -> str:
    """A text on two lines of `width` letters at most."""
    return "\n".join(textwrap.wrap(str(text), width, max_lines=2, placeholder=" …"))


def _draw_relevance(axes: Axes, segments: _Segments) -> None:
    _draw_bars(axes, segments, segments.relevance, RELEVANCE)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_ylabel("relevance")


def _draw_tokens(axes: Axes, segments: _Segments, record: Mapping[str, Any]) -> None:
    _draw_bars(axes, segments, segments.tokens, TOKENS)
    axes.set_ylabel("memory tokens")
    note = f"{sum(segments.tokens):,} memory tokens in {len(segments.tokens)} segments"
    highest = max(segments.tokens)
    budget = _budget(record.get("options") or {})
    if budget is not None:
        note += f", of a budget of {budget:,}"
        share = budget / len(segments.tokens)
        if share <= 2 * highest:  # a line far above all bars would only flatten them
            highest = max(highest, share)
            axes.axhline(share, color=SHARE, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                f"equal share:\n{share:,.0f} each",
                (1, share),
                xycoords=("axes fraction", "data"),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                color=SHARE,
                fontsize=8,
            )
    axes.set_title(note, loc="left", fontsize=9, color=GREY)
    axes.set_ylim(0, max(highest, 1) * 1.08)
    axes.yaxis.get_major_locator().set_params(integer=True)


def _budget(options: Mapping[str, Any]) -> int | None:
    defaults = AskOptions()
    unbounded = (
        not options.get("dynamic_compress", defaults.dynamic_compress)
        or options.get("pruning", defaults.pruning) is not None
        or options.get("strategy", defaults.strategy) == "none"
    )
    return None if unbounded else options.get("visual_token_budget", defaults.visual_token_budget)


def _draw_bars(axes: Axes, segments: _Segments, heights: list[float], colour: str) -> None:
    # A hairline of the background parts neighbours, unless there are too many to tell apart.
    line = 0.6 if len(heights) <= 150 else 0
    overlap = any(
        start + width > following + 1e-6
        for start, width, following in zip(
            segments.starts, segments.widths, segments.starts[1:], strict=False
        )
    )
    axes.bar(
        segments.starts,
        heights,
        segments.widths,
        align="edge",
        color=colour,
        edgecolor="white",
        linewidth=line,
        alpha=0.6 if overlap else 1,
    )
    style_axes(axes)


def style_axes(axes: Axes) -> None:
    """Quiet axes: a ruled background, no frame, grey numbers."""
    axes.grid(axis="y", color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(colors=GREY, length=0, labelcolor=GREY)
    axes.yaxis.label.set_color(INK)


def _draw_time(axes: Axes, segments: _Segments) -> None:
    first, last = segments.span
    step = next((each for each in STEPS if (last - first) / each <= 10), None)
    if step is None:
        step = 3600 * math.ceil((last - first) / 36000)
    ticks = [step * n for n in range(math.ceil(first / step), math.floor(last / step) + 1)]
    axes.set_xlim(first, last)
    axes.set_xticks(ticks, [format_time(tick, last >= 3600, step) for tick in ticks])
    axes.tick_params(axis="x", length=3)
    axes.set_xlabel("time in the video", color=INK)


def _align(figure: Figure, title: Text) -> None:
    figure.align_ylabels()
    figure.draw_without_rendering()  # only now is it known where the axes begin
    title.set_x(figure.axes[0].get_position().x0)
