"""`tempo-fast convert SRC DST`: one self-contained folder out of a checkpoint and its base."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tempo_fast.cli.model import add_source_flags


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "convert",
        help="write a checkpoint as one self-contained folder",
        description="Write a checkpoint, and what it needs of its base, as one folder that "
        "--model takes without a base.",
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="SRC", help="a Tempo checkpoint: folder or hub id")
    parser.add_argument("destination", metavar="DST", type=Path, help="the folder to write")
    add_source_flags(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from tempo_fast.checkpoint.convert import convert

    convert(
        args.source,
        args.destination,
        base=args.base,
        revision=args.revision,
        local_files_only=args.local_files_only,
    )
    print(f"wrote {args.destination}")
    return 0
