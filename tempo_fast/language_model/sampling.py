"""The next token from its logits: greedy, or sampled at a temperature from the top-p nucleus."""

from __future__ import annotations

import torch

from tempo_fast.engine import ops


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
        uniform = logits.new_empty(1, dtype=torch.float32)
        self.draw(uniform)
        return self.choose(logits, uniform)

    def draw(self, out: torch.Tensor) -> None:
        """Fill float32 [n] with what the next n tokens are chosen by."""
        if self.temperature != 0:
            for i in range(len(out)):
                # One by one, for a device may draw other numbers when it draws several at once.
                out[i : i + 1].uniform_(generator=self.generator)

    def choose(self, logits: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """logits: [1, vocabulary], uniform: a number that was drawn, [1] → int64 [1]."""
        if self.temperature == 0:
            return ops.greedy(logits)
        return ops.sample(logits, self.temperature, self.top_p, uniform)
