"""The shipped checkpoint on a small examination: right answers, and tokens where they matter.

The floors lie well under what was measured on the large one (see the card beside the weights).
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("av")

from tempo_fast.demo import MODEL
from tempo_fast.demo.exam import make_exam


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exam")
    questions = make_exam(folder, films=5, seconds=(80.0, 160.0), seed=99)
    command = ["ablate", questions, "--model", MODEL, "--dtype", "float32", "--min-tokens", "1"]
    command += ["--strategies", "head,uniform,shuffled,random", "--budgets", "0.15/frame"]
    command += ["--seeds", "0", "--output", folder / "result.json"]
    run = subprocess.run(
        [sys.executable, "-m", "tempo_fast", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads((folder / "result.json").read_text())


def rows(result: dict) -> dict[tuple[str, str], dict]:
    return {(row["strategy"], row["budget"]): row for row in result["rows"]}


def test_most_answers_are_right(result):
    assert rows(result)["head", "0.15/frame"]["accuracy"]["accuracy"] > 0.8


def test_relevance_finds_the_segments_that_matter(result):
    assert result["relevance"]["pooled"] > 0.9


@pytest.mark.parametrize("name", ["uniform", "shuffled"])
def test_shares_that_ignore_relevance_cost_answers_at_a_tight_budget(result, name):
    head, other = (rows(result)[each, "0.15/frame"] for each in ("head", name))
    assert other["against_reference"]["mean"] < -0.05
    when = [row["types"]["time"]["accuracy"] for row in (head, other)]
    assert when[0] > when[1] + 0.3


def test_any_tokens_of_a_segment_are_worth_less_than_the_first_at_a_tight_budget(result):
    assert rows(result)["random", "0.15/frame"]["against_reference"]["mean"] < -0.04
