"""A first question, a later one, many of both, and peak memory: the engine beside the baseline.

`pytest benchmarks/test_end_to_end.py --size tiny --cases 1024:8192 --rows FILE`. They take turns in
one process, so that whatever else the machine does meets all; a row whose answers differ is
refused. CPU seconds mean more than wall time on a busy machine, with one thread above all: two
threads that wait for each other spin. `--upstream PATH` adds the published code itself.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import pytest
import torch

from tempo_fast import Answer

from . import floors, peak_memory
from .agreement import check_choices, check_same
from .floors import Floor
from .sizes import QUESTIONS, Models
from .workload import FIRST, FPS, LATER, Asked, ask, make_video, work_of


class Questions:
    """Engine and opponents on one video. options: of every question."""

    def __init__(self, models, rounding, frames, budget, new_tokens, upstream) -> None:
        self.models: Models = models
        self.rounding = rounding
        self.frames, self.budget, self.new_tokens = frames, budget, new_tokens
        self.video = make_video(frames, *models.frame)
        self.options = {"visual_token_budget": budget, "max_new_tokens": new_tokens}
        self.upstream = upstream

    def opponents(self, query: str) -> dict[str, Callable[[], Asked]]:
        found = {"baseline": lambda: self.ask_baseline(query)}
        if self.upstream:
            found["upstream"] = lambda: self.upstream.answer(
                self.video, FPS, query, budget=self.budget, max_new_tokens=self.new_tokens
            )
        return found

    def ask_baseline(self, query: str, video=None) -> Asked:
        began = perf_counter()
        video = self.video if video is None else video
        answer = self.models.baseline.answer(video, FPS, query, **self.options)
        first = perf_counter() - began - answer.timings["generate"]
        return Asked(answer, first, answer.timings)

    def check(self, ours: Answer, theirs: dict[str, Any], query: str, video=None) -> None:
        """Refuse an answer that isn't the opponents'; computes the video once more."""
        video = self.video if video is None else video
        with self.models.engine.open(video, fps=FPS) as opened:
            compressed = opened.compress(query, visual_token_budget=self.budget)
        if "baseline" in theirs:
            check_same(
                self.models,
                self.rounding,
                ours,
                theirs["baseline"].answer,
                compressed,
                self.new_tokens,
                self.budget,
            )
        if "upstream" in theirs:
            ids = theirs["upstream"].token_ids
            if self.models.dtype == torch.float32:
                assert ours.token_ids == ids, "other token ids than the published code's"
            check_choices(self.models, self.rounding, compressed.inputs_embeds, ids)

    def facts(self, floor: Callable[..., Floor], query: str) -> dict:
        """What goes into a row: the case, and the floor of the whole answer and its first token."""
        config = self.models.engine.config
        with self.models.engine.open(self.video, fps=FPS) as opened:
            compressed = opened.compress(query, visual_token_budget=self.budget)
            work = work_of(self.models, compressed, self.frames, query)
        first = floor(config, work)
        return {
            "floor": first + floors.decode(config.language_model, work, self.new_tokens - 1),
            "first_token_floor": first,
            "frames": self.frames,
            "budget": self.budget,
            "segments": work.segments,
            "prompt_tokens": work.prompt,
            "new_tokens": self.new_tokens,
        }


@pytest.fixture
def questions(models, rounding, frames, budget, new_tokens, upstream):
    return Questions(models, rounding, frames, budget, new_tokens, upstream)


def _finish(row: dict, ceilings, first_token_floor: Floor) -> None:
    """Add what follows from the times: tokens a second, the first token's share of its floor."""
    row["first_token_floor"] = first_token_floor.as_row(ceilings)
    engine = row["engine"]
    row["first_token_share_of_floor"] = (
        row["first_token_floor"]["seconds"] / engine["first_token_seconds"]
    )
    for side in ("engine", "baseline"):
        if "first_token_seconds" in row[side]:
            decoding = row[side]["seconds"] - row[side]["first_token_seconds"]
            row[side]["tokens_per_second"] = (row["new_tokens"] - 1) / decoding


def test_first_question(compare, ceilings, questions):
    facts = questions.facts(floors.first_token, FIRST)
    first = facts.pop("first_token_floor")
    row = compare(
        "end to end",
        "first question",
        lambda: ask(questions.models.engine, FIRST, questions.video, fps=FPS, **questions.options),
        questions.opponents(FIRST),
        check=lambda ours, theirs: questions.check(ours.answer, theirs, FIRST),
        **facts,
    )
    _finish(row, ceilings, first)


def test_later_question(compare, ceilings, questions):
    facts = questions.facts(floors.later_token, LATER)
    first = facts.pop("first_token_floor")
    with questions.models.engine.open(questions.video, fps=FPS) as opened:
        opened.ask(FIRST, **questions.options)
        row = compare(
            "end to end",
            "later question",
            lambda: ask(opened.ask, LATER, **questions.options),
            questions.opponents(LATER),
            check=lambda ours, theirs: questions.check(ours.answer, theirs, LATER),
            **facts,
        )
    row["baseline"].pop("peak_bytes", None)  # the engine's open video was there beside it
    _finish(row, ceilings, first)


def test_throughput(compare, request, questions):
    """Several questions about each of several videos; the engine encodes each video once."""
    count = request.config.getoption("videos")
    asked = [
        QUESTIONS[number % len(QUESTIONS)]
        for number in range(request.config.getoption("questions"))
    ]
    models, options = questions.models, questions.options
    shape = questions.video.shape[:3]
    videos = [
        questions.video,
        *(make_video.__wrapped__(*shape, seed) for seed in range(2, count + 1)),
    ]

    def engine() -> list[Answer]:
        answers = []
        for video in videos:
            with models.engine.open(video, fps=FPS) as opened:
                answers += [opened.ask(query, **options) for query in asked]
        return answers

    def baseline() -> list[Asked]:
        return [questions.ask_baseline(query, video) for video in videos for query in asked]

    def check(ours: list[Answer], theirs: dict[str, list[Asked]]) -> None:
        work = [(video, query) for video in videos for query in asked]
        for answer, other, (video, query) in zip(ours, theirs["baseline"], work, strict=True):
            questions.check(answer, {"baseline": other}, query, video)

    # Each video as the first: it has their shape, and what its questions keep is near to theirs.
    kinds = [floors.first_token, *[floors.later_token] * (len(asked) - 1)]
    each = [questions.facts(*pair)["floor"] for pair in zip(kinds, asked, strict=True)]
    row = compare(
        "end to end",
        "throughput",
        engine,
        {"baseline": baseline},
        check=check,
        floor=sum(each * count, Floor(0, 0)),
        frames=questions.frames,
        budget=questions.budget,
        new_tokens=questions.new_tokens,
        videos=count,
        questions=len(asked),
    )
    for side in ("engine", "baseline"):
        if "seconds" in row[side]:
            row[side]["questions_per_second"] = count * len(asked) / row[side]["seconds"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU every row has its peak memory")
def test_peak_memory(benchmark, rows, request, models, frames, budget):
    """The row's figures are of a process each, beyond the loaded model."""
    size = request.node.callspec.params["models"]
    dtype = str(models.dtype).removeprefix("torch.")
    work = [size, dtype, str(frames), str(budget), str(torch.get_num_threads())]
    baseline = peak_memory.measure("baseline", *work)
    peaks: list[dict[str, int]] = []
    benchmark.pedantic(
        lambda: peaks.append(peak_memory.measure("engine", *work)), rounds=1, iterations=1
    )
    (engine,) = peaks
    ratio = baseline["peak_bytes"] / engine["peak_bytes"]
    rows.append(
        {
            "suite": "end to end",
            "name": "peak memory",
            "size": models.size,
            "device": "cpu",
            "dtype": dtype,
            "frames": frames,
            "budget": budget,
            "engine": engine,
            "baseline": baseline | {"ratio": ratio},
        }
    )
    benchmark.extra_info |= rows[-1]
