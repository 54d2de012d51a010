"""`tempo-fast demo`: the main job on a film of known content, with the shipped small Tempo."""

from __future__ import annotations

import argparse
import json
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tempo_fast.cli.files import check_destination, dumps, write_atomically
from tempo_fast.cli.progress import Progress

if TYPE_CHECKING:
    from tempo_fast.answer import Answer


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="make a video of known content and ask the shipped small Tempo about it",
        description="Make a four-minute H.264 video of coloured shapes, open it once and ask three "
        "questions whose answers are known. The checkpoint is a small Tempo that comes with the "
        "package; it knows such films and nothing else.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("demo-output"),
        metavar="FOLDER",
        help="where the video, the answers and the plots go (default: demo-output)",
    )
    parser.add_argument(
        "--video", type=Path, metavar="FILE", help="only write the video to FILE (.mp4), to watch"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from tempo_fast.demo.showing import FILM, describe
    from tempo_fast.demo.video import write_film

    path = args.video or args.output / "demo.mp4"
    if args.video:
        check_destination(path)
    began = perf_counter()
    write_film(FILM, path)
    print(f"video       {path}: {FILM.seconds:.0f} s of H.264, made in {_since(began)}, in which")
    for event in FILM.events:
        print(f"            {describe(event)}")
    if args.video is None:
        _ask(path, args.output)
    return 0


def _ask(video: Path, output: Path) -> None:
    from tempo_fast.demo import MODEL
    from tempo_fast.demo.showing import QUESTIONS
    from tempo_fast.pipeline import TempoFastPipeline

    began = perf_counter()
    # The weights are small: float32 costs nothing, and CPUs are fastest with it.
    pipe = TempoFastPipeline.from_pretrained(MODEL, dtype="float32", local_files_only=True)
    size = sum(weights.numel() for weights in pipe.checkpoint.model.parameters())
    here = Path.cwd()
    print(f"checkpoint  {MODEL.relative_to(here) if MODEL.is_relative_to(here) else MODEL}")
    print(f"            {size / 1e6:.1f} million parameters, loaded in {_since(began)}")
    began = perf_counter()
    with Progress() as progress, pipe.open(video, progress=progress) as opened:
        opening = perf_counter() - began
        print(f"opened      {len(opened.segments)} segments on {pipe.device} in {opening:.2f} s")
        for number, question in enumerate(QUESTIONS, 1):
            began = perf_counter()
            answer = opened.ask(question)
            seconds = perf_counter() - began
            print(f"\nquestion {number}  {question}")
            print(f"answer      {answer.text}")
            took = f"{seconds:.2f} s"
            if number == 1:
                took = f"{opening + seconds:.2f} s with the opening, {took} without"
            print(f"took        {took}")
            _print_allocation(answer)
            record = {"video": str(video), "query": question, **answer.to_dict()}
            _save(record, output / f"answer-{number}")


def _print_allocation(answer: Answer) -> None:
    """Where the memory tokens went: runs of segments that got more than the least."""
    least = min(answer.allocations)
    rows = zip(answer.segments, answer.relevance, answer.allocations, strict=True)
    dense = [(span, score, tokens) for span, score, tokens in rows if tokens > 2 * least]
    print(f"tokens      {sum(answer.allocations)} of memory, {least} a segment but for")
    for (start, end), score, tokens in dense[:8]:
        print(f"            {start:5.0f}–{end:3.0f} s  {tokens:3d}  relevance {score:.3f}")
    if len(dense) > 8:
        print(f"            and {len(dense) - 8} more segments")


def _save(record: dict, path: Path) -> None:
    write_atomically(path.with_suffix(".json"), f"{dumps(record, indent=2)}\n".encode())
    saved = f"{path}.json"
    if find_spec("matplotlib"):
        from tempo_fast.plot import draw_answer

        write_atomically(path.with_suffix(".png"), draw_answer(json.loads(dumps(record))))
        saved += f", drawn as {path}.png"
    else:
        saved += " (with matplotlib installed it would be drawn too)"
    print(f"saved       {saved}")


def _since(began: float) -> str:
    return f"{perf_counter() - began:.1f} s"
