"""stability.attack: how many answers a change made on purpose turns, and that it is a finding by policy only."""

from __future__ import annotations

import numpy as np

from tests.auditing.checking import checked, ending
from tests.networks import Maker

SIZE = 16


def attacked(images, **options):
    """Class 0 for red over blue, else 1: it takes `red - blue` levels in all pixels to turn it."""
    m = Maker()
    weights = np.zeros((2, 3, SIZE, SIZE), np.float32)
    weights[0, 0] = weights[1, 2] = 0.1
    model = ending(m, m("Gemm", m("Flatten", "image"), weights.reshape(2, -1), transB=1), 2, SIZE)
    return checked(model, "stability.attack", images, **options)


def flat(difference: int) -> np.ndarray:
    picture = np.full((SIZE, SIZE, 3), 100, np.uint8)
    picture[..., 0] += difference
    return picture


# Both colours move: differences of up to twice the bound turn.
PICTURES = [flat(1), flat(3), flat(7), flat(15), flat(40)]


def test_each_picture_turns_within_the_bound_that_it_needs():
    one = attacked(PICTURES)
    assert {name: (share["count"], share["of"]) for name, share in one.figures.items()} == {
        f"{bound} of 255": (count, 5) for count, bound in enumerate((1, 2, 4, 8), 1)
    }
    assert one.evidence[0].table["turned"] == [1, 2, 3, 4]


def test_a_policy_alone_makes_it_a_finding():
    assert [attacked(images).state for images in (PICTURES, [flat(1)] * 3)] == ["clean"] * 2
    strict = {"check": {"stability.attack": {"threshold": 0.1, "severity": "high"}}}
    (finding,) = attacked(PICTURES, policy=strict).findings
    assert (finding.severity, finding.figure) == ("high", 0.2)
    assert attacked(PICTURES[1:], policy=strict).state == "clean"


def test_twenty_pictures_spread_over_all_are_attacked():
    one = attacked([flat(1)] * 20 + [flat(40)] * 20)
    assert (one.figures["8 of 255"]["count"], one.figures["8 of 255"]["of"]) == (10, 20)


def test_a_network_without_classes_has_no_answers_to_turn():
    m = Maker()
    maps = m("Conv", "image", m.random(4, 3, 3, 3))
    model = m.model({"image": ("N", 3, SIZE, SIZE)}, {maps: ("N", 4, SIZE - 2, SIZE - 2)})
    assert checked(model, "stability.attack", PICTURES).state == "not-applicable"
