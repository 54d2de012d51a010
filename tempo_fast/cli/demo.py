"""`tempo-fast demo`: the whole engine on a video and a checkpoint that are made on the spot."""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from tempo_fast.cli.files import dumps, write_atomically
from tempo_fast.cli.progress import Progress

if TYPE_CHECKING:
    from tempo_fast.answer import Answer

QUESTIONS = ("When does the blue square appear?", "Which shape comes first?")
OPTIONS = {"visual_token_budget": 80, "max_new_tokens": 24}
BAR = 24


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "demo",
        help="make a small video and a small checkpoint, and answer questions about it",
        description="Make a small H.264 video and a small random checkpoint, open the video once "
        "and ask two questions. The checkpoint has learnt nothing, so the answers are noise; all "
        "that leads to them is what a trained checkpoint goes through.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("demo-output"),
        metavar="FOLDER",
        help="where the video, the checkpoint and the answers go (default: demo-output)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from tempo_fast.demo.checkpoint import make_checkpoint
    from tempo_fast.demo.video import SCENES, SECONDS, write_video
    from tempo_fast.pipeline import TempoFastPipeline

    video = write_video(args.output / "demo.mp4")
    print(f"video       {video}: {SECONDS} s of H.264 in which")
    for scene in SCENES:
        print(
            f"            a {scene.colour} {scene.shape} shows from {scene.start} to {scene.end} s"
        )
    model = make_checkpoint(args.output / "demo-tempo")
    print(f"checkpoint  {model}: Tempo's layout, random weights")
    pipe = TempoFastPipeline.from_pretrained(model, local_files_only=True)
    print(f"engine      {pipe.dtype} on {pipe.device}")

    began = perf_counter()
    with Progress() as progress, pipe.open(video, progress=progress) as opened:
        print(f"opened      {len(opened.segments)} segments in {perf_counter() - began:.2f} s\n")
        for number, question in enumerate(QUESTIONS, 1):
            began = perf_counter()
            answer = opened.ask(question, **OPTIONS)
            seconds = perf_counter() - began
            print(f"question {number}  {question}")
            tokens = f"{len(answer.token_ids)} tokens in {seconds:.2f} s"
            print(f"answer      {tokens}, noise as nothing was learnt: {answer.text[:12]!r}")
            _print_allocation(answer)
            record = {
                "video": str(video),
                "query": question,
                "model": str(model),
                "options": OPTIONS,
                **answer.to_dict(),
            }
            path = args.output / f"answer-{number}.json"
            write_atomically(path, f"{dumps(record, indent=2)}\n".encode())
            print(f"            saved as {path}\n")
    print(f"Draw one:   tempo-fast plot {args.output}/answer-1.json {args.output}/answer-1.png")
    return 0


def _print_allocation(answer: Answer) -> None:
    most = max(answer.allocations)
    print("            segment        relevance  memory tokens")
    rows = zip(answer.segments, answer.relevance, answer.allocations, strict=True)
    for (start, end), relevance, tokens in rows:
        bar = "█" * round(BAR * tokens / most)
        print(f"            {start:5.1f}–{end:4.1f} s   {relevance:9.3f}  {tokens:4d} {bar}")
