"""What two networks are held against each other by, and how hybrids of them are run."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxviz.comparing.hybrids import Hybrids, answers
from onnxviz.comparing.local import local
from onnxviz.comparing.match import match
from onnxviz.comparing.sides import normal
from onnxviz.errors import ModelUnsuitable
from tests.comparing import small
from tests.comparing.test_local import hybrids


def opened(model, **options):
    return small.opened(model, preprocess="imagenet", **options)


def picked(model: onnx.ModelProto) -> onnx.ModelProto:
    """The scores of a detector's best places, as many as its file says, and where they are."""
    copied = copy.deepcopy(model)
    copied.graph.initializer.append(onnx.numpy_helper.from_array(np.array([7]), "best.count"))
    copied.graph.node.append(helper.make_node("TopK", ["scores", "best.count"], ["best", "where"], axis=-1))
    del copied.graph.output[:]
    copied.graph.output.append(helper.make_tensor_value_info("best", TensorProto.FLOAT, ("N", 5, 7)))
    copied.graph.output.append(helper.make_tensor_value_info("where", TensorProto.INT64, ("N", 5, 7)))
    return copied


def test_what_is_picked_is_compared_before(files):
    a = opened(picked(small.detector()))
    assert answers(a, normal(a)) == ["scores"]
    both = hybrids(
        picked(small.detector()), picked(onnx.load(files.small("detector", "QDQ"))), small.pictures()[:2]
    )
    found = local(both, heal=1)
    assert 0 < found.moved < 0.2
    assert abs(found.measured - found.predicted) < 6


def test_files_of_one_fixed_batch(files):
    """Each run is filled up with the same picture."""
    x = small.pictures()[:2]
    four = []
    for form in ("float", "QDQ"):
        model = onnx.load(files.small("resnet", form))
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 4
        del model.graph.value_info[:]
        four.append(model)
    free = local(hybrids(files.small("resnet"), files.small("resnet", "QDQ"), x), heal=0)
    for a, b in ((four[0], four[1]), (files.small("resnet"), four[1])):
        found = local(hybrids(a, b, x), heal=0)
        assert found.moved == pytest.approx(free.moved, rel=1e-3)
        assert len(found.effects) == len(free.effects)


def test_in_a_process_of_its_own(files):
    x = small.pictures()[:2]
    paths = files.small("mobilenet"), files.small("mobilenet", "QDQ")
    expected = local(hybrids(*paths, x), heal=1)
    with opened(paths[0], isolate=True) as a, opened(paths[1], isolate=True) as b:
        found = local(Hybrids(a, b, match(a, b, x), x, x), heal=1)
    assert [one.e for one in found.effects] == pytest.approx([one.e for one in expected.effects])


def test_pictures_that_are_not_finite_are_left_out(files):
    x = small.pictures()[:3].copy()
    x[1, 0, 5, 5] = np.nan
    both = hybrids(files.small("resnet"), files.small("resnet", "QDQ"), small.pictures()[:2])
    odd = Hybrids(both.a, both._nets[1], both.matching, x, x)
    found = local(odd, heal=1)
    assert (found.pictures, found.not_finite) == (2, 1)
    assert np.isfinite([one.e for one in found.effects]).all()


def test_what_has_no_answer_in_b_is_refused(files):
    a = opened(small.detector())
    other = onnx.load(files.small("detector"))
    other.graph.output.append(helper.make_tensor_value_info("rows", TensorProto.FLOAT, ("N", 9, 320)))
    b = opened(other)
    x = small.pictures()[:2]
    found = match(a, b, x)
    assert len(Hybrids(a, b, found, x, x)) == 2  # by its pair
    bare = type(found)(found.a, found.b, (), 1.0, 1.0)
    with pytest.raises(ModelUnsuitable, match="output0"):
        Hybrids(a, b, bare, x, x)
