"""Prefill and decode of one prompt."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tempo_fast.engine import ops
from tempo_fast.engine.kv_cache import KVCache
from tempo_fast.errors import ModelError
from tempo_fast.language_model.sampling import Sampler
from tempo_fast.language_model.steps import (
    BLOCK,
    CACHE_STEP,
    NOT_FINITE,
    StepPool,
    block_sizes,
    unless_not_finite,
)
from tempo_fast.models.tempo import TempoModel


class Generation:
    """One prompt being answered: its kv cache and the logits of its next token.

    Making it runs the prefill. inputs_embeds: [L, E]. pool: captured decode steps to take; None
    runs them uncaptured, the plain path. logits: [1, vocabulary] after the prompt.
    """

    def __init__(
        self,
        model: TempoModel,
        inputs_embeds: torch.Tensor,
        max_new_tokens: int,
        pool: StepPool | None = None,
    ) -> None:
        self.model = model
        self.max_new_tokens = max_new_tokens
        self._pool = pool
        self._steps = None
        if pool is None:
            room = len(inputs_embeds) + min(max_new_tokens, CACHE_STEP)
            self.cache: KVCache = model.language_model.new_cache(1, room)
        else:
            self._steps = pool.take()
            self._steps.begin(len(inputs_embeds) + min(max_new_tokens, BLOCK))
            self.cache = self._steps.cache
        self.logits = self._extend(inputs_embeds)
        if not torch.isfinite(self.logits).all():
            raise ModelError(NO_NUMBERS)

    def _extend(self, embeds: torch.Tensor) -> torch.Tensor:
        decoder = self.model.language_model
        if self.cache.lengths[0] + len(embeds) > self.cache.capacity:
            self.cache.reserve(self.cache.capacity + CACHE_STEP)
        packing = self.cache.pack([0], [len(embeds)])
        past = packing.past[0]
        positions = torch.arange(past, past + len(embeds), device=embeds.device)
        hidden = decoder.extend(embeds, positions, packing, self.cache, outputs="last")
        return ops.linear(decoder.norm(hidden), self.model.lm_head)

    def tokens(self, sampler: Sampler, stop_tokens: frozenset[int]) -> Iterator[int]:
        """Generate up to max_new_tokens token ids; one in stop_tokens is given and is the last.

        It can be done once. Raises ModelError where the largest of a token's logits isn't finite.
        """
        try:
            token = sampler(self.logits)
            number = _number(token, self.logits)
            yield number
            if number in stop_tokens:
                return
            if self._steps is None:
                later = self._plain_blocks(sampler, token)
            else:
                later = self._captured_blocks(sampler, number)
            for number in later:
                yield number
                if number in stop_tokens:
                    return
        finally:
            if self._steps is not None:
                self._pool.give_back(self._steps)
                self._steps = None

    def _plain_blocks(self, sampler: Sampler, token: torch.Tensor) -> Iterator[int]:
        """The tokens after the first [1]. A GPU is given a block of steps before the host waits for
        their tokens, and those past the end are thrown away; a CPU gains nothing by that."""
        most = BLOCK if token.device.type == "cuda" else 1
        for count in block_sizes(self.max_new_tokens - 1, most):
            numbers = []
            for _ in range(count):
                self.logits = self._extend(self.model.language_model.embed(token))
                token = sampler(self.logits)
                numbers.append(unless_not_finite(token, self.logits))
            yield from map(_checked, torch.cat(numbers).tolist())

    def _captured_blocks(self, sampler: Sampler, last: int) -> Iterator[int]:
        """The tokens after the first, by captured steps; those past the end are thrown away."""
        for count in block_sizes(self.max_new_tokens - 1):
            for token in self._steps.block(last, count, sampler):
                last = _checked(token)
                yield last


NO_NUMBERS = (
    "the language model's logits are not finite: the checkpoint's weights are damaged, "
    "or too large for the dtype (try dtype='float32')"
)


def _number(token: torch.Tensor, logits: torch.Tensor) -> int:
    """The chosen token [1] for the host, which waits once."""
    return _checked(int(unless_not_finite(token, logits)))


def _checked(number: int) -> int:
    """`number`, a ModelError if it was chosen among logits whose largest isn't finite."""
    if number == NOT_FINITE:
        raise ModelError(NO_NUMBERS)
    return number
