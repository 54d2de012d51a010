"""`tempo-fast ablate` on a random checkpoint: replies, results, resuming, what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tempo_fast import TempoFastPipeline
from tempo_fast.cli import main
from tempo_fast.demo.checkpoint import make_checkpoint
from tempo_fast.evaluation.relevance import relevant_segments
from tempo_fast.evaluation.statistics import auroc

QUESTIONS = [
    {"video": "a.npy", "question": "When?", "answer": "4 s", "tolerance": 1, "type": "time"},
    {"video": "b.npy", "question": "Where?", "answer": "here", "relevant": [[4, 8]]},
    {"video": "a.npy", "question": "What?", "answer": "B", "choices": ["red", "blue"]},
]
RELEVANT = [[0, 4], [9, 9.5]]
FLAGS = ("--device", "cpu", "--dtype", "float32", "--max-new-tokens", "4", "--seeds", "0,5")
SOME = ("--strategies", "head,random,none", "--budgets", "0.9/frame,40")
ONE = ("--strategies", "head", "--budgets", "1/frame")
CELLS = 3 * (1 * 2 + 1 * 2 * 2 + 1)  # of a question with SOME: head and random at two budgets, none


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "tempo")


@pytest.fixture
def folder(tmp_path, clip_frames) -> Path:
    # 33 frames are five segments of up to 8, and 24 are three.
    np.save(tmp_path / "a.npy", clip_frames)
    np.save(tmp_path / "b.npy", clip_frames[::-1][:24])
    write(tmp_path, [QUESTIONS[0] | {"relevant": RELEVANT}, *QUESTIONS[1:]])
    return tmp_path


def write(folder: Path, questions: list[dict]) -> None:
    text = "".join(json.dumps(each) + "\n" for each in questions)
    (folder / "set.jsonl").write_text(text, "utf-8")


def ablate(folder: Path, model: Path, *flags: str) -> int:
    command = ("ablate", folder / "set.jsonl", "--model", model, *FLAGS, *flags)
    return main([str(each) for each in command])


def result_of(folder: Path) -> dict:
    return json.loads((folder / "set.ablation.json").read_text("utf-8"))


def replies_of(folder: Path) -> list[dict]:
    text = (folder / "set.ablation.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_a_whole_run_with_every_strategy(folder, model, capsys):
    image = folder / "out.png"
    assert ablate(folder, model, "--budgets", "0.9/frame,40", "--plot", str(image)) == 0
    out, err = capsys.readouterr()
    assert f"{3 * 25} answered, 0 failed, 0 were there already" in err
    assert out.startswith("strategy") and "relevance, AUROC: " in out and "time (1)" in out
    with Image.open(image) as picture:
        assert picture.format == "PNG"

    result = result_of(folder)
    assert len(result["replies"]) == 3 * 25 and len(result["rows"]) == 9 * 2 + 1
    assert result["sha256"] and result["versions"]["torch"] and result["devices"]
    sha256 = hashlib.sha256((folder / "set.jsonl").read_bytes()).hexdigest()
    assert result["question_set"] == {"name": "set.jsonl", "sha256": sha256, "questions": 3}
    for reply in result["replies"]:
        frames = 33 if reply["video"] == "a.npy" else 24
        limit = {"0.9/frame": frames * 9 // 10, "40": 40, None: None}[reply["budget"]]
        assert reply["limit"] == limit and reply["frames"] == frames
        assert limit is None or 0 < reply["kept"] <= limit
    for row in result["rows"]:
        assert row["accuracy"]["questions"] == 3
        seeds = 2 if row["strategy"] in ("random", "shuffled", "prune-random") else 1
        assert row["accuracy"]["replies"] == 3 * seeds

    # The engine itself, asked by hand.
    pipe = TempoFastPipeline.from_pretrained(model, device="cpu", dtype="float32")
    scores, labels = [], []
    for name, query, spans in (("a.npy", "When?", RELEVANT), ("b.npy", "Where?", [[4, 8]])):
        with pipe.open(folder / name) as video:
            answer = video.ask(query, visual_token_budget=40, max_new_tokens=4)
        (found,) = (
            each
            for each in result["replies"]
            if (each["asked"], each["strategy"], each["budget"]) == (query, "head", "40")
        )
        assert found["text"] == answer.text and found["kept"] == sum(answer.allocations)
        scores += answer.relevance
        labels += relevant_segments(answer.segments, spans)
    assert result["relevance"]["pooled"] == pytest.approx(auroc(scores, labels))
    assert result["relevance"]["relevant"] == sum(labels) == 3


def test_it_resumes_where_it_was_stopped(folder, model, capsys):
    assert ablate(folder, model, *SOME) == 0
    whole, lines = result_of(folder), folder / "set.ablation.jsonl"
    before = lines.read_bytes()
    kept = before.splitlines(keepends=True)
    # Stopped in the middle of a line, and before the relevance of every question was known.
    lines.write_bytes(b"".join(kept[:10]) + kept[10][:50])
    (folder / "set.ablation.json").unlink()
    capsys.readouterr()
    assert ablate(folder, model, *SOME) == 0
    assert f"{CELLS - 10} answered, 0 failed, 10 were there already" in capsys.readouterr().err
    again = result_of(folder)
    for each in (*whole["replies"], *again["replies"], *whole["rows"], *again["rows"]):
        each.pop("seconds")
    assert again == whole
    assert lines.read_bytes().startswith(b"".join(kept[:10]))


def test_replies_are_scored_anew_without_asking_again(folder, model, monkeypatch, capsys):
    assert ablate(folder, model, *SOME) == 0
    texts = {
        each["question"]: each["text"]
        for each in result_of(folder)["replies"]
        if (each["strategy"], each["budget"]) == ("head", "40")
    }
    assert all(text.strip() for text in texts.values())
    answered = [
        {"video": each["video"], "question": each["question"], "answer": texts[index]}
        for index, each in enumerate(QUESTIONS)
    ]
    write(folder, answered)
    monkeypatch.setattr("tempo_fast.cli.ablate.load_pipeline", None)  # would be a TypeError
    assert ablate(folder, model, *SOME) == 0
    assert f"0 answered, 0 failed, {CELLS} were there already" in capsys.readouterr().err
    rows = {(row["strategy"], row["budget"]): row for row in result_of(folder)["rows"]}
    assert rows["head", "40"]["accuracy"]["accuracy"] == 1
    for (_, budget), row in rows.items():
        if row["against_reference"] is not None:
            head = rows["head", budget]["accuracy"]["accuracy"]
            difference = row["accuracy"]["accuracy"] - head
            assert row["against_reference"]["mean"] == pytest.approx(difference)


def test_more_questions_go_on_from_fewer(folder, model, capsys):
    few = ("--strategies", "head,none", "--budgets", "1/frame")
    assert ablate(folder, model, *few, "--limit", "1") == 0
    assert result_of(folder)["question_set"]["questions"] == 1
    assert ablate(folder, model, *few) == 0
    assert "4 answered, 0 failed, 2 were there already" in capsys.readouterr().err
    assert len(result_of(folder)["replies"]) == 6


def test_letters_are_asked_for(folder, model):
    few = ("--strategies", "none", "--budgets", "1/frame", "--letters")
    assert ablate(folder, model, *few) == 0
    asked = [each["asked"] for each in result_of(folder)["replies"]]
    assert asked == ["When?", "Where?", "What?\nA. red\nB. blue\nAnswer with the letter."]


def test_a_video_that_cannot_be_read_fails_alone_and_is_tried_again(folder, model, capsys):
    good = (folder / "b.npy").read_bytes()
    (folder / "b.npy").write_bytes(b"no array")
    few = ("--strategies", "head,none", "--budgets", "1/frame")
    assert ablate(folder, model, *few) == 1
    out, err = capsys.readouterr()
    assert "4 answered, 2 failed" in err and "replies that failed" in out
    assert [row["failed"] for row in result_of(folder)["rows"]] == [1, 1]
    (folder / "b.npy").write_bytes(good)
    assert ablate(folder, model, *few) == 0
    assert "2 answered, 0 failed, 4 were there already" in capsys.readouterr().err
    assert "error" not in {name for each in replies_of(folder) for name in each}


def test_a_budget_that_is_too_small_is_no_failure(folder, model, capsys):
    assert ablate(folder, model, "--strategies", "head,prune-topk", "--budgets", "4") == 0
    rows = {row["strategy"]: row for row in result_of(folder)["rows"]}
    assert rows["head"]["too_small"] == 2 and rows["head"]["accuracy"]["questions"] == 1
    assert rows["prune-topk"]["too_small"] == 3 and rows["prune-topk"]["accuracy"] is None
    assert "below the least that the strategy can keep: head 4 2" in capsys.readouterr().out


def test_a_checkpoint_trained_anew_is_not_mixed_in(folder, tmp_path, capsys):
    few = (*ONE, "--limit", "1")
    model = make_checkpoint(tmp_path / "own" / "tempo")
    assert ablate(folder, model, *few) == 0
    make_checkpoint(model, seed=1)
    assert ablate(folder, model, *few) == 1
    assert "was made with sha256" in capsys.readouterr().err


def test_a_checkpoint_without_allocation_has_nothing_to_compare(folder, tmp_path, capsys):
    model = make_checkpoint(tmp_path / "own" / "tempo", dynamic_compress=False)
    assert ablate(folder, model, *ONE) == 1
    assert "dynamic_compress is off" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (("--strategies", "best"), "unknown strategy best"),
        (("--budgets", "0.5"), "a budget is a number of memory tokens a frame"),
        (("--seeds", "one"), "--seeds must be whole numbers"),
        (("--seeds", "-1"), "seed must be a whole number from 0"),
        (("--limit", "0"), "--limit must be at least 1"),
        (("--min-tokens", "0"), "min_tokens must be a whole number from 1"),
        (("--max-new-tokens", "0"), "max_new_tokens must be a whole number from 1"),
        (("--plot", "out.docx"), "can't draw a .docx"),
        (("--output", "{folder}/set.jsonl"), "would write over the questions"),
        (("--output", "{folder}/set.json"), "would write over the questions"),
        (("--output", "{folder}/other.jsonl"), "would write over"),
        (("--output", "{folder}/none/out.json"), "there is no folder"),
    ],
)
def test_what_cannot_be_done_is_said_before_a_model_is_loaded(
    folder, model, monkeypatch, capsys, flags, why
):
    monkeypatch.setattr("tempo_fast.cli.ablate.load_pipeline", None)
    before = sorted(folder.iterdir())
    assert ablate(folder, model, *(each.format(folder=folder) for each in flags)) == 1
    err = capsys.readouterr().err
    assert why in err and err.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_a_missing_video_is_said_before_a_model_is_loaded(folder, model, monkeypatch, capsys):
    monkeypatch.setattr("tempo_fast.cli.ablate.load_pipeline", None)
    (folder / "b.npy").unlink()
    assert ablate(folder, model) == 1
    assert f"no such video: {folder / 'b.npy'}" in capsys.readouterr().err
