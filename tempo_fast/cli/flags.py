"""Command-line flags of the options: names, types and defaults come from their dataclasses."""

from __future__ import annotations

import argparse
import types
from collections.abc import Collection
from dataclasses import Field, fields
from typing import Any, Union, get_args, get_origin, get_type_hints

from tempo_fast.options import (
    DECODERS,
    ERRORS,
    FRAMES,
    PRUNINGS,
    STRATEGIES,
    AskOptions,
    OpenOptions,
    split_options,
)

CHOICES = {
    "frames": FRAMES,
    "decoder": DECODERS,
    "on_error": ERRORS,
    "strategy": STRATEGIES,
    "pruning": PRUNINGS,
}

HELP = {
    "video_fps": "wanted sampling rate, frames a second",
    "max_frames": "most frames to sample",
    "min_frames": "fewest frames to sample",
    "frame_windows": "frames in a segment",
    "frame_stride": "frames from the start of one segment to the start of the next",
    "clip": "read only this part of the video, in seconds",
    "fps": "frames a second of a .npy file or a folder of images (default: video_fps)",
    "allow_remote": "fetch a video from an http:// or https:// address",
    "allow_private": "also from an address that is not of the public internet",
    "remote_max_bytes": "largest file to fetch, in bytes",
    "remote_seconds": "longest time that fetching may take",
    "frames": "the frames that the rule names, or the keyframe nearest to each",
    "decoder": "of video files; torchcodec and nvdec need torchcodec",
    "on_error": "fail at a damaged part of a video, or repeat the frame before it",
    "visual_token_budget": "memory tokens that all segments share",
    "min_tokens": "fewest memory tokens of a segment",
    "strategy": "which memory tokens of a segment are kept",
    "pruning": "instead of a budget: which segments keep all their tokens",
    "prune_ratio": "share of the segments that pruning cuts",
    "prune_tokens": "memory tokens that a pruned segment keeps",
    "dynamic_compress": "share the budget by relevance, or else keep every memory token",
    "lazy": "make only the memory tokens that are kept (the answer is the same either way)",
    "tokenizer_model_max_length": "context of the language model; the visual part is cut to fit it",
    "temperature": "0 is greedy; above it the answer is sampled",
    "top_p": "share of the probability that is sampled from",
    "seed": "makes random choices repeatable",
    "stop": "end the answer before this text (may be given several times)",
    "max_new_tokens": "longest answer, in tokens",
}


def option_fields() -> list[tuple[Field, Any]]:
    """Every option as (dataclass field, its type without None), in the order of the dataclasses."""
    return [
        (field, _without_none(get_type_hints(kind)[field.name]))
        for kind in (OpenOptions, AskOptions)
        for field in fields(kind)
    ]


def add_option_flags(
    parser: argparse.ArgumentParser, names: Collection[str] | None = None, separator: str = "-"
) -> None:
    """Add a flag for each option (of `names`, by default of all).

    `separator` joins the words of a flag: "-" for our own commands, "_" as the published script.
    An option that isn't given leaves no attribute behind: see `given_options`.
    """
    group = parser.add_argument_group("options of the model")
    for field, kind in option_fields():
        if names is not None and field.name not in names:
            continue
        settings: dict[str, Any] = {
            "dest": field.name,
            "default": argparse.SUPPRESS,
            "help": HELP[field.name] + _default_note(field),
        }
        if kind is bool:
            settings["action"] = argparse.BooleanOptionalAction
        elif get_origin(kind) is tuple and Ellipsis in get_args(kind):
            settings |= {"action": "append", "type": get_args(kind)[0], "metavar": "TEXT"}
        elif get_origin(kind) is tuple:
            settings |= {"nargs": 2, "type": get_args(kind)[0], "metavar": ("START", "END")}
        elif field.name in CHOICES:
            settings["choices"] = CHOICES[field.name]
        else:
            settings |= {"type": kind, "metavar": "N" if kind is int else "X"}
        group.add_argument("--" + field.name.replace("_", separator), **settings)


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given, as keyword arguments of the pipeline.

    Raises OptionError for a value out of range, before anything slow has begun.
    """
    options = {}
    for field, kind in option_fields():
        if hasattr(args, field.name):
            value = getattr(args, field.name)
            options[field.name] = tuple(value) if get_origin(kind) is tuple else value
    split_options(options)
    return options


def split_given(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """`given_options` as keyword arguments of `open` and of `ask`."""
    names = {field.name for field in fields(OpenOptions)}
    return (
        {name: value for name, value in options.items() if name in names},
        {name: value for name, value in options.items() if name not in names},
    )


def _without_none(kind: Any) -> Any:
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    (only,) = (each for each in get_args(kind) if each is not type(None))
    return only


def _default_note(field: Field) -> str:
    if isinstance(field.default, bool):
        return f" (default: {'on' if field.default else 'off'})"
    if field.default is None or field.default == ():
        return ""
    return f" (default: {field.default})"
