"""Which of a kernel's parameters it stores through: tensors that it only reads need no watch.

Whatever an instruction computes depends on all of its operands; what is loaded from shared or
local memory on all that is stored there, what is loaded from tensors on none. A store elsewhere
(through a pointer that came as a matrix, say) finds no shadow, and fails.
"""

from __future__ import annotations

import re

from .program import Instruction, Program

__all__ = ["written_parameters"]

_NAME = re.compile(r"%\w+|[\w$]+")


def written_parameters(program: Program) -> set[str]:
    """The names of the parameters whose memory a kernel may change."""
    sources: dict[str, set[str]] = {}
    changed = True
    while changed:
        changed = False
        for instruction in program.instructions:
            targets, given = _flow(instruction, program)
            found = set().union(*(sources.get(name, ()) for name in given))
            found |= {name for name in given if name in program.parameters}
            for target in targets:
                known = sources.setdefault(target, set())
                changed |= not found <= known
                known |= found
    written = set()
    for instruction in program.instructions:
        if instruction.opcode.startswith(("st.global", "atom.global")):
            place = instruction.operands[0 if instruction.opcode.startswith("st") else 1]
            written |= set().union(*(sources.get(name, ()) for name in _NAME.findall(place)))
    return written


def _flow(instruction: Instruction, program: Program) -> tuple[list[str], list[str]]:
    """What an instruction changes and what goes into it: registers, memories, parameters."""
    if not instruction.operands:
        return [], []
    first, *others = ([*_NAME.findall(text)] for text in instruction.operands)
    rest = [name for names in others for name in names]
    kind, _, modifiers = instruction.opcode.partition(".")
    space = modifiers.partition(".")[0]
    if kind == "st":
        return [space], rest
    if kind in ("ld", "atom") and space != "param":
        return first, ([] if space == "global" else [space])
    return first, rest
