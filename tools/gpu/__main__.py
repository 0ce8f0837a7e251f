"""Measure one card, section by section: `python3 -m gpu --out FOLDER`; `--docs FILE` puts a gpu.json into the page."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from gpu import supervise, tables

SECONDS = 315.0  # with the wheels' installation under six minutes
# The most telling first; a section that needs longer is ended, and named.
LIMITS = {
    "machine": 60.0,
    **dict.fromkeys(tables.NETWORKS[:3], 40.0),
    **dict.fromkeys(tables.TECHNIQUES, 30.0),
    "CUDA graphs": 25.0,
    "strided depthwise": 15.0,
    "TensorRT": 30.0,
    "compiled EfficientNet-Lite0": 60.0,
    **dict.fromkeys(tables.NETWORKS[3:], 40.0),
    "compiled ResNet-50": 60.0,
}


def main() -> int:
    """All sections, or the page from figures that are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="folder for gpu.json and gpu.md")
    parser.add_argument("--docs", type=Path, help="a gpu.json, whose tables go into docs/gpu.md")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of all sections together")
    parser.add_argument("--stand-in", action="store_true", help="on the CPU, with small counts, to rehearse")
    parser.add_argument(
        "--only", nargs="*", choices=LIMITS, metavar="SECTION", help=f"of {', '.join(LIMITS)}"
    )
    parser.add_argument("--run", nargs="*", help=argparse.SUPPRESS)  # the process that a section runs in
    given = parser.parse_args()
    if given.run is not None:
        from gpu.sections import Sections

        supervise.run(Sections(stand_in=given.stand_in).table(), given.run)
        return 0
    if given.docs is not None:
        page = tables.insert(
            tables.PAGE.read_text("utf-8"), tables.render(json.loads(given.docs.read_text()))
        )
        tables.PAGE.write_text(page, "utf-8")
        return 0
    if given.out is None:
        parser.error("--out is needed")
    given.out.mkdir(parents=True, exist_ok=True)

    def report(figures: dict[str, Any]) -> None:
        (given.out / "gpu.json").write_text(json.dumps(figures, indent=1))
        (given.out / "gpu.md").write_text(tables.render(figures), "utf-8")

    command = [sys.executable, "-m", "gpu", *["--stand-in"] * given.stand_in, "--run"]
    limits = {name: LIMITS[name] for name in given.only or LIMITS}
    supervise.measure(command, limits, given.seconds, report, {})
    print((given.out / "gpu.md").read_text("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
