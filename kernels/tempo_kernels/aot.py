"""Compiles every kernel ahead of time, without a GPU, and checks what came out.

`python -m tempo_kernels.aot [--targets 80,90,100] [--json FILE]` compiles each operation's
`variants()` and prints registers, spills, stack, shared memory and the widest global accesses. It
exits with 1 when a kernel spills, asks for more shared memory than the target has, or has no
16-byte load or store where its variant gives no reason for that (or has one against its reason).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import multiprocessing
import os
import pkgutil
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction, KernelInterface

import tempo_kernels
from tempo_kernels.launch import INTERPRETED, Variant

# Most shared memory of one block, in bytes (CUDA programming guide, "Technical specifications per
# compute capability").
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
WIDE = 16

_ACCESS = re.compile(r"\b(ld|st)\.global(?:\.[\w:]+?)*?(?:\.v(\d))?\.[bufs](\d+)\s")
_ASYNC_COPY = re.compile(r"\bcp\.async\.\S*global\S*\s+\[[^\]]*\],\s*\[[^\]]*\],\s*(0x\w+|\d+)")


@dataclass(frozen=True)
class Figures:
    """What one compiled kernel uses: registers a thread; the rest in bytes."""

    op: str
    variant: str
    target: str
    warps: int
    registers: int
    spill_stores: int
    spill_loads: int
    stack: int
    shared: int
    load: int  # widest single global load of a thread
    store: int
    narrow: tuple[str, ...]  # why loads or stores are narrower than 16 bytes
    problems: tuple[str, ...]


def operations() -> dict[str, ModuleType]:
    """The package's operations by name: the modules with `variants()`.

    Raises TypeError for one with kernels and references but no `variants()`: nothing would check
    it. (Functions for other modules' kernels have no reference; chains of launches, no kernels.)
    """
    found = {}
    for info in pkgutil.iter_modules(tempo_kernels.__path__):
        module = importlib.import_module(f"tempo_kernels.{info.name}")
        if hasattr(module, "variants"):
            found[info.name] = module
        elif _owns_kernels(module) and any(name.endswith("_ref") for name in vars(module)):
            raise TypeError(f"{module.__name__} is an operation without variants()")
    return found


def compile_variant(op: str, variant: Variant, target: int) -> Figures:
    """Compiles one variant for sm_`target` and reads what it uses.

    Raises ValueError when the variant leaves an argument of the kernel without a type or value, or
    names one that the kernel doesn't have.
    """
    kernel = _undecorated(variant.kernel)
    signature = _full_signature(op, variant, kernel)
    source = ASTSource(
        kernel,
        signature,
        {(kernel.arg_names.index(name),): value for name, value in variant.constants.items()},
        {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in variant.divisible},
    )
    options = {
        "num_warps": variant.num_warps,
        "num_stages": variant.num_stages,
        "enable_fp_fusion": variant.fp_fusion,
    }
    log = io.StringIO()
    with triton.knobs.compilation.scope(), triton.knobs.nvidia.scope():
        triton.knobs.compilation.always_compile = True  # a cached kernel would leave no log
        triton.knobs.nvidia.dump_ptxas_log = True
        with contextlib.redirect_stdout(log):
            compiled = triton.compile(source, GPUTarget("cuda", target, 32), options)
    widest = dict(zip(("load", "store"), widest_accesses(compiled.asm["ptx"]), strict=True))
    reasons = {"load": variant.narrow_load, "store": variant.narrow_store}
    used = parse_ptxas(log.getvalue())
    shared = compiled.metadata.shared
    return Figures(
        op=op,
        variant=variant.name,
        target=f"sm_{target}",
        warps=variant.num_warps,
        **used,
        shared=shared,
        **widest,
        narrow=tuple(f"{kind}: {reason}" for kind, reason in reasons.items() if reason),
        problems=_problems(used, shared, widest, reasons, target),
    )


def parse_ptxas(log: str) -> dict[str, int]:
    """Registers, spills and stack from what `ptxas -v` says of a kernel and all that it calls.

    Raises ValueError when the log says nothing of them.
    """
    registers = re.findall(r"Used (\d+) registers", log)
    frames = re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log
    )
    if not registers or not frames:
        raise ValueError(f"ptxas -v named no registers or spills:\n{log}")
    stack, stores, loads = (max(map(int, column)) for column in zip(*frames, strict=True))
    return {
        "registers": max(map(int, registers)),
        "spill_stores": stores,
        "spill_loads": loads,
        "stack": stack,
    }


def widest_accesses(ptx: str) -> tuple[int, int]:
    """Bytes of a thread's widest global load and store in PTX; 0 where there is none."""
    widest = {"ld": 0, "st": 0}
    for kind, count, bits in _ACCESS.findall(ptx):
        widest[kind] = max(widest[kind], int(count or 1) * int(bits) // 8)
    for size in _ASYNC_COPY.findall(ptx):
        widest["ld"] = max(widest["ld"], int(size, 0))
    return widest["ld"], widest["st"]


def unsupported(target: int) -> str | None:
    """Why this Triton cannot compile for sm_`target`; None if it can."""
    usage = subprocess.run(
        [get_ptxas(target).path, "--help"], check=True, capture_output=True, text=True
    )
    if f"'sm_{target}'" in usage.stdout:
        return None
    return f"sm_{target} skipped: the ptxas of triton {triton.__version__} does not know it"


def table(figures: list[Figures]) -> str:
    """The figures as aligned columns, one kernel a line."""
    head = ("op", "variant", "target", "warps", "regs", "spill st", "spill ld", "stack", "shared")
    rows = [(*head, "load", "store", "")]
    rows += [(*map(str, astuple(row)[:-2]), _remark(row)) for row in figures]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 3 <= i_column < len(row) - 1 else cell.ljust(width)
            for i_column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def main(arguments: list[str] | None = None, facts: dict[str, Any] | None = None) -> int:
    """Compile, print the table and return the exit status; facts: what the JSON says of the run."""
    parser = argparse.ArgumentParser(prog="python -m tempo_kernels.aot", description=__doc__)
    parser.add_argument("--targets", default="80,90,100", help="compute capabilities, e.g. 80,90")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table here")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    options = parser.parse_args(arguments)
    try:
        targets = [int(target) for target in options.targets.split(",")]
    except ValueError:
        parser.error(f"--targets {options.targets}: numbers are needed, e.g. 80,90")
    if unknown := sorted(set(targets) - set(SHARED_LIMIT)):
        parser.error(f"--targets: sm_{unknown[0]} is not one of {sorted(SHARED_LIMIT)}")
    if INTERPRETED:
        parser.error("TRITON_INTERPRET is set, so no kernel is compiled: unset it")

    refusals = {target: unsupported(target) for target in targets}
    skipped = [reason for reason in refusals.values() if reason]
    targets = [target for target, reason in refusals.items() if not reason]
    names = list(operations())
    if not names:
        parser.error("tempo_kernels has no operations")
    figures = _compile_all(names, targets, options.jobs)
    print(table(figures))
    for line in skipped:
        print(line)
    if options.json:
        _write(options.json, figures, targets, skipped, facts or {})
    failed = sum(bool(row.problems) for row in figures)
    print(f"{len(figures)} kernels compiled with triton {triton.__version__}, {failed} refused")
    return 1 if failed else 0


def _owns_kernels(module: ModuleType) -> bool:
    return any(
        isinstance(value, KernelInterface) and value.fn.__module__ == module.__name__
        for value in vars(module).values()
    )


def _compile_all(names: list[str], targets: list[int], jobs: int) -> list[Figures]:
    work = [(name, target) for name in names for target in targets]
    context = multiprocessing.get_context("spawn")  # a forked Triton may hold another's locks
    with ProcessPoolExecutor(max_workers=min(jobs, len(work) or 1), mp_context=context) as pool:
        rows = pool.map(_compile_operation, *zip(*work, strict=True)) if work else []
        return sorted((row for group in rows for row in group), key=_order)


def _compile_operation(name: str, target: int) -> list[Figures]:
    figures = []
    for variant in importlib.import_module(f"tempo_kernels.{name}").variants():
        try:
            figures.append(compile_variant(name, variant, target))
        except Exception as error:
            error.add_note(f"while compiling {name}, variant {variant.name!r}, for sm_{target}")
            raise
    return figures


def _order(row: Figures) -> tuple[str, str, int]:
    return row.op, row.variant, int(row.target.removeprefix("sm_"))


def _undecorated(kernel: Any) -> JITFunction:
    """The JITFunction under heuristics and other decorators."""
    while not isinstance(kernel, JITFunction):
        kernel = kernel.fn
    return kernel


def _full_signature(op: str, variant: Variant, kernel: JITFunction) -> dict[str, str]:
    """The type of every argument, in the kernel's order."""
    given = {**variant.signature, **dict.fromkeys(variant.constants, "constexpr")}
    missing = [name for name in kernel.arg_names if name not in given]
    unknown = [name for name in (*given, *variant.divisible) if name not in kernel.arg_names]
    if missing or unknown:
        raise ValueError(
            f"{op}, variant {variant.name!r}: arguments without type or value {missing},"
            f" arguments that {kernel.__name__} doesn't have {unknown}"
        )
    return {name: given[name] for name in kernel.arg_names}


def _problems(
    used: dict[str, int], shared: int, widest: dict[str, int], reasons: dict[str, str], target: int
) -> tuple[str, ...]:
    found = []
    if used["spill_stores"] or used["spill_loads"]:
        found.append("spills")
    if shared > SHARED_LIMIT[target]:
        found.append(f"over {SHARED_LIMIT[target]} bytes of shared memory")
    for kind, reason in reasons.items():
        if not reason and widest[kind] < WIDE:
            found.append(f"no {WIDE}-byte {kind}")
        elif reason and widest[kind] >= WIDE:
            found.append(f"a {WIDE}-byte {kind} after all")
    return tuple(found)


def _remark(row: Figures) -> str:
    return "REFUSED: " + ", ".join(row.problems) if row.problems else "; ".join(row.narrow)


def _write(
    path: Path,
    figures: list[Figures],
    targets: list[int],
    skipped: list[str],
    facts: dict[str, Any],
) -> None:
    """Writes the table as JSON, one kernel a line so that changes read well."""
    rows = ",\n".join("    " + json.dumps(asdict(row)) for row in figures)
    head = {
        "schema": 1,
        "kind": "aot",
        **facts,
        "triton": triton.__version__,
        "ptxas": {f"sm_{target}": get_ptxas(target).version for target in targets},
        "units": "registers a thread; the rest in bytes",
        "skipped": skipped,
    }
    lines = "".join(f"  {json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + lines + '  "kernels": [\n' + rows + "\n  ]\n}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
