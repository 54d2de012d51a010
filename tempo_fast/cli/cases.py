"""The cases of `tempo-fast batch`: a JSON list of {"video_path", "query"}."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tempo_fast.address import is_url
from tempo_fast.cli.files import read_text
from tempo_fast.errors import TempoError


@dataclass(frozen=True)
class Case:
    """One question about one video.

    index: its place in the list, from 0. video_path: as written in the list. file: where that is
    (an address as it is written). extra: the other keys of the case, which its output line repeats.
    """

    index: int
    video_path: str
    query: str
    file: str
    extra: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """How the output line of this case begins."""
        return {
            "index": self.index,
            "video_path": self.video_path,
            "query": self.query,
            **self.extra,
        }


def read_cases(path: Path, reserved: Collection[str]) -> list[Case]:
    """Read a cases file. Paths in it are relative to the file itself.

    Raises TempoError for anything that is not a list of cases, and for an extra key that is one of
    `reserved`, the names of what an output line holds.
    """
    try:
        values = json.loads(read_text(path), parse_constant=_refuse)
    except ValueError as error:
        raise TempoError(
            f'{path} is no JSON list of {{"video_path": …, "query": …}}: {error}'
        ) from error
    if not isinstance(values, list):
        raise TempoError(
            f'{path} must hold a list of {{"video_path": …, "query": …}}, not a '
            f"{type(values).__name__}"
        )
    return [_read_case(path, index, value, reserved) for index, value in enumerate(values)]


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON value")


def _read_case(path: Path, index: int, value: Any, reserved: Collection[str]) -> Case:
    where = f"{path}: case {index} (counted from 0)"
    if not isinstance(value, dict):
        raise TempoError(f'{where} must be an object with "video_path" and "query"')
    for key in ("video_path", "query"):
        if not isinstance(value.get(key), str):
            found = repr(value[key]) if key in value else f"only {', '.join(value) or 'nothing'}"
            raise TempoError(f'{where} needs a text "{key}"; it has {found}')
    if not value["video_path"]:
        raise TempoError(f'{where} has an empty "video_path"')
    extra = {key: each for key, each in value.items() if key not in ("video_path", "query")}
    if taken := sorted(set(extra) & set(reserved)):
        raise TempoError(
            f"{where} has the key {', '.join(taken)}, which the output line uses for its own "
            "figures; rename it"
        )
    video = value["video_path"]
    return Case(
        index=index,
        video_path=video,
        query=value["query"],
        file=video if is_url(video) else str((path.parent / video).resolve()),
        extra=extra,
    )
