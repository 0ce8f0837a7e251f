"""stability.attack: how many answers a change made on purpose turns, and that it is a finding by policy only."""

from __future__ import annotations

import numpy as np
import pytest

import onnxviz
from tests.networks import Maker

SIZE = 16


def by_contrast(pixels: float):
    """Class 0 for red over blue, else 1: it takes `red - blue` levels in all pixels to turn it."""
    m = Maker()
    weights = np.zeros((2, 3, SIZE, SIZE), np.float32)
    weights[0, 0], weights[1, 2] = pixels, pixels
    x = m("Gemm", m("Flatten", "image"), m.constant(weights.reshape(2, -1)), transB=1)
    return m.model({"image": ("N", 3, SIZE, SIZE)}, {m("Softmax", x): ("N", 2)})


def flat(difference: int) -> np.ndarray:
    picture = np.full((SIZE, SIZE, 3), 100, np.uint8)
    picture[..., 0] += difference
    return picture


def checked(model, images, **options):
    net = onnxviz.load(model, preprocess="unit", threads=1)
    found = onnxviz.audit(net, images, only=["stability.attack"], **options)
    (one,) = [one for one in found.checks if one.id == "stability.attack"]
    return one


# Both colours move: differences of up to twice the bound turn.
PICTURES = [flat(1), flat(3), flat(7), flat(15), flat(40)]


def test_each_picture_turns_within_the_bound_that_it_needs():
    one = checked(by_contrast(0.1), PICTURES)
    assert {name: (share["count"], share["of"]) for name, share in one.figures.items()} == {
        "1 of 255": (1, 5),
        "2 of 255": (2, 5),
        "4 of 255": (3, 5),
        "8 of 255": (4, 5),
    }
    assert one.evidence[0].table["turned"] == [1, 2, 3, 4]


@pytest.mark.parametrize("images", [PICTURES, [flat(1)] * 3])
def test_it_is_no_finding_by_itself(images):
    assert checked(by_contrast(0.1), images).state == "clean"


def test_a_policy_makes_it_one():
    strict = {"check": {"stability.attack": {"threshold": 0.1, "severity": "high"}}}
    (finding,) = checked(by_contrast(0.1), PICTURES, policy=strict).findings
    assert (finding.severity, finding.figure) == ("high", 0.2)
    assert checked(by_contrast(0.1), PICTURES[1:], policy=strict).state == "clean"


def test_twenty_pictures_spread_over_all_are_attacked():
    one = checked(by_contrast(0.1), [flat(1)] * 20 + [flat(40)] * 20)
    assert (one.figures["8 of 255"]["count"], one.figures["8 of 255"]["of"]) == (10, 20)


def test_a_network_without_classes_has_no_answers_to_turn():
    m = Maker()
    m2 = m("Conv", "image", m.random(4, 3, 3, 3))
    model = m.model({"image": ("N", 3, SIZE, SIZE)}, {m2: ("N", 4, SIZE - 2, SIZE - 2)})
    assert checked(model, PICTURES).state == "not-applicable"
