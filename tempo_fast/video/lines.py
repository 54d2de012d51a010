"""Resizing a frame as a table of its lines, by sums of weighted rows (see `rows`).

Where the pixels of a frame are interleaved the table is [H, W·3], where its planes follow one
another [3·H, W]. The height of either is resized as it is; for the width the table is turned, which
leaves planes.

Pillow's step gives Pillow's pixels, by exact arithmetic. torch's enlarging gives torch's bits:
torch adds up the few products of a pixel one after another in float32, as `embedding_bag` does.
Of more, where a frame shrinks, it sums several at once: that is left to torch. The orders are those
of compiled code, which differs from machine to machine: whether the bits are the same is seen once
for a size. Where a sum all but cancels out they may differ still, by some 1e-11, which rounding to
bytes takes away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

from tempo_fast.video.rows import AVAILABLE, Rows, exact, pillow_rows, resize_planes, torch_rows

CHANNELS = 3
# Values that are turned at once, which a core's cache then holds.
TURNED = 1 << 19
# (size, out, tables) to the rows of so many tables that lie one below the other.
RowsFor = Callable[[int, int, int], Rows]


@dataclass(frozen=True)
class Lines:
    """A frame as a table of lines, [H, W·3] or where planar [3·H, W], uint8 or float32."""

    table: torch.Tensor
    planar: bool

    @classmethod
    def of(cls, frame: torch.Tensor) -> Lines:
        """Those of uint8 [H, W, 3]; copied unless contiguous."""
        return cls(frame.reshape(len(frame), -1), planar=False)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        lines, values = self.table.shape
        return (lines // CHANNELS, values) if self.planar else (lines, values // CHANNELS)

    def planes(self) -> torch.Tensor:
        """[3, H, W], wherever its values are."""
        if self.planar:
            return self.table.unflatten(0, (CHANNELS, -1))
        return self.table.unflatten(1, (-1, CHANNELS)).permute(2, 0, 1)

    def pixels(self) -> torch.Tensor:
        """uint8 [H, W, 3], wherever its values are, which are whole numbers 0…255."""
        return self.planes().permute(1, 2, 0).to(torch.uint8)

    def resized(self, height: int, width: int, rows: RowsFor) -> Lines:
        """The width resized, and then the height, where they change."""
        lines, size = self, self.size
        if width != size[1]:
            lines = _turned(lines.table, size[1], rows(size[1], width, 1))
        if height != size[0]:
            down = rows(size[0], height, CHANNELS if lines.planar else 1)
            lines = Lines(down.of(lines.table.float()), lines.planar)
        return lines


def _turned(table: torch.Tensor, width: int, rows: Rows) -> Lines:
    """Lines [n, width·c] resized, some of them at a time."""
    n, channels = len(table), table.shape[1] // width
    planes = torch.empty(channels, n, len(rows.index))
    some = max(1, TURNED // table.shape[1])
    for first in range(0, n, some):
        columns = table[first : first + some].t().contiguous().float().view(width, -1)
        planes[:, first : first + some] = rows.of(columns).t().unflatten(0, (channels, -1))
    return Lines(planes.flatten(0, 1), planar=True)


def as_pillow(lines: Lines, height: int, width: int) -> Lines | None:
    """Pillow's 8-bit bicubic, in whole numbers; None where Pillow itself is to be asked."""
    pairs = zip(lines.size, (height, width), strict=True)
    if not (AVAILABLE and all(exact(*sides) for sides in pairs)):
        return None
    return lines.resized(height, width, pillow_rows)


def as_torch(lines: Lines, height: int, width: int) -> Lines:
    """torch's antialiased bicubic in float32, clamped to 0…255 and rounded."""
    if (height, width) == lines.size:
        return lines
    resized = enlarged(lines, height, width)
    if resized is None:
        planes = resize_planes(lines.planes().float(), height, width)
        resized = Lines(planes.flatten(0, 1), planar=True)
    resized.table.clamp_(0, 255).round_()
    return resized


def enlarged(lines: Lines, height: int, width: int) -> Lines | None:
    """`as_torch` before it is clamped, as sums of rows; None unless they leave torch's own bits."""
    if not _leaves_torchs_bits(*lines.size, height, width):
        return None
    return lines.resized(height, width, torch_rows)


@lru_cache(maxsize=64)
def _leaves_torchs_bits(height: int, width: int, to_height: int, to_width: int) -> bool:
    if not AVAILABLE or to_height < height or to_width < width:
        return False
    seed = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (height, width, 3), dtype=torch.uint8, generator=seed)
    # Black and white cancel out more often, which shows what noise hides.
    for frame in (noise, (noise & 1) * 255):
        lines = Lines.of(frame)
        planes = resize_planes(lines.planes().float(), to_height, to_width)
        if not torch.equal(lines.resized(to_height, to_width, torch_rows).planes(), planes):
            return False
    return True
