"""Build the documentation into site/: python3 tools/docs [serve|--quick] [--out FOLDER]

Makes its own environment (.venv-docs), runs the tutorials' cells, makes the reference from docstrings and `--help`,
and checks every link between the pages. `serve` shows the site while it is written, --quick runs no cells.
Ends with 1 where a link leads nowhere, a cell fails, or a page would ask something of another host.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOOLS))
CONFIG = Path(__file__).parent / "mkdocs.yml"
PACKAGES = [
    "mkdocs-material>=9.7",
    "mkdocstrings-python>=2",
    "mkdocs-jupyter>=0.26",
    "ipykernel>=7",
    "ruff>=0.15",
]
# What a browser fetches by itself: scripts, styles, pictures, frames; links are the reader's own.
_FETCHED = re.compile(
    r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']?(https?:)?//[^\"'\s>]+", re.I
)
_HARMLESS = re.compile(r"rel=[\"']?(?:canonical|alternate|next|prev)", re.I)


def main(arguments: list[str]) -> int:
    from environment import ROOT

    out = Path(arguments[arguments.index("--out") + 1]) if "--out" in arguments else ROOT / "site"
    settings = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    if "--quick" in arguments or "serve" in arguments:
        settings["ONNXVIZ_DOCS_EXECUTE"] = "false"
    building = ["build", "--strict", "--clean", "--quiet", "--site-dir", str(out.resolve())]
    how = ["serve"] if "serve" in arguments else building
    command = [str(python()), "-m", "mkdocs", *how, "--config-file", str(CONFIG)]
    if code := subprocess.call(command, cwd=ROOT, env=settings):
        return code
    asking = [
        f"{page.relative_to(out)}: {found}" for page in sorted(out.rglob("*.html")) for found in fetched(page)
    ]
    if asking:
        print("these pages would ask another host:", *asking, sep="\n")
        return 1
    print(out / "index.html")
    return 0


def python() -> Path:
    """The Python of the environment that builds the pages, which is made once."""
    from environment import environment

    made = os.environ.get("ONNXVIZ_DOCS_PYTHON")
    return Path(made) if made else environment("docs", PACKAGES, ["-e", ".[cpu,demo]"])


def fetched(page: Path) -> list[str]:
    """What this page would fetch from another host."""
    found = (match[0] for match in _FETCHED.finditer(page.read_text(encoding="utf-8")))
    return [text for text in found if not _HARMLESS.search(text)]
