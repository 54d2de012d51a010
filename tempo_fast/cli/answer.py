"""`tempo-fast answer VIDEO QUESTION`: one question about one video."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tempo_fast.cli.files import check_destination, check_video, dumps, write_atomically
from tempo_fast.cli.flags import add_option_flags, given_options
from tempo_fast.cli.model import add_model_flags, load_pipeline
from tempo_fast.cli.progress import Progress

if TYPE_CHECKING:
    from tempo_fast.answer import Answer
    from tempo_fast.pipeline import TempoFastPipeline


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "answer",
        help="answer one question about one video",
        description="Answer one question about one video. The answer is printed as it is made.",
        allow_abbrev=False,
    )
    parser.add_argument("video", metavar="VIDEO", help="video file, image, .npy or image folder")
    parser.add_argument("query", metavar="QUESTION", help="what you want to know")
    add_model_flags(parser)
    add_output_flags(parser)
    add_option_flags(parser)
    parser.set_defaults(run=run)


def add_output_flags(parser: argparse.ArgumentParser) -> None:
    """Add --json and --output."""
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object (text, relevance, allocations, timings, …) instead of the text",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="also save that JSON object, for `plot`"
    )


def run(args: argparse.Namespace) -> int:
    return answer_one(args, given_options(args))


def answer_one(args: argparse.Namespace, options: dict[str, Any]) -> int:
    """Answer `args.query` about `args.video` as the model and output flags in `args` say."""
    check_video(args.video)
    if args.output is not None:
        check_destination(args.output)
    pipe = load_pipeline(args)
    if args.json:
        with Progress() as progress:
            answer = pipe(args.video, args.query, progress=progress, **options)
    else:
        answer = _print_stream(pipe, args.video, args.query, options)
    record = {
        "video": args.video,
        "query": args.query,
        "model": args.model,
        "options": options,
        **answer.to_dict(),
    }
    if args.output is not None:
        write_atomically(args.output, f"{dumps(record, indent=2)}\n".encode())
    if args.json:
        print(dumps(record, encoding=sys.stdout.encoding))
    elif answer.finish_reason == "length":
        print("tempo-fast: note: the answer was cut at max_new_tokens", file=sys.stderr)
    return 0


def _print_stream(
    pipe: TempoFastPipeline, video: str, query: str, options: dict[str, Any]
) -> Answer:
    # The growing text shows how far generation is; a bar would be drawn across it.
    with Progress(hidden=("generate",)) as progress:
        stream = pipe.stream(video, query, progress=progress, **options)
        try:
            for piece in stream:
                progress.close()
                print(_printable(piece), end="", flush=True)
        finally:
            progress.close()
            print(flush=True)
    return stream.answer


def _printable(text: str) -> str:
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, errors="replace").decode(encoding)
