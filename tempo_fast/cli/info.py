"""`tempo-fast info`: what is installed, what it would run on, and how large a checkpoint is."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from tempo_fast.cli.files import dumps
from tempo_fast.cli.machine import versions
from tempo_fast.cli.model import add_source_flags

# Sizes of a head of Tempo-6B.
DECODER_HEAD, VISION_HEAD = 128, 64
PARTS = ("vision", "compressor", "projector", "language_model")


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "info",
        help="show versions, devices, attention backends and the sizes of a checkpoint",
        description="Show versions, devices, which attention backends can run and which are taken "
        "for bfloat16 (float32 on a GPU takes sdpa) and, with --model, the sizes of a checkpoint. "
        "Fetches nothing from the hub: the checkpoint must be a folder or in the local cache.",
        allow_abbrev=False,
    )
    parser.add_argument("--model", help="a Tempo checkpoint: folder or hub id")
    add_source_flags(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    facts = {"versions": versions(), "machine": _machine(), "attention": _attention()}
    facts["engine"] = _engine()
    if args.model is not None:
        facts["model"] = _model(args)
    if args.json:
        print(dumps(facts, encoding=sys.stdout.encoding))
        return 0
    for title, lines in facts.items():
        print(title)
        width = max(map(len, lines))
        for name, value in lines.items():
            print(f"  {name:<{width}}  {_readable(value)}")
    return 0


def _machine() -> dict[str, Any]:
    import torch

    devices = ["cpu"]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        devices.append(f"cuda:{index} {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")
    return {
        "devices": devices,
        "threads": torch.get_num_threads(),
    }


def _attention() -> dict[str, str]:
    """What a bfloat16 Tempo of the published sizes attends with here, and why not with others."""
    import torch

    from tempo_fast.engine.attention import (
        CACHED,
        DENSE,
        Site,
        availability,
        choose_cached,
        choose_dense,
    )

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    decoder = Site(device, torch.bfloat16, DECODER_HEAD)
    vision = Site(device, torch.bfloat16, VISION_HEAD)
    return {
        "decoders": choose_cached(decoder).name,
        "vision": choose_dense(vision).name,
        **availability(CACHED, decoder),
        **availability(DENSE, vision),
    }


def _engine() -> dict[str, Any]:
    """What runs where nobody says, on the default device."""
    import torch

    from tempo_fast.engine.choices import DEFAULTS, fused_allocation
    from tempo_fast.engine.meter import meter_of

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    free = meter_of(device).free()
    settings = DEFAULTS | {"fused allocation": fused_allocation()}
    return {
        "device": str(device),
        "free_memory": "not known" if free is None else free,
        **{name: "on" if value else "off" for name, value in settings.items()},
    }


def _memory(config: Any, parameters: int) -> dict[str, Any]:
    """What an hour of video would need here in bfloat16, and what would be decided."""
    import torch

    from tempo_fast.compression.encoded import QUERY_ROOM, TAG_TOKENS, TEXT_TOKENS
    from tempo_fast.compression.encoder import default_chunk
    from tempo_fast.engine.crew import crew_size
    from tempo_fast.engine.memory import Work, plan_memory
    from tempo_fast.engine.meter import meter_of
    from tempo_fast.language_model.steps import CACHE_STEP
    from tempo_fast.options import AskOptions

    # 1024 frames of 1920 × 1080, which are seen at 512 × 256, in segments of 8 behind a system part
    # of some 60 tokens.
    segments, patches, asking = 128, 4 * 32 * 16, AskOptions()
    work = Work(
        segments=segments,
        visual=patches // config.vision.merge**2 + 4 * TAG_TOKENS,
        system=64,
        room=config.memory_tokens + QUERY_ROOM,
        patches=patches,
        frame_bytes=8 * 1920 * 1080 * 3,
        prompt=asking.visual_token_budget + segments * TAG_TOKENS + TEXT_TOKENS,
        new=CACHE_STEP,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plan = plan_memory(
        config,
        work,
        meter_of(device),
        chunk_tokens=default_chunk(device),
        threads=crew_size(device),
        itemsize=2,
        weights=2 * parameters,
        loaded=False,
    )
    return vars(plan)


def _model(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from tempo_fast.checkpoint.config import read_config
    from tempo_fast.checkpoint.files import resolve
    from tempo_fast.checkpoint.storage import read_json
    from tempo_fast.models.tempo import TempoModel

    files = resolve(args.model, args.base, revision=args.revision, local_files_only=True)
    config = read_config(
        read_json(files.tempo / "config.json"), read_json(files.base / "config.json")
    )
    # On the meta device the networks have shapes and no memory.
    model = TempoModel(config, device=torch.device("meta"), dtype=torch.bfloat16)
    counts = {name: _count(getattr(model, name)) for name in PARTS}
    return {
        "folder": str(files.tempo),
        "base": str(files.base),
        "memory_tokens": config.memory_tokens,
        "parameters": counts,
        "bytes_on_disk": sum(path.stat().st_size for path in files.weights),
        "memory_of_1024_frames": _memory(config, _count(model)),
    }


def _count(module: Any) -> int:
    return sum(each.numel() for each in (*module.parameters(), *module.buffers()))


def _readable(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_readable(each)}" for name, each in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)
