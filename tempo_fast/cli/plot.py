"""`tempo-fast plot answer.json out.png`: a picture of what one answer looked at."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tempo_fast.cli.files import check_destination, read_text, write_atomically
from tempo_fast.errors import TempoError


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "plot",
        help="draw relevance and tokens per segment over the time of the video",
        description="Draw relevance and memory tokens per segment over the time of the video.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "answer",
        metavar="ANSWER",
        type=Path,
        help="what answer --json or --output wrote, or the lines of batch (with --index)",
    )
    parser.add_argument(
        "image", metavar="IMAGE", type=Path, help="the picture to write: .png, .pdf, .svg …"
    )
    parser.add_argument(
        "--index", type=int, metavar="N", help="the index of the line in a batch's answers"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    check_destination(args.image)
    record = read_record(args.answer, args.index)

    from tempo_fast.plot import draw_answer

    write_atomically(args.image, draw_answer(record, args.image.suffix.removeprefix(".") or "png"))
    print(f"wrote {args.image}")
    return 0


def read_record(path: Path, index: int | None = None) -> dict[str, Any]:
    """The answer in a JSON file, or the one with this index in a file of JSON lines."""
    text = read_text(path)
    try:
        records = [json.loads(text)]
    except json.JSONDecodeError:
        records = [_parse(path, *each) for each in enumerate(text.splitlines(), 1) if each[1]]
    if not records or not all(isinstance(record, dict) for record in records):
        raise TempoError(f"{path} holds no answer; make one with `answer --output` or `batch`")
    if index is not None:
        records = [record for record in records if record.get("index") == index]
        if not records:
            raise TempoError(f"{path} has no answer with index {index}")
    elif len(records) > 1:
        raise TempoError(f"{path} has {len(records)} answers: choose one with --index N")
    return records[0]


def _parse(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise TempoError(f"line {number} of {path} is no JSON: {error}") from error
