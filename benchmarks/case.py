"""A case to time: how its arguments are made, and what is called with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Call:
    """A kernel and its reference on the same arguments.

    moved: bytes that any implementation must read or write.
    exact: whether the results must be equal, not only close.
    expected: what a result should be, given itself, where its later parts follow from its earlier
        ones and a rounding there may tip them; None for the reference's result.
    published: the published code's way to the same result, where a case has one (None in it stands
        for a part that only the kernel makes).
    others: other launches for the same result as the kernel's, by name, to time beside it.
    """

    kernel: Callable[..., Any]
    reference: Callable[..., Any]
    arguments: tuple[Any, ...]
    moved: int
    keywords: dict[str, Any] = field(default_factory=dict)
    exact: bool = False
    expected: Callable[[Any], Any] | None = None
    published: Callable[..., Any] | None = None
    others: dict[str, Callable[..., Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """`build(make, **sizes)` gives the call to time; off the GPU, `small` replaces some sizes.

    published: whether the call has the published code's way too. others: the names of its others.
    """

    op: str
    build: Callable[..., Call]
    sizes: dict[str, int]
    small: dict[str, int]
    published: bool = False
    others: tuple[str, ...] = ()

    def name(self, device: torch.device) -> str:
        sizes = " ".join(f"{name} {size}" for name, size in self._sizes(device).items())
        return f"{self.op}: {sizes}"

    def call(self, device: torch.device) -> Call:
        """The call on fresh arguments, the same ones every time."""
        return self.build(Make(device), **self._sizes(device))

    def _sizes(self, device: torch.device) -> dict[str, int]:
        return self.sizes if device.type == "cuda" else self.sizes | self.small


class Make:
    """Random tensors on a device, in bfloat16 unless told."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.generator = torch.Generator(device).manual_seed(0)

    def normal(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        values = torch.randn(shape, generator=self.generator, device=self.device)
        return values.to(dtype)

    def integers(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=self.generator, device=self.device)

    def frames(self, count: int, height: int, width: int) -> Tensor:
        return self.integers(256, count, height, width, 3).to(torch.uint8)

    def chosen(self, high: int, count: int) -> Tensor:
        """`count` of the numbers under `high`, sorted, none twice."""
        order = torch.randperm(high, generator=self.generator, device=self.device)
        return order[:count].sort().values


def size_of(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
