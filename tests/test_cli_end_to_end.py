"""Every command as a user runs it: its own process, the tiny checkpoint, a real video."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "tests/golden/checkpoint/tiny-tempo"
CLIP = ROOT / "tests/golden/clip.mp4"
LOADING = ("--device", "cpu", "--dtype", "float32")
QUESTION = "What moves?"


def tempo_fast(*argv: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tempo_fast", *map(str, argv)],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        env={"PATH": "", "PYTHONUTF8": "1", "HF_HUB_OFFLINE": "1"},
        timeout=120,
    )


@pytest.fixture(scope="module")
def answered(tmp_path_factory) -> tuple[subprocess.CompletedProcess[str], Path]:
    pytest.importorskip("av")  # the commands are other processes, which can't skip
    saved = tmp_path_factory.mktemp("answer") / "answer.json"
    command = ("answer", CLIP, QUESTION, "--model", MODEL, *LOADING)
    return tempo_fast(*command, "--max-new-tokens", 6, "--output", saved), saved


def test_answer_prints_the_answer_and_nothing_else(answered):
    done, saved = answered
    assert done.returncode == 0, done.stderr
    record = json.loads(saved.read_text("utf-8"))
    assert done.stdout.strip() == record["text"]
    assert len(record["token_ids"]) == 6 and record["finish_reason"] == "length"
    assert len(record["relevance"]) == len(record["segments"]) == len(record["allocations"]) > 1
    assert done.stderr == "tempo-fast: note: the answer was cut at max_new_tokens\n"


def test_infer_gives_the_same_answer(answered):
    published = ("--model_path", MODEL, "--video_path", CLIP, "--query", QUESTION)
    done = tempo_fast("infer", *published, "--max_new_tokens", 6, *LOADING, "--json")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    record, expected = json.loads(done.stdout), json.loads(answered[1].read_text("utf-8"))
    for name in ("text", "token_ids", "relevance", "allocations", "segments", "prompt_tokens"):
        assert record[name] == expected[name]


def test_plot_draws_the_answer(answered, tmp_path):
    image = tmp_path / "answer.png"
    done = tempo_fast("plot", answered[1], image)
    assert done.returncode == 0, done.stderr
    with Image.open(image) as picture:
        assert picture.format == "PNG" and len(picture.convert("RGB").getcolors(10**6)) > 4


def test_batch_answers_what_it_can(answered, tmp_path):
    cases = tmp_path / "cases.json"
    videos = [(CLIP, QUESTION), ("broken.mp4", "What is it?"), (CLIP, "Which colour?")]
    cases.write_text(json.dumps([{"video_path": str(v), "query": q} for v, q in videos]))
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    done = tempo_fast("batch", cases, "--model", MODEL, *LOADING, "--max-new-tokens", 6)
    assert done.returncode == 1 and done.stdout == "", done.stderr
    assert "2 answered, 1 failed, 0 were there already" in done.stderr
    lines = (tmp_path / "cases.answers.jsonl").read_text("utf-8").splitlines()
    records = {record["index"]: record for record in map(json.loads, lines)}
    assert "broken.mp4" in records[1]["error"]
    expected = json.loads(answered[1].read_text("utf-8"))
    assert records[0]["token_ids"] == expected["token_ids"]
    assert records[0]["relevance"] == pytest.approx(expected["relevance"], abs=1e-5)
    assert records[2]["query"] == "Which colour?" and records[2]["token_ids"]


def test_convert_writes_a_checkpoint_that_needs_no_base(tmp_path):
    whole = tmp_path / "whole"
    done = tempo_fast("convert", MODEL, whole)
    assert done.returncode == 0 and done.stdout == f"wrote {whole}\n", done.stderr
    shown = tempo_fast("info", "--model", whole, "--json")
    assert shown.returncode == 0, shown.stderr
    assert Path(json.loads(shown.stdout)["model"]["base"]).is_relative_to(whole)


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (("answer", CLIP, "?", "--model", "nowhere/at-all"), "nowhere/at-all"),
        (("answer", ROOT / "LICENSE", "?", "--model", MODEL), "LICENSE"),
    ],
)
def test_a_failure_is_one_line(argv, error):
    done = tempo_fast(*argv)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("tempo-fast: error: ") and done.stderr.count("\n") == 1
    assert error in done.stderr
