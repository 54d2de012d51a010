"""A Tempo checkpoint and what is needed of its base, as one folder that needs nothing else."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from tempo_fast.checkpoint.files import (
    BASE_FILES,
    BASE_FOLDER,
    ROUTER_FILE,
    TEMPO_FILES,
    resolve,
)
from tempo_fast.checkpoint.router import read_router, save_router
from tempo_fast.checkpoint.storage import INDEX, read_header
from tempo_fast.errors import CheckpointError


def convert(
    source: str | PathLike[str],
    destination: str | PathLike[str],
    *,
    base: str | PathLike[str] | None = None,
    revision: str | None = None,
    local_files_only: bool = False,
) -> Path:
    """Write a self-contained checkpoint, which `resolve` takes with no base at all.

    source, base, revision, local_files_only: as for `resolve`. The folder holds Tempo's config,
    tokenizer and shards (hard links where the file system can, else copies), and in `base/` the
    base's config, tokenizer, chat template, preprocessor settings and the two rows that the
    relevance needs. It is written beside `destination` and renamed at the end.

    Returns the folder. Raises CheckpointError when the source isn't whole, when `destination`
    exists and isn't an empty folder, or when it can't be written.
    """
    folder = Path(destination).expanduser().absolute()
    _refuse_used(folder)
    files = resolve(source, base, revision=revision, local_files_only=local_files_only)
    for shard in files.weights:
        read_header(shard)
    rows = read_router(files)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
            whole = Path(scratch) / folder.name
            inside = whole / BASE_FOLDER
            inside.mkdir(parents=True)
            _copy(files.tempo, whole, (*TEMPO_FILES, INDEX))
            _copy(files.base, inside, BASE_FILES)
            save_router(inside / ROUTER_FILE, rows)
            for shard in files.weights:
                _link(shard, whole / shard.name)
            _refuse_used(folder)
            whole.replace(folder)
    except OSError as error:
        raise CheckpointError(f"{folder} can't be written: {error}") from error
    return folder


def _refuse_used(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise CheckpointError(f"{folder} exists and is no folder; choose another destination")
    if folder.is_dir() and any(folder.iterdir()):
        raise CheckpointError(f"{folder} exists and is not empty; choose another destination")


def _copy(source: Path, target: Path, names: Iterable[str]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def _link(source: Path, target: Path) -> None:
    source = source.resolve()  # in the hub's cache it is a symbolic link
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
