"""Weights, clipping or rounding: the part that was made wrong is the one that is named."""

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


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_sound_file(files, sound, probes, form):
    """EfficientNet-Lite0: three quarters of the noise comes of the weights, and nothing is clipped."""
    found = split(hybrids(files.bundled, sound[form], probes[:4]))
    assert 0.65 < found.shares["weights"] < 0.9
    assert found.shares["clipping"] < 0.01


def test_the_same_twice_has_no_cause(files):
    path = files.small("resnet")
    assert split(hybrids(path, path, small.pictures()[:2])).cause is None


@pytest.mark.parametrize(("calibrate", "cause"), [("unit", "clipping"), ("noise", "rounding")])
def test_calibrated_on_the_wrong_numbers(files, probes, calibrate, cause):
    found = split(hybrids(files.bundled, files("QDQ", calibrate=calibrate), probes[:2]))
    assert found.cause == cause


def test_per_tensor_weights_are_named(files, probes):
    found = split(hybrids(files.bundled, files("QDQ", per_channel=False), probes[:2]))
    assert found.cause == "weights"
    assert found.shares["weights"] > 0.9


@pytest.mark.parametrize("name", small.NETWORKS)
def test_measured_ranges_clip_nothing(files, name):
    found = split(hybrids(files.small(name), files.small(name, "dynamic"), small.pictures()[:2]))
    assert found.clipping == 0
    assert found.weights > 0
    assert found.activations > 0
