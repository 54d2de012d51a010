"""The next token from its logits: greedy, or sampled at a temperature from the top-p nucleus."""

from __future__ import annotations

import torch


class Sampler:
    """Chooses the next token.

    temperature 0 takes the largest logit. Above it, tokens are drawn from softmax(logits /
    temperature) limited to the smallest set whose probability reaches top_p. seed: makes the draws
    repeatable on one kind of device; None draws differently every time.
    """

    def __init__(
        self, temperature: float, top_p: float, seed: int | None, device: torch.device
    ) -> None:
        self.temperature = temperature
        self.top_p = top_p
        self.generator = torch.Generator(device)
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed)

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """logits: [1, vocabulary] → int64 [1]."""
        if self.temperature == 0:
            return logits.argmax(-1)
        probability = torch.softmax(logits.float() / self.temperature, -1)
        if self.top_p < 1:
            ordered, index = probability.sort(-1, descending=True)
            # A token stays while those before it fall short of top_p, so the first always stays.
            ordered[ordered.cumsum(-1) - ordered >= self.top_p] = 0
            drawn = torch.multinomial(ordered, 1, generator=self.generator)
            return index.gather(-1, drawn)[:, 0]
        return torch.multinomial(probability, 1, generator=self.generator)[:, 0]
