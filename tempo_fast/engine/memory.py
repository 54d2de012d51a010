"""Memory, counted from shapes before anything is allocated, and what is done where it is short.

Counted high on purpose: every tensor of a block is taken to live until the block ends, and
attention's scores are counted where torch may have no kernel that does without them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tempo_fast.checkpoint.config import DecoderConfig, TempoConfig, VisionConfig
from tempo_fast.engine.attention import unfused
from tempo_fast.engine.meter import Meter

# The rest of the free memory is for fragments and the libraries' workspaces.
SHARE = 0.9
# Pinned memory can't be swapped out, so the host keeps more for everything else.
HOST_SHARE = 0.7
PLACEMENTS = ("device", "host", "dropped")


@dataclass(frozen=True)
class Work:
    """What a video asks of the memory.

    segments: their number. visual: tokens of the longest visual part. system: tokens before it.
    room: tokens kept behind it for the question. patches: of the longest segment. frame_bytes: of
    its frames as they are sent. prompt: the language model's tokens at most. new: tokens that its
    cache begins with room for.
    """

    segments: int
    visual: int
    system: int
    room: int
    patches: int
    frame_bytes: int
    prompt: int
    new: int

    @property
    def row(self) -> int:
        """Tokens that a segment's row has room for."""
        return self.system + self.visual + self.room


@dataclass(frozen=True)
class Captured:
    """What captured graphs ask of the memory: each keeps its own, whether it runs or not.

    chunks: of segments that are kept captured at most. bucket: what the tokens of a segment's
    visual part are rounded up to in them. held: bytes that those there are keep already, which are
    free no more. steps: decode steps that are kept captured at most.
    """

    chunks: int
    bucket: int
    held: int
    steps: int


@dataclass
class MemoryPlan:
    """Bytes, and what was decided from them.

    free: on the device beside the weights when it was planned; None where it isn't known.
    weights: of all networks. segment_cache: keys and values of all segments. activations: of the
    largest chunk. language_model: its cache and prefill. chunk_tokens: tokens that run at once.
    placement: where the segments' keys and values are between questions: "device"; "host", in
    pinned memory, rows moved to the device chunk by chunk; "dropped", so that each question
    encodes the video again. threads: that work on chunks beside each other, on a CPU; it is in what
    was counted. halved: how often memory ran out all the same and the chunk was halved. graphs:
    bytes that captured chunks may come to keep beyond what they hold, and all decode steps.
    fallbacks: where the keys and values go in turn if there is no room for them after all.
    """

    free: int | None
    weights: int
    segment_cache: int
    activations: int
    language_model: int
    chunk_tokens: int
    placement: str
    threads: int = 1
    halved: int = 0
    graphs: int = 0
    fallbacks: list[str] = field(default_factory=list)

    @property
    def needed(self) -> int:
        """Bytes on the device besides the weights."""
        kept = self.segment_cache if self.placement == "device" else 0
        return kept + self.graphs + max(self.activations, self.language_model)

    def halve(self, tokens: int) -> None:
        """Memory ran out with chunks of `tokens` tokens: take smaller ones from now on."""
        self.chunk_tokens = max(1, min(self.chunk_tokens, tokens) // 2)
        self.halved += 1

    def move_on(self) -> None:
        """Memory ran out for the segments' keys and values: have them in the next place.

        What was counted stays that of the first place; chunks that are too large are halved.
        """
        self.placement = self.fallbacks.pop(0)

    def decisions(self) -> dict[str, int | str]:
        """What an answer says of it: only what is the same whenever the video is opened."""
        names = ("weights", "segment_cache", "placement", "chunk_tokens", "halved")
        return {name: getattr(self, name) for name in names}


def cache_bytes(config: DecoderConfig, tokens: int, itemsize: int) -> int:
    """Keys and values of `tokens` tokens in every layer."""
    return tokens * config.layers * 2 * config.kv_heads * config.head_dim * itemsize


def decoder_bytes(config: DecoderConfig, tokens: int, itemsize: int) -> int:
    """Activations of one block of a decoder: the two parts of the residual and their norm,
    rotary tables, q, k, v, the turned query and what turning takes without a kernel, attention's
    output; or the MLP's gate and up, and their product in two steps without a kernel."""
    heads = config.heads * config.head_dim
    qkv = heads + 2 * config.kv_heads * config.head_dim
    attention = qkv + 8 * heads + config.width
    mlp = 4 * config.ffn + config.width
    always = 4 * config.width + 2 * config.head_dim
    return tokens * itemsize * (always + max(attention, mlp))


def score_bytes(heads: int, new: int, total: int) -> int:
    """Attention's scores and their softmax in float32, where no fused kernel takes the call."""
    return 2 * heads * new * total * 4


def block_bytes(total: int) -> int:
    """What attention to `total` tokens on a CPU holds of its scores at once."""
    return 2 * 4 * max(unfused.BLOCK, unfused.ROWS * total)


def vision_bytes(config: VisionConfig, patches: int, itemsize: int) -> int:
    """Activations of the vision encoder: pixels twice, a block's residual, q, k, v as made and
    as turned, attention's output twice, the MLP; merged tokens and deepstack features."""
    pixels = config.channels * config.temporal_patch * config.patch**2
    block = 4 * config.width + max(8 * config.width, 2 * config.ffn + config.width)
    merged = config.merge**2
    outputs = (len(config.deepstack) + 1) * config.out_width + 3 * merged * config.width
    return itemsize * (patches * (2 * pixels + block) + patches // merged * outputs)


def _chunk_bytes(config: TempoConfig, work: Work, rows: int, itemsize: int) -> int:
    """Activations while `rows` segments are encoded, or asked as many tokens."""
    compressor = config.compressor
    tokens = rows * work.visual
    features = tokens * compressor.width * itemsize * (len(config.vision.deepstack) + 1)
    # Attention without a kernel of its own computes the system part's rows too.
    square = work.system + work.visual
    scores = score_bytes(rows * compressor.heads, square, work.row)
    # The frames of one segment at a time, as bytes and as float32 between two resizing steps.
    see = vision_bytes(config.vision, rows * work.patches, itemsize) + 5 * work.frame_bytes
    prefill = decoder_bytes(compressor, tokens, itemsize) + scores + features
    return max(see, prefill) + block_bytes(work.row)


def captured_bytes(
    config: TempoConfig, rows: int, tokens: int, visual: int, *, system: int, itemsize: int
) -> int:
    """What a captured chunk keeps: its own rows of the cache, the buffers that it reads, and the
    activations of a replay. rows: segments, each of `tokens` tokens after the system part, padding
    included, and `visual` of them seen."""
    compressor = config.compressor
    cached = cache_bytes(compressor, rows * (system + tokens), itemsize)
    seen = rows * visual * compressor.width * itemsize * (len(config.vision.deepstack) + 1)
    numbers = 8 * (4 * rows * tokens + rows * visual)  # ids, three positions and an index
    total = system + tokens
    # In half precision there is a kernel that holds no scores.
    scores = score_bytes(rows * compressor.heads, total, total) if itemsize == 4 else 0
    return cached + seen + numbers + decoder_bytes(compressor, rows * tokens, itemsize) + scores


def _graph_bytes(
    config: TempoConfig, work: Work, captured: Captured, rows: int, itemsize: int
) -> int:
    """What graphs may come to keep beyond what they hold, with chunks of `rows` segments."""
    chunks = min(captured.chunks, -(-work.segments // rows))
    tokens = -(-work.visual // captured.bucket) * captured.bucket
    each = captured_bytes(config, rows, tokens, work.visual, system=work.system, itemsize=itemsize)
    decoder = config.language_model
    step = decoder_bytes(decoder, 1, itemsize) + 2 * 4 * decoder.vocabulary
    step += score_bytes(decoder.heads, 1, work.prompt + work.new)
    return max(0, chunks * each - captured.held) + captured.steps * step


def _language_bytes(config: TempoConfig, work: Work, itemsize: int, separate: bool) -> int:
    decoder = config.language_model
    cached = cache_bytes(decoder, work.prompt + work.new, itemsize)
    # For float32 and grouped heads torch has no fused attention on a GPU.
    whole = separate and itemsize == 4
    scores = score_bytes(decoder.heads, work.prompt, work.prompt) if whole else 0
    logits = 2 * 4 * decoder.vocabulary
    extend = decoder_bytes(decoder, work.prompt, itemsize) + scores + block_bytes(work.prompt)
    return cached + extend + logits


def plan_memory(
    config: TempoConfig,
    work: Work,
    meter: Meter,
    *,
    chunk_tokens: int,
    itemsize: int,
    weights: int,
    in_flight: int = 1,
    threads: int = 1,
    captured: Captured | None = None,
    loaded: bool = True,
) -> MemoryPlan:
    """Decide how large the chunks are and where the segments' keys and values stay.

    chunk_tokens: tokens that run at once where memory doesn't matter. itemsize: bytes of a value.
    in_flight: chunks that are worked on at the same time by each of at most `threads` threads.
    captured: what graphs keep beside those; None without graphs. loaded: whether the weights are on
    the device already. Where it doesn't fit, the chunk is halved, down to one segment; then there
    is one thread; then the keys and values go to the host, where that is elsewhere; then they are
    dropped. When even that is too much by this count, it is tried all the same.
    """
    compressor = config.compressor
    row_bytes = cache_bytes(compressor, work.row, itemsize)
    free = meter.free()
    if free is not None and not loaded:
        free = max(0, free - weights)
    plan = MemoryPlan(
        free=free,
        weights=weights,
        segment_cache=work.segments * row_bytes,
        activations=0,
        language_model=_language_bytes(config, work, itemsize, meter.separate),
        chunk_tokens=chunk_tokens,
        placement="device",
    )
    # Rows that wait in the host have no room for a question.
    hosted = work.segments * cache_bytes(compressor, work.system + work.visual, itemsize)
    memory_tokens = 2 * work.segments * config.memory_tokens * compressor.width * itemsize
    places = [
        place
        for place in PLACEMENTS
        if place != "host" or _host_takes(meter, hosted, compressor.layers)
    ]
    for number, placement in enumerate(places):
        tokens, beside = chunk_tokens, min(threads, work.segments)
        while True:
            rows = min(max(1, tokens // work.visual), -(-work.segments // beside))
            each = _chunk_bytes(config, work, rows, itemsize)
            if placement != "device":
                each += rows * row_bytes
            plan = replace(
                plan,
                activations=in_flight * beside * each + memory_tokens,
                chunk_tokens=tokens,
                placement=placement,
                threads=beside,
                graphs=_graph_bytes(config, work, captured, rows, itemsize) if captured else 0,
                fallbacks=places[number + 1 :],
            )
            if free is None or plan.needed <= SHARE * free:
                return plan
            if rows > 1:
                tokens = rows * work.visual // 2
            elif beside > 1:
                beside = 1
            else:
                break
    return plan


def _host_takes(meter: Meter, count: int, layers: int) -> bool:
    """Whether the host has memory of its own for the `count` bytes of a kv cache."""
    if not meter.separate:
        return False
    free = meter.host_free()
    # torch makes pinned blocks as large as the next power of two.
    block = 1 << (-(-count // (2 * layers)) - 1).bit_length()
    return free is None or 2 * layers * block <= HOST_SHARE * free
