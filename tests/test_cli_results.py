"""A file of answers belongs to one run at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from tempo_fast.cli import files
from tempo_fast.cli.results import ResultFile
from tempo_fast.errors import TempoError

fcntl = pytest.importorskip("fcntl", reason="Windows lets all in")


@dataclass
class Question:
    index: int

    def record(self) -> dict:
        return {"index": self.index, "query": f"question {self.index}"}


LIST = [Question(0), Question(1)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers.jsonl"


def queries(path) -> list[str]:
    return [json.loads(line)["query"] for line in path.read_text().splitlines()]


def test_a_second_run_is_refused_until_the_first_has_ended(path):
    with ResultFile(path, LIST, {}) as first:
        first.append(LIST[0], {"text": "yes"})
        with pytest.raises(TempoError, match=r"another run is writing to .*answers\.jsonl"):
            ResultFile(path, LIST, {})
        first.append(LIST[1], {"text": "no"})
    assert queries(path) == ["question 0", "question 1"]
    with ResultFile(path, LIST, {}) as later:
        assert later.done == {0, 1}


def test_it_stays_alone_when_failed_lines_were_dropped(path):
    with ResultFile(path, LIST, {}) as first:
        first.append(LIST[0], {"error": "no such video"})
    with ResultFile(path, LIST, {}) as second:
        assert path.read_bytes() == b""
        with pytest.raises(TempoError, match="another run"):
            ResultFile(path, LIST, {})
        second.append(LIST[1], {"text": "no"})
    assert queries(path) == ["question 1"]


def test_a_file_that_was_replaced_meanwhile_is_not_written_to(path, monkeypatch):
    path.write_bytes(b"")
    flock = fcntl.flock

    def replace_then_lock(file, operation):
        files.write_atomically(path, b"")
        flock(file, operation)

    monkeypatch.setattr(files.fcntl, "flock", replace_then_lock)
    with pytest.raises(TempoError, match="another run"):
        ResultFile(path, LIST, {})


def test_a_refused_file_can_be_opened_again(path):
    path.write_text("something else\n")
    refusals = []
    for _ in range(2):
        with pytest.raises(TempoError, match="can't resume") as refused:
            ResultFile(path, LIST, {})
        refusals.append(refused.value)  # with the frames that had the file
    assert path.read_text() == "something else\n"
    path.write_bytes(b"")
    with ResultFile(path, LIST, {}), pytest.raises(TempoError, match="another run") as refused:
        ResultFile(path, LIST, {})
    refusals.append(refused.value)
    with ResultFile(path, LIST, {}) as results:
        assert not results.done


def test_lines_that_came_while_it_was_opened_stay(path, monkeypatch):
    flock = fcntl.flock

    def end_first_then_lock(file, operation):
        monkeypatch.setattr(files.fcntl, "flock", flock)
        with ResultFile(path, LIST, {}) as first:
            first.append(LIST[0], {"text": "yes"})
        flock(file, operation)

    def fail(descriptor):
        raise OSError(files.errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.fcntl, "flock", end_first_then_lock)
    with ResultFile(path, LIST, {}) as second:
        monkeypatch.setattr("tempo_fast.cli.results.os.fsync", fail)
        with pytest.raises(OSError, match="No space"):
            second.append(LIST[1], {"text": "no"})
    assert queries(path) == ["question 0"]


def test_without_locks_failed_lines_are_dropped_too(path, monkeypatch):
    for module in ("files", "results"):
        monkeypatch.setattr(f"tempo_fast.cli.{module}.fcntl", None)
    with ResultFile(path, LIST, {}) as first:
        first.append(LIST[0], {"error": "no such video"})
    with ResultFile(path, LIST, {}) as second:
        second.append(LIST[0], {"text": "yes"})
        assert [line["text"] for line in second.read()] == ["yes"]


def test_a_file_system_without_locks_lets_all_in(path, monkeypatch):
    def refuse(file, operation):
        raise OSError(files.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with ResultFile(path, LIST, {}) as first, ResultFile(path, LIST, {}):
        first.append(LIST[0], {"text": "yes"})
    assert queries(path) == ["question 0"]
