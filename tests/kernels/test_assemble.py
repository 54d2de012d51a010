"""Assembly of the language model's input: exact, row by row, and the published prompts."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tokenizers import Tokenizer

from tempo_kernels.allocate import allocate
from tempo_kernels.assemble import assemble, assemble_ref, places, places_ref
from tempo_kernels.select import select

from .launches import record
from .tolerances import limit

GOLDEN = Path(__file__).parents[1] / "golden"
VOCABULARY = 50
NAMES = (
    "table",
    "before",
    "after",
    "tags",
    "tag_offsets",
    "allocations",
    "offsets",
    "projected",
)


def starts_of(counts):
    return torch.tensor([0, *counts]).cumsum(0)


def prompt(device, dtype, *, segments=4, width=64, text=(3, 5), tagged=True, share=0.7):
    """The tensors of `assemble` by name; some segments have no tokens."""
    make = torch.Generator().manual_seed(segments + width)

    def integers(high, count):
        return torch.randint(high, (count,), generator=make)

    kept = integers(7, segments) * (torch.rand(segments, generator=make) < share)
    kept[segments // 2] = 6
    tag_offsets = starts_of((integers(4, segments) * tagged).tolist())
    tensors = (
        torch.randn(VOCABULARY, width, generator=make).to(dtype),
        integers(VOCABULARY, text[0]),
        integers(VOCABULARY, text[1]),
        integers(VOCABULARY, int(tag_offsets[-1])),
        tag_offsets,
        kept,
        starts_of(kept.tolist()),
        torch.randn(int(kept.sum()), width, generator=make).to(dtype),
    )
    return {name: tensor.to(device) for name, tensor in zip(NAMES, tensors, strict=True)}


def by_parts(parts, room):
    """The prompt as a list of pieces, one segment after the other."""
    table, tag_at, at = parts["table"], parts["tag_offsets"].tolist(), parts["offsets"].tolist()
    visual = [table[:0]]
    for i, count in enumerate(parts["allocations"].tolist()):
        if count:
            visual.append(table[parts["tags"][tag_at[i] : tag_at[i + 1]]])
            visual.append(parts["projected"][at[i] : at[i + 1]])
    return torch.cat((table[parts["before"]], torch.cat(visual)[:room], table[parts["after"]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("segments", "width", "text", "tagged"),
    [
        (1, 1, (1, 1), True),
        (1, 64, (0, 2), False),
        (4, 520, (3, 5), True),
        (63, 131, (9, 0), True),
        (128, 64, (3, 5), True),
        (129, 64, (3, 5), True),
        (140, 8, (0, 0), True),
        (131, 16, (3, 5), False),
    ],
)
def test_moves_every_row_to_its_place(device, dtype, segments, width, text, tagged):
    parts = prompt(device, dtype, segments=segments, width=width, text=text, tagged=tagged)
    expected = by_parts(parts, 10**6)
    out = torch.full_like(expected, float("nan"))
    rows = assemble(**parts, length=len(expected), room=10**6, out=out)
    assert rows is out and torch.equal(rows, expected)
    assert torch.equal(assemble_ref(**parts, length=len(expected), room=10**6), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("segments", [1, 63, 128, 131])
def test_places_found_first_or_on_the_way_are_the_same(device, dtype, segments):
    parts = prompt(device, dtype, segments=segments, width=40)
    length = len(by_parts(parts, 10**6))
    for less in (0, 5):  # cut at its end too
        where = {"length": length - less, "room": 10**6}
        rows = [assemble(**parts, **where, places_first=first) for first in (False, True)]
        assert torch.equal(*rows)
        assert len(rows[0]) == length - less and rows[0].isfinite().all()


def test_places_are_found_first_where_that_is_asked_for(device, monkeypatch):
    parts = prompt(device, torch.float32, segments=3)
    length = len(by_parts(parts, 10**6))
    launches = record(monkeypatch)
    for first in (False, True):
        assemble(**parts, length=length, room=10**6, places_first=first)
    names = [launch.name for launch in launches]
    assert names == ["_assemble_kernel", "_places_kernel", "_assemble_kernel"]


@pytest.mark.parametrize("segments", [6, 131])
def test_the_visual_part_is_cut_at_its_end(device, segments):
    parts = prompt(device, torch.float32, segments=segments)
    text = len(parts["before"]) + len(parts["after"])
    whole = len(by_parts(parts, 10**6)) - text
    for room in {*range(0, whole, 1 if segments == 6 else 97), whole - 1, whole}:
        expected = by_parts(parts, room)
        assert len(expected) == text + room
        assert torch.equal(assemble(**parts, length=len(expected), room=room), expected)
        assert torch.equal(assemble_ref(**parts, length=len(expected), room=room), expected)


@pytest.mark.parametrize("segments", [1, 63, 128, 131, 1025, 4096])
def test_places(device, segments):
    parts = prompt(device, torch.float32, segments=segments, width=1)
    arguments = parts["allocations"], parts["tag_offsets"]
    tags = parts["tag_offsets"].diff().tolist()
    lengths = [k + g if k else 0 for k, g in zip(arguments[0].tolist(), tags, strict=True)]
    assert 0 in lengths or segments == 1
    found = places(*arguments)
    assert found.dtype == torch.int64 and torch.equal(found.cpu(), starts_of(lengths))
    assert torch.equal(places_ref(*arguments), found)


def golden_case(path, device):
    """The tensors of `assemble` for a golden case but for `projected`, and the case's file."""
    file = safe_open(path, "pt")
    case = json.loads(file.metadata()["case"])
    memory = file.get_tensor("memory_tokens")
    segments, tokens, _ = memory.shape
    if "allocations" in set(file.keys()):
        scores = file.get_tensor("relevance").float().to(device)
        kept, offsets = allocate(scores, tokens=tokens, budget=case.get("budget", 8192))
    else:
        kept = torch.full((segments,), tokens, device=device)
        offsets = starts_of([tokens] * segments).to(device)
    tags = [[] for _ in range(segments)]
    if not case.get("image"):
        window, fps = case.get("win", 8), case.get("fps", 2.0)
        tokenizer = Tokenizer.from_file(str(GOLDEN / "checkpoint/tiny-tempo/tokenizer.json"))
        for i in range(segments):
            centre = (i * window + window / 2) / fps
            tags[i] = tokenizer.encode(f"<{centre:.1f} seconds>", add_special_tokens=False).ids
        assert list(map(len, tags)) == file.get_tensor("timestamp_lens").tolist()
    ids = file.get_tensor("prompt_ids")
    middle = int((ids == -200).nonzero())
    parts = {
        "before": ids[:middle],
        "after": ids[middle + 1 :],
        "tags": torch.tensor([*chain.from_iterable(tags)], dtype=torch.int64),
        "tag_offsets": starts_of(map(len, tags)),
        "allocations": kept,
        "offsets": offsets,
    }
    return {name: part.to(device) for name, part in parts.items()}, memory.to(device), file


def test_golden_prompts(device):
    """Allocate, select, project and assemble what the published code's memory tokens become."""
    with safe_open(GOLDEN / "checkpoint/tiny-tempo/model.safetensors", "pt") as file:
        table = file.get_tensor("model.embed_tokens.weight").to(device)
        first, second = (
            [file.get_tensor(f"model.mm_projector.{i}.{name}").to(device) for name in parts]
            for i, parts in ((0, ("weight", "bias")), (2, ("weight", "bias")))
        )
    linear, gelu = torch.nn.functional.linear, torch.nn.functional.gelu
    checked = 0
    for path in sorted((GOLDEN / "cases").glob("*.safetensors")):
        parts, memory, file = golden_case(path, device)
        expected = file.get_tensor("inputs_embeds").to(device)
        total = int(parts["offsets"][-1])
        tokens = select(  # the golden tokens are normalised already
            memory,
            parts["allocations"],
            parts["offsets"],
            torch.ones(memory.shape[2], device=device),
            1e-6,
            total=total,
            normalize=False,
        )
        projected = linear(gelu(linear(tokens, *first)), *second)
        length = len(expected)
        rows = assemble(table, projected=projected, length=length, room=length, **parts)
        allowed = limit("assemble: golden prompts") * expected.abs().max()
        assert (rows - expected).abs().max() <= allowed, path.name
        visual = int(places(parts["allocations"], parts["tag_offsets"])[-1])
        whole = visual + len(parts["before"]) + len(parts["after"])
        assert (whole > length) == (path.stem == "context_truncation"), path.name
        checked += 1
    assert checked == 12


@pytest.mark.parametrize("segments", [2, 131])
def test_rows_without_a_source_are_nan(device, check_indices, segments):
    check_indices("never")
    parts = prompt(device, torch.bfloat16, segments=segments, text=(3, 2))
    expected = by_parts(parts, 10**6)
    length = len(expected)
    parts["before"][1] = VOCABULARY
    parts["after"][0] = -1
    lost = assemble(**parts, length=length, room=1000).isnan().all(-1)
    assert lost.nonzero().flatten().tolist() == [1, length - 2]

    parts = prompt(device, torch.float32, segments=segments, text=(3, 2))
    parts["allocations"] = 0 * parts["allocations"]
    lost = assemble(**parts, length=9, room=100).isnan().all(-1)
    assert lost.tolist() == [False] * 3 + [True] * 4 + [False] * 2


@pytest.mark.parametrize("segments", [1, 131])
@pytest.mark.parametrize(
    ("first", "tagged"), [(0, [False, False, True, True]), (-2, [True, True, False, False])]
)
def test_tags_out_of_range_are_nan_and_nothing_is_read(
    device, check_indices, segments, first, tagged
):
    check_indices("never")
    parts = prompt(device, torch.float32, segments=segments, text=(1, 1))
    buffer = torch.arange(6, device=device)  # ids before and after those that are tags
    parts["tags"] = buffer[2:4]
    parts["tag_offsets"] = torch.full((segments + 1,), first + 4, device=device)
    parts["tag_offsets"][0] = first
    parts["allocations"] = torch.zeros(segments, dtype=torch.int64, device=device)
    parts["allocations"][0] = 1
    lost = assemble(**parts, length=7, room=100).isnan().all(-1)
    assert lost.tolist() == [False, *tagged, False, False]


@pytest.mark.parametrize("segments", [1, 131])
@pytest.mark.parametrize(
    ("first", "kept"), [(0, [False, False, True, True]), (-2, [True, True, False, False])]
)
def test_tokens_out_of_range_are_nan_and_nothing_is_read(
    device, check_indices, segments, first, kept
):
    check_indices("never")
    parts = prompt(device, torch.float32, segments=segments, text=(1, 1))
    width = parts["table"].shape[1]
    buffer = torch.zeros(6, width, device=device)  # rows before and after those that are tokens
    parts["projected"] = buffer[2:4]
    parts["tag_offsets"] = torch.zeros(segments + 1, dtype=torch.int64, device=device)
    parts["tags"] = torch.zeros(2, dtype=torch.int64, device=device)  # that no segment has
    parts["allocations"] = torch.zeros(segments, dtype=torch.int64, device=device)
    parts["allocations"][0] = 4
    parts["offsets"] = torch.full((segments + 1,), first + 4, device=device)
    parts["offsets"][0] = first
    lost = assemble(**parts, length=6, room=100).isnan().all(-1)
    assert lost.tolist() == [False, *kept, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"table": lambda x: x.double()}, "table is torch.float64"),
        ({"table": lambda x: x.t()}, "table has strides"),
        ({"table": lambda x: x[:, :0]}, "table has rows of width 0"),
        ({"before": lambda x: x.int()}, "before is torch.int32"),
        ({"after": lambda x: x.to("meta")}, "after is on meta"),
        ({"before": lambda x: x + VOCABULARY}, "before has [0-9]+; 0 to [0-9]+ is needed"),
        ({"tags": lambda x: x - VOCABULARY}, "tags has -[0-9]+; 0 to"),
        ({"tag_offsets": lambda x: x + 1}, "tag_offsets has [0-9]+; 0 to"),
        ({"offsets": lambda x: x - 1}, "offsets has -1; 0 to"),
        ({"allocations": lambda x: x - 9}, "allocations has -[0-9]+; 0 to"),
        ({"tags": lambda x: x[None]}, "tags has shape"),
        ({"tag_offsets": lambda x: x[1:]}, "tag_offsets has shape"),
        ({"allocations": lambda x: x[:0]}, "allocations has 0 segments"),
        ({"allocations": lambda x: x.new_zeros(4097)}, "allocations has 4097 segments"),
        ({"offsets": lambda x: x[1:]}, "offsets has shape"),
        ({"projected": lambda x: x.bfloat16()}, "projected is torch.bfloat16"),
        ({"projected": lambda x: x[:, 1:]}, "projected has shape"),
        ({"length": lambda x: 7}, "length is 7, less than the 8 tokens of text"),
        ({"room": lambda x: 2}, "room is 2"),
        ({"length": lambda x: 10**4}, "leaves 9992 rows"),
        ({"out": lambda x: torch.empty(3, 64)}, "out has shape"),
    ],
)
def test_bad_input_is_a_value_error(device, check_indices, change, message):
    check_indices("always")
    arguments = prompt(device, torch.float32) | {"length": 12, "room": 10**6, "out": None}
    if "offsets has shape" in message or "4097" in message:
        arguments["out"] = torch.empty(12, 64, device=device)
    for name, wrong in change.items():
        arguments[name] = wrong(arguments[name])
    with pytest.raises(ValueError, match=message):
        assemble(**arguments)
