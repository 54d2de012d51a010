"""The benchmarks run, refuse what is not the same work, and count floors right."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:  # the benchmarks are installed nowhere
    sys.path.insert(0, str(ROOT))

from benchmarks import agreement, compare, floors, settings, sizes, workload
from benchmarks.ceilings import Ceilings
from tempo_fast.checkpoint.config import read_config

SHAPE = sizes.RANDOM["tempo-6b"]
CONFIG = read_config(*sizes.configs(SHAPE, sizes.make_tokenizer()))
# 1024 frames of 512×256, an 8192-token budget that is spent evenly.
HOUR = floors.Work(
    frames=1024,
    patches=512,
    system=60,
    visual=548,
    query=25,
    kept=[64] * 128,
    prompt=8533,
    itemsize=2,
)
H200 = Ceilings(flops=790e12, bandwidth=4.3e12, dtype="bfloat16")


def bench(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pytest", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )


def test_wide_has_the_widths_of_the_full_size():
    wide, depths = sizes.RANDOM["wide"], ("depth", "num_hidden_layers", "deepstack_visual_indexes")
    for name in ("vision", "compressor", "language_model"):
        few, full = getattr(wide, name), getattr(SHAPE, name)
        assert {k: few[k] for k in few if k not in depths} == {
            k: full[k] for k in full if k not in depths
        }
    assert len(wide.vision["deepstack_visual_indexes"]) == 3
    rest = ("sections", "vocabulary", "memory_tokens", "frame")
    assert all(getattr(wide, name) == getattr(SHAPE, name) for name in rest)


def test_floors_of_the_exact_shapes():
    seen = floors.vision(CONFIG.vision, HOUR)
    assert seen.flops == pytest.approx(185e12, rel=0.005)
    assert seen.seconds(H200) == pytest.approx(0.235, rel=0.005)
    step = floors.decode(CONFIG.language_model, HOUR)
    weights = step.bytes - floors.kv_bytes(CONFIG.language_model, 8534, 2)
    assert weights == pytest.approx(8.0e9, rel=0.01)
    assert floors.kv_bytes(CONFIG.language_model, 8533, 2) == pytest.approx(1.25e9, rel=0.01)
    assert step.seconds(H200) == pytest.approx(2.2e-3, rel=0.02)
    assert 1 / step.seconds(H200) == pytest.approx(462, rel=0.005)
    assert floors.kv_bytes(CONFIG.compressor, 1, 2) == 114_688


def test_floors_of_shapes_that_are_known_about():
    prompt = floors.prefill(CONFIG.language_model, HOUR)
    assert prompt.flops == pytest.approx(83e12, rel=0.03)
    assert prompt.seconds(H200) == pytest.approx(0.105, rel=0.03)
    published = floors.compress_as_published(CONFIG.compressor, HOUR, CONFIG.memory_tokens)
    assert published.flops == pytest.approx(271e12, rel=0.05)
    later = floors.ask(CONFIG.compressor, HOUR)
    assert later.flops == pytest.approx(34e12, rel=0.05)
    both = floors.encode(CONFIG.compressor, HOUR) + later
    assert both.flops == pytest.approx(222e12, rel=0.05)
    assert floors.first_token(CONFIG, HOUR).seconds(H200) == pytest.approx(0.62, rel=0.03)
    assert floors.later_token(CONFIG, HOUR).seconds(H200) == pytest.approx(0.15, rel=0.05)


def test_appending_in_parts_is_the_whole():
    config = CONFIG.compressor
    whole = floors.extend_flops(config, 100, 7)
    parts = floors.extend_flops(config, 60, 7) + floors.extend_flops(config, 40, 67)
    assert parts == pytest.approx(whole)
    assert floors.extend_flops(config, 100, 7, outputs=1) < whole
    assert floors.extend_flops(config, 1, 7, outputs=1) == floors.extend_flops(config, 1, 7)


def test_a_floor_is_bound_by_the_slower_of_two():
    ceilings = Ceilings(flops=100.0, bandwidth=10.0, dtype="float32")
    assert floors.Floor(100, 5).as_row(ceilings)["bound"] == "arithmetic"
    assert floors.Floor(100, 20).as_row(ceilings) == {
        "flops": 100,
        "bytes": 20,
        "seconds": 2.0,
        "bound": "memory",
    }


def test_full_size_is_tempo_6b():
    assert (CONFIG.memory_tokens, CONFIG.vision.layers, CONFIG.vision.positions) == (128, 24, 2304)
    assert (CONFIG.compressor.layers, CONFIG.compressor.width) == (28, 2048)
    language = CONFIG.language_model
    assert (language.layers, language.width, language.ffn) == (36, 2560, 9728)
    tokenizer = sizes.make_tokenizer()
    tag = tokenizer("<512.5 seconds>").input_ids
    assert len(tag) == 8  # <, three digits, point, digit, word, >


@pytest.fixture(scope="module")
def models():
    return sizes.load_size("small", torch.device("cpu"), torch.bfloat16)


@pytest.fixture(scope="module")
def rounding(models):
    return agreement.measure_rounding(models)


@pytest.fixture(scope="module")
def answers(models):
    """Two segments' answer of the engine and the baseline, and the engine's compression."""
    video = workload.make_video(12, *models.frame)
    options = {"visual_token_budget": 40, "max_new_tokens": 4}
    with models.engine.open(video, fps=workload.FPS) as opened:
        compressed = opened.compress(workload.FIRST, visual_token_budget=40)
        answer = opened.ask(workload.FIRST, **options)
    return (
        answer,
        models.baseline.answer(video, workload.FPS, workload.FIRST, **options),
        compressed,
    )


def test_the_same_work_agrees_in_bfloat16(models, rounding, answers):
    assert 1e-3 < rounding.memory < 3e-2
    agreement.check_same(models, rounding, *answers, new_tokens=4, budget=40)


def test_other_work_is_refused(models, rounding, answers):
    answer, expected, compressed = answers

    def refuse(message: str, **changes) -> None:
        changed = dataclasses.replace(answer, **changes)
        with pytest.raises(AssertionError, match=message):
            agreement.check_same(
                models, rounding, changed, expected, compressed, new_tokens=4, budget=40
            )

    refuse("3 and 4 tokens", token_ids=answer.token_ids[:3])
    refuse("relevance", relevance=[1 - value for value in answer.relevance])
    refuse("don't follow", allocations=answer.allocations[::-1])
    refuse("below the baseline's choice", token_ids=[*answer.token_ids[:3], 7])


def test_closeness_can_fail():
    ones = torch.ones(4, 4)
    assert agreement.check_close(ones * 1.001, ones, 1e-3, "x") == pytest.approx(1e-3, rel=1e-3)
    for wrong in (ones * 1.01, ones * float("nan"), torch.ones(4, 3)):
        with pytest.raises(AssertionError):
            agreement.check_close(wrong, ones, 1e-3, "x")


def test_whole_questions_make_their_rows(tmp_path):
    """One process, as `make bench` runs it, on nine frames."""
    rows = tmp_path / "rows.json"
    small = ["--cases", "9:32", "--rounds", "1", "--new-tokens", "3", "--videos", "1"]
    files = ("benchmarks/test_end_to_end.py", "benchmarks/test_settings.py")
    done = bench(*files, *small, "--threads", "1", "--rows", str(rows))
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(rows.read_text())
    assert record["kind"] == "benchmarks" and record["failed"] == 0 and record["gpu"] is None
    assert record["ceilings"][0]["flops"] > 0
    found = {row["name"]: row for row in record["rows"]}
    by_setting = [found.pop(f"{which} question, by setting") for which in ("first", "later")]
    assert list(found) == ["first question", "later question", "throughput", "peak memory"]
    assert all(row["baseline"]["ratio"] > 0 for row in found.values())
    for row in by_setting:
        assert row["suite"] == "settings" and "baseline" not in row
        for setting in ("graphs", "streams", "graphs and streams"):
            assert row[setting]["ratio"] > 0 and row[setting]["first_token_seconds"] > 0
        assert "× graphs and streams" in done.stdout
    first, later = found["first question"], found["later question"]
    for row in (first, later):
        assert 0 < row["engine"]["first_token_seconds"] < row["engine"]["seconds"]
        assert row["engine"]["tokens_per_second"] > 0
        assert row["floor"]["seconds"] > row["first_token_floor"]["seconds"] > 0
        assert row["baseline"]["stages"]["vision"] > 0
    assert first["engine"]["stages"]["vision"] > 0 and later["engine"]["stages"]["vision"] == 0
    assert found["throughput"]["engine"]["questions_per_second"] > 0
    assert found["throughput"]["share_of_floor"] > 0
    assert found["peak memory"]["baseline"]["peak_bytes"] > 0


class Options(dict):
    """Stands for pytest's configuration."""

    def getoption(self, name: str) -> object:
        defaults = {"rounds": 1, "videos": 1, "questions": 1}
        return self.get(name, defaults.get(name))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("size", "huge", "none of tiny, small, wide, tempo-6b"),
        ("cases", "64", "FRAMES:BUDGET"),
        ("cases", "64:-1", "FRAMES:BUDGET"),
        ("new_tokens", 1, "at least 2"),
        ("rounds", 0, "at least 1"),
    ],
)
def test_bad_options_are_refused(option, value, message):
    with pytest.raises(pytest.UsageError, match=message):
        settings.check_options(Options({option: value}))


class Pedantic:
    """Stands for pytest-benchmark's fixture."""

    def __init__(self) -> None:
        self.extra_info: dict = {}

    def pedantic(self, function, setup, rounds, iterations) -> None:
        for _ in range(rounds):
            setup()
            function()


def comparison(models, rows: list) -> compare.Comparison:
    return compare.Comparison(models, H200, 2, Pedantic(), rows)


def test_a_row_is_of_runs_in_turns(models):
    calls, rows = [], []
    comparison(models, rows)(
        "stages",
        "x",
        lambda: calls.append("engine"),
        {"baseline": lambda: calls.append("baseline")},
        check=lambda ours, theirs: calls.append("check"),
        floor=floors.Floor(1e9, 1),
        frames=8,
    )
    assert calls == ["baseline", "engine", "check"] + ["baseline", "engine"] * 2
    (row,) = rows
    assert row["frames"] == 8 and len(row["engine"]["runs"]) == 2
    assert row["baseline"]["ratio"] == sum(row["baseline"]["ratios"]) / 2
    assert row["share_of_floor"] == row["floor"]["seconds"] / row["engine"]["seconds"]


def test_a_row_is_refused_where_its_check_fails(models):
    rows, timed = [], []

    def refuse(ours, theirs) -> None:
        raise AssertionError("other work")

    with pytest.raises(AssertionError, match="other work"):
        comparison(models, rows)(
            "stages", "x", lambda: timed.append(1), {"baseline": lambda: 0}, check=refuse
        )
    assert rows == [] and len(timed) == 1


def test_an_opponent_out_of_memory_is_said_and_never_alone(models):
    def too_large() -> None:
        raise torch.cuda.OutOfMemoryError("no")

    rows = []
    run = comparison(models, rows)
    opponents = {"baseline": too_large, "upstream": lambda: 0}
    run("stages", "x", lambda: 1, opponents, check=lambda ours, theirs: None)
    assert rows[0]["baseline"] == {"missing": "ran out of the GPU's memory"}
    assert rows[0]["upstream"]["ratio"] > 0
    with pytest.raises(AssertionError, match="nothing to check"):
        run("stages", "x", lambda: 1, {"baseline": too_large}, check=lambda ours, theirs: None)
    assert len(rows) == 1
