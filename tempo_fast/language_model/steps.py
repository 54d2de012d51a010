"""Decode steps in blocks, whose tokens the host looks at together: how large those are, and steps
that are each one replay of a captured graph, sampling included.

The graph reads and writes buffers that stay: the kv cache, the last token, its position, where in
the block it is. A graph is captured for each bucket of cached length and way of sampling.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import torch

from tempo_fast.engine import ops
from tempo_fast.engine.graphs import Graphs, buffer, graphs_for
from tempo_fast.engine.step import Step
from tempo_fast.language_model.sampling import Sampler
from tempo_fast.models.tempo import TempoModel

# Steps at most that are queued before the host looks for a stop token.
BLOCK = 8
# Tokens that a kv cache grows by, so that a long limit costs memory only when it is used, and that
# the attention of a captured step is rounded up to.
CACHE_STEP = 1024
# Graphs kept: a long answer passes through a few buckets.
MOST_GRAPHS = 8
NOT_FINITE = -1


class CapturedSteps:
    """The cache and the buffers of one sequence at a time, and the graphs that work on them."""

    def __init__(self, model: TempoModel, graphs: Graphs) -> None:
        self._model = model
        self._graphs = graphs
        self._replays: dict[tuple[int, float, float], Callable[[], None]] = {}
        self.cache = model.language_model.new_cache(1, CACHE_STEP)

        def zeros(count: int, dtype: torch.dtype) -> torch.Tensor:
            return buffer(count, dtype=dtype, device=model.lm_head.device)

        self._token, self._position = zeros(1, torch.int64), zeros(1, torch.int64)
        self._place, self._tokens = zeros(1, torch.int64), zeros(BLOCK, torch.int64)
        self._uniform = zeros(BLOCK, torch.float32)

    def begin(self, tokens: int) -> None:
        """Forget the last sequence and make room for a prompt of `tokens` tokens."""
        self.cache.rewind([0])
        self._reserve(tokens)

    def block(self, last: int, count: int, sampler: Sampler) -> list[int]:
        """The next `count` ≤ BLOCK tokens after the token `last`, which is not cached yet.

        NOT_FINITE stands where the logit of the chosen token is not finite.
        """
        cached = self.cache.lengths[0]
        self._reserve(cached + count)

        def reset() -> None:
            self._token.fill_(last)
            self._position.fill_(cached)
            self._place.zero_()

        sampler.draw(self._uniform[:count])
        replay = self._replay(_rounded(cached + count), sampler, reset)
        for _ in range(count):
            replay()
        self.cache.lengths[0] += count
        return self._tokens[:count].tolist()

    def _reserve(self, tokens: int) -> None:
        if tokens > self.cache.capacity:
            # The graphs know the addresses of the smaller one.
            self._replays.clear()
            self.cache.reserve(_rounded(tokens))

    def _replay(
        self, bucket: int, sampler: Sampler, reset: Callable[[], None]
    ) -> Callable[[], None]:
        """A step in `bucket`, with the buffers reset."""
        key = (bucket, sampler.temperature, sampler.top_p)
        replay = self._replays.pop(key, None)
        if replay is None:
            replay = self._graphs.capture(lambda: self._step(bucket, sampler), reset)
            while len(self._replays) >= MOST_GRAPHS:
                del self._replays[next(iter(self._replays))]
        else:
            reset()
        self._replays[key] = replay  # the one used last is the last
        return replay

    def _step(self, bucket: int, sampler: Sampler) -> None:
        decoder, cache = self._model.language_model, self.cache
        hidden = decoder.run(
            decoder.embed(self._token),
            self._position,
            Step(self._position, bucket, cache),
            cache.keys,
            cache.values,
        )
        logits = ops.linear(decoder.norm(hidden), self._model.lm_head)
        token = sampler.choose(logits, self._uniform.index_select(0, self._place))
        self._tokens.index_copy_(0, self._place, unless_not_finite(token, logits))
        self._token.copy_(token)
        self._position.add_(1)
        self._place.add_(1)


class StepPool:
    """CapturedSteps for the answers of one model; those of the last answer serve the next."""

    def __init__(self, model: TempoModel, graphs: Callable[[torch.device], Graphs] = graphs_for):
        self._model = model
        self._graphs = graphs
        self._idle: list[CapturedSteps] = []
        self._lock = threading.Lock()

    def take(self) -> CapturedSteps:
        """Steps that nobody else uses, until they are given back."""
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return CapturedSteps(self._model, self._graphs(self._model.lm_head.device))

    def give_back(self, steps: CapturedSteps) -> None:
        """Keep them for the next answer, unless others are kept already."""
        with self._lock:
            if not self._idle:
                self._idle.append(steps)


def block_sizes(steps: int, most: int = BLOCK) -> Iterator[int]:
    """Steps of each block, together `steps`: 1, 2, 4 and so on, up to `most`.

    So fewer are thrown away behind a stop token than tokens were given before its block, and a
    short answer, or the beginning of one that is streamed, is not kept waiting for a whole block.
    """
    size = 1
    while steps > 0:
        count = min(size, steps)
        yield count
        steps -= count
        size = min(2 * size, most)


def unless_not_finite(token: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """token int64 [1], or NOT_FINITE where the largest of its logits [1, vocabulary] isn't finite.

    A NaN counts as the largest.
    """
    return token.where(logits.amax(1).isfinite(), NOT_FINITE)


def _rounded(tokens: int) -> int:
    return -(-tokens // CACHE_STEP) * CACHE_STEP
