"""What many tests share: the bundled network and real photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


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
