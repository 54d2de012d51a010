"""`tempo-fast report RESULTS …`: benchmark results as a page with pictures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tempo_fast.errors import TempoError


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "report",
        help="turn benchmark results into a page with pictures",
        description="Turn the JSON that benchmarks left into report.md and pictures: time by stage "
        "against the floor, scaling with frames, tokens a second. What has no figure is said to be "
        "not measured.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "results",
        metavar="RESULTS",
        type=Path,
        nargs="*",
        default=[Path("benchmarks/results")],
        help="files or folders (default: benchmarks/results)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("report-output"),
        metavar="FOLDER",
        help="where report.md and its pictures go (default: report-output)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from tempo_fast.report import read_results, write_report

    if args.output.exists() and not args.output.is_dir():
        raise TempoError(f"can't write to {args.output}: it is no folder")
    results = read_results(args.results)
    for path in write_report(results, args.output):
        print(f"wrote {path}")
    return 0
