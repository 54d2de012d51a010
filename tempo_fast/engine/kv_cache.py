"""The kv cache: the keys and values of n sequences, and what is being appended to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby

import torch

from tempo_fast.checkpoint.config import DecoderConfig
from tempo_fast.engine.streams import upload


@dataclass(frozen=True)
class Run:
    """Neighbouring sequences with the same number of new tokens and of cached ones.

    tokens: their slice of the packed tokens. rows: their slice of the cache.
    """

    tokens: slice
    rows: slice
    new: int
    past: int


@dataclass(frozen=True)
class Spans:
    """A packing as the variable-length attention kernels want it, made once for all layers.

    Sequences without new tokens are left out; n counts the others. The tensors, int32 on the
    device, are all that changes from one replay of a captured graph to the next; the numbers are
    baked into it.

    cu_seqlens_q: [n + 1], where each sequence starts in the packed queries. starts_k: [n + 1],
    where its row starts in the cache seen as [rows · capacity] tokens; the last is where the last
    row ends. seqused_k: [n], its tokens in the cache, the new ones included. rows: [n], its row.
    max_q, max_k: at least the most new tokens and the most tokens of a sequence. ragged: whether
    sequences differ in new tokens. first_row: the first row, if the rows follow one another.
    """

    cu_seqlens_q: torch.Tensor
    starts_k: torch.Tensor
    seqused_k: torch.Tensor
    rows: torch.Tensor
    max_q: int
    max_k: int
    ragged: bool
    first_row: int | None

    def rows_of(self, cached: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The rows of `cached` [rows, …] to attend to: a view and no index, or all and an index."""
        if self.first_row is None:
            return cached, self.rows
        return cached[self.first_row : self.first_row + len(self.rows)], None


@dataclass(frozen=True)
class Packing:
    """The new tokens of n sequences, packed one sequence after the other.

    rows: each sequence's row of the cache. new: its new tokens (0 is allowed). past: its tokens
    cached before. capacity: tokens a row of the cache has room for.
    """

    rows: tuple[int, ...]
    new: tuple[int, ...]
    past: tuple[int, ...]
    capacity: int
    device: torch.device

    @property
    def tokens(self) -> int:
        """All new tokens, T."""
        return sum(self.new)

    @cached_property
    def cu_seqlens(self) -> torch.Tensor:
        """int64 [n + 1]: where each sequence starts in the packed tokens."""
        return upload(torch.tensor((0, *self.new)).cumsum(0), self.device)

    @cached_property
    def slots(self) -> torch.Tensor:
        """int64 [T]: the place of each new token in the cache seen as [n · capacity] tokens."""
        first = torch.tensor(self.rows) * self.capacity + torch.tensor(self.past)
        return upload(ranges(first, torch.tensor(self.new)), self.device)

    @property
    def _filled(self) -> list[tuple[int, int, int]]:
        """Row, new and past tokens of each sequence with a new token."""
        return [s for s in zip(self.rows, self.new, self.past, strict=True) if s[1]]

    @cached_property
    def spans(self) -> Spans:
        """Starts and lengths for the attention kernels; there must be a new token."""
        rows, new, past = zip(*self._filled, strict=True)
        n, totals = len(rows), [p + q for p, q in zip(past, new, strict=True)]
        starts = [row * self.capacity for row in (*rows, rows[-1] + 1)]
        numbers = (*accumulate(new, initial=0), *starts, *totals, *rows)
        uploaded = upload(torch.tensor(numbers, dtype=torch.int32), self.device)
        return Spans(
            *uploaded.split((n + 1, n + 1, n, n)),
            max_q=max(new),
            max_k=max(totals),
            ragged=min(new) < max(new),
            first_row=rows[0] if rows == tuple(range(rows[0], rows[0] + n)) else None,
        )

    @cached_property
    def gathered(self) -> tuple[torch.Tensor, torch.Tensor]:
        """How to pack the cached tokens too, of the sequences in `spans` and in their order.

        int64 [Σ tokens]: the place of each in the cache seen as [n · capacity] tokens; and int32
        [n + 1]: where each sequence starts among them.
        """
        first = torch.tensor([row * self.capacity for row, _, _ in self._filled])
        totals = torch.tensor([past + new for _, new, past in self._filled])
        starts = torch.cat((totals.new_zeros(1), totals.cumsum(0))).int()
        return upload(ranges(first, totals), self.device), upload(starts, self.device)

    @cached_property
    def last(self) -> torch.Tensor:
        """int64 [n]: the packed index of each sequence's last new token."""
        return self.cu_seqlens[1:] - 1

    def only_last(self) -> Packing:
        """The packing of each sequence's last new token alone, after all that came before it."""
        past = tuple(past + new - 1 for past, new in zip(self.past, self.new, strict=True))
        return Packing(self.rows, (1,) * len(self.rows), past, self.capacity, self.device)

    @cached_property
    def masks(self) -> dict[tuple[int, int], torch.Tensor]:
        """Attention masks by (new, past), made when a layer first needs one, for all layers."""
        return {}

    @cached_property
    def runs(self) -> list[Run]:
        """The sequences grouped into the largest dense batches, in order; empty ones left out."""
        runs, token = [], 0
        numbered = zip(range(len(self.rows)), self.rows, self.new, self.past, strict=True)
        # Consecutive sequences in consecutive rows have the same difference of row and number.
        for (offset, new, past), group in groupby(numbered, lambda s: (s[1] - s[0], s[2], s[3])):
            first, *rest = group
            count = 1 + len(rest)
            row = first[0] + offset
            if new:
                tokens = slice(token, token + count * new)
                runs.append(Run(tokens, slice(row, row + count), new, past))
            token += count * new
        return runs


def ranges(first: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """first[i], first[i] + 1, … for counts[i] places, one i after the other; on the CPU."""
    within = torch.arange(int(counts.sum())) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return first.repeat_interleave(counts) + within


class KVCache:
    """Keys and values of n sequences in rows of equal capacity.

    keys, values: a tensor [n, capacity, kv_heads, head_dim] for each layer. lengths: tokens that
    are valid in each row; `Decoder.extend` appends after them, `rewind` forgets what was appended.
    What lies behind them is never infinite or NaN.
    pinned: keep them in the host's memory so that a GPU can copy them without waiting for the host.
    """

    def __init__(
        self,
        config: DecoderConfig,
        sequences: int,
        capacity: int,
        *,
        device: torch.device,
        dtype: torch.dtype,
        pinned: bool = False,
    ) -> None:
        self.config = config
        self.pinned = pinned
        self.lengths = [0] * sequences
        self.device = device
        self.dtype = dtype
        self.keys = [self._zeros(capacity) for _ in range(config.layers)]
        self.values = [self._zeros(capacity) for _ in range(config.layers)]

    @torch.inference_mode(False)  # else it could be written to in that mode alone
    def _zeros(self, capacity: int) -> torch.Tensor:
        shape = (len(self.lengths), capacity, self.config.kv_heads, self.config.head_dim)
        # Attention kernels and captured steps multiply the values behind a row's tokens by 0, and
        # 0 · NaN is NaN.
        return torch.zeros(shape, device=self.device, dtype=self.dtype, pin_memory=self.pinned)

    @property
    def capacity(self) -> int:
        """Tokens that each row has room for."""
        return self.keys[0].shape[1]

    def pack(self, rows: Sequence[int], new: Sequence[int]) -> Packing:
        """Describe appending new[i] tokens to rows[i], after growing the rows to hold them."""
        past = tuple(self.lengths[row] for row in rows)
        self.reserve(max((p + n for p, n in zip(past, new, strict=True)), default=0))
        return Packing(tuple(rows), tuple(new), past, self.capacity, self.device)

    def commit(self, packing: Packing) -> None:
        """Count the tokens of `packing` as cached: every layer has written them."""
        for row, past, new in zip(packing.rows, packing.past, packing.new, strict=True):
            self.lengths[row] = past + new

    def rewind(self, lengths: Sequence[int], rows: Sequence[int] | None = None) -> None:
        """Forget every token after the first lengths[i] of row i, or of rows[i]."""
        rows = range(len(self.lengths)) if rows is None else rows
        for row, length in zip(rows, lengths, strict=True):
            self.lengths[row] = min(self.lengths[row], length)

    def reserve(self, capacity: int) -> None:
        """Give every row room for `capacity` tokens, a layer at a time: only one is held twice.

        Interrupted, it leaves every layer whole, and the next call makes them equal again.
        """
        sizes = {layer.shape[1] for layer in (*self.keys, *self.values)}
        capacity = max(capacity, *sizes)
        if sizes == {capacity}:
            return
        used = max(self.lengths)
        for layers in (self.keys, self.values):
            for i, old in enumerate(layers):
                if old.shape[1] < capacity:
                    new = self._zeros(capacity)
                    new[:, :used] = old[:, :used]
                    layers[i] = new

    def copy_prefix(self, prefix: KVCache, rows: range) -> None:
        """Put the tokens of the one sequence in `prefix` in `rows`, in place of all they hold."""
        length = prefix.lengths[0]
        self.reserve(length)
        for mine, theirs in zip(
            (*self.keys, *self.values), (*prefix.keys, *prefix.values), strict=True
        ):
            mine[rows.start : rows.stop, :length] = theirs[0, :length]
        for row in rows:
            self.lengths[row] = length

    def copy_rows(self, rows: range, other: KVCache, other_rows: range) -> None:
        """Put the sequences `other_rows` of another cache in `rows`, in place of all they hold.

        Neighbouring rows each. To and from pinned memory nothing waits for the copies: what reads
        them must be on the same stream.
        """
        lengths = other.lengths[other_rows.start : other_rows.stop]
        self.reserve(max(lengths))
        # Whole rows, so that those that are full are one piece of memory.
        width = min(self.capacity, other.capacity)
        for mine, theirs in zip(
            (*self.keys, *self.values), (*other.keys, *other.values), strict=True
        ):
            part = theirs[other_rows.start : other_rows.stop, :width]
            mine[rows.start : rows.stop, :width].copy_(part, non_blocking=True)
        self.lengths[rows.start : rows.stop] = lengths
