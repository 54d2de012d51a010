"""Which segment a row of a packed buffer belongs to, found in the kernel that writes the row."""

from __future__ import annotations

from tempo_kernels.language import tl, triton

MAX_SEGMENTS = 4096
# (segments, constants) of each configuration. A search reads FANOUT starts at once, every SPAN-th
# of all; where SPAN is not 1 it then reads those from the one it found to the next.
SEARCHES = (
    (128, {"FANOUT": 128, "SPAN": 1}),
    (MAX_SEGMENTS, {"FANOUT": 64, "SPAN": 64}),
)


def search(segments: int) -> dict[str, int]:
    """The constants of `owner` for so many segments, at most MAX_SEGMENTS."""
    return next(constants for limit, constants in SEARCHES if segments <= limit)


@triton.jit
def owner(i_row, p_starts, S, FANOUT: tl.constexpr, SPAN: tl.constexpr):
    """int32 [ROWS]: for each row >= 0 the last segment i < S with starts[i] <= row.

    starts: int64 [S], from 0 and not decreasing; of segments that start together the last is the
    one with rows. -1 for a row < 0. Two dependent reads at most: a binary search has twelve.
    """
    i_s = _last_reached(i_row, p_starts, tl.zeros_like(i_row).to(tl.int32), S, FANOUT, SPAN)
    if SPAN > 1:
        i_s = _last_reached(i_row, p_starts, i_s, S, SPAN, 1)
    return i_s


@triton.jit
def _last_reached(i_row, p_starts, i_first, S, COUNT: tl.constexpr, STRIDE: tl.constexpr):
    """The last of segments first, first + STRIDE, … (COUNT of them) with starts[i] <= row."""
    # [ROWS, COUNT]
    i_s = i_first[:, None] + tl.arange(0, COUNT)[None, :] * STRIDE
    m_s = (i_s >= 0) & (i_s < S)
    b_start = tl.load(p_starts + i_s, mask=m_s, other=0)
    b_reached = tl.sum((m_s & (b_start <= i_row[:, None])).to(tl.int32), axis=1)
    return i_first + (b_reached - 1) * STRIDE
