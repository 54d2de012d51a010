"""The Hugging Face hub: snapshots of chosen files, and single tensors' rows by ranged reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import constants, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from tempo_fast.checkpoint.storage import Entry, torch_dtype
from tempo_fast.errors import CheckpointError

_MOST_HEADER = 100_000_000  # bytes; the safetensors format's own limit


def snapshot(
    repo: str, patterns: Sequence[str], *, revision: str | None, local_files_only: bool
) -> Path:
    """The local folder of a repository's files that match `patterns`, downloaded where needed.

    The folder's name is the commit. HF_HUB_OFFLINE is honoured. Raises CheckpointError for every
    failure.
    """
    try:
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=list(patterns),
                local_files_only=local_files_only,
            )
        )
    except HFValidationError as error:
        raise CheckpointError(f"{repo!r} is neither a folder nor a hub id") from error
    except GatedRepoError as error:
        raise CheckpointError(
            f"{repo} is gated: accept its terms at {constants.ENDPOINT}/{repo} and log in with "
            "`hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"there is no folder {repo!r} and no such repository at {constants.ENDPOINT}: check "
            "the name, or log in with `hf auth login` if it is private"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repo} has no revision {revision!r}") from error
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{repo} is no folder here, and as a hub id it is not (wholly) in the local cache and "
            "can't be fetched: the hub is out of reach, or network use is off. Give a local "
            "folder, or fetch it once with network"
        ) from error
    except (HTTPError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"{repo} could not be downloaded; try again. {_first_line(error)}"
        ) from error


def remote_header(repo: str, commit: str, filename: str) -> dict[str, tuple[Entry, int]]:
    """The header of a safetensors file on the hub: name → (entry, byte its data starts at)."""
    size = int.from_bytes(_read_range(repo, commit, filename, 0, 8), "little")
    if not 2 <= size <= _MOST_HEADER:
        raise CheckpointError(f"{filename} of {repo} is no safetensors file")
    try:
        header = json.loads(_read_range(repo, commit, filename, 8, 8 + size))
        return {
            name: (
                Entry(entry["dtype"], tuple(entry["shape"])),
                8 + size + int(entry["data_offsets"][0]),
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{filename} of {repo} has a damaged safetensors header") from error


def remote_rows(
    repo: str, commit: str, filename: str, name: str, place: tuple[Entry, int], rows: Sequence[int]
) -> torch.Tensor:
    """[len(rows), width]: rows of a matrix on the hub in its stored dtype; nothing else is read."""
    entry, start = place
    dtype, width = torch_dtype(name, entry), entry.shape[1]
    size = width * dtype.itemsize
    parts = [
        _read_range(repo, commit, filename, start + row * size, start + (row + 1) * size)
        for row in rows
    ]
    return torch.frombuffer(bytearray(b"".join(parts)), dtype=dtype).view(len(rows), width)


def _read_range(repo: str, commit: str, filename: str, start: int, end: int) -> bytes:
    headers = {
        **build_hf_headers(),
        "Range": f"bytes={start}-{end - 1}",
        "Accept-Encoding": "identity",
    }
    url = hf_hub_url(repo, filename, revision=commit)
    timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
    try:
        with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
            hf_raise_for_status(response)
            whole = response.status_code != 206
            content = b"" if whole else response.read()
    except HfHubHTTPError as error:
        raise CheckpointError(
            f"{filename} of {repo} could not be read: {_first_line(error)}"
        ) from error
    except (HTTPError, OSError) as error:
        raise CheckpointError(
            f"the rows of {repo} that the relevance needs are not in the local cache and can't be "
            "fetched, because the hub is out of reach or network use is off: load the checkpoint "
            f"once with network, or give base= a local folder. {_first_line(error)}"
        ) from error
    if whole:
        raise CheckpointError(
            f"{constants.ENDPOINT} does not serve parts of files: run `hf download {repo}` once"
        )
    if len(content) != end - start:
        raise CheckpointError(f"{filename} of {repo} ended early; try again")
    return content


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no further word'}"
