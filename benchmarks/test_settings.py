"""CUDA graphs and streams, on and off: the plain engine beside itself with either and with both.

`pytest benchmarks/test_settings.py --rows FILE`. They take turns in one process on one set of
weights; a setting's ratio is its seconds over the plain engine's, so one below 1 is faster. What a
GPU is measured with decides `engine/choices.py`. On a CPU nothing is recorded and there are no
streams: the rows say that it runs, no more.
"""

from __future__ import annotations

from contextlib import ExitStack

import pytest
import torch

from tempo_fast import TempoFastPipeline

from .agreement import check_choices
from .workload import FIRST, FPS, LATER, Asked, ask, make_video

PLAIN = {"graphs": False, "streams": False}
SETTINGS = {
    "graphs": {"graphs": True, "streams": False},
    "streams": {"graphs": False, "streams": True},
    "graphs and streams": {"graphs": True, "streams": True},
}


@pytest.fixture
def pipes(models):
    """The plain engine and those with a setting, by name."""
    checkpoint = models.engine.checkpoint
    found = {name: TempoFastPipeline(checkpoint, **each) for name, each in SETTINGS.items()}
    return {"engine": TempoFastPipeline(checkpoint, **PLAIN), **found}


@pytest.mark.parametrize("which", ["first", "later"])
def test_graphs_and_streams(compare, which, models, rounding, pipes, frames, budget, new_tokens):
    video = make_video(frames, *models.frame)
    options = {"visual_token_budget": budget, "max_new_tokens": new_tokens}
    query = FIRST if which == "first" else LATER
    with ExitStack() as stack:
        runs = {}
        for name, pipe in pipes.items():
            if which == "first":
                runs[name] = lambda pipe=pipe: ask(pipe, query, video, fps=FPS, **options)
                runs[name]()  # what comes once in a video is recorded in the second
            else:
                opened = stack.enter_context(pipe.open(video, fps=FPS))
                opened.ask(FIRST, **options)
                runs[name] = lambda opened=opened: ask(opened.ask, query, **options)

        def check(ours: Asked, theirs: dict[str, Asked]) -> None:
            """Whether each answer is the plain engine's, or one that rounding explains."""
            for name, asked in {"engine": ours, **theirs}.items():
                answer, memory = asked.answer, ours.answer.memory
                assert len(answer.token_ids) == new_tokens, f"{name}: {answer.token_ids}"
                for fact in ("placement", "chunk_tokens"):
                    assert answer.memory[fact] == memory[fact], f"{name}: another {fact}"
                if models.dtype == torch.float32:
                    assert answer.token_ids == ours.answer.token_ids, f"{name}: another answer"
                compressed = pipes[name].compress(video, query, fps=FPS, visual_token_budget=budget)
                check_choices(models, rounding, compressed.inputs_embeds, answer.token_ids)

        row = compare(
            "settings",
            f"{which} question, by setting",
            runs.pop("engine"),
            runs,
            check=check,
            frames=frames,
            budget=budget,
            new_tokens=new_tokens,
        )
        for side in ("engine", *runs):
            row[side].pop("peak_bytes", None)  # the others' buffers are there beside it
