"""Weights, clipping or rounding: the part that was made wrong is the one that is named (the bundled network:
test_compare.py)."""

from __future__ import annotations

import pytest

from onnxviz.comparing.split import Split, split
from tests.comparing import small
from tests.comparing.test_local import hybrids


def test_shares_add_up():
    found = Split(weights=0.3, activations=0.2, clipping=0.1, pictures=4)
    assert found.shares == pytest.approx(
        {"weights": 0.09 / 0.13, "clipping": 0.01 / 0.13, "rounding": 0.03 / 0.13}
    )
    assert found.cause == "weights"
    nothing = Split(0.0, 0.0, 0.0, 4)
    assert nothing.cause is None
    assert nothing.to_dict()["db"] == {"weights": None, "activations": None, "clipping": None}


def test_the_same_twice_has_no_cause(files):
    path = files.small("resnet")
    assert split(hybrids(path, path, small.pictures()[:2])).cause is None


@pytest.mark.parametrize("name", small.NETWORKS)
def test_measured_ranges_clip_nothing(files, name):
    found = split(hybrids(files.small(name), files.small(name, "dynamic"), small.pictures()[:2]))
    assert found.clipping == 0
    assert found.weights > 0
    assert found.activations > 0
