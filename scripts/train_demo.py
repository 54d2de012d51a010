"""Train the small Tempo that the package ships, from nothing, and write it as a checkpoint.

    python scripts/train_demo.py --work demo-training --output demo-model

Stopped and started again, it goes on from the last checkpoint in the --work folder, which also has
the log of the losses. The card in tempo_fast/demo/model/README.md says how long it took.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

MOST_SEEDS = 1000  # beyond them are those of the examinations
# glibc gives large blocks back to the system at once, and every step gets them again.
MALLOC = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(16 * 1024**3),
    "MALLOC_TOP_PAD_": str(256 * 1024**2),
}


def _seed(text: str) -> int:
    seed = int(text)
    if not 0 <= seed < MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"must be from 0 to {MOST_SEEDS - 1}; got {seed}")
    return seed


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("demo-training"),
        help="folder of checkpoints and the log (default: demo-training)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("demo-model"),
        help="folder to write the trained checkpoint to; new or empty (default: demo-model)",
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        default=1,
        help="of weights and films, 0 to 999; those of the examinations are others (default: 1)",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument(
        "--no-compile",
        action="store_true",
        help="don't compile the vision encoder (without a C++ compiler it never is)",
    )
    parser.add_argument(
        "--smoke",
        action="store_true",
        help="a few steps of every stage in under a minute, to see that it runs",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    if args.output.exists() and (not args.output.is_dir() or any(args.output.iterdir())):
        sys.exit(f"{args.output} exists and is not an empty folder; choose another --output")

    from demo_training.export import export
    from demo_training.loop import Training
    from demo_training.recipe import SMOKE, STAGES
    from tempo_fast.demo.vocabulary import train_tokenizer

    compiled = not (args.no_compile or args.smoke) and shutil.which("g++") is not None
    training = Training(
        args.work, train_tokenizer(), seed=args.seed, device=args.device, compile_vision=compiled
    )
    training.run(SMOKE if args.smoke else STAGES)
    folder = export(training.losses.model, training.router, training.tokenizer, args.output)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"wrote {folder}: {size / 1e6:.1f} MB; the losses are in {args.work / 'log.jsonl'}")


if __name__ == "__main__":
    if sys.platform == "linux" and "MALLOC_MMAP_MAX_" not in os.environ:
        os.execve(sys.executable, [sys.executable, *sys.argv], {**MALLOC, **os.environ})
    main()
