"""The flags that say which checkpoint runs where, and the pipeline that they make."""

from __future__ import annotations

import argparse
import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tempo_fast.pipeline import TempoFastPipeline

DEFAULT_MODEL = "Vision-CAIR/Tempo-6B"


def add_model_flags(parser: argparse.ArgumentParser, default: str | None = DEFAULT_MODEL) -> None:
    """Add --model and the flags of `add_loading_flags`."""
    note = f" (default: {default})" if default else ""
    parser.add_argument(
        "--model", default=default, help=f"a Tempo checkpoint: folder or hub id{note}"
    )
    add_loading_flags(parser)


def add_loading_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of how a checkpoint is found and loaded."""
    add_source_flags(parser)
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="number format of the weights (default: auto)",
    )
    parser.add_argument(
        "--graphs",
        action=argparse.BooleanOptionalAction,
        help="replay captured CUDA graphs (default: see `tempo-fast info`)",
    )
    parser.add_argument(
        "--streams",
        action=argparse.BooleanOptionalAction,
        help="run neighbouring chunks on CUDA streams beside each other (default: likewise)",
    )


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of where the files of a checkpoint come from."""
    parser.add_argument(
        "--base", help="its Qwen3-VL base: folder or hub id (default: as the checkpoint says)"
    )
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument(
        "--local-files-only", action="store_true", help="fetch nothing from the hub"
    )


def load_pipeline(args: argparse.Namespace) -> TempoFastPipeline:
    """The pipeline that the flags of `add_model_flags` describe."""
    from tempo_fast.pipeline import TempoFastPipeline

    return TempoFastPipeline.from_pretrained(
        args.model,
        base=args.base,
        device=args.device,
        dtype=args.dtype,
        revision=args.revision,
        local_files_only=args.local_files_only,
        graphs=args.graphs,
        streams=args.streams,
    )


def model_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Which checkpoint the flags name, for the record of what answered."""
    return {name: getattr(args, name) for name in ("model", "base", "revision", "dtype")}


def checkpoint_sha256(args: argparse.Namespace) -> str:
    """SHA-256 over config.json and the weights of the checkpoint that the flags name.

    A checkpoint trained anew into the same folder has another one.
    """
    from tempo_fast.checkpoint.files import resolve

    files = resolve(
        args.model, args.base, revision=args.revision, local_files_only=args.local_files_only
    )
    digest = hashlib.sha256()
    for path in (files.tempo / "config.json", *files.weights):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
