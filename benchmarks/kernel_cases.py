"""What is timed: each kernel beside its reference, at the sizes of Tempo-6B.

1024 frames of 512×256 in 128 segments; vision encoder in batches of 64 frame pairs (512 patches
each), compressor in batches of 16 segments (about 8,800 tokens), language model's prompt of 8,533
tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from tempo_fast.video.resize import plan_resize
from tempo_kernels import (
    allocate,
    assemble,
    deepstack_add,
    gelu_tanh,
    greedy,
    grid_table,
    layer_norm,
    patches,
    preprocess,
    qk_norm_rope,
    relevance,
    relevance_allocate,
    rms_norm,
    rope_tables,
    sample,
    select,
    swiglu,
    vision_rope,
)

from .baseline.allocation import score_and_select
from .case import Call, Case, Make, size_of

EPS = 1e-6
COMPRESSOR_ROWS, PROMPT_ROWS, IMAGES, PATCHES = 8800, 8533, 64, 512
# So small a budget is spent to the last token, whatever the scores.
SEGMENTS, MEMORY, BUDGET = 128, 128, 4096


def _rms_norm(make: Make, rows: int, width: int) -> Call:
    x, weight = make.normal(rows, width), make.normal(width)
    moved = 2 * size_of(x) + size_of(weight)
    return Call(rms_norm.rms_norm, rms_norm.rms_norm_ref, (x, weight, EPS), moved)


def _add_rms_norm(make: Make, rows: int, width: int) -> Call:
    x, residual, weight = make.normal(rows, width), make.normal(rows, width), make.normal(width)
    arguments, moved = (x, residual, weight, EPS), 4 * size_of(x) + size_of(weight)
    return Call(rms_norm.add_rms_norm, rms_norm.add_rms_norm_ref, arguments, moved)


def _add_layer_norm(make: Make, rows: int, width: int) -> Call:
    x, residual = make.normal(rows, width), make.normal(rows, width)
    arguments = (x, residual, make.normal(width), make.normal(width), EPS)
    return Call(layer_norm.add_layer_norm, layer_norm.add_layer_norm_ref, arguments, 4 * size_of(x))


def _layer_norm(make: Make, rows: int, width: int) -> Call:
    x = make.normal(rows, width)
    arguments = (x, make.normal(width), make.normal(width), EPS)
    return Call(layer_norm.layer_norm, layer_norm.layer_norm_ref, arguments, 2 * size_of(x))


def _swiglu(make: Make, rows: int, width: int) -> Call:
    gate_up = make.normal(rows, 2 * width)
    return Call(swiglu.swiglu, swiglu.swiglu_ref, (gate_up,), size_of(gate_up) * 3 // 2)


def _gelu_tanh(make: Make, rows: int, width: int) -> Call:
    x = make.normal(rows, width)
    return Call(gelu_tanh.gelu_tanh, gelu_tanh.gelu_tanh_ref, (x,), 2 * size_of(x))


def _with_cache(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, ...]]:
    """`qk_norm_rope` that also returns the cache it wrote to."""

    def call(*arguments: Any, **keywords: Any) -> tuple[Tensor, ...]:
        return function(*arguments, **keywords), arguments[6], arguments[7]

    return call


def _qk_norm_rope(make: Make, rows: int, heads: int) -> Call:
    kv_heads, width = 8, 128
    qkv = make.normal(rows, (heads + 2 * kv_heads) * width)
    keys = torch.zeros(1, rows, kv_heads, width, dtype=torch.bfloat16, device=make.device)
    angle = make.normal(rows, width // 2, dtype=torch.float32).repeat(1, 2)
    cos, sin = angle.cos().bfloat16(), angle.sin().bfloat16()
    slots = torch.arange(rows, device=make.device)
    norms = (make.normal(width), make.normal(width))
    return Call(
        _with_cache(qk_norm_rope.qk_norm_rope),
        _with_cache(qk_norm_rope.qk_norm_rope_ref),
        (qkv, *norms, cos, sin, slots, keys, torch.zeros_like(keys), EPS),
        2 * size_of(qkv) + size_of(cos, slots),  # halves of cos and sin are alike
        {"heads": heads, "kv_heads": kv_heads},
    )


def _rope_tables(make: Make, rows: int, axes: int) -> Call:
    positions = make.integers(10_000, *((axes, rows) if axes > 1 else (rows,)))
    frequency = 1.0 / 5e6 ** (torch.arange(64, device=make.device) / 64)
    axis = torch.arange(64, device=make.device) % 3 if axes > 1 else None
    moved = size_of(positions) + 2 * 2 * rows * 128
    arguments = (positions, frequency, axis, torch.bfloat16)
    return Call(rope_tables.rope_tables, rope_tables.rope_tables_ref, arguments, moved)


def _vision_rope(make: Make, images: int, patches: int) -> Call:
    qkv = make.normal(images, patches, 3 * 1024)
    angle = make.normal(patches, 32, dtype=torch.float32).repeat(1, 2)
    arguments = (qkv, angle.cos(), angle.sin())
    moved = 2 * size_of(qkv) * 2 // 3 + size_of(angle)
    return Call(
        vision_rope.vision_rope, vision_rope.vision_rope_ref, arguments, moved, {"heads": 16}
    )


def _grid_table(make: Make, side: int, width: int) -> Call:
    table = make.normal(side * side, width)
    h, w = 16, 32
    moved = size_of(table) + 2 * h * w * width
    return Call(
        grid_table.grid_table, grid_table.grid_table_ref, (table, h, w), moved, {"merge": 2}
    )


def _deepstack_add(make: Make, rows: int, width: int) -> Call:
    hidden, features = make.normal(rows, width), make.normal(rows * 9 // 10, width)
    index = make.chosen(rows, len(features))
    moved = 3 * size_of(features) + size_of(index)
    arguments = (hidden, index, features)
    return Call(deepstack_add.deepstack_add, deepstack_add.deepstack_add_ref, arguments, moved)


def _scoring(make: Make, segments: int) -> tuple[Any, ...]:
    hidden = make.normal(segments * 70, 2048)
    index = torch.arange(1, segments + 1, device=make.device) * 70 - 1
    direction = make.normal(2048, dtype=torch.float32) / 30
    return hidden, index, make.normal(2048), direction, EPS


def _scoring_bytes(segments: int) -> int:
    return segments * 2048 * 2 + 2048 * (2 + 4) + segments * (8 + 4)


def _relevance(make: Make, segments: int) -> Call:
    arguments, moved = _scoring(make, segments), _scoring_bytes(segments)
    return Call(relevance.relevance, relevance.relevance_ref, arguments, moved)


def _allocation(segments: int) -> dict[str, int]:
    return {"tokens": MEMORY, "budget": BUDGET * segments // SEGMENTS}


def _allocate(make: Make, segments: int) -> Call:
    scores = torch.sigmoid(make.normal(segments, dtype=torch.float32))
    moved, keywords = size_of(scores) * 5, _allocation(segments)
    return Call(allocate.allocate, allocate.allocate_ref, (scores,), moved, keywords, exact=True)


def _relevance_allocate(make: Make, segments: int) -> Call:
    """Relevance and allocation; separate: in two launches."""
    scoring, keywords = _scoring(make, segments), _allocation(segments)
    done = torch.zeros(1, dtype=torch.int32, device=make.device)

    def separate(*arguments: Any, **keywords: Any) -> tuple[Tensor, ...]:
        *scored, _ = arguments
        scores = relevance.relevance(*scored)
        return scores, *allocate.allocate(scores, **keywords)

    def expected(result: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        scores = relevance.relevance_ref(*scoring)
        return scores, *allocate.allocate_ref(result[0], **keywords)

    return Call(
        relevance_allocate.relevance_allocate,
        relevance_allocate.relevance_allocate_ref,
        (*scoring, done),
        _scoring_bytes(segments) + segments * (8 + 8),
        keywords,
        expected=expected,
        others={"separate": separate},
    )


def _kept(make: Make, segments: int) -> tuple[Tensor, Tensor, int]:
    """Allocations, offsets and total of random scores."""
    scores = torch.sigmoid(make.normal(segments, dtype=torch.float32))
    allocations, offsets = allocate.allocate_ref(scores, **_allocation(segments))
    return allocations, offsets, int(offsets[-1])


def _select(make: Make, segments: int) -> Call:
    memory, weight = make.normal(segments, MEMORY, 2048), make.normal(2048)
    allocations, offsets, total = _kept(make, segments)
    arguments = (memory, allocations, offsets, weight, EPS)
    moved = 2 * total * 2048 * 2
    return Call(select.select, select.select_ref, arguments, moved, {"total": total})


def _assemble(make: Make, segments: int, vocabulary: int) -> Call:
    """places first: two launches, where few segments need one."""
    table = make.normal(vocabulary, 2560)
    allocations, offsets, total = _kept(make, segments)
    before, after = make.integers(vocabulary, 20), make.integers(vocabulary, 40)
    tags = make.integers(vocabulary, 5 * segments)
    tag_offsets = torch.arange(segments + 1, device=make.device) * 5
    room = total + len(tags)
    length = len(before) + room + len(after)
    projected = make.normal(total, 2560)
    few = segments <= assemble.FEW_SEGMENTS
    return Call(
        assemble.assemble,
        assemble.assemble_ref,
        (table, before, after, tags, tag_offsets, allocations, offsets, projected),
        2 * length * 2560 * 2,
        {"length": length, "room": room},
        exact=True,
        others={"places first": partial(assemble.assemble, places_first=True)} if few else {},
    )


def _trio(make: Make, segments: int) -> Call:
    """Relevance, allocation and selection as the engine chains them, the total already known.

    fused: the first two in one launch.
    """
    scoring, keywords = _scoring(make, segments), _allocation(segments)
    memory, weight = make.normal(segments, MEMORY, 2048), scoring[2]
    total = keywords["budget"]
    done = torch.zeros(1, dtype=torch.int32, device=make.device)

    def kernel(*arguments: Any) -> tuple[Tensor, ...]:
        scores = relevance.relevance(*arguments)
        kept = allocate.allocate(scores, **keywords)
        return scores, *kept, select.select(memory, *kept, weight, EPS, total=total)

    def fused(*arguments: Any) -> tuple[Tensor, ...]:
        scores, *kept = relevance_allocate.relevance_allocate(*arguments, done, **keywords)
        return scores, *kept, select.select(memory, *kept, weight, EPS, total=total)

    def after(scores: Tensor) -> tuple[Tensor, ...]:
        kept = allocate.allocate_ref(scores, **keywords)
        return *kept, select.select_ref(memory, *kept, weight, EPS, total=total)

    def reference(*arguments: Any) -> tuple[Tensor, ...]:
        scores = relevance.relevance_ref(*arguments)
        return scores, *after(scores)

    def expected(result: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return relevance.relevance_ref(*scoring), *after(result[0])

    def published(*arguments: Any) -> tuple[Tensor | None, ...]:
        budget = keywords["budget"]
        scores, kept, rows = score_and_select(*arguments, memory=memory, budget=budget)
        return scores, kept, None, rows

    moved = _scoring_bytes(segments) + 2 * total * 2048 * 2
    return Call(
        kernel,
        reference,
        scoring,
        moved,
        expected=expected,
        published=published,
        others={"fused": fused},
    )


def _to_patches(make: Make, frames: int, height: int, width: int) -> Call:
    pixels = make.frames(frames, height, width)
    moved = size_of(pixels) * 3  # a byte read and two written
    return Call(patches.to_patches, patches.to_patches_ref, (pixels,), moved, exact=True)


def _preprocess(make: Make, frames: int, height: int, width: int) -> Call:
    pixels = make.frames(frames, height, width)
    steps = plan_resize(height, width)
    moved = size_of(pixels) + 2 * frames * 3 * steps[-1][0] * steps[-1][1]
    return Call(preprocess.preprocess, preprocess.preprocess_ref, (pixels, steps), moved)


def _greedy(make: Make, rows: int, vocabulary: int) -> Call:
    logits = make.normal(rows, vocabulary)
    logits[:, vocabulary // 3] = 20  # argmax leaves open which of equals it takes
    return Call(greedy.greedy, _argmax, (logits,), size_of(logits), exact=True)


def _argmax(logits: Tensor) -> Tensor:
    """What an engine would call; `greedy_ref` sorts, to say which of equals it is."""
    return logits.argmax(-1)


def _sample(make: Make, rows: int, vocabulary: int) -> Call:
    logits = make.normal(rows, vocabulary) * 3
    uniform = torch.full((rows,), 0.6, device=make.device)
    arguments = (logits, 0.7, 0.8, uniform)
    return Call(sample.sample, sample.sample_ref, arguments, size_of(logits), exact=True)


CASES = [
    Case(
        "trio",
        _trio,
        {"segments": SEGMENTS},
        {"segments": 8},
        published=True,
        others=("fused",),
    ),
    Case(
        "relevance_allocate",
        _relevance_allocate,
        {"segments": SEGMENTS},
        {"segments": 8},
        others=("separate",),
    ),
    Case(
        "relevance_allocate",
        _relevance_allocate,
        {"segments": 4096},
        {"segments": 131},
        others=("separate",),
    ),
    Case("relevance", _relevance, {"segments": SEGMENTS}, {"segments": 8}),
    Case("allocate", _allocate, {"segments": SEGMENTS}, {}),
    Case("allocate", _allocate, {"segments": 4096}, {}),
    Case("select", _select, {"segments": SEGMENTS}, {"segments": 8}),
    Case(
        "assemble",
        _assemble,
        {"segments": SEGMENTS, "vocabulary": 151936},
        {"segments": 8, "vocabulary": 1000},
        others=("places first",),
    ),
    Case(
        "assemble",
        _assemble,
        {"segments": 4 * SEGMENTS, "vocabulary": 151936},
        {"segments": 131, "vocabulary": 1000},
    ),
    Case("rms_norm", _rms_norm, {"rows": COMPRESSOR_ROWS, "width": 2048}, {"rows": 64}),
    Case("rms_norm", _rms_norm, {"rows": PROMPT_ROWS, "width": 2560}, {"rows": 64}),
    Case("add_rms_norm", _add_rms_norm, {"rows": COMPRESSOR_ROWS, "width": 2048}, {"rows": 64}),
    Case("add_rms_norm", _add_rms_norm, {"rows": PROMPT_ROWS, "width": 2560}, {"rows": 64}),
    Case("add_rms_norm", _add_rms_norm, {"rows": 1, "width": 2560}, {}),
    Case("qk_norm_rope", _qk_norm_rope, {"rows": COMPRESSOR_ROWS, "heads": 16}, {"rows": 64}),
    Case("qk_norm_rope", _qk_norm_rope, {"rows": PROMPT_ROWS, "heads": 32}, {"rows": 64}),
    Case("rope_tables", _rope_tables, {"rows": PROMPT_ROWS, "axes": 1}, {"rows": 64}),
    Case("rope_tables", _rope_tables, {"rows": COMPRESSOR_ROWS, "axes": 3}, {"rows": 64}),
    Case("swiglu", _swiglu, {"rows": COMPRESSOR_ROWS, "width": 6144}, {"rows": 64}),
    Case("swiglu", _swiglu, {"rows": PROMPT_ROWS, "width": 9728}, {"rows": 64}),
    Case("layer_norm", _layer_norm, {"rows": IMAGES * PATCHES, "width": 1024}, {"rows": 64}),
    Case("layer_norm", _layer_norm, {"rows": IMAGES * PATCHES // 4, "width": 4096}, {"rows": 64}),
    Case(
        "add_layer_norm", _add_layer_norm, {"rows": IMAGES * PATCHES, "width": 1024}, {"rows": 64}
    ),
    Case("gelu_tanh", _gelu_tanh, {"rows": IMAGES * PATCHES, "width": 4096}, {"rows": 64}),
    Case("vision_rope", _vision_rope, {"images": IMAGES, "patches": PATCHES}, {"images": 1}),
    Case("grid_table", _grid_table, {"side": 48, "width": 1024}, {}),
    Case("deepstack_add", _deepstack_add, {"rows": COMPRESSOR_ROWS, "width": 2048}, {"rows": 64}),
    Case("to_patches", _to_patches, {"frames": 512, "height": 256, "width": 512}, {"frames": 2}),
    Case(
        "preprocess",
        _preprocess,
        {"frames": 16, "height": 1080, "width": 1920},
        {"frames": 2, "height": 270, "width": 480},
    ),
    Case(
        "preprocess",
        _preprocess,
        {"frames": 16, "height": 800, "width": 1920},  # whose last step is in float32
        {"frames": 2, "height": 100, "width": 240},
    ),
    Case("greedy", _greedy, {"rows": 1, "vocabulary": 151936}, {}),
    Case("sample", _sample, {"rows": 1, "vocabulary": 151936}, {}),
]
