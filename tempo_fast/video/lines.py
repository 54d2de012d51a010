"""Frames resized as tables of their lines, by sums of weighted rows (see `rows`).

Frames whose pixels are interleaved are a table [F·H, W·3], planes that follow one another are
[3·F·H, W]. The height of either is resized as it is; for the width the table is turned, which
leaves planes. What is done to the frames of one size is planned once: the rest is a few sums.

Pillow's step gives Pillow's pixels, by exact arithmetic. torch's enlarging gives torch's bits:
torch adds up the few products of a pixel one after another in float32, as `embedding_bag` does.
Of more, where a frame shrinks, it sums several at once: that is left to torch. The orders are those
of compiled code, which differs from machine to machine: whether the bits are the same is seen when
it is planned. Where a sum all but cancels out they may differ still, by some 1e-11, which rounding
to bytes takes away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
import torch
from PIL import Image

from tempo_fast.threads import keep_freed_memory
from tempo_fast.video.rows import AVAILABLE, Rows, exact, pillow_rows, resize_planes, torch_rows

CHANNELS = 3
# Values that are turned at once, which a core's cache then holds.
TURNED = 1 << 19

Step = tuple[int, int, bool]  # (height, width, by_pillow)
Work = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Layout:
    """What a table has in it."""

    frames: int
    height: int
    width: int
    planar: bool = False

    @property
    def tables(self) -> int:
        """Frames, or planes, that lie one below the other."""
        return CHANNELS * self.frames if self.planar else self.frames

    def planes(self, table: torch.Tensor) -> torch.Tensor:
        """[F, 3, H, W] of a table, wherever its values are."""
        if self.planar:
            return table.view(CHANNELS, self.frames, self.height, -1).transpose(0, 1)
        return table.view(self.frames, self.height, -1, CHANNELS).permute(0, 3, 1, 2)

    def images(self, table: torch.Tensor) -> torch.Tensor:
        """uint8 [F, H, W, 3] of a table of whole numbers 0…255."""
        # NumPy makes bytes of float32 four times as fast as torch.
        whole = torch.from_numpy(table.numpy().astype(np.uint8, copy=False))
        return self.planes(whole).permute(0, 2, 3, 1)


def resize_lines(frames: torch.Tensor, steps: tuple[Step, ...]) -> torch.Tensor:
    """Resize frames uint8 [F, H, W, 3] by Pillow's 8-bit bicubic and torch's in float32, rounded.

    frames: on the CPU; they stay as they are. Returns uint8 [F, h, w, 3], the frames themselves
    where there is nothing to do; planes may follow one another in memory, the red ones of all
    frames first.
    """
    count, height, width, _ = frames.shape
    works, layout = _plan(Layout(count, height, width), steps)
    table = frames.reshape(count * height, -1)
    for work in works:
        table = work(table)
    return layout.images(table)


@lru_cache(maxsize=32)
def _plan(layout: Layout, steps: tuple[Step, ...]) -> tuple[list[Work], Layout]:
    keep_freed_memory()  # tables of some MB come and go with every frame
    works: list[Work] = []
    with torch.device("cpu"):
        for height, width, by_pillow in steps:
            wanted = replace(layout, height=height, width=width)
            if wanted != layout:
                more, layout = (_plan_pillow if by_pillow else _plan_torch)(layout, wanted)
                works += more
    return works, layout


def _plan_pillow(layout: Layout, wanted: Layout) -> tuple[list[Work], Layout]:
    sides = ((layout.height, wanted.height), (layout.width, wanted.width))
    if AVAILABLE and all(exact(*each) for each in sides):
        return _by_rows(layout, wanted, pillow_rows)
    return [partial(_by_pillow, layout, wanted)], replace(wanted, planar=False)


def _plan_torch(layout: Layout, wanted: Layout) -> tuple[list[Work], Layout]:
    if leaves_torchs_bits(layout, wanted):
        works, layout = _by_rows(layout, wanted, torch_rows)
    else:
        works, layout = [partial(_by_torch, layout, wanted)], replace(wanted, planar=True)
    return [*works, _rounded], layout


def _by_rows(
    layout: Layout, wanted: Layout, rows: Callable[[int, int, int], Rows]
) -> tuple[list[Work], Layout]:
    """The width first, and then the height, where they change."""
    works = []
    if wanted.width != layout.width:
        works.append(partial(_turned, layout.width, rows(layout.width, wanted.width, 1)))
        layout = replace(layout, width=wanted.width, planar=True)
    if wanted.height != layout.height:
        works.append(partial(_down, rows(layout.height, wanted.height, layout.tables)))
        layout = replace(layout, height=wanted.height)
    return works, layout


def leaves_torchs_bits(layout: Layout, wanted: Layout) -> bool:
    """Whether sums of rows give the bits of torch's own float32 resizing, before it is rounded."""
    if not AVAILABLE or wanted.height < layout.height or wanted.width < layout.width:
        return False
    seed = torch.Generator().manual_seed(0)
    lines = layout.tables * layout.height
    size = (lines, layout.width * (1 if layout.planar else CHANNELS))
    noise = torch.randint(256, size, dtype=torch.uint8, generator=seed)
    works, resized = _by_rows(layout, wanted, torch_rows)
    # Black and white cancel out more often, which shows what noise hides.
    for table in (noise, (noise & 1) * 255):
        sums = table
        for work in works:
            sums = work(sums)
        if not torch.equal(resized.planes(sums), _interpolated(layout, wanted, table)):
            return False
    return True


def _interpolated(layout: Layout, wanted: Layout, table: torch.Tensor) -> torch.Tensor:
    frames = layout.planes(table).float()
    return torch.stack([resize_planes(planes, wanted.height, wanted.width) for planes in frames])


def _turned(width: int, rows: Rows, table: torch.Tensor) -> torch.Tensor:
    """A table [n, width·c] to the planes [c·n, out], some lines at a time."""
    n, values = table.shape
    if table.numel() <= TURNED:
        return rows.of(table.t().contiguous().float().view(width, -1)).t().contiguous()
    planes = table.new_empty(values // width, n, len(rows.index), dtype=torch.float32)
    some = max(1, TURNED // values)
    for lines, into in zip(table.split(some), planes.split(some, 1), strict=True):
        turned = rows.of(lines.t().contiguous().float().view(width, -1)).t()
        into.copy_(turned.view(into.shape))
    return planes.flatten(0, 1)


def _down(rows: Rows, table: torch.Tensor) -> torch.Tensor:
    return rows.of(table.float())


def _rounded(table: torch.Tensor) -> torch.Tensor:
    return table.clamp_(0, 255).round_()


def _by_pillow(layout: Layout, wanted: Layout, table: torch.Tensor) -> torch.Tensor:
    """Pillow's own, frame by frame."""
    images = [_bicubic(image, wanted) for image in layout.images(table).numpy()]
    return torch.from_numpy(np.stack(images)).flatten(2).flatten(0, 1)


def _bicubic(pixels: np.ndarray, wanted: Layout) -> np.ndarray:
    """The width first, which Pillow itself does in all cases until version 13."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    for size in ((wanted.width, image.height), (wanted.width, wanted.height)):
        image = image.resize(size, Image.Resampling.BICUBIC)
    return np.asarray(image)


def _by_torch(layout: Layout, wanted: Layout, table: torch.Tensor) -> torch.Tensor:
    """torch's own, frame by frame."""
    return _interpolated(layout, wanted, table).transpose(0, 1).reshape(-1, wanted.width)
