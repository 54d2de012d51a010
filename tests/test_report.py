"""`tempo-fast report`: every kind of results file, and what none of them holds."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from tempo_fast.cli import main
from tempo_fast.errors import TempoError
from tempo_fast.report import plots, read_results, write_report
from tempo_fast.report.page import render

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
H200 = {"name": "NVIDIA H200", "driver": "580"}


def side(seconds: float, **more) -> dict:
    return {"seconds": seconds, "runs": [seconds], "cpu_seconds": seconds, **more}


def row(name: str, suite: str = "stages", **changes) -> dict:
    return {
        "suite": suite,
        "name": name,
        "size": "tempo-6b",
        "device": "NVIDIA H200",
        "frames": 1024,
        "budget": 8192,
        "prompt_tokens": 8533,
        "engine": side(0.5),
        "baseline": side(2.0, ratio=4.0),
        "floor": {"flops": 1.0, "bytes": 1.0, "seconds": 0.25, "bound": "memory"},
        "share_of_floor": 0.5,
        **changes,
    }


def question(name: str, frames: int, first: float) -> dict:
    return row(
        name,
        "end to end",
        frames=frames,
        engine=side(2.0, first_token_seconds=first, tokens_per_second=300.0, peak_bytes=26 * 10**9),
        baseline=side(9.0, first_token_seconds=8.0, tokens_per_second=30.0, ratio=4.5),
        first_token_floor={"seconds": first / 2},
    )


def write(path: Path, rows: list[dict], **changes) -> Path:
    record = {
        "schema": 1,
        "kind": "benchmarks",
        "commit": "abcdef0123456789",
        "gpu": H200,
        "versions": {"torch": "2.11.0", "av": None},
        "ceilings": [{"size": "tempo-6b", "flops": 79e13, "bandwidth": 43e11, "dtype": "bfloat16"}],
        "failed": 0,
        "rows": rows,
        **changes,
    }
    path.write_text(json.dumps(record))
    return path


def test_figures_of_a_gpu(tmp_path):
    rows = [row("vision"), row("decode step", engine=side(0.003, tokens_per_second=333.3))]
    rows += [question("first question", frames, 0.8) for frames in (256, 1024)]
    path = write(tmp_path / "gpu.json", rows)
    written = write_report(read_results([path]), tmp_path / "out")
    assert sorted(each.name for each in written) == [
        "frames.png",
        "report.md",
        "stages.png",
        "tokens.png",
    ]
    for each in written:
        if each.suffix == ".png":
            assert min(Image.open(io.BytesIO(each.read_bytes())).size) > 200
    text = (tmp_path / "out" / "report.md").read_text()
    for part in (
        "| first token of a first question | 800 ms (floor 400 ms) | NVIDIA H200 |",
        "| first token of a later question | not measured |  |",
        "| decode | 333 tokens/s | NVIDIA H200 |",
        "| peak memory of a first question | 26.0 GB | NVIDIA H200 |",
        "NVIDIA H200 (driver 580)",
        "790 TFLOP/s, 4300 GB/s",
        "commit: abcdef012345",
        "| stages: vision | tempo-6b | 1024 | 8192 | 500 ms |",
        "4.00×",
    ):
        assert part in text
    assert "av" not in text.split("versions:")[1].split("\n")[0]


@pytest.mark.filterwarnings("error")  # matplotlib warns of a legend with nothing in it
def test_a_line_over_frames_is_of_one_budget(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.plot", lambda self, x, y, *_, **more: drawn.append(x))
    rows = [question("first question", frames, 0.8) for frames in (64, 256, 1024)]
    rows += [question("first question", 1024, 9.0) | {"budget": 4096}]
    plots.draw_frames(read_results([write(tmp_path / "x.json", rows)]))
    assert drawn == [[64, 256, 1024]] * 3  # engine, baseline, floor


def test_a_side_that_the_first_row_lacks_is_in_the_legend(monkeypatch, tmp_path):
    drawn = []
    plain = plots._legend
    monkeypatch.setattr(
        plots,
        "_legend",
        lambda axes, **place: [plain(axes, **place), drawn.append(axes.get_legend())],
    )
    rows = [row("decode", baseline={"missing": "no PyAV"}), row("vision"), row("compress")]
    for each in rows:
        each["engine"]["tokens_per_second"] = each["baseline"]["tokens_per_second"] = 10.0
    del rows[0]["baseline"]["tokens_per_second"]
    results = read_results([write(tmp_path / "x.json", rows)])
    for draw in (plots.draw_stages, plots.draw_tokens):
        draw(results)
    first, second = ({text.get_text() for text in legend.get_texts()} for legend in drawn)
    assert first == {"engine", "baseline", "floor"} and second == {"engine", "baseline"}


def test_settings_of_the_engine_have_a_table_of_their_own(tmp_path):
    found = question("first question, by setting", 1024, 0.4) | {"suite": "settings"}
    del found["baseline"], found["first_token_floor"]
    found["graphs and streams"] = side(0.9, ratio=0.45)
    results = read_results([write(tmp_path / "x.json", [row("vision"), found])])
    tables = [part for part in render(results, []).split("\n\n") if part.startswith("| what")]
    assert len(tables) == 2
    assert "baseline" in tables[0] and "graphs" not in tables[0]
    assert "graphs and streams" in tables[1] and "baseline" not in tables[1]
    assert "0.45×" in tables[1]
    assert plots.draw_frames(results) is None


def test_nothing_measured_is_said(tmp_path):
    (stale := tmp_path / "stages.png").write_bytes(b"of another report")
    (page,) = write_report([], tmp_path)
    text = page.read_text()
    assert text.count("not measured") == 9 and not stale.exists()


def test_an_opponent_that_is_missing_and_a_failed_check(tmp_path):
    rows = [row("vision", baseline={"missing": "ran out of the GPU's memory"})]
    rows.append({"suite": "stages", "name": "decode", "size": "tiny", "missing": "no PyAV"})
    text = render(read_results([write(tmp_path / "x.json", rows, failed=2)]), [])
    assert "not measured: ran out of the GPU's memory" in text
    assert "2 checks failed" in text
    assert "| stages: decode | tiny |  |  | not measured: no PyAV |" in text


def test_kernels_video_profile_and_suite(tmp_path):
    kernel = {
        "suite": "kernels",
        "name": "greedy: rows 1",
        "implementation": "kernel",
        "device_us": 12.34,
        "gb_per_s": 24.6,
        "share_of_copy": 0.006,
    }
    write(tmp_path / "kernels.json", [kernel])
    seen = {
        "file": "a.mp4",
        "way": "pyav",
        "seconds": 2.0,
        "first_segment_seconds": 1.0,
        "cpu_seconds": 3.0,
        "peak_bytes": 10**9,
    }
    missing = {"file": "a.mp4", "way": "published", "missing": "decord: no module"}
    video = {"schema": 1, "kind": "video", "rows": [seen, missing], "cores": 2, "processor": "EPYC"}
    (tmp_path / "video.json").write_text(json.dumps(video))
    steps = [{"name": "kernels", "status": "failed", "exit_status": 1, "seconds": 40}]
    suite = {"schema": 1, "kind": "suite", "steps": steps}
    (tmp_path / "suite.json").write_text(json.dumps(suite))
    profile = {
        "schema": 1,
        "kind": "profile",
        "machine": {"device": "cpu"},
        "dtype": "float32",
        "segments": 1,
        "prompt_tokens": 2,
        "new_tokens": 3,
        "seconds": 2.0,
        "first_token_seconds": 1.0,
        "stages": {"vision": 0.5},
        "operators": [],
        "gpu": {"missing": "the work runs on the CPU"},
        "peak_bytes": None,
    }
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile" / "summary.json").write_text(json.dumps(profile))
    text = render(read_results([tmp_path]), [])
    for part in (
        "| greedy: rows 1 | kernel | 12.3 | 25 | 1% |",
        "| a.mp4 | published | not measured: decord: no module |",
        "machine: 2 cores of EPYC",
        "| kernels | failed | 40 s |",
        "vision           0.5000   25.0%",
    ):
        assert part in text


def test_the_results_that_are_kept_can_be_read(tmp_path, capsys):
    assert main(["report", str(RESULTS), "--output", str(tmp_path)]) == 0
    assert "report.md" in capsys.readouterr().out
    text = (tmp_path / "report.md").read_text()
    kernels = json.loads((RESULTS / "aot.json").read_text())["kernels"]
    count = sum(row["target"] == "sm_90" for row in kernels)
    assert count and f"| sm_90 | {count} |" in text
    rows = json.loads((RESULTS / "end_to_end_cpu.json").read_text())["rows"]
    first = rows[0]["engine"]["seconds"]
    assert f"| end to end: first question | tiny | 1024 | 8192 | {first:.2f} s |" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[1]", "no results of a benchmark"),
        ('{"kind": "recipe"}', "no results of a benchmark"),
        ('{"kind": "benchmarks", "schema": 0}', "schema 0"),
        ('{"kind": "benchmarks", "schema": 1, "rows": [{"name": "x"}]}', "row 0 has no suite"),
        ('{"kind": "video", "schema": 1, "rows": 3}', "no list"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(TempoError, match=message):
        read_results([tmp_path])


def test_no_such_folder_is_an_error(tmp_path, capsys):
    assert main(["report", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 1
    assert "`make bench` makes some" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
