"""The table of what was measured: rows in measured.json, and the pages that are made from it."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

MEASURED = Path(__file__).parent / "measured.json"
# What the README's reader wants to know: rows whose name begins so.
HEADLINES = (
    "`onnxviz predict`",
    "occlusion, speed over",
    "`patches`: throughput against decoding",
    "gradient over twice",
    "the file that `onnxviz gradient` writes",
    "gradient, speed over torch,",
    "gradient, speed over ort-training",
    "gradient, speed over onnx-ad",
    "gradient of 8 pictures",
    "`compare`, ",
    "`onnxviz compare`",
    "`onnxviz audit`",
    "`faithfulness`",
)


def headlines(rows: Sequence[dict]) -> list[dict]:
    """The README's rows."""
    return [row for row in rows if row["name"].startswith(HEADLINES)]


def kept() -> list[dict]:
    """What has been measured."""
    return json.loads(MEASURED.read_text("utf-8"))


def code(root: Path) -> str:
    """A name for the package's code as it stands."""
    found = hashlib.sha256()
    for path in sorted((root / "onnxviz").rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def held_against(before: Mapping[str, dict], row: dict) -> dict:
    """The row, with how far it is apart from the run before, if that was of the same code on the same machine."""
    old = before.get(row["name"], {})
    if "values" not in row or any(old.get(key) != row[key] for key in ("code", "machine")):
        return row
    apart = max(abs(new / one - 1) for one, new in zip(old["values"], row["values"], strict=True))
    return {**row, "apart": f"{apart:.1%}"}


def keep(rows: Sequence[dict], order: Sequence[str], root: Path) -> None:
    """Put the rows in the place of those of the same parts, and the tables between the pages' markers."""
    found = merge(kept(), rows, order)
    MEASURED.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    _put(root / "docs" / "performance.md", render(found))
    _put(root / "README.md", render(headlines(found)))


def choose(every: Sequence[str], asked: Sequence[str]) -> list[str]:
    """The parts that are asked for, a benchmark standing for all of its parts; nothing asked: all."""
    for name in asked:
        if not any(name in (part, part.partition(":")[0]) for part in every):
            sys.exit(f"no benchmark {name!r}: --list tells which there are")
    return [part for part in every if not asked or {part, part.partition(":")[0]} & set(asked)]


def merge(kept: Sequence[dict], rows: Sequence[dict], order: Sequence[str]) -> list[dict]:
    """The kept rows, those of the parts that were measured replaced, in the table's order; summaries come anew."""
    measured = {row["part"] for row in rows}
    found = [row for row in kept if row["part"] in order and row["part"] not in measured]
    found = sorted([*found, *rows], key=lambda row: order.index(row["part"]))
    for name in dict.fromkeys(part.partition(":")[0] for part in order):
        module = importlib.import_module(f"bench.{name}")
        own = [i for i, row in enumerate(found) if row["part"].startswith(f"{name}:")]
        if hasattr(module, "summary") and own:
            newest = max((found[i] for i in own), key=lambda row: row["date"])
            of = {key: newest[key] for key in ("date", "machine")}
            made = module.summary([found[i] for i in own])
            found[own[-1] + 1 : own[-1] + 1] = [{"part": f"{name}:all", **of, **row} for row in made]
    return found


def render(rows: Sequence[dict]) -> str:
    """The rows as a Markdown table; date and machine below, or a column of dates where they differ."""
    when = list(dict.fromkeys((row["date"], row["machine"]) for row in rows))
    dated = len(when) > 1
    columns = {"measured": "name", "value": "ratio", "middle half of the turns": "spread"}
    if any("apart" in row for row in rows):
        columns["two runs differ by"] = "apart"
    columns |= {"target": "target", "detail": "detail"} | ({"date": "date"} if dated else {})
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = (row.get(key, "") for key in columns.values())
        lines.append("|" + "".join(f" {cell} |" if cell else " |" for cell in cells))
    mark = "- " * dated
    return "\n".join([*lines, "", *(f"{mark}{date}, {machine}." for date, machine in when)])


def machine() -> str:
    """The processor, its cores and the versions that matter."""
    import onnxruntime

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}"


def _put(page: Path, table: str) -> None:
    start, end = "<!-- bench -->", "<!-- /bench -->"
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(start, 1)
    after = rest.split(end, 1)[1]
    page.write_text(f"{before}{start}\n{table}\n{end}{after}", encoding="utf-8")
