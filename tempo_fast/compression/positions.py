"""Three-dimensional positions of a segment's tokens."""

from __future__ import annotations

import torch


def segment_positions(
    visual: torch.Tensor, grid: tuple[int, int], start: int
) -> tuple[torch.Tensor, int]:
    """Positions of text mixed with blocks of visual tokens.

    visual: bool [T], true at visual tokens, which come in blocks of rows · columns of `grid`.
    start: the position of the first token if it is text. Text advances time, height and width
    together; the visual tokens of one block share the time p and take p + row and p + column; the
    next text starts at 1 + the largest position so far. Returns int64 [3, T] and the position after
    them all.
    """
    rows, columns = grid
    size, advance = rows * columns, max(rows, columns)
    seen = visual.cumsum(0)
    # Blocks begun at or before each token: of a text token's, all are over.
    blocks = (seen + size - 1) // size
    texts = torch.arange(len(visual), device=visual.device) + 1 - seen
    text_position = start + texts - 1 + blocks * advance
    within = (seen - 1) % size
    block_position = start + texts + (blocks - 1) * advance
    shift = torch.stack((torch.zeros_like(within), within // columns, within % columns))
    positions = torch.where(visual, block_position + shift, text_position)
    end = start + int(texts[-1]) + int(blocks[-1]) * advance if len(visual) else start
    return positions, end
