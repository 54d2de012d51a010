"""`python -m benchmarks.suite_summary STEPS.tsv SUITE.json`: what the steps of the GPU suite gave.

Prints a line a step with the end of its log where it didn't pass, then the rows that the benchmarks
left beside SUITE.json. Exits with 1 where a step failed or ran out of time.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tempo_fast.cli.files import dumps, write_atomically

from .provenance import provenance
from .summary import line

GOOD = ("passed", "not run")
TAIL = 4  # lines of a log that are shown


def main(steps: str, suite: str) -> int:
    """Write SUITE.json, print the table, return the exit status."""
    path = Path(suite)
    made = [_step(text) for text in Path(steps).read_text().splitlines()]
    record = {
        "schema": 1,
        "kind": "suite",
        **provenance(),
        "command": "gpu_suite.sh",
        "steps": made,
    }
    write_atomically(path, f"{dumps(record, indent=1)}\n".encode())
    print(f"\n{'step':16} {'status':14} time")
    for step in made:
        print(f"{step['name']:16} {step['status']:14} {step['seconds']} s")
        if step["status"] != "passed":
            for text in _tail(path.parent / "logs" / f"{step['name']}.log"):
                print(f"    {text}")
    for rows in sorted(path.parent.glob("*.json")):
        found = json.loads(rows.read_text())
        if found.get("kind") == "benchmarks":
            print(f"\n{rows.name}")
            for row in found["rows"]:
                if row["suite"] != "kernels":
                    print(line(row))
    return 0 if all(step["status"] in GOOD for step in made) else 1


def _step(text: str) -> dict:
    name, status, exit_status, seconds = text.split("\t")
    return {
        "name": name,
        "status": status,
        "exit_status": int(exit_status),
        "seconds": int(seconds),
    }


def _tail(log: Path) -> list[str]:
    if not log.exists():
        return []
    lines = [text for text in log.read_text(errors="replace").splitlines() if text.strip()]
    return lines[-TAIL:]


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
