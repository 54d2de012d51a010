"""The packing of a decode step whose place is read from the device, so that it can be replayed."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention


class Step:
    """One new token of the one sequence in a kv cache; it stands in for a `Packing`.

    position: int64 [1] on the device, the tokens cached before it; whoever replays the step counts
    it up. bucket: of the row's tokens, as many are looked at, the new one among them. dtype: the
    cache's.
    """

    def __init__(self, position: torch.Tensor, bucket: int, dtype: torch.dtype) -> None:
        # The row begins at place 0 of the cache.
        self.slots = position
        # [1, bucket], made once for all layers: 0 for a token that is there and -inf behind it.
        behind = torch.arange(bucket, device=position.device)[None] > position
        self._mask = torch.zeros_like(behind, dtype=dtype).masked_fill_(behind, float("-inf"))
        self._bucket = bucket

    def attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """query: [1, heads, head_dim]. keys, values: [1, capacity, kv_heads, head_dim]."""
        k, v = (x[:, : self._bucket].transpose(1, 2) for x in (keys, values))
        # The heads of a group become the rows of one matrix, so each key is read once for them.
        grouped = query.unflatten(1, (k.shape[1], -1))
        return scaled_dot_product_attention(grouped, k, v, attn_mask=self._mask).flatten(1, 2)
