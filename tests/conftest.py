"""What many tests share: the bundled network and real photos."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# Property tests draw the same examples at each run, so that a run says something about the code only; new ones with
# `tools/test.py --explore`. How long one example takes says nothing on a machine that is shared.
settings.register_profile("same", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("ONNXVIZ_HYPOTHESIS", "same"))

# Many tests import onnxruntime themselves, as an oracle; what onnxviz does about it, test_offline.py holds.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# A shell's `&` and nohup have signals ignored, and every process that is started from here would ignore them, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_runtest_setup() -> None:
    """What a test draws with torch does not depend on the tests before it."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(scope="session")
def net():
    import onnxviz

    return onnxviz.load("efficientnet-lite0", provider="cpu")


@pytest.fixture(scope="session")
def cat() -> np.ndarray:
    """A photo of a cat (class 285, Egyptian cat): (300, 451, 3) uint8."""
    from skimage import data

    return data.chelsea()


@pytest.fixture(scope="session")
def photo_files(tmp_path_factory) -> list[Path]:
    """Four photos as files."""
    from PIL import Image
    from skimage import data

    folder = tmp_path_factory.mktemp("photos")
    paths = []
    for name in ("chelsea", "coffee", "astronaut", "rocket"):
        path = folder / f"{name}.png"
        Image.fromarray(getattr(data, name)()).save(path)
        paths.append(path)
    return paths
