"""Write held-out films as videos, and questions about them for `tempo-fast ablate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from tempo_fast.demo.exam import make_exam


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="where the videos and questions.jsonl go")
    parser.add_argument("--films", type=int, default=40, help="how many videos (default: 40)")
    parser.add_argument(
        "--seconds",
        type=float,
        nargs=2,
        default=(60.0, 300.0),
        metavar=("LEAST", "MOST"),
        help="length of a video (default: 60 300)",
    )
    parser.add_argument(
        "--questions", type=int, default=2, help="of each kind about each video (default: 2)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed, other films (default: 0)"
    )
    args = parser.parse_args(arguments)
    path = make_exam(
        args.folder,
        films=args.films,
        seconds=tuple(args.seconds),
        questions=args.questions,
        seed=args.seed,
    )
    lines = path.read_text().count("\n")
    print(f"wrote {path}: {lines} questions about {args.films} videos")


if __name__ == "__main__":
    main()
