"""Files of answers that a command can resume: JSON lines that survive being interrupted."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from tempo_fast.cli.files import check_destination, dumps, fcntl, open_alone, write_atomically
from tempo_fast.errors import TempoError

START_OF_LINE = b'{"index": '


class Entry(Protocol):
    """One of the list that is answered, such as a case of a batch."""

    @property
    def index(self) -> int:
        """Its place in the list, from 0."""

    def record(self) -> dict[str, Any]:
        """How its line begins: "index", and what tells it from any other entry."""


class ResultFile:
    """The answers so far, one JSON line each, to which `append` adds.

    done: the indices of the entries that have their answer. Opening an existing file keeps its
    answers, drops a last line that was cut off by a crash, and drops the lines of failed ones
    (they hold an "error"), so that those are tried again.

    settings: what every line says of how it was made. Raises TempoError if the file holds anything
    else, such as answers to other entries or with other settings, or while another run writes to
    it; it is then left as it was.
    """

    def __init__(self, path: Path, entries: Sequence[Entry], settings: dict[str, Any]) -> None:
        check_destination(path)
        if path.exists() and not path.is_file():
            raise TempoError(f"can't resume in {path}: it is no regular file")
        self.path = path
        self.done: set[int] = set()
        self._settings = json.loads(dumps(settings))
        self._file = open_alone(path)
        try:
            before = self._content()
            after = self._kept(before, entries)
            if after != before:
                self._replace(after)
        except BaseException:  # Ctrl-C too must leave nothing locked; raised on below
            self._file.close()
            raise

    def _replace(self, data: bytes) -> None:
        """Put another file in the place of this one, and go on in that."""
        if fcntl is None:  # Windows replaces no file that is open, and has no lock to lose
            self._file.close()
        write_atomically(self.path, data)
        before, self._file = self._file, open_alone(self.path)
        before.close()

    def _content(self) -> bytes:
        # By the descriptor that has the lock: some file systems refuse all others.
        self._file.seek(0)
        return self._file.read()

    def append(self, entry: Entry, outcome: dict[str, Any]) -> None:
        """Write the line of an entry and wait until it is on the disk."""
        line = f"{dumps({**entry.record(), **self._settings, **outcome})}\n".encode()
        end = self._file.seek(0, os.SEEK_END)
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
            os.fsync(self._file.fileno())
        except BaseException:  # the disk is full, or Ctrl-C: leave no part of a line
            self._file.truncate(end)
            raise
        if "error" not in outcome:
            self.done.add(entry.index)

    def read(self) -> list[dict[str, Any]]:
        """The lines so far, those of failed entries included."""
        return [json.loads(line) for line in self._content().splitlines()]

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _kept(self, data: bytes, entries: Sequence[Entry]) -> bytes:
        *lines, rest = data.split(b"\n")
        if not (rest.startswith(START_OF_LINE) or START_OF_LINE.startswith(rest)):
            raise self._foreign("its end is no line of answers")
        kept = []
        for number, line in enumerate(lines, start=1):
            record = self._parse(number, line)
            index = record["index"]
            if not 0 <= index < len(entries) or any(
                record.get(key) != value for key, value in entries[index].record().items()
            ):
                raise self._foreign(f"line {number} answers nothing of this list")
            if "error" in record:
                continue
            for key, value in self._settings.items():
                if record.get(key) != value:
                    raise self._foreign(
                        f"line {number} was made with {key} {record.get(key)!r}, not {value!r}"
                    )
            if index in self.done:
                raise self._foreign(f"line {number} answers number {index} a second time")
            self.done.add(index)
            kept.append(line + b"\n")
        return b"".join(kept)

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = json.loads(line)
        except ValueError as error:
            raise self._foreign(f"line {number} is no JSON") from error
        if not isinstance(record, dict) or type(record.get("index")) is not int:
            raise self._foreign(f"line {number} is no line of answers")
        return record

    def _foreign(self, why: str) -> TempoError:
        return TempoError(
            f"can't resume in {self.path}: {why}; choose another --output, or remove that file"
        )
