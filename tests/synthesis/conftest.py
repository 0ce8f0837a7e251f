"""What these tests share: two small networks and a piece of wood."""

from __future__ import annotations

import networks
import numpy as np
import pytest
from skimage import data

import onnxviz
from tests.synthesis.painted import network


@pytest.fixture(scope="package")
def small():
    """Like VGG, for pictures of any size (`painted.network`)."""
    return onnxviz.load(network(), preprocess="imagenet", provider="cpu")


@pytest.fixture(scope="package")
def tiny():
    """A classifier of ten classes, at 32 pixels."""
    return onnxviz.load(networks.tiny_cnn(size="H"), preprocess="imagenet", provider="cpu", size=32)


@pytest.fixture(scope="package")
def wood() -> np.ndarray:
    """(64, 64, 3) uint8."""
    return np.ascontiguousarray(data.coffee()[300:364, 20:84])
