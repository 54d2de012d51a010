"""`make aot` keeps its table with where it is from, and only where it is a commit's."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:  # the benchmarks are installed nowhere
    sys.path.insert(0, str(ROOT))

pytest.importorskip("triton")  # without it nothing is compiled

from benchmarks import aot as kept
from tempo_fast.report.page import render
from tempo_fast.report.results import read_results
from tempo_kernels import aot

NUMBERS = ("norm", "bf16", "sm_90", 4, 32, 0, 0, 0, 0, 16, 2)


@pytest.fixture
def compiled(monkeypatch):
    """compiled(problems): the compiler gives one kernel that has them."""
    monkeypatch.setattr(aot, "INTERPRETED", False)

    def give(*problems: str) -> None:
        row = aot.Figures(*NUMBERS, ("store: one number a row",), problems)
        monkeypatch.setattr(aot, "_compile_all", lambda *given: [row])

    return give


def test_the_table_says_where_it_is_from(tmp_path, monkeypatch, compiled, capsys):
    monkeypatch.setattr(kept, "why_not_clean", lambda: None)
    compiled()
    assert kept.main(tmp_path) == 0
    record = json.loads((tmp_path / "aot.json").read_text())
    assert record["command"] == "make aot" and record["kernels"][0]["registers"] == 32
    assert record["kernels"][0]["narrow"] == ["store: one number a row"]
    assert {"date", "commit", "versions", "platform", "triton", "ptxas"} <= record.keys()
    text = (tmp_path / "aot.txt").read_text()
    assert text.startswith(f"{record['date']}, commit {record['commit']}, make aot\n")
    assert capsys.readouterr().out in text and "store: one number a row" in text
    page = render(read_results([tmp_path]), [])
    assert f"* date: {record['date']}" in page and "* command: `make aot`" in page


def test_what_is_no_commits_is_not_kept(tmp_path, monkeypatch, compiled, capsys):
    monkeypatch.setattr(kept, "why_not_clean", lambda: "there are uncommitted changes:\n M x.py")
    compiled("spills")
    assert kept.main(tmp_path) == 1
    assert not list(tmp_path.iterdir())
    printed = capsys.readouterr().out
    assert "REFUSED: spills" in printed and "not kept: there are uncommitted changes" in printed
