"""An ablation: the same questions under every allocation strategy at the same budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tempo_fast.errors import OptionError, TempoError
from tempo_fast.evaluation.question_set import Question
from tempo_fast.options import MOST_TOKENS, PRUNINGS, STRATEGIES, AskOptions

if TYPE_CHECKING:
    from tempo_fast.session import Video

PRUNE = "prune-"
NAMES = (*STRATEGIES, *(PRUNE + name for name in PRUNINGS))
WITHOUT_BUDGET = "none"
REFERENCE = "head"
RANDOM = ("random", "shuffled", PRUNE + "random")
PER_FRAME = "/frame"


@dataclass(frozen=True)
class Budget:
    """Memory tokens of a whole video: `amount` of them, or that many for each sampled frame."""

    amount: Fraction
    per_frame: bool

    @property
    def label(self) -> str:
        """How it is written: "0.5/frame" or "4096"."""
        return f"{float(self.amount):g}{PER_FRAME}" if self.per_frame else str(self.amount)

    def tokens(self, frames: int) -> int:
        """The budget of a video with this many sampled frames, rounded down."""
        return int(self.amount * frames) if self.per_frame else int(self.amount)


def parse_budget(text: str) -> Budget:
    """Read "0.5/frame" (memory tokens for each sampled frame) or "4096" (for the whole video).

    Raises OptionError for anything else.
    """
    plain = text.strip()
    per_frame = plain.endswith(PER_FRAME)
    try:
        amount = Fraction(plain.removesuffix(PER_FRAME))
    except (ValueError, ZeroDivisionError):
        amount = Fraction(0)
    if not 0 < amount <= MOST_TOKENS or not (per_frame or amount.denominator == 1):
        raise OptionError(
            f"a budget is a number of memory tokens a frame, such as 0.5{PER_FRAME}, or a whole "
            f"number of them a video, such as 4096; got {text!r}"
        )
    return Budget(amount, per_frame)


@dataclass(frozen=True)
class Cell:
    """One reply to be had. budget: None for `none`. seed: None where nothing is random.

    index: its place in the plan, from 0. asked: what the model is asked.
    """

    index: int
    question: Question
    asked: str
    strategy: str
    budget: Budget | None
    seed: int | None

    @property
    def file(self) -> str:
        """Where the question's video is."""
        return self.question.file

    def record(self) -> dict[str, Any]:
        """How the line of its reply begins; what the answer is, it doesn't say."""
        return {
            "index": self.index,
            "question": self.question.index,
            "video": self.question.video,
            "asked": self.asked,
            "strategy": self.strategy,
            "budget": None if self.budget is None else self.budget.label,
            "seed": self.seed,
        }


def plan_cells(
    questions: Sequence[Question],
    strategies: Sequence[str],
    budgets: Sequence[Budget],
    seeds: Sequence[int],
    *,
    letters: bool = False,
) -> list[Cell]:
    """Every reply to be had, question by question.

    `none` is asked once and the others at every budget; what is random with every seed. Raises
    OptionError for a strategy that is unknown, a seed out of range, anything given twice, and where
    there is no strategy, budget or seed.
    """
    if unknown := [name for name in strategies if name not in NAMES]:
        raise OptionError(f"unknown strategy {', '.join(unknown)}; they are: {', '.join(NAMES)}")
    labels = [budget.label for budget in budgets]
    for what, values in (("strategies", strategies), ("budgets", labels), ("seeds", seeds)):
        if not values:
            raise OptionError(f"no {what} are given")
        if len(set(values)) < len(values):
            raise OptionError(f"{what} has one twice: {', '.join(map(str, values))}")
    for seed in seeds:
        AskOptions(seed=seed)  # has the check of its range
    cells: list[Cell] = []
    for question in questions:
        asked = question.asked(letters)
        for strategy in strategies:
            for budget in (None,) if strategy == WITHOUT_BUDGET else budgets:
                for seed in seeds if strategy in RANDOM else (None,):
                    cells.append(Cell(len(cells), question, asked, strategy, budget, seed))
    return cells


def least_budget(strategy: str, segments: int, memory_tokens: int) -> int:
    """The fewest memory tokens that a strategy can keep of a video.

    One a segment; with pruning, which keeps whole segments, all of one.
    """
    return memory_tokens if strategy.startswith(PRUNE) else segments


def asking_options(
    strategy: str, limit: int | None, seed: int | None, segments: int, memory_tokens: int
) -> dict[str, Any]:
    """The options of `Video.ask` that make a strategy keep at most `limit` memory tokens.

    Pruning has no budget of its own: as many segments are kept whole as it has room for, and
    nothing of the others.
    """
    if limit is None:
        return {"strategy": strategy}
    if not strategy.startswith(PRUNE):
        return {"strategy": strategy, "visual_token_budget": limit, "seed": seed}
    pruned = segments - min(segments, limit // memory_tokens)
    return {
        "pruning": strategy.removeprefix(PRUNE),
        # Half a segment more, so that rounding can't take floor(segments * ratio) below `pruned`.
        "prune_ratio": (pruned + 0.5) / segments,
        "prune_tokens": 0,
        "seed": seed,
    }


def ask_cell(
    video: Video,
    cell: Cell,
    memory_tokens: int,
    options: dict[str, Any],
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Get the reply of a cell: its text, and what it took.

    memory_tokens: of a segment (M). options: further ones of `Video.ask`. full_context tells of a
    prompt that filled the context, so that memory tokens of the video's end may have been cut;
    equal_shares of segments that kept equally many tokens, give or take one. Where the budget is
    less than the strategy can keep, the outcome is {"too_small": …} and nothing is asked. Raises
    TempoError for a reply that kept more than its budget.
    """
    from tempo_fast.language_model.prompt import SPARE  # brings torch, which --help can do without

    segments = len(video.segments)
    limit = None if cell.budget is None else cell.budget.tokens(video.frames)
    if limit is not None:
        least = least_budget(cell.strategy, segments, memory_tokens)
        if limit < least:
            return {"too_small": {"limit": limit, "least": least}}
    began = perf_counter()
    answer = video.ask(
        cell.asked,
        progress=progress,
        **options,
        **asking_options(cell.strategy, limit, cell.seed, segments, memory_tokens),
    )
    seconds = perf_counter() - began
    kept = sum(answer.allocations)
    if limit is not None and kept > limit:
        raise TempoError(
            f"{kept} memory tokens were kept, with a budget of {limit}: of an image all are, so "
            "it can't be ablated; leave it out of the questions"
        )
    context = options.get("tokenizer_model_max_length", AskOptions.tokenizer_model_max_length)
    return {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "limit": limit,
        "kept": kept,
        "frames": video.frames,
        "prompt_tokens": answer.prompt_tokens,
        "equal_shares": max(answer.allocations) - min(answer.allocations) <= 1,
        "full_context": answer.prompt_tokens >= context - SPARE,
        "seconds": round(seconds, 4),
        "relevance": answer.relevance,
        "segments": answer.segments,
    }
