"""Agreement of segmenters, place by place, and of detectors, box by box."""

from __future__ import annotations

import json

import numpy as np
import pytest

import onnxviz
from onnxviz.comparing.answers import answers
from onnxviz.comparing.dense import Detections, Pixels, detections, pixels
from tests.comparing import small
from tests.networks import edited

BOXES = 12


def opened(model):
    return small.opened(model, **small.SCALED)


def compared(a, b, pictures):
    return onnxviz.compare(a, opened(b), pictures, methods=(), probes=4, restore=0)


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
    found = compared(opened(files.small("segmenter")), files.small("segmenter", form), pictures)
    places = found.answers.pixels
    assert places.output == "masks" and 0.95 < places.agreement(0.0)[0] < 1
    assert places.iou > 0.85
    assert found.check("compare.answers").state == "clean"
    assert any("of the places" in line for line in found.lines())
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_spoilt_segmenter_is_told_by_its_places(files, pictures):
    b = edited(files.small("segmenter"), **{"classes.weight": lambda w: -w})
    found = compared(opened(files.small("segmenter")), b, pictures)
    (one,) = (one for one in found.findings if one.id == "compare.answers")
    assert one.severity in ("high", "medium") and "of the places" in one.sentence


def test_what_is_no_map_of_classes_has_no_places(files):
    models = (
        files.small("detector"),
        files.small("resnet"),
        small.segmenter(classes=3),
    )  # of 3: depth, or colours
    assert [pixels(opened(model)) for model in models] == [None] * 3


# --- detectors ---------------------------------------------------------------------------------


def ssd(*, raw: bool = False, picked: bool = False, bias: float = 0.0):
    """Boxes and the softmax of four classes, the last for nothing, as outputs of their own; or what NMS picks."""
    m = small.Named(seed=3)
    x = m.layer("stem.relu", "Relu", m.conv("stem", "image", 8, 3, 3, 4))
    x = m.layer("features", "Flatten", m.layer("pool", "AveragePool", x, kernel_shape=[4, 4], strides=[4, 4]))
    boxes = m.layer("boxes", "Reshape", m.linear("box.row", x, 4 * BOXES, 128), [0, BOXES, 4])
    logits = m.layer("conf.rows", "Reshape", m.linear("conf", x, 4 * BOXES, 128), [0, BOXES, 4])
    shifted = m.layer("conf.shifted", "Add", logits, [bias, 0.0, 0.0, 4 - bias])
    scores = shifted if raw else m.layer("scores", "Softmax", shifted, axis=2)
    outputs = {boxes: ("N", BOXES, 4), scores: ("N", BOXES, 4)}
    if picked:
        turned = m.layer("turned", "Transpose", scores, perm=[0, 2, 1])
        chosen = m.layer("chosen", "NonMaxSuppression", boxes, turned, [5])
        outputs = {m.layer("chosen.real", "Cast", chosen, to=1): ("M", 3)}
    return m.model({"image": ("N", 3, small.SIZE, small.SIZE)}, outputs)


def test_what_either_finds_is_counted_by_picture():
    found = Detections({"y": (1, [1, 2])})
    a = np.array([[[0.9, 0.9], [0.8, 0.1], [0.1, 0.1]]])  # a row of a box, then two of scores
    lost, kept, new = a.copy(), a.copy(), a.copy()
    lost[0, 1, 0], kept[0, 1, 0], new[0, 2, 1] = 0.2, 0.3, 0.7
    for b in (a, lost, kept, new):
        found.add({"y": a}, {"y": b})
    nothing = np.where(a > 0.5, 0.4, a)
    found.add({"y": nothing}, {"y": nothing})
    assert found.shares == [1, 0, 1, 0.5]
    assert (found.found, found.lost, found.added) == (4, 1, 1)
    mean, low, high = found.agreement()
    assert mean == 0.625 and low == 0 and high == 1
    assert "4 detections 1 are lost and 1 new" in found.verdict()
    two = Detections({"y": (1, [1, 2]), "z": (1, [1, 2])})  # of each picture, all outputs together
    two.add({"y": a, "z": a}, {"y": a, "z": lost})
    assert (two.found, two.lost, two.shares) == (2, 1, [0.5])


def test_the_class_of_nothing_is_left_out():
    found = Detections({"y": (2, [0, 1, 2])})
    a = np.full((1, 8, 3), [0.05, 0.05, 0.9])
    b = a.copy()
    b[0, 0] = [0.9, 0.05, 0.05]
    found.add({"y": b}, {"y": a})
    assert found.nothing == {"y": 2}
    assert found.shares == [0.0]


def test_scores_are_told_from_boxes_by_what_makes_them(files):
    yolo, split = opened(files.small("detector")), opened(ssd())
    assert detections(yolo, ["output0"]).outputs == {"output0": (1, [4, 5, 6, 7, 8])}
    assert detections(split, ["boxes", "scores"]).outputs == {"scores": (2, [0, 1, 2, 3])}
    assert detections(opened(ssd(raw=True)), ["boxes", "conf.shifted"]) is None


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic"])
def test_a_sound_int8_file_finds_the_same(files, pictures, form):
    a = opened(files.small("detector"))
    found = compared(a, files.small("detector", form), pictures)
    check = found.check("compare.answers")
    assert check.state == "clean" and check.figure > 0.99
    boxes = found.answers.pixels
    assert isinstance(boxes, Detections) and boxes.found > 100 and len(boxes.shares) == len(pictures)
    assert found.answers.noise.sd < 16 and "outputs" in str(found.answers.noise)
    assert json.dumps(found.to_dict())


def test_lost_detections_are_a_finding(pictures):
    a = ssd(bias=2.0)
    found = compared(opened(a), edited(a, **{"conf.weight": lambda w: -w}), pictures)
    (told,) = (one for one in found.findings if one.id == "compare.answers")
    assert told.severity == "high" and "lost" in told.sentence


def test_what_is_picked_is_told_before_it_is_picked(pictures):
    found = answers(opened(ssd(picked=True)), opened(ssd(picked=True, bias=2.0)), pictures)
    assert "scores" in found.pixels.outputs or "turned" in found.pixels.outputs
    assert found.pixels.shares and found.noise.moved > 0
