"""Assembly: the language model's input embeddings, each row written at its final place.

    out = [table[before] | visual | table[after]]
    visual = for each segment with k_i > 0: table[its tag ids], then its k_i rows of projected;
             cut at its end to L - len(before) - len(after) rows

table: [V, E], token embeddings. before, after: int64, ids of the text around the visual part. tags:
int64 [ΣG], the packed ids of the segments' time tags; tag_offsets: int64 [S + 1], where each starts
(all 0 for none, as with an image). allocations: int64 [S], k. offsets: int64 [S + 1], their running
sum. projected: [Σk, E]. out: [L, E]. table, projected and out are all float32 or all bfloat16; S up
to 4096. Moves bits, rounds nothing.

Up to 128 segments every program finds the places of all by itself; more take a launch before, of
one program, which `places_first` asks for at any number. What the first saves is not measured.

What no launcher sees on a GPU without waiting: a row that has no source, because an id is not in
the table, an offset not in tags or projected, or the visual part shorter than L leaves room for,
comes out as NaN.

Source: the published prompt, in which a segment without tokens is dropped with its tag.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tempo_kernels.language import tl, triton
from tempo_kernels.launch import Variant, check, check_indices, check_tensor, next_power_of_2
from tempo_kernels.packing import MAX_SEGMENTS, SEARCHES, owner, search

DTYPES = (torch.float32, torch.bfloat16)
# A tile of 8 KiB: four 16-byte accesses a thread. 2560 columns are five whole pieces of 512.
TILE_BYTES = 8192
BLOCK_E = 512
NUM_WARPS = 4
# Segments whose places are found by the programs that write rows, in the one step of FANOUT lanes
# in which so few are searched; (segments, warps) of each configuration of the launch for more.
FEW_SEGMENTS, _ = SEARCHES[0]
PLACES = ((1024, 4), (MAX_SEGMENTS, 8))


def _configuration(width: int, dtype: torch.dtype) -> dict[str, int]:
    """ROWS and BLOCK_E of a program's tile."""
    block = min(BLOCK_E, next_power_of_2(width))
    return {"ROWS": TILE_BYTES // (BLOCK_E * dtype.itemsize), "BLOCK_E": block}


@triton.jit
def _lengths(p_allocations, p_tagoffsets, i_s, m_s):
    """int64 [BLOCK_S]: rows of each segment, 0 for lanes that are none."""
    b_k = tl.load(p_allocations + i_s, mask=m_s, other=0)
    b_tag = tl.load(p_tagoffsets + i_s, mask=m_s, other=0)
    b_tag = tl.load(p_tagoffsets + i_s + 1, mask=m_s, other=0) - b_tag
    return tl.where(b_k > 0, b_k + b_tag, 0)


@triton.jit(do_not_specialize=["S"])
def _places_kernel(p_allocations, p_tagoffsets, p_places, S, BLOCK_S: tl.constexpr):
    i_s = tl.arange(0, BLOCK_S)
    m_s = i_s < S
    # [BLOCK_S]
    b_end = tl.cumsum(_lengths(p_allocations, p_tagoffsets, i_s, m_s))
    tl.store(p_places + i_s, tl.zeros_like(b_end), mask=i_s == 0)
    tl.store(p_places + 1 + i_s, b_end, mask=m_s)


@triton.jit
def _place_among_few(i_row, p_allocations, p_tagoffsets, S, BLOCK_S: tl.constexpr):
    """The segment int32 [ROWS] of each row (-1 for a row < 0), where it starts, the last end."""
    i_s = tl.arange(0, BLOCK_S)
    m_s = i_s < S
    # [BLOCK_S]
    b_length = _lengths(p_allocations, p_tagoffsets, i_s, m_s)
    b_end = tl.cumsum(b_length)
    b_start = (b_end - b_length)[None, :]
    # [ROWS, BLOCK_S]; of segments that start together the last is the one with rows
    b_reached = m_s[None, :] & (b_start <= i_row[:, None])
    segment = tl.sum(b_reached.to(tl.int32), axis=1) - 1
    return segment, tl.max(tl.where(b_reached, b_start, 0), axis=1), tl.max(b_end)


@triton.jit
def _place_among_many(i_row, p_places, S, FANOUT: tl.constexpr, SPAN: tl.constexpr):
    """The same from places that were found before."""
    segment = owner(i_row, p_places, S, FANOUT, SPAN)
    return segment, tl.load(p_places + segment, mask=segment >= 0, other=0), tl.load(p_places + S)


@triton.jit(
    do_not_specialize=["S", "vocabulary", "tags", "kept", "length", "before", "visual"],
)
def _assemble_kernel(
    p_table,
    p_before,
    p_after,
    p_tags,
    p_tagoffsets,
    p_allocations,
    p_offsets,
    p_places,
    p_projected,
    p_out,
    S,
    vocabulary,
    tags,
    kept,
    length,
    before,
    visual,
    E: tl.constexpr,
    FANOUT: tl.constexpr,
    SPAN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    # [ROWS]
    i_row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    m_row = i_row < length
    i_visual = i_row - before
    m_before = i_visual < 0
    m_after = m_row & (i_visual >= visual)
    m_visual = m_row & (i_visual >= 0) & (i_visual < visual)
    if p_places is None:
        i_s, b_start, end = _place_among_few(i_visual, p_allocations, p_tagoffsets, S, FANOUT)
    else:
        i_s, b_start, end = _place_among_many(i_visual, p_places, S, FANOUT, SPAN)
    # Past the last place there is no segment: the search would name the last one.
    m_visual = m_visual & (i_visual < end)
    i_within = i_visual - b_start
    o_tag = tl.load(p_tagoffsets + i_s, mask=m_visual, other=0)
    b_tag = tl.load(p_tagoffsets + i_s + 1, mask=m_visual, other=0) - o_tag
    m_tag = m_visual & (i_within < b_tag)
    m_token = m_visual & (i_within >= b_tag)

    b_id = tl.load(p_before + i_row, mask=m_before, other=-1)
    i_tag = o_tag + i_within
    m_known = m_tag & (i_tag >= 0) & (i_tag < tags)
    b_id = tl.where(m_tag, tl.load(p_tags + i_tag, mask=m_known, other=-1), b_id)
    i_after = i_visual - visual
    b_id = tl.where(m_after, tl.load(p_after + i_after, mask=m_after, other=-1), b_id)
    i_token = tl.load(p_offsets + i_s, mask=m_token, other=0) + i_within - b_tag
    m_id = m_row & ~m_token & (b_id >= 0) & (b_id < vocabulary)
    m_token = m_token & (i_token >= 0) & (i_token < kept)
    for o_e in tl.static_range(0, E, BLOCK_E):
        i_e = o_e + tl.arange(0, BLOCK_E)
        m_e = i_e < E
        # [ROWS, BLOCK_E]
        p_id = p_table + b_id[:, None] * E + i_e[None, :]
        b_id_row = tl.load(p_id, mask=m_id[:, None] & m_e[None, :], other=float("nan"))
        p_token = p_projected + i_token[:, None] * E + i_e[None, :]
        b_token_row = tl.load(p_token, mask=m_token[:, None] & m_e[None, :], other=float("nan"))
        b_row = tl.where(m_token[:, None], b_token_row, b_id_row)
        p_row = p_out + i_row[:, None] * E + i_e[None, :]
        tl.store(p_row, b_row, mask=m_row[:, None] & m_e[None, :])


def places(allocations: Tensor, tag_offsets: Tensor) -> Tensor:
    """int64 [S + 1]: where each segment's tag and tokens start in the visual part, and its length.

    Raises ValueError for arguments that don't fit together.
    """
    _check_segments(allocations, tag_offsets)
    segments = len(allocations)
    found = torch.empty(segments + 1, dtype=torch.int64, device=allocations.device)
    block, warps = next(pair for pair in PLACES if segments <= pair[0])
    _places_kernel[(1,)](allocations, tag_offsets, found, segments, BLOCK_S=block, num_warps=warps)
    return found


def _check_segments(allocations: Tensor, tag_offsets: Tensor) -> None:
    check_tensor("allocations", allocations, shape=(None,), dtypes=torch.int64)
    segments, where = len(allocations), allocations.device
    check(
        1 <= segments <= MAX_SEGMENTS,
        f"allocations has {segments} segments; 1 to {MAX_SEGMENTS} is needed",
    )
    check_tensor(
        "tag_offsets", tag_offsets, shape=(segments + 1,), dtypes=torch.int64, device=where
    )


def places_ref(allocations: Tensor, tag_offsets: Tensor) -> Tensor:
    """`places` in plain PyTorch."""
    lengths = torch.where(allocations > 0, allocations + tag_offsets.diff(), 0)
    return torch.cat((torch.zeros_like(lengths[:1]), lengths.cumsum(0)))


def assemble(
    table: Tensor,
    before: Tensor,
    after: Tensor,
    tags: Tensor,
    tag_offsets: Tensor,
    allocations: Tensor,
    offsets: Tensor,
    projected: Tensor,
    *,
    length: int,
    room: int,
    out: Tensor | None = None,
    places_first: bool = False,
) -> Tensor:
    """The input embeddings [length, E] of a whole prompt; see the module.

    length: len(before) + min(room, visual length) + len(after), which the caller knows from the
    total of the allocations. room: the most rows that the visual part may take. out: to write to.
    places_first: two launches, however few the segments; the result is the same. Raises ValueError
    for arguments that don't fit together.
    """
    _check_segments(allocations, tag_offsets)
    segments, where = len(allocations), allocations.device
    check_tensor("offsets", offsets, shape=(segments + 1,), dtypes=torch.int64, device=where)
    visual = _check_rows(table, before, after, tags, projected, length, room, where)
    check_indices("tag_offsets", tag_offsets, len(tags) + 1)
    check_indices("offsets", offsets, len(projected) + 1)
    check_indices("allocations", allocations, len(projected) + 1)
    width = table.shape[1]
    if out is None:
        out = torch.empty(length, width, dtype=table.dtype, device=where)
    else:
        check_tensor("out", out, shape=(length, width), dtypes=table.dtype, device=where)
    if length:
        few = segments <= FEW_SEGMENTS and not places_first
        starts = None if few else places(allocations, tag_offsets)
        tile = _configuration(width, table.dtype)
        _assemble_kernel[(triton.cdiv(length, tile["ROWS"]),)](
            table,
            before,
            after,
            tags,
            tag_offsets,
            allocations,
            offsets,
            starts,
            projected,
            out,
            segments,
            len(table),
            len(tags),
            len(projected),
            length,
            len(before),
            visual,
            E=width,
            **search(segments),
            **tile,
            num_warps=NUM_WARPS,
        )
    return out


def _check_rows(
    table: Tensor,
    before: Tensor,
    after: Tensor,
    tags: Tensor,
    projected: Tensor,
    length: int,
    room: int,
    where: torch.device,
) -> int:
    """Rows of the visual part; ValueError unless the arguments fit."""
    check_tensor("table", table, shape=(None, None), dtypes=DTYPES, device=where)
    width = table.shape[1]
    check(width > 0, "table has rows of width 0")
    for name, ids in (("before", before), ("after", after), ("tags", tags)):
        check_tensor(name, ids, shape=(None,), dtypes=torch.int64, device=where)
        check_indices(name, ids, len(table))
    check_tensor("projected", projected, shape=(None, width), dtypes=table.dtype, device=where)
    text = len(before) + len(after)
    visual = length - text
    check(visual >= 0, f"length is {length}, less than the {text} tokens of text")
    check(visual <= room, f"length leaves {visual} rows for the visual part; room is {room}")
    most = len(tags) + len(projected)
    check(visual <= most, f"length leaves {visual} rows for tags and tokens, which have {most}")
    return visual


def assemble_ref(
    table: Tensor,
    before: Tensor,
    after: Tensor,
    tags: Tensor,
    tag_offsets: Tensor,
    allocations: Tensor,
    offsets: Tensor,
    projected: Tensor,
    *,
    length: int,
    room: int,
) -> Tensor:
    """The same in plain PyTorch, on any device; every row must have a source.

    room is not needed, and here so that both take the same arguments.
    """
    visual = length - len(before) - len(after)
    starts = places_ref(allocations, tag_offsets)
    row = torch.arange(visual, device=table.device)
    segment = torch.searchsorted(starts[1:], row, right=True)
    within = row - starts[segment]
    token = within - tag_offsets.diff()[segment]
    is_token = token >= 0
    # One id more, which no row keeps, for those that take a token.
    tags = torch.nn.functional.pad(tags, (0, 1))
    ids = tags[torch.where(is_token, len(tags) - 1, tag_offsets[segment] + within)]
    out = torch.nn.functional.embedding(torch.cat((before, ids, after)), table)
    rows = out[len(before) : len(before) + visual]
    tokens = projected[torch.where(is_token, offsets[segment] + token, 0)]
    rows.copy_(torch.where(is_token[:, None], tokens, rows))
    return out


def variants() -> list[Variant]:
    """What the engine launches for Tempo-6B, and the benchmark beside it."""
    width = 2560
    tables = ("p_allocations", "p_tagoffsets", "p_places")
    found = [
        Variant(
            name=f"places, S to {block}",
            kernel=_places_kernel,
            signature={**dict.fromkeys(tables, "*i64"), "S": "i32"},
            constants={"BLOCK_S": block},
            divisible=tables,
            num_warps=warps,
            narrow_load="a few hundred numbers",
            narrow_store="a few hundred numbers, one behind a first zero",
        )
        for block, warps in PLACES
    ]
    ids = ("p_before", "p_after", "p_tags", "p_tagoffsets", "p_allocations", "p_offsets")
    no_places = {True: {"p_places": None}, False: {}}
    numbers = ("S", "vocabulary", "tags", "kept", "length", "before", "visual")
    for dtype, torch_dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        tile = _configuration(width, torch_dtype)
        rows = dict.fromkeys(("p_table", "p_projected", "p_out"), f"*{dtype}")
        for limit, constants in SEARCHES:
            # The engine asks for places first where there are many, the benchmark always.
            for few in (True, False) if limit <= FEW_SEGMENTS else (False,):
                pointers = rows | dict.fromkeys(ids if few else (*ids, "p_places"), "*i64")
                forced = ", places first" if limit <= FEW_SEGMENTS and not few else ""
                found.append(
                    Variant(
                        name=f"{dtype}, E {width}, S to {limit}{forced}",
                        kernel=_assemble_kernel,
                        signature=pointers | dict.fromkeys(numbers, "i32"),
                        constants={"E": width, **constants, **tile, **no_places[few]},
                        divisible=tuple(pointers),
                        num_warps=NUM_WARPS,
                    )
                )
    return found
