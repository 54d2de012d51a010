"""The program that compute-sanitizer watches runs, and tells wrong results from right ones."""

from __future__ import annotations

import pytest
import torch

from tempo_kernels import smoke


@pytest.mark.parametrize("segments", [5, 131])
def test_every_launch_gives_what_its_reference_gives(device, segments):
    results = smoke.results(device, segments, memory_tokens=13, width=160)
    assert len(results) == 6
    for name, (actual, expected) in results.items():
        assert len(actual) == len(expected) > 0, name
        assert all(map(smoke._close, actual, expected)), name


def test_a_wrong_result_is_noticed(device, needs_cuda, monkeypatch, capsys):
    ones = torch.ones(3, device=device)
    monkeypatch.setattr(smoke, "SEGMENTS", (5, 131))
    monkeypatch.setattr(smoke, "results", lambda *_: {"right": ((ones,), (ones,))})
    assert smoke.main() == 0
    monkeypatch.setattr(smoke, "results", lambda *_: {"select": ((ones,), (ones * 1.1,))})
    assert smoke.main() == 1
    monkeypatch.setattr(smoke, "results", lambda *_: {"select": ((ones,), (ones * torch.nan,))})
    assert smoke.main() == 1
    counts = torch.tensor([3, 4])
    monkeypatch.setattr(smoke, "results", lambda *_: {"allocate": ((counts,), (counts + 1,))})
    assert smoke.main() == 1
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(": ", 1)[1] for line in printed] == [
        "all as expected",
        "wrong results: select of 5 segments, select of 131 segments",
        "wrong results: select of 5 segments, select of 131 segments",
        "wrong results: allocate of 5 segments, allocate of 131 segments",
    ]
