"""Blocks that the networks share, with the published model's rounding points.

`rms_norm` squares and averages in float32, rounds to the input's dtype, then multiplies by the
weight. `rotate` multiplies in the dtype of the query and key, with cosines and sines rounded to it.
"""

from __future__ import annotations

import torch
from torch import nn


def empty(*shape: int, device: torch.device, dtype: torch.dtype) -> nn.Parameter:
    """A parameter whose values are yet to be loaded."""
    return nn.Parameter(torch.empty(shape, device=device, dtype=dtype), requires_grad=False)


class Linear(nn.Module):
    """x Wᵀ + b with unloaded weights [out, in] and, if asked for, a bias [out]."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, **where) -> None:
        super().__init__()
        self.weight = empty(outputs, inputs, **where)
        self.bias = empty(outputs, **where) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class LayerNorm(nn.Module):
    """LayerNorm over the last dimension."""

    def __init__(self, width: int, eps: float, **where) -> None:
        super().__init__()
        self.weight = empty(width, **where)
        self.bias = empty(width, **where)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the last dimension."""

    def __init__(self, width: int, eps: float, **where) -> None:
        super().__init__()
        self.weight = empty(width, **where)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (wide * scale).to(x.dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding of x [..., heads, head_dim]; cos, sin [..., 1, head_dim], halves alike."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def parameters_by_name(module: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """The parameters of a module whose names are those of the checkpoint, under `prefix`."""
    return {prefix + name: tensor for name, tensor in module.named_parameters()}
