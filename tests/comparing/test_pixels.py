"""Agreement of segmenters, place by place."""

from __future__ import annotations

import json

import numpy as np
import pytest

import onnxviz
from onnxviz.comparing.pixels import Pixels, pixels
from tests.comparing import small
from tests.comparing.small import SCALED, opened
from tests.networks import edited


def compared(files, b, pictures):
    a, b = (opened(model, **SCALED) for model in (files.small("segmenter"), b))
    return onnxviz.compare(a, b, pictures, methods=(), probes=4, restore=0)


def test_shares_and_intersections_are_counted_by_picture():
    found = Pixels("y")
    a = np.array([[[5.0, 0.0], [0.0, 0.0]], [[0.0, 5.0], [0.2, 0.0]]])
    b = a.copy()
    b[:, 1, 0] = [5, 0]
    found.add(a, b, (0.0, 0.5))
    found.add(a, a, (0.0, 0.5))
    assert found.shares == {0.0: [0.75, 1.0], 0.5: [1.0, 1.0]}  # A is not sure of the place that differs
    assert found.iou == pytest.approx((4 / 5 + 3 / 4) / 2)
    mean, low, high = found.agreement(0.0)
    assert mean == 0.875 and low == 0 and high == 1  # two pictures tell little
    assert found.agreement(0.5) == (1, 1, 1)
    assert found.agreement(0.9) is None


def test_one_channel_is_a_class_against_none():
    found = Pixels("y")
    found.add(np.array([[[-4.0, 4.0]]]), np.array([[[-4.0, -0.1]]]), (0.0,))
    assert found.shares == {0.0: [0.5]}
    found.add(np.array([[[0.1, 0.9]]]), np.array([[[0.4, 0.6]]]), (0.0,))
    assert found.shares[0.0][-1] == 1


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_sound_segmenter_agrees_at_its_places(files, pictures, form):
    found = compared(files, files.small("segmenter", form), pictures)
    places = found.answers.pixels
    assert places.output == "masks" and 0.95 < places.agreement(0.0)[0] < 1
    assert places.iou > 0.85
    assert found.check("compare.answers").state == "clean"
    assert any("of the places" in line for line in found.lines())
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_spoilt_segmenter_is_told_by_its_places(files, pictures):
    b = edited(files.small("segmenter"), **{"classes.weight": lambda w: -w})
    found = compared(files, b, pictures)
    (one,) = (one for one in found.findings if one.id == "compare.answers")
    assert one.severity in ("high", "medium") and "of the places" in one.sentence


def test_what_is_no_map_of_classes_has_no_places(files):
    models = (
        files.small("detector"),
        files.small("resnet"),
        small.segmenter(classes=3),
    )  # of 3: depth, or colours
    assert [pixels(opened(model, **SCALED)) for model in models] == [None] * 3
