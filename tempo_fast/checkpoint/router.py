"""The two rows of the base's output embedding that tell how relevant a segment is."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import cached_assets_path
from safetensors.torch import save
from tokenizers import Tokenizer

from tempo_fast.checkpoint.files import ROUTER_FILE, CheckpointFiles
from tempo_fast.checkpoint.hub import remote_header, remote_rows
from tempo_fast.checkpoint.storage import (
    INDEX,
    SINGLE,
    Entry,
    opened,
    read_json,
    torch_dtype,
    weight_map,
)
from tempo_fast.errors import CheckpointError

ROWS = "yes_no"  # the tensor in ROUTER_FILE
_TABLE = "model.language_model.embed_tokens.weight"
_HEAD = "lm_head.weight"


def read_router(files: CheckpointFiles) -> torch.Tensor:
    """[2, D]: the rows of `Yes` and `No` of the base's output embedding, in their stored dtype.

    They are the exact vocabulary entries, without a leading space. Relevance is the sigmoid of a
    hidden state times their difference (the published code's rule). Only these two rows are read:
    of a local file by slices, of a base on a hub by ranged requests, whose result is kept in the
    hub's assets cache for later runs without network.

    Raises CheckpointError when they can't be found or fetched, or aren't numbers.
    """
    if (files.base / ROUTER_FILE).is_file():
        return _checked(_read_kept(files.base / ROUTER_FILE), files.base)
    filename, names = _table_file(files.base)
    local = files.base / filename
    if local.is_file():  # of a base on a hub too, where its weights were fetched for other uses
        return _checked(_read_local(local, names, _token_ids(files.base)), files.base)
    if files.base_repo is None:
        raise CheckpointError(
            f"{local} is missing: the relevance needs two rows of the base's weights; download "
            "it, give base= the hub id, or make a self-contained folder with `tempo-fast convert`"
        )
    repo, commit = files.base_repo
    kept = _assets_folder(repo, commit) / ROUTER_FILE
    if kept.is_file():
        return _checked(_read_kept(kept), files.base)
    if files.local_files_only:
        raise CheckpointError(
            f"the rows of {repo} that the relevance needs are not in the local cache: load the "
            "checkpoint once without local_files_only, or give base= a local folder"
        )
    rows = _read_remote(repo, commit, filename, names, _token_ids(files.base))
    _keep(kept, _checked(rows, files.base))
    return rows


def save_router(path: Path, rows: torch.Tensor) -> None:
    """Write the rows as the file that `read_router` looks for in a self-contained checkpoint."""
    path.write_bytes(save({ROWS: rows.contiguous()}, metadata={"format": "pt"}))


def _token_ids(base: Path) -> tuple[int, int]:
    path = base / "tokenizer.json"
    if path.is_file():
        try:
            find = Tokenizer.from_file(str(path)).token_to_id
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"{path} can't be read ({error}); download it again") from error
    else:
        find = read_json(base / "vocab.json").get
    ids = find("Yes"), find("No")
    if None in ids:
        raise CheckpointError(
            f"the tokenizer in {base} has no entries 'Yes' and 'No': it is not a Qwen3-VL base"
        )
    return ids


def _candidates(base: Path) -> Sequence[str]:
    """Names of the output embedding, the likeliest first: tied, it is the input's table."""
    config = read_json(base / "config.json")
    tied = config.get("tie_word_embeddings")
    text = config.get("text_config")
    if tied is None and isinstance(text, dict):
        tied = text.get("tie_word_embeddings")
    return (_TABLE,) if tied else (_HEAD, _TABLE)


def _check_table(name: str, entry: Entry, ids: tuple[int, int]) -> None:
    torch_dtype(name, entry)
    if len(entry.shape) != 2 or entry.shape[0] <= max(ids):
        raise CheckpointError(
            f"the base's {name} is {list(entry.shape)} and its tokenizer puts 'Yes' and 'No' in "
            f"rows {ids[0]} and {ids[1]}: weights and tokenizer are not of the same checkpoint"
        )


def _no_table(place: object, names: Sequence[str]) -> CheckpointError:
    return CheckpointError(f"{place} has no {' or '.join(names)}: it is not a Qwen3-VL base")


def _table_file(base: Path) -> tuple[str, Sequence[str]]:
    """The base's file that holds the output embedding, and the names it may have there."""
    names, shards = _candidates(base), weight_map(base)
    if shards is None:
        return SINGLE, names
    name = next((name for name in names if name in shards), None)
    if name is None:
        raise _no_table(base / INDEX, names)
    return shards[name], (name,)


def _read_local(path: Path, names: Sequence[str], ids: tuple[int, int]) -> torch.Tensor:
    with opened(path) as shard:
        name = next((name for name in names if name in shard.keys()), None)  # noqa: SIM118 - not iterable
        if name is None:
            raise _no_table(path, names)
        table = shard.get_slice(name)
        _check_table(name, Entry(table.get_dtype(), tuple(table.get_shape())), ids)
        return torch.cat([table[row : row + 1] for row in ids])


def _read_remote(
    repo: str, commit: str, filename: str, names: Sequence[str], ids: tuple[int, int]
) -> torch.Tensor:
    header = remote_header(repo, commit, filename)
    name = next((name for name in names if name in header), None)
    if name is None:
        raise _no_table(f"{filename} of {repo}", names)
    _check_table(name, header[name][0], ids)
    return remote_rows(repo, commit, filename, name, header[name], ids)


def _read_kept(path: Path) -> torch.Tensor:
    with opened(path) as kept:
        if ROWS not in kept.keys():  # noqa: SIM118 - not iterable
            raise CheckpointError(f"{path} has no tensor {ROWS!r}: delete it and try again")
        return kept.get_tensor(ROWS).clone()


def _checked(rows: torch.Tensor, base: Path) -> torch.Tensor:
    text = read_json(base / "config.json").get("text_config")
    width = text.get("hidden_size") if isinstance(text, dict) else None
    if list(rows.shape) != [2, width]:
        raise CheckpointError(
            f"the rows of 'Yes' and 'No' of the base in {base} are {list(rows.shape)} and its "
            f"config.json makes them [2, {width}]: they are not of the same checkpoint"
        )
    if not rows.isfinite().all():
        raise CheckpointError(
            f"the rows of 'Yes' and 'No' of the base in {base} hold NaN or infinity; download its "
            "weights again"
        )
    return rows


def _assets_folder(repo: str, commit: str) -> Path:
    try:
        return cached_assets_path("tempo_fast", namespace=repo, subfolder=commit)
    except (OSError, ValueError) as error:
        raise _no_assets(error) from error


def _keep(path: Path, rows: torch.Tensor) -> None:
    """Write atomically, so that runs side by side never see a part of it."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            part = Path(scratch) / path.name
            save_router(part, rows)
            part.replace(path)
    except OSError as error:
        raise _no_assets(error) from error


def _no_assets(error: Exception) -> CheckpointError:
    return CheckpointError(
        f"the hub's assets cache can't be written ({error}): set HF_HOME or HF_ASSETS_CACHE to a "
        "folder that can"
    )
