"""Engine and opponents in turns on the same work, and the row of figures that comes of it."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .ceilings import Ceilings
from .floors import Floor
from .sizes import Models


@dataclass(frozen=True)
class Stage:
    """A result whose own seconds are those of a stage within the call, not of the call."""

    value: Any
    seconds: float


class Timed:
    """Calls a function and keeps what each call took: wall and CPU seconds, stages, peak memory.

    Of a result with `timings`, those are its stages; with `first_token_seconds`, that too.
    """

    def __init__(self, function: Callable[[], Any], device: torch.device) -> None:
        self.function = function
        self.on_gpu = device.type == "cuda"
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.first_token: list[float] = []
        self.stages: list[Mapping[str, float]] = []
        self.peaks: list[int] = []

    def __call__(self) -> Any:
        if self.on_gpu:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        wall, cpu = time.perf_counter(), time.process_time()
        result = self.function()
        if self.on_gpu:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - wall
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(result.seconds if isinstance(result, Stage) else seconds)
        if hasattr(result, "first_token_seconds"):
            self.first_token.append(result.first_token_seconds)
        if hasattr(result, "timings"):
            self.stages.append(result.timings)
        if self.on_gpu:
            self.peaks.append(torch.cuda.max_memory_allocated())
        return result

    def forget(self) -> None:
        """Drop the warm-up's figures."""
        for figures in (self.wall, self.cpu, self.first_token, self.stages, self.peaks):
            figures.clear()

    def as_row(self) -> dict:
        """Medians, and every run's wall seconds."""
        row = {
            "seconds": statistics.median(self.wall),
            "runs": list(self.wall),
            "cpu_seconds": statistics.median(self.cpu),
        }
        if self.first_token:
            row["first_token_seconds"] = statistics.median(self.first_token)
        if self.stages:
            row["stages"] = {
                name: statistics.median(times[name] for times in self.stages)
                for name in self.stages[0]
            }
        if self.peaks:
            row["peak_bytes"] = max(self.peaks)
        return row


class Comparison:
    """Makes rows. models: what is timed. ceilings: what floors are counted with. rounds: of each.

    rows: where finished rows go. A row is only made when its check has passed.
    """

    def __init__(
        self, models: Models, ceilings: Ceilings, rounds: int, benchmark: Any, rows: list[dict]
    ) -> None:
        self.models = models
        self.ceilings = ceilings
        self.rounds = rounds
        self.benchmark = benchmark
        self.rows = rows

    def __call__(
        self,
        suite: str,
        name: str,
        engine: Callable[[], Any],
        opponents: Mapping[str, Callable[[], Any]],
        *,
        check: Callable[[Any, Mapping[str, Any]], object],
        floor: Floor | None = None,
        **facts: object,
    ) -> dict:
        """Check once, then time both in turns.

        opponents: by name; one that runs out of the GPU's memory is left out and the row says so.
        check(engine's result, opponents' results) raises for other work; without any opponent left
        there is no row. floor: of the engine's work. facts: into the row.
        """
        ours = Timed(engine, self.models.device)
        theirs: dict[str, Timed] = {}
        missing: dict[str, str] = {}
        results: dict[str, Any] = {}
        for opponent, function in opponents.items():
            timed = Timed(function, self.models.device)
            try:
                results[opponent] = timed()
            except torch.cuda.OutOfMemoryError:
                missing[opponent] = "ran out of the GPU's memory"
                torch.cuda.empty_cache()
            else:
                theirs[opponent] = timed
        if not results:
            raise AssertionError(f"nothing to check the engine against: {missing}")
        check(ours(), results)
        results.clear()
        for timed in (ours, *theirs.values()):
            timed.forget()

        def others() -> None:
            for timed in theirs.values():
                timed()

        self.benchmark.group = f"{suite}: {name}"
        self.benchmark.pedantic(ours, setup=others, rounds=self.rounds, iterations=1)
        row = self._row(suite, name, ours, theirs, missing, floor) | facts
        self.benchmark.extra_info |= row
        self.rows.append(row)
        return row

    def _row(
        self,
        suite: str,
        name: str,
        ours: Timed,
        theirs: Mapping[str, Timed],
        missing: Mapping[str, str],
        floor: Floor | None,
    ) -> dict:
        models = self.models
        row = {
            "suite": suite,
            "name": name,
            "size": models.size,
            "device": _device_name(models.device),
            "dtype": str(models.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "load_average": os.getloadavg()[0],
            "engine": ours.as_row(),
        }
        for opponent, timed in theirs.items():
            ratios = [t / o for t, o in zip(timed.wall, ours.wall, strict=True)]
            row[opponent] = timed.as_row() | {
                "ratio": statistics.median(ratios),
                "ratios": ratios,
            }
        row |= {opponent: {"missing": why} for opponent, why in missing.items()}
        if floor is not None:
            row["floor"] = floor.as_row(self.ceilings)
            row["share_of_floor"] = row["floor"]["seconds"] / row["engine"]["seconds"]
        return row


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
