"""Prefill and decode of one prompt."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tempo_fast.engine.kv_cache import KVCache
from tempo_fast.errors import ModelError
from tempo_fast.language_model.sampling import Sampler
from tempo_fast.models.tempo import TempoModel

# Tokens that the kv cache grows by, so that a long limit costs memory only when it is used.
CACHE_STEP = 1024


class Generation:
    """One prompt being answered: its kv cache and the logits of its next token.

    Making it runs the prefill. inputs_embeds: [L, E]. logits: [1, vocabulary] after the prompt,
    then after each token that `tokens` gave.
    """

    def __init__(self, model: TempoModel, inputs_embeds: torch.Tensor, max_new_tokens: int) -> None:
        self.model = model
        self.max_new_tokens = max_new_tokens
        room = len(inputs_embeds) + min(max_new_tokens, CACHE_STEP)
        self.cache: KVCache = model.language_model.new_cache(1, room)
        self.logits = self._extend(inputs_embeds)
        _check(self.logits)

    def _extend(self, embeds: torch.Tensor) -> torch.Tensor:
        decoder = self.model.language_model
        if self.cache.lengths[0] + len(embeds) > self.cache.capacity:
            self.cache.reserve(self.cache.capacity + CACHE_STEP)
        packing = self.cache.pack([0], [len(embeds)])
        past = packing.past[0]
        positions = torch.arange(past, past + len(embeds), device=embeds.device)
        hidden = decoder.extend(embeds, positions, packing, self.cache, outputs="last")
        return torch.nn.functional.linear(decoder.norm(hidden), self.model.lm_head)

    def tokens(self, sampler: Sampler, stop_tokens: frozenset[int]) -> Iterator[int]:
        """Generate up to max_new_tokens token ids; one in stop_tokens is given and is the last."""
        for count in range(1, self.max_new_tokens + 1):
            token = sampler(self.logits)
            number = int(token)
            _check(self.logits[:, number])
            yield number
            if number in stop_tokens or count == self.max_new_tokens:
                return
            self.logits = self._extend(self.model.language_model.embed(token))


def _check(logits: torch.Tensor) -> None:
    """Raise ModelError unless the logits are finite (a NaN counts as the largest: it is chosen)."""
    if not torch.isfinite(logits).all():
        raise ModelError(
            "the language model's logits are not finite: the checkpoint's weights are damaged, "
            "or too large for the dtype (try dtype='float32')"
        )
