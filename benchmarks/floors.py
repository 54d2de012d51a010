"""The least work of each stage, counted from the shapes: operations and bytes.

A multiply-add is two operations; attention counts only the keys that a query sees; bytes are each
weight, each cached key and value, each input and each output once. Norms, rotations and activations
are left out: they are memory traffic that a perfect engine would fuse away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tempo_fast.checkpoint.config import DecoderConfig, TempoConfig, VisionConfig

from .ceilings import Ceilings


@dataclass(frozen=True)
class Floor:
    """flops: operations. bytes: through the device's memory. Two add up to one after the other."""

    flops: float
    bytes: float

    def __add__(self, other: Floor) -> Floor:
        return Floor(self.flops + other.flops, self.bytes + other.bytes)

    def seconds(self, ceilings: Ceilings) -> float:
        """The time that no version runs much faster than."""
        return max(self.flops / ceilings.flops, self.bytes / ceilings.bandwidth)

    def as_row(self, ceilings: Ceilings) -> dict:
        """The floor as a result row keeps it."""
        arithmetic = self.flops / ceilings.flops > self.bytes / ceilings.bandwidth
        return {
            "flops": self.flops,
            "bytes": self.bytes,
            "seconds": self.seconds(ceilings),
            "bound": "arithmetic" if arithmetic else "memory",
        }


@dataclass(frozen=True)
class Work:
    """The shapes of one question about one video.

    frames: sampled. patches: of one frame (or pair of frames). system, visual, query: tokens of a
    segment's prompt, visual with its time tags. kept: memory tokens of each segment. prompt: tokens
    that the language model reads. itemsize: bytes of a number.
    """

    frames: int
    patches: int
    system: int
    visual: int
    query: int
    kept: Sequence[int]
    prompt: int
    itemsize: int

    @property
    def segments(self) -> int:
        return len(self.kept)


def _projections(config: DecoderConfig) -> tuple[int, int, int]:
    """Weights of one layer: of the query and the output, of the keys and values, of the MLP."""
    heads = config.heads * config.head_dim
    kv = 2 * config.kv_heads * config.head_dim
    return 2 * config.width * heads, config.width * kv, 3 * config.width * config.ffn


def decoder_weights(config: DecoderConfig) -> int:
    """Weights of all layers, without embeddings."""
    return config.layers * sum(_projections(config))


def extend_flops(config: DecoderConfig, new: int, past: int, outputs: int | None = None) -> float:
    """Operations of appending `new` tokens to `past` ones.

    outputs: hidden states that are asked for, from the end (None: all); in the last layer the other
    tokens need only their keys and values.
    """
    outputs = new if outputs is None else outputs
    query_out, kv, mlp = _projections(config)
    per_key = 4 * config.heads * config.head_dim

    def seen(tokens: int) -> float:  # keys that the last `tokens` new ones see, together
        return tokens * (past + new) - tokens * (tokens - 1) / 2

    layer = 2 * new * (query_out + kv + mlp) + per_key * seen(new)
    last = 2 * new * kv + 2 * outputs * (query_out + mlp) + per_key * seen(outputs)
    return (config.layers - 1) * layer + last


def kv_bytes(config: DecoderConfig, tokens: int, itemsize: int) -> int:
    """Bytes of the keys and values of so many tokens."""
    return 2 * config.layers * config.kv_heads * config.head_dim * tokens * itemsize


def vision_weights(config: VisionConfig) -> int:
    """Weights of the vision encoder's linear maps."""
    merged = config.width * config.merge**2
    mergers = (1 + len(config.deepstack)) * (merged * merged + merged * config.out_width)
    block = 4 * config.width**2 + 2 * config.width * config.ffn
    return config.layers * block + mergers + pixels(config) * config.width


def pixels(config: VisionConfig) -> int:
    """Values of one patch."""
    return config.channels * config.temporal_patch * config.patch**2


def resize(source: tuple[int, int], work: Work, config: VisionConfig) -> Floor:
    """Frames uint8 of (height, width) in, patches out."""
    pairs = work.frames / config.temporal_patch
    out = pairs * work.patches * pixels(config) * work.itemsize
    return Floor(0, work.frames * source[0] * source[1] * config.channels + out)


def vision(config: VisionConfig, work: Work) -> Floor:
    """Patches to visual tokens and deepstack features."""
    pairs = work.frames / config.temporal_patch
    rows = pairs * work.patches
    tokens = rows / config.merge**2
    merged = config.width * config.merge**2
    mergers = (1 + len(config.deepstack)) * (merged * merged + merged * config.out_width)
    blocks = config.layers * (4 * config.width**2 + 2 * config.width * config.ffn)
    attention = config.layers * 4 * rows * work.patches * config.width
    flops = 2 * rows * (blocks + pixels(config) * config.width) + 2 * tokens * mergers + attention
    outputs = (1 + len(config.deepstack)) * tokens * config.out_width
    moved = vision_weights(config) + rows * pixels(config) + outputs
    return Floor(flops, moved * work.itemsize)


def encode(config: DecoderConfig, work: Work) -> Floor:
    """The visual part of every segment, once per video: keys and values, no outputs."""
    flops = work.segments * extend_flops(config, work.visual, work.system, outputs=0)
    written = kv_bytes(config, work.segments * (work.system + work.visual), work.itemsize)
    return Floor(flops, decoder_weights(config) * work.itemsize + written)


def ask(config: DecoderConfig, work: Work) -> Floor:
    """The query of every segment, then its kept memory tokens."""
    cached = work.system + work.visual
    flops = work.segments * extend_flops(config, work.query, cached, outputs=1)
    flops += sum(extend_flops(config, kept, cached + work.query) for kept in work.kept if kept)
    read = kv_bytes(config, 2 * work.segments * cached, work.itemsize)
    return Floor(flops, 2 * decoder_weights(config) * work.itemsize + read)


def compress_as_published(config: DecoderConfig, work: Work, memory_tokens: int) -> Floor:
    """Every segment from its first token to its last memory token, for one question."""
    tokens = work.system + work.visual + work.query + memory_tokens
    flops = work.segments * extend_flops(config, tokens, 0)
    moved = decoder_weights(config) * work.itemsize
    return Floor(flops, moved + kv_bytes(config, work.segments * tokens, work.itemsize))


def allocate(work: Work) -> Floor:
    """Scores float32 in, counts and offsets int64 out."""
    return Floor(0, work.segments * (4 + 8 + 8))


def assemble(config: TempoConfig, work: Work) -> Floor:
    """Memory tokens through the projector, and the prompt's embeddings."""
    inputs, width = config.compressor.width, config.language_model.width
    weights = inputs * width + (width * width if config.projector.startswith("mlp2") else 0)
    kept = sum(work.kept)
    moved = weights + kept * (inputs + 2 * width) + 2 * (work.prompt - kept) * width
    return Floor(2 * kept * weights, moved * work.itemsize)


def _answer_weights(config: DecoderConfig) -> int:
    return decoder_weights(config) + config.vocabulary * config.width


def prefill(config: DecoderConfig, work: Work) -> Floor:
    """The language model's prompt, to the logits of its first token."""
    head = 2 * config.vocabulary * config.width
    flops = extend_flops(config, work.prompt, 0, outputs=1) + head
    moved = (_answer_weights(config) + work.prompt * config.width) * work.itemsize
    return Floor(flops, moved + kv_bytes(config, work.prompt, work.itemsize))


def decode(config: DecoderConfig, work: Work, tokens: int = 1) -> Floor:
    """The steps of `tokens` further tokens after the prompt."""
    flops, moved = 0.0, 0.0
    for step in range(tokens):
        cached = work.prompt + step
        flops += extend_flops(config, 1, cached) + 2 * config.vocabulary * config.width
        moved += _answer_weights(config) * work.itemsize
        moved += kv_bytes(config, cached + 1, work.itemsize)
    return Floor(flops, moved)


def first_token(config: TempoConfig, work: Work) -> Floor:
    """A first question, frames in memory, to its first token."""
    return vision(config.vision, work) + encode(config.compressor, work) + later_token(config, work)


def later_token(config: TempoConfig, work: Work) -> Floor:
    """A later question on the same video, to its first token."""
    return (
        ask(config.compressor, work)
        + allocate(work)
        + assemble(config, work)
        + prefill(config.language_model, work)
    )
