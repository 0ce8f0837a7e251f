"""Int8 files that take codes, as converters for the edge write them: the input's quantiser is left to the caller."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from processors import needs_whole_sums

import onnxviz
from onnxviz.errors import PreprocessingAssumed
from tests.comparing.small import SCALED, opened

TYPES = {"uint8": TensorProto.UINT8, "int8": TensorProto.INT8}


def taking_codes(model: onnx.ModelProto, kind: str, untold: bool = False) -> onnx.ModelProto:
    """The file without the quantiser behind its input, and without what it says of preprocessing."""
    copied = copy.deepcopy(model)
    (image,), nodes = copied.graph.input, copied.graph.node
    (first,) = (node for node in nodes if node.op_type == "QuantizeLinear" and node.input[0] == image.name)
    nodes.remove(first)
    for node in nodes:
        for place, name in enumerate(node.input):
            if name == first.output[0]:
                node.input[place] = image.name
    image.type.tensor_type.elem_type = TYPES[kind]
    if untold:
        del copied.metadata_props[:]
    onnx.checker.check_model(copied)
    return copied


@pytest.fixture(scope="module")
def edge(files):
    """The bundled network in a form and a type of codes: with its input's quantiser, and without."""
    made = {}

    def of(form, kind):
        if (form, kind) not in made:
            model = onnx.load(files(form, activations=kind))
            made[form, kind] = opened(model), opened(taking_codes(model, kind))
        return made[form, kind]

    return of


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_pictures_become_the_codes_that_the_files_quantiser_makes(edge, files, form, kind):
    needs_whole_sums()
    whole, codes = edge(form, kind)
    photos = files.photos()[:4]
    assert codes.input.dtype == codes.preprocessing.dtype == kind
    x = codes.prepare(photos)
    assert x.dtype == np.float32 and np.array_equal(x, np.rint(x))
    one, other = (net.run(net.prepare(photos), [net.head.logits])[net.head.logits] for net in (whole, codes))
    assert np.abs(one - other).max() < 0.05 * np.abs(one).max()  # ties are rounded either way
    assert [each[0].index for each in whole.predict(photos)] == [
        each[0].index for each in codes.predict(photos)
    ]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_sound_file_that_takes_codes_has_no_finding(files, pictures, form, kind):
    a = opened(files.small("resnet"), **SCALED)
    b = opened(taking_codes(onnx.load(files.small("resnet", form, activations=kind)), kind), **SCALED)
    found = onnxviz.compare(a, b, pictures, methods=(), probes=8, restore=1)
    assert not [one.sentence for one in found.findings if one.severity == "high"]
    assert found.check("compare.matching").figure > 0.99
    assert found.check("compare.input").state == "clean"
    figures = found.check("compare.input").figures
    assert figures["B"]["input"] == pytest.approx(figures["A"]["input"], rel=1e-3)
    assert figures["B"]["quantiser"] is not None and found.effects.measured > 15


def test_a_gradient_by_codes_is_that_by_pixels(edge, files):
    whole, codes = edge("QDQ", "int8")
    photo = files.photos()[5]
    one, other = (onnxviz.saliency(net, photo, method="gradient").values for net in (whole, codes))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.95


def test_without_a_word_int8_is_taken_for_pixels_less_128_and_told_aloud(files):
    model = onnx.load(files("QDQ", activations="int8"))
    with pytest.warns(PreprocessingAssumed, match="int8: assuming pixels less 128"):
        net = opened(taking_codes(model, "int8", untold=True))
    photo = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    assert np.array_equal(net.prepare(photo)[0], photo.transpose(2, 0, 1).astype(np.float32) - 128)
    assert any("pixels less 128" in one for one in net.warnings)
    told = opened(taking_codes(model, "int8", untold=True), preprocess="efficientnet-lite")
    assert told.preprocessing.codes == (-128, 127) and not any("assuming" in one for one in told.warnings)


def test_a_recipe_of_codes_that_is_not_that_of_a_is_a_finding(edge, net, files):
    model = taking_codes(onnx.load(files("QDQ", activations="int8")), "int8")
    other = opened(model, channels="BGR")
    found = onnxviz.compare(net, other, files.photos()[:2], methods=(), probes=2, restore=0)
    (one,) = (one for one in found.findings if one.id == "compare.input" and one.where == "input")
    assert "RGB in A, BGR in B" in one.sentence
