"""What these tests share: a small classifier, and crops of photos with their features."""

from __future__ import annotations

import pytest
from networks import tiny_cnn

import onnxviz
from onnxviz.features.embed import embed
from tests.features import crops


@pytest.fixture(scope="package")
def tiny():
    return onnxviz.load(tiny_cnn(), preprocess="unit", labels=list("abcdefghij"), provider="cpu")


@pytest.fixture(scope="package")
def files(tmp_path_factory):
    """Six crops of each of four photos."""
    return crops.write(tmp_path_factory.mktemp("crops"))


@pytest.fixture(scope="package")
def embedding(net, files):
    return embed(net, files)
