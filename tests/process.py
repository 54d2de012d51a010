"""What the kernel says of this process: its threads, its children and its open files (Linux)."""

import os
from pathlib import Path

import pytest

SELF = Path("/proc/self")
PF_EXITING = 0x4  # include/linux/sched.h; set before whoever joins the thread is woken

on_linux = pytest.mark.skipif(
    not (SELF / "fd").exists(), reason="only Linux lists a process's open files"
)


def _of_each_thread(name):
    """That file of every thread; one that ends while we look has none."""
    texts = []
    for task in (SELF / "task").iterdir():
        try:
            texts.append((task / name).read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return texts


def native_threads():
    """Names of the threads that run, those outside Python included."""
    names = []
    for stat in _of_each_thread("stat"):
        # A joined thread stays listed for a moment, so the names of those that end aren't asked.
        name, _, fields = stat.partition("(")[2].rpartition(")")
        if not int(fields.split()[6]) & PF_EXITING:
            names.append(name)
    return names


def children():
    """Ids of the processes that this one started and that haven't ended."""
    return " ".join(_of_each_thread("children")).split()


def descriptors(path):
    """How many open files of this process are that file."""
    path = os.path.realpath(path)
    return sum(os.path.realpath(link) == path for link in (SELF / "fd").iterdir())
