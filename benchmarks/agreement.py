"""Whether engine and baseline did the same work: a row is refused where they did not.

In float32 token ids and allocations must be equal and the rest close. In bfloat16 both round, each
in its own order: how much rounding does is measured first, as the baseline's own distance from
itself in float32 on a short clip, and the engine is held to a small multiple of that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tempo_fast import Answer, CompressedVideo
from tempo_fast.compression.allocation import allocate

from .baseline import Baseline, BaselineAnswer, build_networks, prepare
from .sizes import Models
from .workload import FIRST, FPS, WINDOW, make_video

# Two results that each err as much as one may lie twice as far apart; other work errs otherwise.
SLACK = 4.0
# Of a logit by how much rounding moves them all on average: among a vocabulary some move further.
MARGIN = 10.0


@dataclass(frozen=True)
class Rounding:
    """Relative distances (of the whole, ‖a − b‖ / ‖b‖) that rounding alone explains.

    relevance: root mean square of the differences, itself a number of 0…1.
    """

    vision: float
    memory: float
    logits: float
    relevance: float


# As far as the golden cases let float32 results differ.
FLOAT32 = Rounding(vision=2e-4, memory=2e-4, logits=2e-4, relevance=1e-5)


def distance(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """‖actual − expected‖ / ‖expected‖, computed in float64 on their device; NaN stays NaN."""
    if actual.shape != expected.shape:
        raise AssertionError(f"shape {list(actual.shape)}, not {list(expected.shape)}")
    expected = expected.double()
    return ((actual.double() - expected).norm() / expected.norm()).item()


def check_close(actual: torch.Tensor, expected: torch.Tensor, rounding: float, what: str) -> float:
    """The distance; AssertionError where it is more than SLACK times what rounding explains."""
    far = distance(actual, expected)
    if not far <= SLACK * rounding:
        raise AssertionError(
            f"{what}: {far:.2g} from the baseline's; rounding gives {rounding:.2g}"
        )
    return far


def check_relevance(actual: torch.Tensor, expected: torch.Tensor, rounding: Rounding) -> None:
    off = (actual.cpu().double() - expected.cpu().double()).square().mean().sqrt().item()
    if not off <= SLACK * rounding.relevance:
        raise AssertionError(f"relevance: {off:.2g} off; rounding gives {rounding.relevance:.2g}")


def measure_rounding(models: Models) -> Rounding:
    """How far the baseline is from itself in float32, on two segments; FLOAT32 for float32."""
    if models.dtype == torch.float32:
        return FLOAT32
    baseline = models.baseline
    weights = {n: t.float() for n, t in models.engine.checkpoint.model.checkpoint_targets().items()}
    exact = Baseline(
        build_networks(models.tempo, models.base, weights, baseline.networks.yes_minus_no),
        baseline.tokenizer,
        baseline.base_tokenizer,
        baseline.stop_tokens,
    )
    del weights
    with torch.inference_mode():
        rounded, reference = (_parts(each) for each in (baseline, exact))
        exact_logits = next_logits(exact, rounded["embeds"].float())
        rounded_logits = next_logits(baseline, rounded["embeds"])
    off = (rounded["relevance"] - reference["relevance"]).square().mean().sqrt().item()
    return Rounding(
        vision=distance(rounded["vision"], reference["vision"]),
        memory=distance(rounded["memory"], reference["memory"]),
        logits=distance(rounded_logits, exact_logits),
        # Two numbers say little about the average of many; the memory's rounding bounds them too.
        relevance=max(off, distance(rounded["memory"], reference["memory"]) / 4),
    )


def _parts(baseline: Baseline) -> dict[str, torch.Tensor]:
    """What the baseline computes of a clip of two segments."""
    video = make_video(2 * WINDOW, 256, 512)
    batch = prepare(baseline.base_tokenizer, video, FPS, FIRST, WINDOW).to(baseline.device)
    tokens, features = baseline.see(batch)
    memory, relevance = baseline.compress(batch, tokens, features)
    counts = [memory.shape[1]] * len(memory)
    embeds = baseline.assemble(FIRST, memory, counts, batch.centres, 16384)
    return {"vision": tokens, "memory": memory, "relevance": relevance, "embeds": embeds}


@torch.inference_mode()
def next_logits(baseline: Baseline, embeds: torch.Tensor, last: int = 1) -> torch.Tensor:
    """The language model's logits [last, vocabulary] after the last tokens of embeds [L, E]."""
    model = baseline.networks.language_model
    return model(inputs_embeds=embeds[None], logits_to_keep=last, use_cache=False).logits[0]


def check_same(
    models: Models,
    rounding: Rounding,
    answer: Answer,
    expected: BaselineAnswer,
    compressed: CompressedVideo,
    new_tokens: int,
    budget: int,
) -> None:
    """Refuse a comparison of different work.

    answer, expected: of the engine and the baseline to one question; compressed: the engine's
    video for that question.
    """
    if not len(answer.token_ids) == len(expected.token_ids) == new_tokens:
        raise AssertionError(
            f"{len(answer.token_ids)} and {len(expected.token_ids)} tokens, not {new_tokens}: an "
            "answer that ends early is other work (lower --new-tokens)"
        )
    relevance = torch.tensor(answer.relevance)
    check_relevance(relevance, expected.relevance, rounding)
    if models.dtype == torch.float32:
        if answer.allocations != expected.allocations:
            raise AssertionError("other allocations than the baseline's")
        if answer.token_ids != expected.token_ids:
            raise AssertionError("other token ids than the baseline's")
        return
    # The scores differ by rounding, so the allocations may by a token; of its own they are exact.
    config = models.engine.config
    own = allocate(relevance, tokens=config.memory_tokens, budget=budget, min_tokens=4).tolist()
    if answer.allocations != own:
        raise AssertionError("allocations that don't follow from the relevance")
    check_choices(models, rounding, compressed.inputs_embeds, answer.token_ids)


@torch.inference_mode()
def check_choices(
    models: Models, rounding: Rounding, prompt: torch.Tensor, token_ids: list[int]
) -> None:
    """Whether the baseline, given the same prompt and tokens, finds each next one the largest.

    prompt: [L, E]. A token may lie below the largest logit by what rounding can move it.
    """
    embed = models.baseline.networks.language_model.get_input_embeddings()
    ids = torch.tensor(token_ids, device=prompt.device)
    logits = next_logits(
        models.baseline, torch.cat((prompt, embed(ids[:-1]))), len(token_ids)
    ).double()
    below = logits.max(-1).values - logits.gather(-1, ids[:, None])[:, 0]
    allowed = MARGIN * rounding.logits * logits.std(-1)
    if not (below <= allowed).all():
        worst = int((below - allowed).argmax())
        raise AssertionError(
            f"token {worst} of the answer is {below[worst]:.3g} below the baseline's choice; "
            f"rounding explains {allowed[worst]:.3g}"
        )
