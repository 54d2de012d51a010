"""Launches the allocation trio, fused and not, and the assembly, for compute-sanitizer to watch.

`benchmarks/sanitize.sh` runs it under each of the sanitizer's tools. Odd sizes, so that every mask
is at work. It exits with 1 when a result isn't the reference's, and with 2 without a GPU (unless
TRITON_INTERPRET=1).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tempo_kernels.allocate import allocate, allocate_ref
from tempo_kernels.assemble import assemble, assemble_ref
from tempo_kernels.launch import INTERPRETED
from tempo_kernels.relevance import relevance, relevance_ref
from tempo_kernels.relevance_allocate import relevance_allocate
from tempo_kernels.select import select, select_ref

EPS = 1e-6
# Few segments and many: they are searched, and their prompts assembled, in different ways.
SEGMENTS = (127, 131)


def results(
    device: torch.device, segments: int, *, memory_tokens: int = 63, width: int = 2048
) -> dict[str, tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """What each kernel and its reference give for random bfloat16 data, by name."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).bfloat16()

    def ids(count: int) -> Tensor:
        return torch.randint(997, (count,), generator=generator, device=device)

    hidden, weight = normal(segments * 3, width), normal(width)
    direction = normal(width).float() / width**0.5
    index = torch.arange(segments, device=device) * 3 + 2
    scoring = (hidden, index, weight, direction, EPS)
    share = {"tokens": memory_tokens, "budget": segments * memory_tokens // 4}
    done = torch.zeros(1, dtype=torch.int32, device=device)
    fused = relevance_allocate(*scoring, done, **share)
    scores = relevance_ref(*scoring)
    allocations, offsets = allocate_ref(scores, **share)
    total = int(offsets[-1])
    kept = (normal(segments, memory_tokens, width), allocations, offsets, weight, EPS)
    tags, tag_offsets = ids(5 * segments), torch.arange(segments + 1, device=device) * 5
    prompt = (normal(997, width), ids(20), ids(40), tags, tag_offsets, allocations, offsets)
    prompt = (*prompt, normal(total, width))
    room = total + 4 * segments
    lengths = {"length": 60 + room, "room": room}

    def both(
        kernel: Callable, reference: Callable, arguments: tuple, **keywords: Any
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        return _tuple(kernel(*arguments, **keywords)), _tuple(reference(*arguments, **keywords))

    return {
        "relevance": both(relevance, relevance_ref, scoring),
        "allocate": both(allocate, allocate_ref, (scores,), **share),
        # A score that rounds apart may tip a token: what follows from the launch's own is compared.
        "relevance_allocate": (
            (*fused, done),
            (scores, *allocate_ref(fused[0], **share), torch.zeros_like(done)),
        ),
        "select, head": both(select, select_ref, kept, total=total),
        "select, tail": both(select, select_ref, kept, total=total, take="tail"),
        "assemble": both(assemble, assemble_ref, prompt, **lengths),
    }


def _tuple(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else result


def _close(actual: Tensor, expected: Tensor) -> bool:
    """Equal whole numbers; for others, up to two rounding steps of the norm and its weight."""
    if not expected.is_floating_point():
        return torch.equal(actual, expected)
    step = 2 * torch.finfo(torch.bfloat16).eps
    return torch.allclose(actual, expected, rtol=step, atol=step)


def main() -> int:
    if not (torch.cuda.is_available() or INTERPRETED):
        print("no CUDA GPU here: nothing was launched (TRITON_INTERPRET=1 runs it on the CPU)")
        return 2
    device = torch.device("cpu" if INTERPRETED else "cuda")
    wrong = [
        f"{name} of {segments} segments"
        for segments in SEGMENTS
        for name, (actual, expected) in results(device, segments).items()
        if not all(map(_close, actual, expected))
    ]
    print(f"on {device}: " + (f"wrong results: {', '.join(wrong)}" if wrong else "all as expected"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
