"""The page: what was asked of a GPU and what was measured, then every file's figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tempo_fast.cli.files import write_atomically
from tempo_fast.report import plots
from tempo_fast.report.results import Results

NOT_MEASURED = "not measured"
PAGE = "report.md"


def write_report(results: Sequence[Results], folder: Path) -> list[Path]:
    """Write `report.md` and its pictures; return the files.

    Raises TempoError where a picture is due and matplotlib isn't installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {name: draw(results) for name, draw in plots.PICTURES.items()}
    text = render(results, [name for name, image in pictures.items() if image is not None])
    written = []
    for name, data in {**pictures, PAGE: text.encode()}.items():
        if data is not None:
            write_atomically(folder / name, data)
            written.append(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)  # of an earlier report, with other figures
    return written


def render(results: Sequence[Results], pictures: Sequence[str]) -> str:
    """The page's Markdown. pictures: the names of those that exist."""
    parts = ["# Benchmarks", _targets(results)]
    for name in plots.PICTURES:
        title = plots.TITLES[name]
        shown = f"![{title}]({name})" if name in pictures else f"{title}: {NOT_MEASURED}."
        parts.append(shown)
    parts += [_section(each) for each in results]
    if not results:
        parts.append("There are no results: `make bench` makes some.")
    return "\n\n".join(parts) + "\n"


def _targets(results: Sequence[Results]) -> str:
    """The figures that Tempo-6B's sizes are judged by, of the last file that has each."""
    rows = [
        row
        for each in results
        if each.kind == "benchmarks"
        for row in each.rows
        if "engine" in row
        and (row.get("size"), row.get("frames"), row.get("budget")) == ("tempo-6b", 1024, 8192)
    ]
    lines = []
    for label, name, figure in TARGETS:
        found = [text for row in rows if row["name"] == name and (text := figure(row)) is not None]
        device = next((row["device"] for row in reversed(rows) if row["name"] == name), "")
        lines.append([label, found[-1] if found else NOT_MEASURED, device if found else ""])
    title = "## Tempo-6B's sizes, random weights, 1024 frames of 512×256 in memory, 8192 tokens"
    return f"{title}\n\n{_table(['figure', 'measured', 'on'], lines)}"


def _with_floor(row: dict[str, Any]) -> str | None:
    floor = row.get("first_token_floor")
    seconds = row["engine"].get("first_token_seconds")
    if seconds is None:
        return None
    return _seconds(seconds) + (f" (floor {_seconds(floor['seconds'])})" if floor else "")


def _rate(row: dict[str, Any]) -> str | None:
    rate = row["engine"].get("tokens_per_second")
    return None if rate is None else f"{rate:.0f} tokens/s"


def _ratio(row: dict[str, Any], opponent: str = "baseline") -> str | None:
    ratio = row.get(opponent, {}).get("ratio")
    return None if ratio is None else f"{ratio:.2f}×"


def _peak(row: dict[str, Any]) -> str | None:
    peak = row.get("engine", {}).get("peak_bytes")
    return None if peak is None else f"{peak / 1e9:.1f} GB"


TARGETS: list[tuple[str, str, Callable[[dict[str, Any]], str | None]]] = [
    ("first token of a first question", "first question", _with_floor),
    ("first token of a later question", "later question", _with_floor),
    ("decode", "decode step", _rate),
    ("a whole first question, against the baseline", "first question", _ratio),
    ("a whole later question, against the baseline", "later question", _ratio),
    ("peak memory of a first question", "first question", _peak),
]


def _section(results: Results) -> str:
    record = results.record
    head = [f"## {results.path.name}", _provenance(results)]
    if record.get("failed"):
        head.append(f"**{record['failed']} checks failed; what failed has no row.**")
    return "\n\n".join([*head, SECTIONS[results.kind](results)])


def _provenance(results: Results) -> str:
    record = results.record
    versions = record.get("versions") or {}
    known = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
    facts = {
        "machine": results.machine,
        "commit": (record.get("commit") or "")[:12],
        "date": record.get("date"),
        "versions": known,
        "command": f"`{record['command']}`" if record.get("command") else None,
        "note": record.get("note"),
    }
    lines = [f"* {name}: {value}" for name, value in facts.items() if value]
    lines += [
        f"* ceilings measured in this run ({ceiling['size']}, {ceiling['dtype']}): "
        f"{ceiling['flops'] / 1e12:.3g} TFLOP/s, {ceiling['bandwidth'] / 1e9:.4g} GB/s"
        for ceiling in record.get("ceilings", [])
    ]
    return "\n".join(lines)


def _benchmarks(results: Results) -> str:
    tables = []
    comparisons = [row for row in results.rows if row["suite"] != "kernels"]
    kernels = [row for row in results.rows if row["suite"] == "kernels"]
    settings = [row for row in comparisons if row["suite"] == "settings"]
    others = [row for row in comparisons if row["suite"] != "settings"]
    for rows in filter(None, (others, settings)):
        opponents = list(dict.fromkeys(name for row in rows for name in _opponents(row)))
        head = ["what", "size", "frames", "budget", "engine", "first token", "peak"]
        for name in opponents:
            head += [name, "engine is"]
        head += ["floor", "share of floor"]
        tables.append(_table(head, [_comparison(row, opponents) for row in rows]))
    if kernels:
        head = ["kernel", "implementation", "µs", "GB/s", "share of copy"]
        lines = [
            [
                row["name"],
                row["implementation"],
                f"{row['device_us']:.1f}",
                f"{row['gb_per_s']:.0f}",
                f"{row['share_of_copy']:.0%}",
            ]
            for row in kernels
        ]
        tables.append(_table(head, lines))
    return "\n\n".join(tables) or f"{NOT_MEASURED}."


def _opponents(row: dict[str, Any]) -> list[str]:
    """Whom the engine is compared with: each has a ratio, or says why it has none."""
    entries = ((name, entry) for name, entry in row.items() if isinstance(entry, dict))
    return [name for name, entry in entries if "ratio" in entry or "missing" in entry]


def _comparison(row: dict[str, Any], opponents: Sequence[str]) -> list[str]:
    engine = row.get("engine", {})
    line = [
        f"{row['suite']}: {row['name']}",
        row.get("size", ""),
        str(row.get("frames", "")),
        str(row.get("budget", "")),
        f"{NOT_MEASURED}: {row['missing']}"
        if "missing" in row
        else _seconds(engine.get("seconds")),
        _seconds(engine.get("first_token_seconds")),
        _peak(row) or "",
    ]
    for opponent in opponents:
        other = row.get(opponent, {})
        if "missing" in other or not other:
            line += [f"{NOT_MEASURED}{': ' if other else ''}{other.get('missing', '')}", ""]
        elif "seconds" in other:
            line += [_seconds(other["seconds"]), _ratio(row, opponent) or ""]
        else:
            line += [f"{other['peak_bytes'] / 1e9:.2f} GB", _ratio(row, opponent) or ""]
    floor, share = row.get("floor"), row.get("share_of_floor")
    return [
        *line,
        _seconds(floor["seconds"]) if floor else "not counted",
        f"{share:.1%}" if share is not None else "",
    ]


def _video(results: Results) -> str:
    head = ["file", "way", "seconds", "first segment", "CPU seconds", "peak"]
    lines = [
        [row["file"], row["way"], f"{NOT_MEASURED}: {row['missing']}", "", "", ""]
        if "missing" in row
        else [
            row["file"],
            row["way"],
            _seconds(row["seconds"]),
            _seconds(row["first_segment_seconds"]),
            _seconds(row["cpu_seconds"]),
            f"{row['peak_bytes'] / 1e9:.2f} GB",
        ]
        for row in results.rows
    ]
    return _table(head, lines)


def _profile(results: Results) -> str:
    from tempo_fast.profiling.tables import render as render_profile

    return f"```\n{render_profile(results.record)}\n```"


def _suite(results: Results) -> str:
    lines = [
        [step["name"], step["status"], f"{step['seconds']} s"] for step in results.record["steps"]
    ]
    return _table(["step", "status", "time"], lines)


def _aot(results: Results) -> str:
    kernels = results.record["kernels"]
    targets = dict.fromkeys(kernel["target"] for kernel in kernels)
    lines = []
    for target in targets:
        mine = [kernel for kernel in kernels if kernel["target"] == target]
        spilling = sum(bool(each["spill_stores"] or each["spill_loads"]) for each in mine)
        most = max(each["registers"] for each in mine)
        lines.append([target, str(len(mine)), str(most), str(spilling)])
    made = f"Compiled ahead of time by triton {results.record['triton']}; nothing was run."
    head = ["target", "kernels", "most registers", "with spills"]
    return f"{made}\n\n{_table(head, lines)}"


SECTIONS = {
    "benchmarks": _benchmarks,
    "video": _video,
    "profile": _profile,
    "suite": _suite,
    "aot": _aot,
}


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    number, unit = (value, "s") if value >= 1 else (value * 1e3, "ms")
    return f"{number:#.3g}".rstrip(".") + f" {unit}"  # with the zeros that are figures


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([row(head), "|" + "---|" * len(head), *map(row, lines)])
