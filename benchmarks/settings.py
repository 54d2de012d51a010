"""What a run of the benchmarks is asked for: the options of the command line, checked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from .provenance import ROOT, why_not_clean
from .sizes import SIZES

RESULTS = ROOT / "benchmarks" / "results"
GPU_CASES = "64:8192,256:8192,1024:4096,1024:8192,1024:12288,2048:8192"
CPU_CASES = "64:8192"
# Ways from a video file to patches (video_paths.py) besides the engine's own.
OTHERS = ("published", "pyav", "torchcodec", "our_torchcodec", "nvdec", "one_core")


def add_options(parser: pytest.Parser) -> None:
    """The options of the benchmarks."""
    group = parser.getgroup("tempo-fast benchmarks")
    group.addoption(
        "--video-size",
        choices=("smoke", "short", "full"),
        default="full",
        help="video: files of some seconds, two minutes or ten minutes to an hour (default: full)",
    )
    group.addoption("--video-rounds", type=int, default=2, help="video: runs of every way")
    group.addoption(
        "--video-ways",
        metavar="WAYS",
        help="video: besides tempo_fast, with commas between (default: all): " + ", ".join(OTHERS),
    )
    group.addoption(
        "--save-video",
        action="store_true",
        help="video: keep the figures of each file in benchmarks/results",
    )
    group.addoption(
        "--size",
        help="tiny, small, wide, tempo-6b or a checkpoint's folder, several with commas between"
        " (default: tempo-6b on a GPU, tiny elsewhere)",
    )
    group.addoption(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="of the weights (default: bfloat16 for tempo-6b, as stored or float32 elsewhere)",
    )
    group.addoption(
        "--cases",
        help=f"FRAMES:BUDGET, several with commas between (default: {GPU_CASES} on a GPU, "
        f"{CPU_CASES} elsewhere)",
    )
    group.addoption("--rounds", type=int, default=3, help="runs of engine and baseline each")
    group.addoption("--new-tokens", type=int, help="tokens of an answer (default: 128 or 32)")
    group.addoption("--threads", type=int, help="threads on the CPU (default: torch's)")
    group.addoption("--videos", type=int, default=2, help="throughput: videos")
    group.addoption("--questions", type=int, default=3, help="throughput: questions about each")
    group.addoption(
        "--upstream",
        type=Path,
        metavar="PATH",
        help="end to end: also run the published code of this checkout",
    )
    group.addoption(
        "--rows", type=Path, metavar="FILE", help="also leave the figures in this JSON file"
    )
    group.addoption(
        "--save", metavar="NAME", help="keep the figures as benchmarks/results/NAME.json"
    )


def check_options(config: pytest.Config) -> None:
    """Refuse what can't be run or kept, before anything is loaded."""
    sizes(config)
    cases(config)
    for name in ("rounds", "videos", "questions"):
        if config.getoption(name) < 1:
            raise pytest.UsageError(f"--{name} must be at least 1")
    if new_tokens(config) < 2:
        raise pytest.UsageError("--new-tokens must be at least 2: decoding starts after the first")
    video_ways(config)
    if config.getoption("save_video") and config.getoption("video_size") == "smoke":
        raise pytest.UsageError("--save-video keeps no figures of --video-size smoke")
    for name in ("save", "save_video"):
        if config.getoption(name) and (why := why_not_clean()):
            option = name.replace("_", "-")
            raise pytest.UsageError(f"--{option} needs a clean commit: {why}")


def video_ways(config: pytest.Config) -> list[str]:
    """The ways from a video file to patches to time."""
    chosen = config.getoption("video_ways")
    others = chosen.split(",") if chosen else list(OTHERS)
    for way in others:
        if way not in OTHERS:
            raise pytest.UsageError(f"--video-ways {way}: it is none of {', '.join(OTHERS)}")
    return ["tempo_fast", *dict.fromkeys(others)]


def sizes(config: pytest.Config) -> list[str]:
    """The models to time."""
    on_gpu = torch.cuda.is_available()
    chosen = (config.getoption("size") or ("tempo-6b" if on_gpu else "tiny")).split(",")
    for size in chosen:
        if size not in SIZES and not (Path(size) / "config.json").is_file():
            raise pytest.UsageError(
                f"--size {size}: it is none of {', '.join(SIZES)}, nor a checkpoint's folder"
            )
        if size == "tempo-6b" and not on_gpu:
            raise pytest.UsageError("--size tempo-6b needs a GPU; take tiny, small or wide")
    return chosen


def cases(config: pytest.Config) -> list[tuple[int, int]]:
    """(frames, budget) to time."""
    text = config.getoption("cases") or (GPU_CASES if torch.cuda.is_available() else CPU_CASES)
    try:
        pairs = [tuple(map(int, case.split(":"))) for case in text.split(",")]
        if not all(len(pair) == 2 and min(pair) > 0 for pair in pairs):
            raise ValueError
    except ValueError:
        raise pytest.UsageError(f"--cases {text}: it must be FRAMES:BUDGET,…") from None
    return pairs


def new_tokens(config: pytest.Config) -> int:
    """Tokens of every answer."""
    return config.getoption("new_tokens") or (128 if torch.cuda.is_available() else 32)


def destinations(config: pytest.Config) -> list[Path]:
    """The files that the figures go to."""
    places = [config.getoption("rows")] if config.getoption("rows") else []
    if config.getoption("save"):
        places.append(RESULTS / f"{config.getoption('save')}.json")
    return places
