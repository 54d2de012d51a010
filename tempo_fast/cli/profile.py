"""`tempo-fast profile VIDEO QUESTION`: where the time of one question goes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tempo_fast.cli.files import check_video
from tempo_fast.cli.flags import add_option_flags, given_options
from tempo_fast.cli.model import add_model_flags, load_pipeline


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "profile",
        help="trace one question: time by stage and operator, power and clocks",
        description="Answer one question under torch's profiler. Writes a trace for Chrome or "
        "Perfetto with named stages (on CUDA also NVTX ranges), a summary and tables by stage and "
        "by operator; on CUDA also power, energy, clocks, memory and utilisation through NVML "
        "(pip install 'tempo-fast[profile]'), as on an A100, H100 or H200.",
        allow_abbrev=False,
    )
    parser.add_argument("video", metavar="VIDEO", help="video file, image, .npy or image folder")
    parser.add_argument("query", metavar="QUESTION", help="what you want to know")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("profile-output"),
        metavar="FOLDER",
        help="where trace.json.gz, summary.json and tables.txt go (default: profile-output)",
    )
    parser.add_argument(
        "--warm-ups",
        type=int,
        default=1,
        metavar="N",
        help="whole runs before the profiled one (default: 1)",
    )
    parser.add_argument(
        "--interval",
        type=float,
        default=0.02,
        metavar="SECONDS",
        help="between two readings of the GPU (default: 0.02)",
    )
    add_model_flags(parser)
    add_option_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    options = given_options(args)
    check_video(args.video)
    from tempo_fast.profiling import profile_question

    made = profile_question(
        load_pipeline(args),
        args.video,
        args.query,
        args.output,
        warm_ups=args.warm_ups,
        interval=args.interval,
        **options,
    )
    print(made.text)
    print(f"\nwrote trace.json.gz, summary.json and tables.txt in {made.folder}")
    return 0
