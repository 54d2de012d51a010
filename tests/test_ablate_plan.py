"""What an ablation asks, that its budgets hold, and what its rows and its picture say."""

from __future__ import annotations

import io
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tempo_fast.compression.strategies import strategy_of
from tempo_fast.errors import OptionError, TempoError
from tempo_fast.evaluation.ablation import (
    NAMES,
    Budget,
    ask_cell,
    asking_options,
    least_budget,
    parse_budget,
    plan_cells,
)
from tempo_fast.evaluation.plot import check_image_format, draw_ablation
from tempo_fast.evaluation.question_set import Question
from tempo_fast.evaluation.summary import measure_relevance, summarise
from tempo_fast.evaluation.table import align, format_rows, format_separation, format_types
from tempo_fast.options import AskOptions


def questions(count: int, **fields) -> list[Question]:
    return [Question(i, "v.mp4", "/v.mp4", f"{i}?", "yes", **fields) for i in range(count)]


def plan(count: int, strategies: str, budgets: str, seeds=(0, 1), **fields):
    parsed = [parse_budget(each) for each in budgets.split()]
    return plan_cells(questions(count, **fields), strategies.split(), parsed, list(seeds))


@pytest.mark.parametrize(
    ("text", "frames", "tokens"),
    [
        ("0.29/frame", 100, 29),  # 28.999… in floats
        ("0.5/frame", 7, 3),
        (" 2/frame ", 9, 18),
        ("4096", 9, 4096),
        ("4e3", 1, 4000),
    ],
)
def test_budgets_are_counted_exactly(text, frames, tokens):
    assert parse_budget(text).tokens(frames) == tokens


@pytest.mark.parametrize("text", ["0.5", "0", "-1/frame", "/frame", "many", "1/second", "1/0", ""])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(OptionError, match="a budget is a number"):
        parse_budget(text)


def test_a_label_reads_back():
    for text in ("0.5/frame", "4096"):
        assert parse_budget(text).label == text
    assert parse_budget("0.50/frame") == Budget(Fraction(1, 2), per_frame=True)


def test_only_what_is_random_is_asked_with_every_seed():
    cells = plan(2, "head random shuffled none prune-random", "1/frame 8")
    assert [cell.index for cell in cells] == list(range(30))
    first = [(c.strategy, c.record()["budget"], c.seed) for c in cells if c.question.index == 0]
    assert first == [
        *[("head", budget, None) for budget in ("1/frame", "8")],
        *[("random", budget, seed) for budget in ("1/frame", "8") for seed in (0, 1)],
        *[("shuffled", budget, seed) for budget in ("1/frame", "8") for seed in (0, 1)],
        ("none", None, None),
        *[("prune-random", budget, seed) for budget in ("1/frame", "8") for seed in (0, 1)],
    ]


@pytest.mark.parametrize(
    ("strategies", "budgets", "seeds", "why"),
    [
        ("head best", "1/frame", (0,), "unknown strategy best; they are: head"),
        ("head head", "1/frame", (0,), "strategies has one twice"),
        ("head", "1/frame 1.0/frame", (0,), "budgets has one twice"),
        ("head", "1/frame", (1, 1), "seeds has one twice"),
        ("", "1/frame", (0,), "no strategies"),
        ("head", "", (0,), "no budgets"),
        ("head", "1/frame", (), "no seeds"),
        ("head", "1/frame", (-1,), "seed must be a whole number from 0"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(strategies, budgets, seeds, why):
    with pytest.raises(OptionError, match=why):
        plan(1, strategies, budgets, seeds)


@settings(deadline=None)
@given(
    st.sampled_from([name for name in NAMES if name != "none"]),
    st.integers(1, 130),
    st.integers(1, 40),
    st.integers(0, 2000),
    st.integers(0, 99),
    st.integers(1, 8),
)
def test_no_strategy_keeps_more_than_the_budget(name, segments, memory, room, seed, least):
    limit = least_budget(name, segments, memory) + room
    options = AskOptions(min_tokens=least, **asking_options(name, limit, seed, segments, memory))
    relevance = torch.rand(segments, generator=torch.Generator().manual_seed(seed))
    kept = (
        strategy_of(options)
        .allocate(relevance, tokens=memory, budget=options.visual_token_budget, min_tokens=least)
        .counts
    )
    assert kept.sum() <= limit
    if name.startswith("prune-"):
        whole = min(segments, limit // memory)
        assert sorted(kept.tolist()) == [0] * (segments - whole) + [memory] * whole
    if name == "prune-topk":
        assert set(kept.nonzero()[:, 0].tolist()) == set(relevance.topk(whole).indices.tolist())


def test_pruning_keeps_as_many_segments_as_fit_whatever_rounding_does():
    for segments in range(1, 150):
        for whole in range(1, segments + 1):
            ratio = asking_options("prune-topk", 16 * whole + 15, None, segments, 16)["prune_ratio"]
            # As the strategy counts; with pruned / segments it would come out one too low for some.
            assert segments - math.floor(segments * ratio) == whole


@pytest.fixture(scope="module")
def opened(made_pipe, clip_frames):
    pipe = made_pipe()
    with pipe.open(clip_frames, fps=2.0) as video:
        yield video, pipe.config.memory_tokens


@pytest.mark.parametrize("name", NAMES)
def test_the_engine_keeps_to_the_budget_and_answers(opened, name):
    video, memory = opened
    assert video.frames == 33 and len(video.segments) == 5
    (cell, *_) = plan(1, name, "1.2/frame", seeds=(3,))
    found = ask_cell(video, cell, memory, {"max_new_tokens": 3})
    limit = None if name == "none" else 39
    assert found["limit"] == limit and found["frames"] == 33
    expected = {"none": 80, "uniform": 39}.get(name, 32 if name.startswith("prune-") else None)
    assert found["kept"] == expected if expected else 20 <= found["kept"] <= 39
    same = video.ask("0?", max_new_tokens=3, **asking_options(name, limit, cell.seed, 5, memory))
    assert (found["text"], found["relevance"]) == (same.text, same.relevance)
    assert found["kept"] == sum(same.allocations) and not found["full_context"]


@pytest.mark.parametrize(
    ("name", "tokens", "least"), [("head", 4, 5), ("uniform", 4, 5), ("prune-topk", 15, 16)]
)
def test_a_budget_that_is_too_small_is_told_and_not_asked(opened, name, tokens, least):
    video, memory = opened
    for enough in (False, True):
        (cell,) = plan(1, name, str(tokens + enough))
        found = ask_cell(video, cell, memory, {"max_new_tokens": 1})
        if enough:
            assert 0 < found["kept"] <= tokens + 1
        else:
            assert found == {"too_small": {"limit": tokens, "least": least}}


def test_what_limits_a_comparison_is_told(opened):
    video, memory = opened
    (cell,) = plan(1, "head", "20")  # five segments with min_tokens=4: nothing is left to share
    assert ask_cell(video, cell, memory, {"max_new_tokens": 1})["equal_shares"]
    assert not ask_cell(video, cell, memory, {"max_new_tokens": 1, "min_tokens": 1})["equal_shares"]
    short = {"max_new_tokens": 1, "tokenizer_model_max_length": 150}
    assert ask_cell(video, cell, memory, short)["full_context"]


def test_an_image_is_refused_rather_than_compared(made_pipe, clip_frames):
    (cell,) = plan(1, "head", "4")
    pipe = made_pipe()
    with (
        pipe.open(clip_frames[0]) as video,
        pytest.raises(TempoError, match="of an image all are"),
    ):
        ask_cell(video, cell, pipe.config.memory_tokens, {"max_new_tokens": 1})


def reply(right: bool, kept: int = 8, **changes) -> dict:
    return {
        "text": "yes" if right else "no",
        "kept": kept,
        "frames": 16,
        "seconds": 0.5,
        "full_context": False,
        "equal_shares": False,
        **changes,
    }


def test_seeds_are_no_further_questions():
    cells = plan(4, "head random", "8", seeds=(0, 1, 2))
    right = {"head": (1, 1, 0, 1), "random": (111, 100, 0, 11)}  # digits: right by seed
    outcomes = []
    for cell in cells:
        digits = f"{right[cell.strategy][cell.question.index]:03d}"
        outcomes.append(reply(digits[-1 if cell.seed is None else cell.seed] == "1"))
    head, random = summarise(cells, outcomes)
    assert (head.accuracy.questions, head.accuracy.replies, head.accuracy.right) == (4, 4, 3)
    assert (random.accuracy.questions, random.accuracy.replies, random.accuracy.right) == (4, 12, 6)
    assert random.accuracy.accuracy == pytest.approx(0.5)
    # Wilson for 2 of 4, not for 6 of 12.
    assert random.accuracy.interval == pytest.approx((0.15004, 0.84996), abs=1e-5)
    assert head.against_reference is None
    assert random.against_reference.mean == pytest.approx(-0.25)
    assert (random.tokens_per_frame, random.seconds) == (0.5, 0.5)


def test_a_difference_is_over_the_questions_that_both_answered():
    cells = plan(3, "head uniform", "8")
    small, error = {"too_small": {"limit": 8, "least": 9}}, {"error": "it is no video"}
    outcomes = [reply(True), reply(False), reply(False), small, error, reply(True)]
    head, uniform = summarise(cells, outcomes)
    assert head.accuracy.questions == 2 and uniform.accuracy.questions == 2
    assert uniform.against_reference.questions == 1 and uniform.against_reference.mean == -1
    assert (head.failed, uniform.too_small, uniform.failed) == (1, 1, 0)
    text = format_rows([head, uniform])
    assert "is below the least that the strategy can keep: uniform 8 1" in text
    assert "failed (the file of replies says why): head 8 1" in text


def test_types_have_accuracies_of_their_own():
    both = [*questions(2, type="time"), Question(2, "v", "/v", "2?", "yes", type="colour")]
    cells = plan_cells(both, ["head"], [parse_budget("8")], [0])
    (row,) = summarise(cells, [reply(True), reply(False), reply(True)])
    assert {name: each.accuracy for name, each in row.types.items()} == {"time": 0.5, "colour": 1}
    assert format_types([row]).splitlines() == [
        "strategy  budget  colour (1)  time (2)",
        "head      8          100.0 %    50.0 %",
    ]
    assert format_types(summarise(plan(1, "head", "8"), [reply(True)])) == ""


def test_relevance_counts_once_a_question_and_only_where_it_is_known():
    some = [*questions(2, relevant=((0.0, 4.0),)), *questions(3)[2:]]
    segments = [(0.0, 4.0), (4.0, 8.0)]
    outcomes = [
        (0, {"error": "it is no video"}),
        (0, {"relevance": [0.9, 0.2], "segments": segments}),
        (0, reply(True)),
        (2, {"relevance": [0.1, 0.2], "segments": segments}),
    ]
    found = measure_relevance(some, outcomes)
    assert (found.pooled, found.mean, found.pairs, found.questions) == (1.0, 1.0, 2, 1)
    assert "AUROC: 1.000 over 2 pairs" in format_separation(found)
    assert format_separation(measure_relevance(questions(1), [])) == ""


def test_columns_are_aligned():
    text = align(("a", "b", "c"), [("long", "x", "1.5"), ("s", "y", "22.5")], left=1)
    assert text.splitlines() == ["a     b     c", "long  x   1.5", "s     y  22.5"]


def ablated():
    cells = plan(40, "head uniform none", "0.5/frame 1/frame 4/frame")
    kept = {None: 96, "0.5/frame": 8, "1/frame": 16, "4/frame": 64}
    return summarise(
        cells,
        [
            reply(
                cell.strategy != "uniform" or cell.question.index % 4 == 0,
                kept[cell.record()["budget"]],
            )
            for cell in cells
        ],
    )


def test_the_picture_has_the_accuracies_and_their_intervals(monkeypatch):
    figures = []

    def keep(draw, image_format):
        from matplotlib.figure import Figure

        figures.append(Figure())
        draw(figures[0])
        return b""

    monkeypatch.setattr("tempo_fast.evaluation.plot.render", keep)
    rows = ablated()
    draw_ablation(rows, "title")
    (axes,) = figures[0].axes
    curves = {each.get_label(): each for each in axes.containers}
    assert list(curves) == ["head", "uniform"]
    line, _, (bars,) = curves["uniform"]
    assert np.allclose(line.get_xdata(), [0.5, 1, 4]) and np.allclose(line.get_ydata(), 0.25)
    interval = next(row.accuracy.interval for row in rows if row.strategy == "uniform")
    assert np.allclose([segment[:, 1] for segment in bars.get_segments()], [interval] * 3)
    level = next(each for each in axes.lines if each.get_label() == "none (6 a frame)")
    assert list(level.get_ydata()) == [1, 1]
    assert axes.get_xscale() == "log"


def test_the_picture_is_drawn(tmp_path):
    with Image.open(io.BytesIO(draw_ablation(ablated(), "40 questions, $5 each"))) as picture:
        assert picture.size == (1500, 780) and len(picture.convert("RGB").getcolors(10**6)) > 10
    assert b"40 questions, $5 each" in draw_ablation(ablated(), "40 questions, $5 each", "svg")


def test_what_cannot_be_drawn_is_an_error():
    with pytest.raises(TempoError, match=r"\.docx"):
        check_image_format("docx")
    rows = summarise(plan(1, "head", "8"), [{"error": "it is no video"}])
    with pytest.raises(TempoError, match="no question has a reply"):
        draw_ablation(rows, "title")
