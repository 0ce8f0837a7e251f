"""Making a virtual environment for one of the tools, once, and again only when what it needs has changed.

Standard library only: this runs on a machine that has Python and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
# What the tools start does not report to ONNX Runtime's maker either; read when onnxruntime is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def environment(name: str, *installs: list[str], base: str = sys.executable) -> Path:
    """The Python of the virtual environment `.venv-NAME`, with each list of pip arguments installed in turn.

    base   the Python that it is made with
    """
    if sys.version_info < OLDEST:
        sys.exit(f"onnxviz needs Python {OLDEST[0]}.{OLDEST[1]} or newer; this is {sys.version.split()[0]}")
    python = place(name)
    folder = python.parent.parent
    wanted = hashlib.sha256(
        (ROOT / "pyproject.toml").read_bytes() + repr((installs, version(base))).encode()
    ).hexdigest()
    stamp = folder / "onnxviz-stamp"
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"setting up {folder.name} (once; this takes a minute) ...", flush=True)
    made = subprocess.run([base, "-m", "venv", "--clear", str(folder)], check=False)
    if made.returncode:
        sys.exit(
            "this Python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"
        )
    for arguments in installs:
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *arguments]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            sys.exit(f"installing failed: {' '.join(command)}")
    stamp.write_text(wanted)
    return python


def place(name: str) -> Path:
    """Where the Python of `.venv-NAME` is, or will be."""
    return ROOT / f".venv-{name}" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def version(python: str) -> tuple[int, int] | None:
    """(major, minor) of a Python that can make virtual environments; None where it cannot."""
    if python == sys.executable:
        return sys.version_info[:2]
    code = "import sys, venv, ensurepip; print(*sys.version_info[:2])"
    try:
        asked = subprocess.run([python, "-c", code], check=False, capture_output=True, text=True)
    except OSError:
        return None
    if asked.returncode:
        return None
    major, minor = asked.stdout.split()
    return int(major), int(minor)


def find_python(newest: tuple[int, int]) -> str | None:
    """A Python of this machine that onnxviz runs on and that is no newer than `newest`; None where there is none."""
    names = [f"python{OLDEST[0]}.{minor}" for minor in range(newest[1], OLDEST[1] - 1, -1)]
    places = [sys.executable, *(found for name in names if (found := shutil.which(name))), "/usr/bin/python3"]
    for place in places:
        found = version(place)
        if found is not None and OLDEST <= found <= newest:
            return place
    return None
