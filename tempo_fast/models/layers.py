"""Blocks that the networks share: parameters yet to be loaded around the operations."""

from __future__ import annotations

import torch
from torch import nn

from tempo_fast.engine import ops


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
        return ops.linear(x, self.weight, self.bias)


class LayerNorm(nn.Module):
    """LayerNorm over the last dimension."""

    def __init__(self, width: int, eps: float, **where) -> None:
        super().__init__()
        self.weight = empty(width, **where)
        self.bias = empty(width, **where)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ops.layer_norm(x, self.weight, self.bias, self.eps)

    def add(
        self, x: torch.Tensor, update: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x + update, and its norm."""
        if update is None:
            return x, self(x)
        return ops.add_layer_norm(update, x, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the last dimension."""

    def __init__(self, width: int, eps: float, **where) -> None:
        super().__init__()
        self.weight = empty(width, **where)
        self.eps = eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return ops.rms_norm(x, self.weight, self.eps)

    def add(
        self, x: torch.Tensor, update: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x + update, and its norm."""
        if update is None:
            return x, self(x)
        return ops.add_rms_norm(update, x, self.weight, self.eps)


def parameters_by_name(module: nn.Module, prefix: str) -> dict[str, torch.Tensor]:
    """The parameters of a module whose names are those of the checkpoint, under `prefix`."""
    return {prefix + name: tensor for name, tensor in module.named_parameters()}
