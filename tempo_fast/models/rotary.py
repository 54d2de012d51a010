"""Rotary angles: plain positions, or interleaved three-dimensional ones (M-RoPE)."""

from __future__ import annotations

import torch

from tempo_fast.checkpoint.config import DecoderConfig
from tempo_fast.engine import ops


def rotary_frequencies(
    dimensions: int, theta: float, device: torch.device, *, through_float16: bool
) -> torch.Tensor:
    """float32 [dimensions / 2]: theta^(−2j / dimensions), rounded to float16 where asked for."""
    # On the CPU wherever they go: a device's power may differ in the last bit, and round otherwise.
    exponent = torch.arange(0, dimensions, 2, dtype=torch.float32) / dimensions
    frequency = 1.0 / theta**exponent
    return (frequency.half().float() if through_float16 else frequency).to(device)


class Rotary:
    """Cosines and sines of a decoder's positions, computed in float32.

    Frequency j of head_dim / 2 turns with the height position where j mod 3 = 1 and j < 3 ·
    section_h, with the width position where j mod 3 = 2 and j < 3 · section_w, else with the
    temporal one.
    """

    def __init__(self, config: DecoderConfig, *, device: torch.device, dtype: torch.dtype) -> None:
        j = torch.arange(config.head_dim // 2, device=device)
        self.frequency = rotary_frequencies(
            config.head_dim,
            config.rope_theta,
            device,
            through_float16=config.float16_frequencies,
        )
        self.dtype = dtype
        self.axis = None
        if config.mrope_section is not None:
            _, height, width = config.mrope_section
            self.axis = torch.zeros_like(j)
            self.axis[(j % 3 == 1) & (j < 3 * height)] = 1
            self.axis[(j % 3 == 2) & (j < 3 * width)] = 2

    def __call__(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """positions: int64 [T], or [3, T] (time, height, width) → cos, sin [T, head_dim]."""
        return ops.rope_tables(positions, self.frequency, self.axis, self.dtype)
