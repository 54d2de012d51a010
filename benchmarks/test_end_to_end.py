"""A first question, a later one and peak memory: the engine beside the baseline, on the CPU.

`pytest benchmarks/test_end_to_end.py --benchmark-json=FILE`. The two take turns in one process, so
that whatever else the machine does meets both; a row whose answers differ is refused. Each row's
extra_info holds the baseline's seconds and the ratios. TEMPO_BENCH_ROUNDS and what `workload` reads
make it shorter. CPU seconds mean more than wall time on a busy machine, with one thread above all:
two threads that wait for each other spin.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable

import pytest
import torch
import transformers

from tempo_fast import Answer

from . import peak_memory
from .baseline import BaselineAnswer
from .workload import (
    ASKING,
    FIRST,
    FPS,
    LATER,
    SEGMENTS,
    ask_baseline,
    ask_engine,
    check_same,
    load_baseline,
    load_engine,
    make_video,
)

ROUNDS = int(os.environ.get("TEMPO_BENCH_ROUNDS", "3"))


class Timed:
    """Calls a function and keeps what each call took: wall seconds, CPU seconds, its stages."""

    def __init__(self, function: Callable[[], Answer | BaselineAnswer]) -> None:
        self.function = function
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.stages: list[dict[str, float]] = []

    def __call__(self) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        answer = self.function()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)
        self.stages.append(answer.timings)

    def summary(self) -> dict:
        stages = {
            name: statistics.median(times[name] for times in self.stages) for name in self.stages[0]
        }
        return {
            "seconds": statistics.median(self.wall),
            "cpu_seconds": statistics.median(self.cpu),
            "stages": stages,
        }


@pytest.fixture(scope="module")
def video():
    return make_video()


@pytest.fixture(scope="module")
def engine():
    return load_engine()


@pytest.fixture(scope="module")
def baseline():
    return load_baseline()


@pytest.fixture
def compare(benchmark, capsys):
    """compare(engine's call, baseline's call, note): time both in turns, engine as the row."""

    def run(ours: Callable[[], Answer], theirs: Callable[[], BaselineAnswer], **note) -> None:
        check_same(ours(), theirs())
        engine, baseline = Timed(ours), Timed(theirs)
        benchmark.pedantic(engine, setup=baseline, rounds=ROUNDS, iterations=1)
        pairs = [b / e for b, e in zip(baseline.wall, engine.wall, strict=True)]
        mine, other = engine.summary(), baseline.summary()
        benchmark.extra_info |= {
            "device": "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "segments": SEGMENTS,
            "load_average": os.getloadavg()[0],
            "engine": mine,
            "baseline": other,
            "speedup": statistics.median(pairs),
            "speedups": pairs,
            "cpu_speedup": other["cpu_seconds"] / mine["cpu_seconds"],
            # A baseline that kept its preprocessed frames would be this much slower.
            "speedup_without_resize": (other["seconds"] - other["stages"]["resize"])
            / (mine["seconds"] - mine["stages"]["resize"]),
            **note,
        }
        with capsys.disabled():
            print(f"\n{benchmark.name}: {statistics.median(pairs):.2f} times as fast")

    return run


def test_first_question(compare, engine, baseline, video):
    compare(
        lambda: ask_engine(engine, video, FIRST),
        lambda: ask_baseline(baseline, video, FIRST),
        expected_speedup=3,
    )


def test_later_question(compare, engine, baseline, video):
    with engine.open(video, fps=FPS) as opened:
        opened.ask(FIRST, **ASKING)
        compare(
            lambda: opened.ask(LATER, **ASKING),
            lambda: ask_baseline(baseline, video, LATER),
            expected_speedup=8,
        )


def test_peak_memory(benchmark, capsys):
    """The row's seconds are a whole process's; its figures are in extra_info."""
    baseline = peak_memory.measure("baseline")
    peaks: list[dict[str, int]] = []
    benchmark.pedantic(lambda: peaks.append(peak_memory.measure("engine")), rounds=1, iterations=1)
    (engine,) = peaks
    share = engine["peak"] / baseline["peak"]
    benchmark.extra_info |= {
        "segments": SEGMENTS,
        "engine": engine,
        "baseline": baseline,
        "share": share,
        "expected_share": 0.5,
    }
    with capsys.disabled():
        print(f"\n{benchmark.name}: {share:.0%} of the baseline's")
