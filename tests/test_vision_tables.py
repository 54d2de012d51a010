"""The position tables of a grid are made once, and anew for another grid."""

from __future__ import annotations

import pytest
import torch

from tempo_fast.engine import ops

SQUARE, WIDE = (8, 8), (4, 8)


@pytest.fixture
def vision(pipe):
    encoder = pipe.checkpoint.model.vision
    before, encoder._tables = encoder._tables, {}
    yield encoder
    encoder._tables = before


@pytest.fixture
def made(monkeypatch):
    """The grids of the tables that were made."""
    found, grid_table = [], ops.grid_table

    def counted(table, h, w, *, merge):
        found.append((h, w))
        return grid_table(table, h, w, merge=merge)

    monkeypatch.setattr(ops, "grid_table", counted)
    return found


def see(vision, grid, seed):
    patches = vision.new_patches(2, grid)
    patches.normal_(generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return vision(patches, grid)[0]


def test_tables_are_made_once_a_grid(vision, made):
    first = see(vision, SQUARE, seed=0)
    (kept,) = vision._tables.values()
    see(vision, SQUARE, seed=1)
    assert torch.equal(see(vision, SQUARE, seed=0), first)
    assert made == [SQUARE]
    assert next(iter(vision._tables.values())) is kept


def test_another_grid_has_its_own(vision, made):
    square = see(vision, SQUARE, seed=0)
    wide = see(vision, WIDE, seed=0)
    assert made == [SQUARE, WIDE]
    vision._tables = {}
    assert torch.equal(see(vision, WIDE, seed=0), wide)
    assert torch.equal(see(vision, SQUARE, seed=0), square)
