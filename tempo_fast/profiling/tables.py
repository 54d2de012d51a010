"""A profile's summary as two tables: seconds by stage, and the operators that took most."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MOST_OPERATORS = 25
REGION = "stage: "


def operators(averages: Iterable[Any]) -> list[dict[str, Any]]:
    """The operators that took longest by themselves, from a profiler's `key_averages()`.

    Seconds on the host and on the device, without those of the operators they call. Sorted by the
    device's where it was profiled, else by the host's.
    """
    rows = [
        {
            "name": each.key,
            "calls": each.count,
            "host_seconds": each.self_cpu_time_total / 1e6,
            "device_seconds": each.self_device_time_total / 1e6,
        }
        for each in averages
        if not each.key.startswith((REGION, "ProfilerStep"))
    ]
    rows.sort(key=lambda row: (row["device_seconds"], row["host_seconds"]), reverse=True)
    return rows[:MOST_OPERATORS]


def render(summary: Mapping[str, Any]) -> str:
    """The tables of a summary."""
    total = summary["seconds"]
    lines = [
        f"{summary['machine']['device']}, {summary['dtype']}: {summary['segments']} segments, "
        f"{summary['prompt_tokens']} prompt tokens, {summary['new_tokens']} new tokens",
        f"first token after {summary['first_token_seconds']:.3f} s, all after {total:.3f} s, under "
        "the profiler",
        "",
        f"{'stage':12} {'seconds':>10} {'of all':>7}",
    ]
    lines += [
        f"{name:12} {seconds:10.4f} {seconds / total:7.1%}"
        for name, seconds in summary["stages"].items()
    ]
    threads = "decode and resize run in threads beside the rest"
    if summary["machine"]["device"] == "cpu":
        threads += ", vision and compress in several: their seconds are added"
    lines += [threads, ""]
    lines += [f"{'operator':56} {'calls':>7} {'device ms':>10} {'host ms':>10}"]
    lines += [
        f"{row['name'][:56]:56} {row['calls']:7d} {row['device_seconds'] * 1e3:10.2f} "
        f"{row['host_seconds'] * 1e3:10.2f}"
        for row in summary["operators"]
    ]
    return "\n".join([*lines, "", *_gpu(summary)])


def _gpu(summary: Mapping[str, Any]) -> list[str]:
    gpu = summary["gpu"]
    if "missing" in gpu:
        return [f"power, energy, clocks and utilisation not measured: {gpu['missing']}"]
    lines = [f"GPU, {gpu['samples']} readings: {'mean':>14} {'max':>14}"]
    if gpu.get("mig") is not None:  # a summary of before has none
        lines.append(gpu["mig"])
    for name, value in gpu.items():
        if name in ("samples", "mig", "energy_j"):
            continue
        if value is None:
            lines.append(f"{name:28} not offered by this GPU")
        else:
            lines.append(f"{name:28} {value['mean']:14,.0f} {value['max']:14,.0f}")
    energy = gpu["energy_j"]
    lines.append(f"{'energy_j':28} " + ("not offered" if energy is None else f"{energy:14,.1f}"))
    if summary["peak_bytes"] is not None:
        lines.append(f"{'peak bytes of tensors':28} {summary['peak_bytes']:14,}")
    return lines
