"""The packing of a decode step whose place is read from the device, so that it can be replayed."""

from __future__ import annotations

from functools import cached_property

import torch
from torch.nn.functional import scaled_dot_product_attention

from tempo_fast.engine.kv_cache import KVCache, Spans


class Step:
    """One new token of the one sequence in a kv cache; it stands in for a `Packing`.

    position: int64 [1] on the device, the tokens cached before it; whoever replays the step counts
    it up. bucket: of the row's tokens, as many are looked at, the new one among them.
    """

    def __init__(self, position: torch.Tensor, bucket: int, cache: KVCache) -> None:
        # The row begins at place 0 of the cache.
        self.slots = position
        self._bucket, self._capacity, self._dtype = bucket, cache.capacity, cache.dtype

    @cached_property
    def spans(self) -> Spans:
        """As `Packing` has them, for backends that are `replayable`: all made on the device."""
        ends = torch.arange(2, dtype=torch.int32, device=self.slots.device)
        return Spans(
            cu_seqlens_q=ends,
            starts_k=ends * self._capacity,
            seqused_k=(self.slots + 1).int(),
            rows=ends[:1],
            max_q=1,
            max_k=self._bucket,
            ragged=False,
            first_row=0,
        )

    @cached_property
    def _mask(self) -> torch.Tensor:
        """[1, bucket]: 0 for a token that is there and -inf behind it."""
        behind = torch.arange(self._bucket, device=self.slots.device)[None] > self.slots
        return torch.zeros_like(behind, dtype=self._dtype).masked_fill_(behind, float("-inf"))

    def attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Where no backend can be replayed: as `Backend` has it, on all of the bucket, masked."""
        k, v = (x[:, : self._bucket].transpose(1, 2) for x in (keys, values))
        # The heads of a group become the rows of one matrix, so each key is read once for them.
        grouped = query.unflatten(1, (k.shape[1], -1))
        return scaled_dot_product_attention(grouped, k, v, attn_mask=self._mask).flatten(1, 2)
