"""torch's antialiased bicubic of a frame that grows, as sums of weighted rows.

    out[i] = Σ_t weight[t, i] · in[start_i + t]        over columns of pixels, then over lines

`torch.nn.functional.interpolate` goes from pixel to pixel; `embedding_bag`, which adds up weighted
rows of a table, is several times as fast. The weights are those that torch's own resizing shows
when it is given zeros and ones. A frame that grows has few of them for a pixel, and torch adds up
their products one after another in float32, as an `embedding_bag` does: the same bits. Of more it
sums several at once, so that what shrinks is left to torch. The orders are those of compiled code,
which differs from machine to machine: whether the bits are the same is seen once for a size. Where
a sum all but cancels out they may differ still, by some 1e-11, which rounding to bytes takes away.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch.nn import functional

# Inputs that a pixel of an enlarged row may come from; its cubic is not zero over five at most.
REACH = 8


def resize_planes(planes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """torch's own: float32 or uint8 [3, H, W] to [3, height, width]."""
    return functional.interpolate(planes[None], (height, width), mode="bicubic", antialias=True)[0]


@dataclass(frozen=True)
class Rows:
    """The rows of a table that are added up, and their weights.

    index: int32 [out, taps]. weight: float32 [out, taps].
    """

    index: torch.Tensor
    weight: torch.Tensor

    def of(self, table: torch.Tensor) -> torch.Tensor:
        """Float32 [out, n] of a table float32 [rows, n]."""
        return functional.embedding_bag(
            self.index, table, per_sample_weights=self.weight, mode="sum"
        )

    def times(self, count: int, size: int) -> Rows:
        """For `count` tables of `size` rows that lie one below the other."""
        below = size * torch.arange(count, dtype=torch.int32)[:, None, None]
        return Rows((below + self.index).flatten(0, 1), self.weight.repeat(count, 1))


def rows_of(size: int, out: int) -> Rows:
    """How `size` pixels become `out`, at least as many; asked of torch."""
    # What lies REACH apart is never seen by the same output, which tells the ones of a lane apart.
    lanes = torch.arange(size) % REACH == torch.arange(REACH)[:, None]
    seen = resize_planes(lanes.float().expand(3, -1, -1), REACH, out)[0]
    centre = ((torch.arange(out) + 0.5) * size / out).long()
    inputs = centre[:, None] + torch.arange(-(REACH // 2) + 1, REACH // 2 + 1)
    weight = seen.t().gather(1, inputs % REACH)
    weighty = (weight != 0).int()
    first = weighty.argmax(1, keepdim=True)
    taps = int((REACH - weighty.flip(1).argmax(1, keepdim=True) - first).max())
    # What is read beyond the last weight, or beyond the last pixel, weighs nothing.
    taken = (first + torch.arange(taps)).clamp(max=REACH - 1)
    later = (first + torch.arange(taps)) >= REACH
    index = inputs.gather(1, taken).clamp(0, size - 1)
    return Rows(index.int(), weight.gather(1, taken).masked_fill(later, 0.0))


def _by_rows(frame: torch.Tensor, columns: Rows, lines: Rows) -> torch.Tensor:
    height, width, channels = frame.shape
    # Rows of the first table are columns of pixels: the width is resized first.
    table = frame.view(height, -1).t().contiguous().float().view(width, -1)
    wide = columns.of(table)
    planes = lines.of(wide.t().contiguous())
    return planes.view(channels, -1, wide.shape[0])


@lru_cache(maxsize=64)
def _plan(height: int, width: int, to_height: int, to_width: int) -> tuple[Rows, Rows] | None:
    """What `_by_rows` takes between two sizes, if it leaves the bits that torch's own does."""
    if to_height < height or to_width < width:
        return None
    plan = rows_of(width, to_width), rows_of(height, to_height).times(3, height)
    seed = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (height, width, 3), dtype=torch.uint8, generator=seed)
    # Black and white cancel out more often, which shows what noise hides.
    for frame in (noise, (noise & 1) * 255):
        planes = resize_planes(frame.permute(2, 0, 1).float(), to_height, to_width)
        if not torch.equal(_by_rows(frame, *plan), planes):
            return None
    return plan


def resize_float(frame: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """uint8 [H, W, 3], contiguous, to float32 planes [3, height, width], not clamped.

    The bits of `resize_planes`, of which it is the faster way where a frame grows.
    """
    plan = _plan(*frame.shape[:2], height, width)
    if plan is None:
        return resize_planes(frame.permute(2, 0, 1).float(), height, width)
    return _by_rows(frame, *plan)
