"""Making a virtual environment for one of the tools, once, and again only when what it needs has changed.

Standard library only: this runs on a machine that has Python and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)


def environment(name: str, *installs: list[str]) -> Path:
    """The Python of the virtual environment `.venv-NAME`, with each list of pip arguments installed in turn."""
    if sys.version_info < OLDEST:
        sys.exit(f"onnxviz needs Python {OLDEST[0]}.{OLDEST[1]} or newer; this is {sys.version.split()[0]}")
    folder = ROOT / f".venv-{name}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = hashlib.sha256(
        (ROOT / "pyproject.toml").read_bytes() + repr((installs, sys.version_info[:2])).encode()
    ).hexdigest()
    stamp = folder / "onnxviz-stamp"
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    print(f"setting up {folder.name} (once; this takes a minute) ...", flush=True)
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=False)
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
