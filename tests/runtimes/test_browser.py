"""Written files on ONNX Runtime's web build: its WebAssembly on Node, and WebGPU in headless Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.runtimes import held

HERE = Path(__file__).parent
SET_UP = HERE.parents[1] / ".venv-node" / "web"
ORT = SET_UP / "node_modules" / "onnxruntime-web" / "dist"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TYPES = {".mjs": "text/javascript", ".wasm": "application/wasm", ".html": "text/html"}
# A software WebGPU (SwiftShader), so that any machine gives the same; nothing is fetched or sent.
FLAGS = [
    "--headless", "--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
]  # fmt: skip
# Its shaders take seconds each to compile.
ON_WEBGPU = (
    "convolutions", "clips", "max pools", "mean pools of any size", "norms", "attention", "movement", "gates"
)  # fmt: skip
# exp, sqrt and division are approximate there (WGSL allows errors of a few units in the last place, and more).
WEBGPU_TOLERANCE = 1e-3


@pytest.fixture(autouse=True)
def _set_up() -> None:
    if not (SET_UP / "node").is_file():
        pytest.fail(
            "Node and onnxruntime-web are not set up: run `python3 tools/node.py` and see what it says "
            "(tools/test.py does that first)",
            pytrace=False,
        )


def on_node(folder: Path, cases: dict[str, held.Held]) -> dict:
    held.write(folder, cases)
    (folder / "node_modules").symlink_to(SET_UP / "node_modules")
    for name in ("hold.mjs", "node.mjs"):
        shutil.copy(HERE / name, folder)
    command = [(SET_UP / "node").read_text(), str(folder / "node.mjs"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return held.read(folder)


@contextmanager
def server(folder: Path) -> Iterator[tuple[int, threading.Event, list[str]]]:
    """Serves the page, onnxruntime-web and the folder's files on a port of its own, and writes what is posted.

    Gives the port, an event for the end, and what the page said there (nothing where all is well).
    """
    ended, said = threading.Event(), list[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            place, _, name = self.path.lstrip("/").rpartition("/")
            path = {"": HERE, "ort": ORT, "files": folder}[place] / name
            self.answer(
                200 if path.is_file() else 404, path.read_bytes() if path.is_file() else b"", path.suffix
            )

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/end":
                said.append(body.decode())
                ended.set()
            else:
                (folder / Path(self.path).name).write_bytes(body)
            self.answer(200, b"", "")

        def answer(self, status: int, body: bytes, suffix: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", TYPES.get(suffix, "application/octet-stream"))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    serving = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=serving.serve_forever, daemon=True)
    thread.start()
    try:
        yield serving.server_port, ended, said
    finally:
        serving.shutdown()
        serving.server_close()


def on_webgpu(browser: str, folder: Path, cases: dict[str, held.Held]) -> dict:
    files = folder / "files"
    files.mkdir()
    held.write(files, cases)
    with server(files) as (port, ended, said), (folder / "browser.log").open("w") as log:
        page = f"http://127.0.0.1:{port}/browser.html"
        command = [browser, *FLAGS, f"--user-data-dir={folder / 'profile'}", page]
        running = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            assert ended.wait(240), f"the page did not end: {(folder / 'browser.log').read_text()[-2000:]}"
        finally:
            running.terminate()
            running.wait(30)
    assert said == [""], said
    return held.read(files)


def test_webassembly_every_form(tmp_path) -> None:
    cases = {name: make() for name, make in held.FORMS.items()}
    held.hold_all(cases, on_node(tmp_path, cases))


def test_webassembly_the_bundled_network(net, cat, tmp_path) -> None:
    cases = held.bundled(net, cat)
    held.hold_all(cases, on_node(tmp_path, cases))


def test_webgpu(tmp_path) -> None:
    browser = os.environ.get("ONNXVIZ_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium is installed (Debian: apt install chromium); ONNXVIZ_BROWSER may name one")
    cases = {name: held.FORMS[name]() for name in ON_WEBGPU}
    held.hold_all(cases, on_webgpu(browser, tmp_path, cases), WEBGPU_TOLERANCE)
