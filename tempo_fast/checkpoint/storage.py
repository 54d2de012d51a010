"""What is inside a checkpoint folder: its JSON files, shard index and safetensors headers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from tempo_fast.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# Other types (int8, fp8) need scales to mean anything, so a plain cast of them would be wrong.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass(frozen=True)
class Entry:
    """A tensor as a safetensors header describes it. dtype: the format's name, such as "BF16"."""

    dtype: str
    shape: tuple[int, ...]


def read_json(path: Path) -> dict:
    """The JSON object in `path`. Raises CheckpointError if it is missing or no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path.parent} has no {path.name}: it is not a whole checkpoint; download it again"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} can't be read ({error}); download it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object; download it again")
    return content


def weight_map(folder: Path) -> dict[str, str] | None:
    """Parameter name → shard file name of a sharded checkpoint; None where there is no index.

    Raises CheckpointError for an index that is damaged or names files outside the folder.
    """
    path = folder / INDEX
    if not path.exists():
        return None
    shards = read_json(path).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise CheckpointError(f"{path} has no weight_map; download it again")
    for name in shards.values():
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{path} names {name!r}, which is no file of the same folder")
    return shards


def shard_paths(folder: Path) -> list[Path]:
    """The safetensors files of a local checkpoint, sharded or single.

    Raises CheckpointError when there are none or when one that the index names is missing.
    """
    shards = weight_map(folder)
    paths = [folder / name for name in sorted(set(shards.values()))] if shards else []
    paths = paths or [folder / SINGLE]
    missing = [path.name for path in paths if not path.is_file()]
    if missing and not shards:
        raise CheckpointError(
            f"{folder} has neither {SINGLE} nor {INDEX}: its weights are missing or in another "
            "format than safetensors; download them again or convert them"
        )
    if missing:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of the {len(paths)} shards that {INDEX} names: "
            f"{', '.join(missing[:3])}{', …' * (len(missing) > 3)}; download it again"
        )
    return paths


@contextmanager
def opened(path: Path, device: str = "cpu") -> Iterator[safe_open]:
    """`safe_open` of a shard with every failure, also one inside the block, a CheckpointError."""
    try:
        with safe_open(path, framework="pt", device=device) as shard:
            yield shard
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} can't be read as safetensors ({error}): it is missing, cut short or only a "
            "git-lfs pointer; download it again"
        ) from error


def read_header(path: Path) -> dict[str, Entry]:
    """Every tensor's dtype and shape, without reading any data."""
    with opened(path) as shard:
        slices = {name: shard.get_slice(name) for name in shard.keys()}  # noqa: SIM118 - not iterable
        return {
            name: Entry(part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()
        }


def torch_dtype(name: str, entry: Entry) -> torch.dtype:
    """The torch dtype of a stored tensor; CheckpointError for one that is no plain float."""
    if entry.dtype not in DTYPES:
        raise CheckpointError(
            f"{name} is stored as {entry.dtype}; tempo_fast reads {', '.join(DTYPES)}: use a "
            "checkpoint that is not quantized"
        )
    return DTYPES[entry.dtype]
