"""`python -m benchmarks.aot` (`make aot`): compiles every kernel ahead of time and keeps the table.

`tempo_kernels.aot` does the work, for every target and without a GPU. What came out is printed, and
kept as benchmarks/results/aot.json and aot.txt where the tree is that of a commit.
"""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

from tempo_kernels import aot

from .provenance import ROOT, provenance, why_not_clean

COMMAND = "make aot"


def main(folder: Path = ROOT / "benchmarks" / "results") -> int:
    """Compile, print, keep; return the exit status, 1 where a kernel is refused."""
    unclean = why_not_clean()
    facts = provenance(COMMAND)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        kept = [] if unclean else ["--json", str(folder / "aot.json")]
        status = aot.main(kept, facts)
    print(printed.getvalue(), end="")
    if unclean:
        print(f"not kept: {unclean}")
    else:
        head = f"{facts['date']}, commit {facts['commit']}, {COMMAND}\n\n"
        (folder / "aot.txt").write_text(head + printed.getvalue(), encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main())
