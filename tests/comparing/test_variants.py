"""The networks that comparisons are tested on are what they are said to be."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from tests.comparing import small, variants
from tests.networks import fp16


def outputs(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    dtype = np.float16 if "float16" in image.type else np.float32
    return session.run(None, {image.name: x.astype(dtype)})[0].astype(np.float64)


def error(clean: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(clean - other) / np.linalg.norm(clean))


@pytest.mark.parametrize("name", small.NETWORKS)
def test_variants_are_valid_and_compute_the_same(name):
    model, x = small.NETWORKS[name](), small.pictures(2)
    onnx.checker.check_model(model, full_check=True)
    clean = outputs(model, x)
    for make, most in ((variants.unfolded, 1e-5), (variants.equalised, 1e-5), (fp16, 5e-3)):
        other = make(model)
        onnx.checker.check_model(other, full_check=True)
        assert other != model
        assert error(clean, outputs(other, x)) < most, make.__name__
    assert 0.02 < error(clean, outputs(variants.pruned(model), x)) < 1
    if name in ("resnet", "mobilenet"):
        last = variants.nhwc(model)
        assert last.graph.input[0].type.tensor_type.shape.dim[3].dim_value == 3
        assert error(clean, outputs(last, x.transpose(0, 2, 3, 1))) < 1e-5


def test_variants_of_the_bundled_network(bundled, probes):
    x = probes[:1]
    clean = outputs(bundled, x)
    assert error(clean, outputs(variants.unfolded(bundled), x)) < 1e-5
    assert error(clean, outputs(variants.equalised(bundled), x)) < 1e-5
    assert error(clean, outputs(variants.nhwc(bundled), x.transpose(0, 2, 3, 1))) < 1e-5
    before, after = (
        [onnx.numpy_helper.to_array(t) for t in m.graph.initializer if t.name.endswith("expand.weight")]
        for m in (bundled, variants.equalised(bundled))
    )
    assert not any(np.allclose(one, other) for one, other in zip(before, after, strict=True))


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic"])
@pytest.mark.parametrize("name", small.NETWORKS)
def test_int8_files_are_sound(files, name, form):
    x = small.pictures(2, seed=9)
    clean = outputs(small.NETWORKS[name](), x)
    assert 1e-3 < error(clean, outputs(onnx.load(files.small(name, form)), x)) < 0.06
    assert files.small(name, form) == files.small(name, form)


def test_photos_and_probes(files, sound, probes):
    assert len(files.photos()) == 68
    assert probes.shape == (16, 3, 224, 224)
    assert files.probes("unit").min() >= 0
    assert {path.name.split("-")[2] for path in sound.values()} == {"QDQ", "QOperator"}
