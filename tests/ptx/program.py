"""PTX text as a Program: what a kernel takes and declares, and its instructions in blocks.

A block is what lies between two places where threads may part or meet: labels, branches, barriers.
What isn't understood is a FaultError: a directive, a second kernel, a register declared twice.

Source: NVIDIA's "PTX ISA", sections "Syntax", "State Spaces, Types, and Variables", "Directives".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

__all__ = ["ENDS_A_BLOCK", "FaultError", "Instruction", "Program", "read"]

# After these a thread goes on elsewhere or waits.
ENDS_A_BLOCK = ("bra", "bra.uni", "ret", "exit", "bar.sync")

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
_ENTRY = re.compile(r"\.visible\s+\.entry\s+([\w$]+)\s*\((.*?)\)\s*([^{]*)\{", re.S)
_PREAMBLE = re.compile(
    r"\s*(?:\.version [\d.]+|\.target \w+(?:, debug)?|\.address_size 64|\.file[^\n]*"
    r"|\.extern \.shared (?:\.align \d+ )?\.b8 (?P<shared>\w+)\[\];"
    r"|\.global (?:\.align \d+ )?\.b(?P<bits>\d+) (?P<table>[\w$]+)\[(?P<length>\d+)\]"
    r" = \{(?P<values>[^}]*)\};)"
)
_PARAMETER = re.compile(r"\.param \.([bus]|f)(\d+) (?:\.ptr \.global \.align \d+ )?([\w$]+)")
_THREADS = re.compile(r"\.reqntid (\d+)(?:, 1, 1)?")
_STATEMENT = re.compile(r"\s*(?:\.loc\b[^\n]*|([{}])|(\$\w+):|([^;{}][^;]*);)", re.S)
_INSTRUCTION = re.compile(r"(?:@(!?)(%\w+) )?([a-z][\w.:]*)(?: (.*))?")
_BETWEEN_OPERANDS = re.compile(r",(?![^{\[]*[}\]])")
_REGISTERS = re.compile(r"\.reg \.(pred|b16|b32|b64) (%\w+)(?:<(\d+)>)?")
_LOCAL = re.compile(r"\.local (?:\.align (\d+) )?\.b8 (\w+)\[(\d+)\]")
_USED_BYTES = re.compile(r'\.pragma "used_bytes_mask (0x[0-9a-f]+)"')


class FaultError(Exception):
    """What a GPU would not do, or not do reliably; or what this machine doesn't know."""


@dataclass(frozen=True)
class Instruction:
    """One instruction as written.

    opcode: with all its modifiers. operands: a list in braces is one of them.
    guard: the predicate register that lets a thread take part, or "". unless: it must be false.
    used_bytes: bit i is set if byte i of what is loaded is used; -1 is all of them.
    """

    text: str
    opcode: str
    operands: tuple[str, ...]
    guard: str = ""
    unless: bool = False
    used_bytes: int = -1


@dataclass(eq=False)
class Program:
    """A kernel.

    parameters: size in bytes by name, in order. registers: type by name.
    local_size, local_offsets: bytes that a thread has for itself, and where its variables are.
    tables: constant arrays. blocks: their instructions; labels: index of the block behind a label.
    """

    name: str
    threads: int
    parameters: dict[str, int]
    shared: str = ""
    registers: dict[str, str] = field(default_factory=dict)
    tables: dict[str, np.ndarray] = field(default_factory=dict)
    local_offsets: dict[str, int] = field(default_factory=dict)
    local_size: int = 0
    blocks: list[list[Instruction]] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    @property
    def instructions(self) -> list[Instruction]:
        return [instruction for block in self.blocks for instruction in block]


def read(ptx: str) -> Program:
    """The one kernel of a PTX text."""
    text = _COMMENT.sub("", ptx)
    entries = list(_ENTRY.finditer(text))
    if len(entries) != 1 or ".func" in text:
        raise FaultError("one kernel is needed, without functions beside it")
    (entry,) = entries
    name, parameters, directives = entry.groups()
    threads = _THREADS.fullmatch(" ".join(directives.split()))
    if not threads or int(threads[1]) % 32:
        raise FaultError(f"{name}: whole warps by .reqntid alone are needed: {directives}")
    sizes = dict(_parameter(text) for text in parameters.split(",") if text.strip())
    program = Program(name, int(threads[1]), sizes)
    _read_preamble(text[: entry.start()], program)
    _read_body(text, entry.end(), program)
    return program


def _parameter(text: str) -> tuple[str, int]:
    found = _PARAMETER.fullmatch(" ".join(text.split()))
    if not found:
        raise FaultError(f"a parameter of another kind: {text}")
    return found[3], int(found[2]) // 8


def _read_preamble(text: str, program: Program) -> None:
    at = 0
    while text[at:].strip():
        found = _PREAMBLE.match(text, at)
        if not found:
            raise FaultError(f"not understood: {text[at:].strip().splitlines()[0]}")
        at = found.end()
        if found["shared"]:
            if program.shared:
                raise FaultError("shared memory under two names")
            program.shared = found["shared"]
        elif found["table"]:
            values = [int(value, 0) for value in found["values"].split(",")]
            table = np.zeros(int(found["length"]), f"u{int(found['bits']) // 8}")
            table[: len(values)] = values
            program.tables[found["table"]] = table


def _read_body(text: str, at: int, program: Program) -> None:
    depth, block, used_bytes = 1, [], -1
    while depth:
        found = _STATEMENT.match(text, at)
        if not found:
            raise FaultError(f"not understood: {text[at : at + 80]!r}")
        at = found.end()
        brace, label, statement = found.groups()
        if brace:  # a scope of declarations, whose names are told apart all the same
            depth += 1 if brace == "{" else -1
        elif label:
            block = _close(block, program)
            program.labels[label] = len(program.blocks)
        elif statement and statement.startswith("."):
            used_bytes = _directive(" ".join(statement.split()), program, used_bytes)
        elif statement:
            instruction = _instruction(" ".join(statement.split()), used_bytes)
            block.append(instruction)
            used_bytes = -1
            if instruction.opcode in ENDS_A_BLOCK:
                block = _close(block, program)
    _close(block, program)


def _close(block: list[Instruction], program: Program) -> list[Instruction]:
    """Ends a block, if it has begun; gives the next."""
    if block:
        program.blocks.append(block)
    return []


def _directive(text: str, program: Program, used_bytes: int) -> int:
    if registers := _REGISTERS.fullmatch(text):
        kind, name, count = registers.groups()
        for new in [f"{name}{i}" for i in range(int(count))] if count else [name]:
            if new in program.registers:
                raise FaultError(f"{new} is declared twice")
            program.registers[new] = kind
    elif local := _LOCAL.fullmatch(text):
        align = int(local[1] or 1)
        offset = -(-program.local_size // align) * align
        program.local_offsets[local[2]] = offset
        program.local_size = offset + int(local[3])
    elif mask := _USED_BYTES.fullmatch(text):
        used_bytes = int(mask[1], 16)
    elif text != '.pragma "nounroll"':
        raise FaultError(f"not understood: {text}")
    return used_bytes


def _instruction(text: str, used_bytes: int) -> Instruction:
    found = _INSTRUCTION.fullmatch(text)
    if not found:
        raise FaultError(f"not understood: {text}")
    unless, guard, opcode, operands = found.groups()
    listed = tuple(x.strip() for x in _BETWEEN_OPERANDS.split(operands)) if operands else ()
    return Instruction(text, opcode, listed, guard or "", bool(unless), used_bytes)
