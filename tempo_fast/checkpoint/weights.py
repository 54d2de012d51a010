"""Parameters from safetensors shards straight into the tensors that the model computes with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from pathlib import Path

import torch

from tempo_fast.checkpoint.storage import Entry, opened, read_header, torch_dtype
from tempo_fast.errors import CheckpointError

_SHOWN = 5  # names listed in a message before it only counts


def stored_dtype(shards: Sequence[Path]) -> torch.dtype:
    """The dtype that most of the parameters' elements are stored in, read from the headers only.

    Raises CheckpointError for a file that can't be read, no parameters, or quantized ones.
    """
    elements: Counter[torch.dtype] = Counter()
    for path in shards:
        for name, entry in read_header(path).items():
            elements[torch_dtype(name, entry)] += prod(entry.shape)
    if not elements:
        raise CheckpointError("the checkpoint's safetensors files hold no parameters")
    return elements.most_common(1)[0][0]


def load_weights(
    shards: Sequence[Path],
    targets: Mapping[str, torch.Tensor],
    *,
    ignore: frozenset[str] = frozenset(),
) -> None:
    """Copy every parameter of the shards into its target, cast to the target's dtype.

    targets: checkpoint parameter name → allocated tensor (or slice of one) of the same shape, on
    any device. ignore: names that the checkpoint may hold and the model has no use for. Parameters
    are read one at a time to their target's device, so host memory never holds a second copy of
    them all.

    Raises CheckpointError, before anything is read, for names that are missing, left over or in
    two shards, for wrong shapes and quantized weights; and, while reading, for a parameter with NaN
    or infinity in the target's dtype and for a damaged file.
    """
    headers = {path: read_header(path) for path in shards}
    _check(headers, targets, ignore)
    for path, header in headers.items():
        devices: dict[str, list[str]] = {}
        for name in header.keys() & targets.keys():
            devices.setdefault(str(targets[name].device), []).append(name)
        for device, names in devices.items():
            _fill(path, device, {name: targets[name] for name in sorted(names)})


@torch.no_grad()
def _fill(path: Path, device: str, targets: Mapping[str, torch.Tensor]) -> None:
    for name, target in targets.items():
        # Reopened for each parameter: on a CPU a handle keeps every page that was read mapped.
        with opened(path, device) as shard:
            target.copy_(shard.get_tensor(name))
        if target.numel() and not all(end.isfinite() for end in torch.aminmax(target)):
            raise CheckpointError(
                f"{name} in {path.name} has NaN or infinity as {target.dtype}: the checkpoint is "
                "broken, or needs a dtype of a wider range (bfloat16 or float32)"
            )


def _check(
    headers: Mapping[Path, Mapping[str, Entry]],
    targets: Mapping[str, torch.Tensor],
    ignore: frozenset[str],
) -> None:
    places: dict[str, Path] = {}
    shapes = []
    for path, header in headers.items():
        for name, entry in header.items():
            if name in places:
                raise CheckpointError(
                    f"{name} is in two shards, {places[name].name} and {path.name}: download the "
                    "checkpoint again into an empty folder"
                )
            places[name] = path
            if name in targets:
                torch_dtype(name, entry)
                wanted = tuple(targets[name].shape)
                if entry.shape != wanted:
                    shapes.append(f"{name} is {list(entry.shape)} and should be {list(wanted)}")
    problems = [
        *_listed("parameters are missing", sorted(targets.keys() - places.keys())),
        *_listed(
            "unknown parameters are left over", sorted(places.keys() - targets.keys() - ignore)
        ),
        *_listed("parameters have the wrong shape", sorted(shapes)),
    ]
    if problems:
        raise CheckpointError(
            f"the weights don't fit the checkpoint's config.json. {'. '.join(problems)}"
        )


def _listed(problem: str, names: Iterable[str]) -> list[str]:
    names = list(names)
    if not names:
        return []
    return [f"{len(names)} {problem}: {', '.join(names[:_SHOWN])}{', …' * (len(names) > _SHOWN)}"]
