"""What the commands read and write: JSON text, and files that are either whole or not there."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from tempo_fast.address import is_url
from tempo_fast.errors import TempoError, VideoError


def dumps(value: object, encoding: str | None = "utf-8", indent: int | None = None) -> str:
    """JSON text that `encoding` can hold: readable where it can be, escaped where it can't.

    Raises ValueError for a NaN or an infinity, which JSON has no name for.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    try:
        text.encode(encoding or "ascii")
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, indent=indent)
    return text


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; TempoError if it isn't one."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TempoError(f"can't read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise TempoError(f"{path} is no UTF-8 text (byte {error.start})") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that no reader, and no crash, ever sees half of it."""
    path = path.resolve()
    if path.exists() and not path.is_file():
        path.write_bytes(data)  # a device or a pipe: there is nothing to replace
        return
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:  # Ctrl-C too must leave no part of a file; raised on below
        part.unlink(missing_ok=True)
        raise


def open_alone(path: Path) -> BinaryIO:
    """Open a file to read and append to, unbuffered, for one run at a time; make it if need be.

    Raises TempoError while another run has it. Windows, and file systems without locks, let all in.
    """
    file = path.open("a+b", buffering=0)
    try:
        # A run that had it before may have put another file in its place.
        if _lock(file) and not os.path.samestat(os.fstat(file.fileno()), path.stat()):
            raise BlockingIOError
    except BlockingIOError as error:
        file.close()
        raise TempoError(
            f"another run is writing to {path}: wait until it has ended, or choose another --output"
        ) from error
    except BaseException:  # Ctrl-C too must leave nothing locked; raised on below
        file.close()
        raise
    return file


def _lock(file: BinaryIO) -> bool:
    """Lock an open file until it is closed, or the process ends; False where there are no locks."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        return False
    return True


def check_destination(path: Path) -> None:
    """Raise TempoError if a file can't be written there, before the work that would be lost."""
    if path.is_dir():
        raise TempoError(f"can't write {path}: it is a folder")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise TempoError(f"can't write {path}: there is no folder {folder}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise TempoError(f"can't write {path}: no permission")


def check_video(path: str) -> None:
    """Raise VideoError if there is no such file or folder, before a model is loaded for it."""
    if is_url(path):
        return
    try:
        found = bool(path) and Path(path).exists()
    except OSError as error:  # a name longer than the file system takes, for one
        raise VideoError(f"{path} can't be read: {error.strerror}") from error
    if not found:
        raise VideoError(f"no such video: {path or '(an empty name)'}")
