"""Run one question under torch's profiler and write what came of it."""

from __future__ import annotations

import os
import platform
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, _ExperimentalConfig, profile

from tempo_fast import __version__
from tempo_fast.cli.files import dumps, write_atomically
from tempo_fast.engine.clock import named_stages
from tempo_fast.errors import OptionError
from tempo_fast.pipeline import AnyVideo, TempoFastPipeline
from tempo_fast.profiling import tables
from tempo_fast.profiling.nvml import INTERVAL, GpuSampler, open_nvml

TRACE, SUMMARY, TABLES = "trace.json.gz", "summary.json", "tables.txt"


@dataclass(frozen=True)
class Profile:
    """The files of one profile and its summary, as `summary.json` has it."""

    folder: Path
    summary: dict[str, Any]

    @property
    def text(self) -> str:
        """The tables by stage and by operator."""
        return tables.render(self.summary)


def profile_question(
    pipe: TempoFastPipeline,
    video: AnyVideo,
    query: str,
    folder: Path,
    *,
    warm_ups: int = 1,
    interval: float = INTERVAL,
    **options: object,
) -> Profile:
    """Answer a question about a video under torch's profiler, from opening to the last token.

    folder: gets `trace.json.gz` (Chrome's format, with regions `stage: NAME`), `summary.json` and
    `tables.txt`. warm_ups: whole runs before it, so that compiling stays out. interval: seconds
    between two readings of the GPU. options: as for `pipe(video, query)`. On CUDA the profiler sees
    the GPU's work and NVML is read where it can be; the summary says where it can't.
    """
    if warm_ups < 0:
        raise OptionError(f"warm_ups can't be negative; got {warm_ups}")
    if not interval > 0:
        raise OptionError(f"the interval between readings must be above 0; got {interval}")
    folder.mkdir(parents=True, exist_ok=True)
    on_gpu = pipe.device.type == "cuda"
    for _ in range(warm_ups):
        pipe(video, query, **options)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    nvml = open_nvml() if on_gpu else "the work runs on the CPU"
    sampler = None if isinstance(nvml, str) else GpuSampler(nvml, pipe.device, interval)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(pipe.device)
    moments: list[float] = []

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "generate" and not moments:
            moments.append(perf_counter())

    with ExitStack() as stack:
        if sampler is not None:
            stack.enter_context(sampler)
        stack.enter_context(named_stages())
        profiler = stack.enter_context(
            # On a CPU the networks run in threads of their own.
            profile(
                activities=activities,
                experimental_config=_ExperimentalConfig(profile_all_threads=not on_gpu),
            )
        )
        began = perf_counter()
        answer = pipe(video, query, progress=progress, **options)
        seconds = perf_counter() - began
    summary = {
        "schema": 1,
        "kind": "profile",
        "machine": _machine(pipe.device),
        "dtype": str(pipe.dtype).removeprefix("torch."),
        "query": query,
        "segments": len(answer.segments),
        "prompt_tokens": answer.prompt_tokens,
        "new_tokens": len(answer.token_ids),
        "seconds": seconds,
        "first_token_seconds": moments[0] - began,
        "stages": answer.timings,
        "peak_bytes": torch.cuda.max_memory_allocated(pipe.device) if on_gpu else None,
        "gpu": {"missing": nvml} if sampler is None else sampler.summary(),
        "operators": tables.operators(profiler.key_averages()),
    }
    _write_trace(profiler, folder / TRACE)
    write_atomically(folder / SUMMARY, f"{dumps(summary, indent=2)}\n".encode())
    write_atomically(folder / TABLES, f"{tables.render(summary)}\n".encode())
    return Profile(folder, summary)


def _write_trace(profiler: profile, path: Path) -> None:
    part = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        profiler.export_chrome_trace(str(part))  # compressed by its name's ending
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _machine(device: torch.device) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tempo-fast": __version__,
    }
