"""One layer at a time: who did it, on planted faults and on files in which nothing is wrong."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import quantise  # tools/ is on the path: tests/comparing/conftest.py

import onnxviz
from onnxviz.comparing.hybrids import Hybrids
from onnxviz.comparing.local import Local, local, robust_z
from onnxviz.comparing.match import match
from tests.comparing import small, variants

FAULTS = [
    ("QDQ", "scale/4", 2), ("QDQ", "weights*1.5", 1), ("QOperator", "zero+24", 6), ("QOperator", "channel*4", 3),
]  # fmt: skip


def hybrids(a, b, x: np.ndarray, xb: np.ndarray | None = None) -> Hybrids:
    one, other = (onnxviz.load(each, provider="cpu", preprocess="imagenet") for each in (a, b))
    return Hybrids(one, other, match(one, other, x, xb), x, x if xb is None else xb)


@pytest.fixture(scope="module")
def effects(files, sound, probes) -> dict[str, Local]:
    return {form: local(hybrids(files.bundled, path, probes[:3])) for form, path in sound.items()}


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_sound_file(effects, form):
    """62 layers, none of which makes all the damage, and which together come near what B does."""
    found = effects[form]
    assert len(found.effects) == 62
    assert sum(one.share for one in found.effects) == pytest.approx(1)
    assert found.ranked[0].share < 0.6
    assert 13 < found.measured < found.predicted < 21
    assert not found.apart
    healed = [one.healed for one in found.ranked if one.healed is not None]
    assert len(healed) == 5
    assert healed[0] > found.measured


def test_both_forms_blame_the_same_layers(effects):
    first, second = ({one.layer for one in found.ranked[:10]} for found in effects.values())
    assert len(first & second) >= 8


@pytest.mark.parametrize(("form", "kind", "place"), FAULTS)
def test_a_planted_fault_is_first(files, bundled, sound, probes, tmp_path, form, kind, place):
    wrong = [fault for fault in quantise.faults(bundled) if fault.kind == kind][place]
    path = tmp_path / "faulty.onnx"
    onnx.save(quantise.plant(onnx.load(sound[form]), wrong), path)
    found = local(hybrids(files.bundled, path, probes[:2]), heal=1)
    assert found.ranked[0].layer in wrong.place.names
    assert found.ranked[0].healed > found.measured + 2


@pytest.mark.parametrize("name", small.NETWORKS)
def test_the_same_file_twice(files, name):
    path = files.small(name)
    found = local(hybrids(path, path, small.pictures()[:2]))
    assert found.effects == ()
    assert (found.moved, found.measured, found.apart) == (0, math.inf, False)


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic"])
@pytest.mark.parametrize("name", small.NETWORKS)
def test_networks_of_all_kinds(files, name, form):
    """Effects of single layers add up to about what the whole file does."""
    found = local(hybrids(files.small(name), files.small(name, form), small.pictures()[:2]), heal=1)
    assert len(found.effects) >= 5
    assert found.moved > 0
    assert abs(found.measured - found.predicted) < 4
    healed = found.ranked[0].healed
    assert healed is not None and healed > found.measured - 1


# --- other forms of one network -------------------------------------------------------------------


def test_equalised_layers_are_no_damage(files):
    """Factors that one layer has and the next takes back."""
    path = files.small("resnet")
    found = local(hybrids(path, variants.equalised(onnx.load(path)), small.pictures()[:2]))
    assert len(found.effects) >= 3
    assert max(one.e for one in found.effects) < 1e-4


def test_equalised_and_quantised(files):
    """The factors are no damage, and the noise of quantising adds up as it does without them."""
    equal = variants.equalised(onnx.load(files.small("resnet")))
    int8 = quantise.quantise(equal, quantise.Scheme("QDQ"), quantise.calibrate(equal, small.pictures()))
    found = local(hybrids(files.small("resnet"), int8, small.pictures()[:2]))
    assert not found.apart
    assert max(one.e for one in found.effects) < 1.5 * found.moved


def test_pruning_is_found_where_it_was_done(files):
    path = files.small("mobilenet")
    pruned = variants.pruned(onnx.load(path))
    kept = onnx.load(path)
    wanted = "block1.project.weight"
    tensors = {tensor.name: tensor for tensor in pruned.graph.initializer}
    next(t for t in kept.graph.initializer if t.name == wanted).CopyFrom(tensors[wanted])
    found = local(hybrids(path, kept, small.pictures()[:2]))
    assert [one.layer for one in found.effects] == ["block1.project"]
    assert found.effects[0].e == pytest.approx(found.moved)
    assert found.effects[0].healed == math.inf


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_channels_last_and_norms_apart_change_nothing(files, name):
    path, x = files.small(name), small.pictures()[:2]
    for other, xb in (
        (variants.nhwc(onnx.load(path)), x.transpose(0, 2, 3, 1)),
        (variants.unfolded(onnx.load(path)), x),
    ):
        found = local(hybrids(path, other, x, xb))
        assert found.moved < 1e-5
        assert max((one.e for one in found.effects), default=0) < 1e-4


def test_robust_z_tells_what_stands_out():
    scores = robust_z([0.01, 0.012, 0.011, 0.009, 1.0, 0.0])
    assert scores[4] > 10
    assert scores[5] == 0
    assert max(map(abs, scores[:4])) < 2
    assert robust_z([0.1, 0.1]) == [0, 0]
