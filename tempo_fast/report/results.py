"""The JSON files that benchmark runs leave, read and checked."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempo_fast.cli.files import read_text
from tempo_fast.errors import TempoError

SCHEMA = 1
KINDS = ("benchmarks", "video", "profile", "suite", "aot")


@dataclass(frozen=True)
class Results:
    """One file. kind: of KINDS. record: all that it holds."""

    path: Path
    kind: str
    record: dict[str, Any]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Its figures, where its kind has rows."""
        return self.record.get("rows", [])

    @property
    def machine(self) -> str:
        """What the figures were measured on."""
        gpu = self.record.get("gpu")
        if self.kind == "profile":
            return str(self.record["machine"]["device"])
        if isinstance(gpu, dict):
            return f"{gpu['name']} (driver {gpu.get('driver') or 'not known'})"
        return f"{self.record.get('cores', '?')} cores of {self.record.get('processor') or 'a CPU'}"


def read_results(paths: Iterable[Path]) -> list[Results]:
    """Read files, and the .json files of folders and of the folders in them, in order of names.

    Raises TempoError for a path that doesn't exist and for a file that no benchmark has written.
    """
    return [_read(path) for path in _files(paths)]


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(each for each in path.rglob("*.json") if each.is_file())
        elif path.exists():
            yield path
        else:
            raise TempoError(f"there are no results at {path}; `make bench` makes some")


def _read(path: Path) -> Results:
    try:
        record = json.loads(read_text(path))
    except ValueError as error:
        raise TempoError(f"{path} is no JSON: {error}") from error
    kind = record.get("kind") if isinstance(record, dict) else None
    if kind not in KINDS:
        raise TempoError(
            f"{path} holds no results of a benchmark (its kind is {kind!r}); run the benchmarks "
            "with --save or --rows, or leave the file out"
        )
    if record.get("schema") != SCHEMA:
        raise TempoError(
            f"{path} has schema {record.get('schema')!r}; this report reads {SCHEMA}: run the "
            "benchmark again"
        )
    _check_rows(path, record)
    return Results(path, kind, record)


def _check_rows(path: Path, record: dict[str, Any]) -> None:
    rows = record.get("rows", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TempoError(f"{path}: its rows are no list of objects")
    for number, row in enumerate(rows):
        if record.get("kind") == "benchmarks" and not {"suite", "name"} <= row.keys():
            raise TempoError(f"{path}: row {number} has no suite and name")
