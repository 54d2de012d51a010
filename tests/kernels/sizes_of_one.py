"""Prints which kernels don't lower to Triton's IR where a size is 1, and how many did.

Triton's launcher makes a constant of an integer that is 1 (unless do_not_specialize names it), and
a constant has no methods: `rows.to(tl.int64)` compiles for every other size. Nothing but a GPU
launches so; `variants()` has the sizes as the engine mostly has them. `test_aot.py` runs this.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from triton._C.libtriton import ir
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import make_backend

from tempo_kernels import aot
from tempo_kernels.language import tl, triton
from tempo_kernels.launch import Variant

HOPPER = GPUTarget("cuda", 90, 32)


@triton.jit
def method_of_a_size(out, rows):
    tl.store(out, rows.to(tl.int64))


UNFIT = Variant("unfit", method_of_a_size, {"out": "*i64", "rows": "i32"}, {}, (), 1)


def sizes(variant: Variant) -> Iterator[tuple[str, ...]]:
    """Each size that the launcher looks at, and all of them at once."""
    kernel = aot._undecorated(variant.kernel)
    names = [
        parameter.name
        for parameter in kernel.params
        if variant.signature.get(parameter.name) in ("i32", "i64")
        and not parameter.do_not_specialize
    ]
    yield from ((name,) for name in names)
    if len(names) > 1:
        yield tuple(names)


def lower(op: str, variant: Variant, ones: tuple[str, ...]) -> None:
    """Make Triton's IR of a variant, with some arguments that are 1."""
    kernel = aot._undecorated(variant.kernel)
    signature = aot._full_signature(op, variant, kernel) | dict.fromkeys(ones, "constexpr")
    constants = variant.constants | dict.fromkeys(ones, 1)
    source = ASTSource(
        kernel,
        signature,
        {(kernel.arg_names.index(name),): value for name, value in constants.items()},
    )
    backend, context = make_backend(HOPPER), ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    options = backend.parse_options({"num_warps": variant.num_warps})
    codegen = backend.get_codegen_implementation(options)
    source.make_ir(HOPPER, options, codegen, backend.get_module_map(), context)


def main() -> None:
    lowered, failed = 0, []
    found = [(op, v) for op, module in aot.operations().items() for v in module.variants()]
    for op, variant in [*found, ("unfit", UNFIT)]:
        for ones in sizes(variant):
            try:
                lower(op, variant, ones)
            except Exception as error:
                failed.append([op, variant.name, ones, str(error)])
            else:
                lowered += 1
    print(json.dumps({"lowered": lowered, "failed": failed}))


if __name__ == "__main__":
    main()
