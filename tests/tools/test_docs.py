"""The site: it builds, every link leads somewhere, the tutorials run, and no page asks anything of another host."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import onnxviz
from onnxviz.cli.table import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from docs.build import fetched  # noqa: E402

BOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))


class Pictures(HTMLParser):
    """How many pictures a page holds in itself, as a notebook's results are."""

    inline = 0

    def handle_starttag(self, tag, attrs):
        self.inline += tag == "img" and (dict(attrs).get("src") or "").startswith("data:image/png")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if "ONNXVIZ_DOCS_PYTHON" not in os.environ:
        pytest.skip("tools/test.py makes the environment that builds the pages")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "docs"), "--out", str(out)],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return out


@pytest.mark.timeout(900)
def test_the_site_has_every_page(site):
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file(), page
    for book in BOOKS:
        page = Pictures()
        page.feed((site / "tutorials" / f"{book.stem}.html").read_text("utf-8"))
        shown = sum(
            re.match(
                r"(?:maps\[\d\]|heat|cam|onnxviz\.\w+\(.*\))\s*$", "".join(cell["source"]).splitlines()[-1]
            )
            is not None
            for cell in json.loads(book.read_text("utf-8"))["cells"]
            if cell["cell_type"] == "code"
        )
        assert page.inline >= shown >= 2, book.stem


@pytest.mark.timeout(900)
def test_the_reference_has_every_function_and_command(site):
    python = (site / "reference" / "python.html").read_text("utf-8")
    for name in onnxviz._PUBLIC:
        assert f'.{getattr(onnxviz, name).__name__}"' in python, name
    entry = re.search(r'id="onnxviz\.[\w.]+\.saliency".*?id="onnxviz', python, flags=re.S)[0]
    for part in ("Simonyan, Vedaldi", "<strong>Returns</strong>", "<strong>Raises</strong>"):
        assert part in entry
    for parameter in ("image", "samples", "noise", "percentile"):
        assert re.search(rf"<code>{parameter}</code>", entry), parameter
    commands = (site / "reference" / "commands.html").read_text("utf-8")
    for name in COMMANDS:
        assert f"Usage: onnxviz {name} " in commands


def test_what_a_browser_would_fetch_is_found(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(
        '<a href="https://host.invalid/x">a link</a><link rel="canonical" href="https://host.invalid/">'
        '<script src="https://host.invalid/a.js"></script><img alt="" src=//host.invalid/b.png>'
    )
    assert len(fetched(page)) == 2


def test_the_tutorials_are_kept_without_results():
    assert len(BOOKS) == 3
    for book in BOOKS:
        cells = json.loads(book.read_text("utf-8"))["cells"]
        assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells), (
            book.stem
        )
