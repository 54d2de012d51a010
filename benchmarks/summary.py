"""What a run prints at its end: one line a figure."""

from __future__ import annotations

import torch


def report(terminal, rows: list[dict], kernels: list[dict], videos: list[dict]) -> None:
    """Write the sections of the suites that ran."""
    if videos:
        _videos(terminal, videos)
    if not torch.cuda.is_available():
        terminal.write_line(
            "no CUDA GPU: references timed on the CPU at small sizes; kernels not measured"
        )
    if kernels:
        _kernels(terminal, kernels)
    if rows:
        terminal.section("engine against others")
        for row in rows:
            terminal.write_line(line(row))


def line(row: dict) -> str:
    """A comparison in one line."""
    case = " ".join(str(row[name]) for name in ("frames", "budget") if name in row)
    text = f"{row['suite'] + ' ' + row['name']:28} {row['size']:9} {case:11}"
    if "missing" in row:
        return f"{text} not measured: {row['missing']}"
    engine = row["engine"]
    if "seconds" in engine:
        text += f" {engine['seconds']:9.4f} s"
    elif "peak_bytes" in engine:
        text += f" {engine['peak_bytes'] / 1e9:7.2f} GB"
    for opponent, other in row.items():
        if not isinstance(other, dict):
            continue
        if "missing" in other:
            text += f"  {opponent} not measured: {other['missing']}"
        elif "ratio" in other:
            text += f"  {other['ratio']:6.2f} × {opponent}"
    if "share_of_floor" in row:
        text += f"  {row['share_of_floor']:5.1%} of floor"
    return text


def _videos(terminal, rows: list[dict]) -> None:
    terminal.section("video: to the last patch")
    for row in rows:
        start = f"{row['file']:32} {row['way']:14}"
        if "missing" in row:
            terminal.write_line(f"{start} not measured: {row['missing']}")
            continue
        terminal.write_line(
            f"{start} {row['seconds']:7.2f} s, {1 / row['ratios']['seconds']:5.2f} times as fast "
            f"as {row['against']}; first segment {row['first_segment_seconds']:6.2f} s, "
            f"CPU {row['cpu_seconds']:7.2f} s, peak {row['peak_bytes'] / 1e9:.2f} GB"
        )


def _kernels(terminal, rows: list[dict]) -> None:
    terminal.section(f"kernels on {torch.cuda.get_device_name()}")
    for row in rows:
        speed = f"{row['gb_per_s']:8.0f} GB/s = {row['share_of_copy']:4.0%} of copy"
        where = "" if row["captured"] else ", not capturable"
        terminal.write_line(
            f"{row['name']:48} {row['implementation']:12} {row['device_us']:9.1f} µs {speed}"
            f"  called and awaited {row['host_us']:.1f} µs{where}"
        )
