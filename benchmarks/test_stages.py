"""Times every stage behind the frames beside the baseline's, as a share of its floor.

`pytest benchmarks/test_stages.py --size tiny --cases 64:8192 --rows FILE`. Engine and baseline take
turns in one process; a stage whose result differs from the baseline's gets no row but a failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import numpy as np
import pytest
import torch

from tempo_fast import CompressedVideo, Video
from tempo_fast.compression.allocation import Allocation, allocate
from tempo_fast.compression.strategies import strategy_of
from tempo_fast.engine.clock import Clock
from tempo_fast.language_model.generation import Generation
from tempo_fast.options import AskOptions

from . import floors
from .agreement import check_choices, check_close, check_relevance, next_logits
from .baseline import prepare
from .compare import Stage
from .sizes import Models
from .workload import FIRST, FPS, WINDOW, make_video, work_of

CONTEXT = 16384
CHUNK_PAIRS = {"cuda": 64, "cpu": 16}  # frame pairs that run at once, about as in the engine


@dataclass
class Case:
    """A video, open, and a question to it. work: their shapes."""

    models: Models
    video: np.ndarray
    opened: Video
    compressed: CompressedVideo
    work: floors.Work
    options: dict

    @property
    def facts(self) -> dict:
        return {
            "frames": self.work.frames,
            "budget": self.options["visual_token_budget"],
            "segments": self.work.segments,
            "prompt_tokens": self.work.prompt,
        }


@pytest.fixture
def case(models, frames, budget):
    video = make_video(frames, *models.frame)
    options = {"visual_token_budget": budget, "tokenizer_model_max_length": CONTEXT}
    with models.engine.open(video, fps=FPS) as opened:
        compressed = opened.compress(FIRST, **options)
        work = work_of(models, compressed, frames, FIRST)
        yield Case(models, video, opened, compressed, work, options)


@pytest.fixture
def batch(case):
    """The baseline's padded batch of all segments, on the device."""
    baseline = case.models.baseline
    batch = prepare(baseline.base_tokenizer, case.video, FPS, FIRST, WINDOW)
    return batch.to(baseline.device)


@torch.inference_mode()
def test_vision(compare, case, batch, rounding):
    """Patches on the device to visual tokens and deepstack features of all frames."""
    models, config = case.models, case.models.engine.config
    encoder = models.engine.checkpoint.model.vision
    grid = tuple(batch.grids[0, 1:].tolist())
    patches = batch.pixels.to(models.dtype).unflatten(0, (-1, grid[0] * grid[1]))
    chunk = CHUNK_PAIRS[models.device.type]

    def engine() -> tuple[torch.Tensor, torch.Tensor]:
        parts = [encoder(part, grid) for part in patches.split(chunk)]
        tokens = torch.cat([part[0].flatten(0, 1) for part in parts])
        return tokens, torch.cat([part[1][0].flatten(0, 1) for part in parts])

    def check(ours: tuple[torch.Tensor, torch.Tensor], theirs: dict) -> None:
        tokens, features = theirs["baseline"]
        check_close(ours[0], tokens, rounding.vision, "visual tokens")
        check_close(ours[1], features[0], rounding.vision, "deepstack features")

    compare(
        "stages",
        "vision",
        engine,
        {"baseline": lambda: models.baseline.see(batch)},
        check=check,
        floor=floors.vision(config.vision, case.work),
        **case.facts,
    )


@pytest.mark.parametrize("question", ["first", "later"])
@torch.inference_mode()
def test_compress(compare, case, batch, rounding, question):
    """Visual tokens and a question to relevance and the kept memory tokens.

    The first question includes the visual part, a later one finds its keys and values. The seconds
    are those that the engine's clock counts for this stage.
    """
    models, config = case.models, case.models.engine.config.compressor
    tokens, features = models.baseline.see(batch)

    def engine() -> Stage:
        clock = Clock(models.device)
        if question == "first":
            with models.engine.open(case.video, fps=FPS) as opened:
                opened.ask(FIRST, clock=clock, max_new_tokens=1, **case.options)
                return Stage(None, opened.timings["compress"] + clock.seconds["compress"])
        case.opened.ask(FIRST, clock=clock, max_new_tokens=1, **case.options)
        return Stage(None, clock.seconds["compress"])

    def check(_: Stage, theirs: dict) -> None:
        memory, relevance = theirs["baseline"]
        everything = case.opened.compress(FIRST, strategy="none", **case.options)
        check_relevance(everything.relevance, relevance, rounding)
        check_close(everything.tokens, memory.flatten(0, 1), rounding.memory, "memory tokens")
        kept = torch.cat([m[:k] for m, k in zip(memory, case.work.kept, strict=True)])
        check_close(case.compressed.tokens, kept, rounding.memory, "kept memory tokens")

    floor = floors.ask(config, case.work)
    if question == "first":
        floor += floors.encode(config, case.work)
    compare(
        "stages",
        "compress" if question == "first" else "compress, later",
        engine,
        {"baseline": lambda: models.baseline.compress(batch, tokens, features)},
        check=check,
        floor=floor,
        **case.facts,
    )


@torch.inference_mode()
def test_allocate(compare, case):
    """Relevance on the device to counts on the host."""
    tokens = case.models.engine.config.memory_tokens
    budget = case.options["visual_token_budget"]
    rule = {"tokens": tokens, "budget": budget, "min_tokens": 4}
    relevance = case.compressed.relevance
    strategy = strategy_of(AskOptions(visual_token_budget=budget))

    def check(ours: tuple[int, ...], theirs: dict) -> None:
        assert list(ours) == theirs["baseline"] == case.compressed.allocations.tolist()

    compare(
        "stages",
        "allocate",
        lambda: strategy.allocate(relevance, **rule).kept,
        {"baseline": lambda: allocate(relevance.cpu(), **rule).tolist()},
        check=check,
        floor=floors.allocate(case.work),
        **case.facts,
    )


@torch.inference_mode()
def test_assemble(compare, case, batch, rounding):
    """Kept memory tokens through the projector, and the language model's whole prompt."""
    models, counts = case.models, list(case.work.kept)
    kept = case.compressed.tokens
    allocation = Allocation.of(counts, kept.device)
    memory = torch.zeros(len(counts), max(counts), kept.shape[1], dtype=kept.dtype).to(kept.device)
    for row, tokens in zip(memory, kept.split(counts), strict=True):
        row[: len(tokens)] = tokens

    def check(ours: torch.Tensor, theirs: dict) -> None:
        check_close(ours, theirs["baseline"], rounding.memory, "the prompt")
        check_close(ours, case.compressed.inputs_embeds, rounding.memory, "the engine's prompt")

    compare(
        "stages",
        "assemble",
        lambda: models.engine._prompt.assemble(FIRST, kept, allocation, batch.centres, CONTEXT),
        {
            "baseline": lambda: models.baseline.assemble(
                FIRST, memory, counts, batch.centres, CONTEXT
            )
        },
        check=check,
        floor=floors.assemble(models.engine.config, case.work),
        **case.facts,
    )


@torch.inference_mode()
def test_prefill(compare, case, rounding, new_tokens):
    """The prompt's embeddings to the logits of the first token."""
    models, embeds = case.models, case.compressed.inputs_embeds
    language_model = models.baseline.networks.language_model

    def baseline() -> torch.Tensor:
        made = language_model(inputs_embeds=embeds[None], logits_to_keep=1, use_cache=True)
        return made.logits[0]

    def check(ours: torch.Tensor, theirs: dict) -> None:
        check_close(ours, theirs["baseline"], rounding.logits, "logits")

    compare(
        "stages",
        "prefill",
        lambda: Generation(models.engine.checkpoint.model, embeds, new_tokens).logits,
        {"baseline": baseline},
        check=check,
        floor=floors.prefill(models.engine.config.language_model, case.work),
        **case.facts,
    )


@torch.inference_mode()
def test_decode_step(compare, case, rounding, new_tokens):
    """One step of the answer, as the average of all behind the first token."""
    models, embeds = case.models, case.compressed.inputs_embeds
    moments: list[float] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "generate" and done == 1:
            moments.append(perf_counter())

    def engine() -> Stage:
        options = case.options | {"max_new_tokens": new_tokens}
        answer = case.opened.ask(FIRST, progress=progress, **options)
        return Stage(answer.token_ids, (perf_counter() - moments[-1]) / (new_tokens - 1))

    def baseline() -> Stage:
        made, first = models.baseline.generate(embeds, new_tokens)
        return Stage(made, (perf_counter() - first) / (new_tokens - 1))

    def check(ours: Stage, theirs: dict) -> None:
        assert len(ours.value) == len(theirs["baseline"].value) == new_tokens
        if models.dtype == torch.float32:
            assert ours.value == theirs["baseline"].value, "other token ids than the baseline's"
        else:
            check_choices(models, rounding, embeds, ours.value)
            check_close(
                Generation(models.engine.checkpoint.model, embeds, 1).logits,
                next_logits(models.baseline, embeds),
                rounding.logits,
                "logits",
            )

    config = models.engine.config.language_model
    steps = floors.decode(config, case.work, new_tokens - 1)
    floor = floors.Floor(steps.flops / (new_tokens - 1), steps.bytes / (new_tokens - 1))
    row = compare(
        "stages",
        "decode step",
        engine,
        {"baseline": baseline},
        check=check,
        floor=floor,
        new_tokens=new_tokens,
        **case.facts,
    )
    for side in ("engine", "baseline"):
        if "seconds" in row[side]:
            row[side]["tokens_per_second"] = 1 / row[side]["seconds"]
