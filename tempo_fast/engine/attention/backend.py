"""What a backend of attention is, and where it is asked to run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from inspect import signature

import torch


@dataclass(frozen=True)
class Site:
    """Where attention runs: its device and dtype, and the size of a head."""

    device: torch.device
    dtype: torch.dtype
    head_dim: int


@dataclass(frozen=True)
class Backend:
    """A way to compute attention.

    name: how it is chosen and reported. missing: what it lacks to run at a site, None where it can;
    those of a GPU answer for half precision, whatever the site's dtype. attend, of a cached
    backend:

        attend(query, keys, values, packing, *, causal=True) → [T, heads, head_dim]

    with the packed query [T, heads, head_dim] and one layer of the cache, keys and values
    [n, capacity, kv_heads, head_dim], the new tokens already written; heads is a multiple of
    kv_heads (GQA), and nothing is repeated. causal=False lets a token see all of its sequence.
    Of a dense backend:

        attend(query, key, value) → [n, length, heads, head_dim]

    all of that shape, each sequence attending to all of itself. Both scale by 1/√head_dim and never
    wait for a GPU. replayable: of the packing it takes `spans` alone, so that it takes a `Step` too
    and, captured in a graph, can be replayed with other lengths in the same tensors.
    """

    name: str
    attend: Callable[..., torch.Tensor]
    missing: Callable[[Site], str | None]
    replayable: bool = False


def lacks_gpu(site: Site, least: int, most: int | None = None) -> str | None:
    """What a site lacks of an NVIDIA GPU of compute capability `least` (major) to `most`."""
    wanted = f"an NVIDIA GPU of compute capability {least}"
    wanted += ".x" if most == least else ".0 or newer"
    if site.device.type != "cuda" or torch.version.hip is not None:
        return f"needs {wanted}"
    found = torch.cuda.get_device_capability(site.device)
    if found[0] < least or (most is not None and found[0] > most):
        return f"needs {wanted}; this one's is {found[0]}.{found[1]}"
    return None


def lacks_head_dim(site: Site) -> str | None:
    """What a site lacks of the head sizes that every FlashAttention takes."""
    if site.head_dim % 8 or site.head_dim > 256:
        return f"needs a head size that is a multiple of 8, at most 256; it is {site.head_dim}"
    return None


def lacks_package(module: str, install: str, **arguments: str) -> str | None:
    """What is missing of a module whose functions take the named arguments (function=argument)."""
    try:
        package = import_module(module)
    except Exception as error:  # an extension built for another torch fails in any way
        return f"needs {install}; {module} can't be imported ({error})"
    for function, argument in arguments.items():
        found = getattr(package, function, None)
        if found is None or argument not in signature(found).parameters:
            return f"needs {install}; the installed {module} has no {function} with {argument}"
    return None
