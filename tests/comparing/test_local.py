"""One layer at a time: who did it, on small networks of several kinds (the bundled one: test_known_answers.py)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
import quantise  # tools/ is on the path: tests/comparing/conftest.py

from onnxviz.comparing.hybrids import Hybrids
from onnxviz.comparing.local import Advice, Exclusion, Split, advise, local, robust_z, split
from onnxviz.comparing.match import Pair, match
from onnxviz.comparing.result import reason
from onnxviz.comparing.why import LayerFigures
from tests.comparing import small, variants
from tests.networks import edited


def hybrids(a, b, x: np.ndarray, xb: np.ndarray | None = None) -> Hybrids:
    one, other = (small.opened(each, preprocess="imagenet") for each in (a, b))
    return Hybrids(one, other, match(one, other, x, xb), x, x if xb is None else xb)


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("kind", ["scale/4", "scale*8"])
@pytest.mark.parametrize(
    ("name", "layer", "behind"), [("detector", "head.fine", "fine.rows"), ("segmenter", "classes", "masks")]
)
def test_what_is_only_handed_on_in_the_same_codes_has_no_effect_of_its_own(
    files, tmp_path, name, layer, behind, kind, form
):
    """A head is reshaped, or resized, behind its quantiser: what that does is the head's doing, and told once."""
    a, path = files.small(name), tmp_path / "faulty.onnx"
    wrong = quantise.fault(onnx.load(a), f"{kind}@{layer}")
    onnx.save(quantise.plant(onnx.load(files.small(name, form)), wrong), path)
    found = hybrids(a, path, small.pictures(2, seed=3))
    assert {layer, behind} <= set(found.pairs)
    assert behind not in found.graft.layers
    whole = local(found, heal=1)
    first = whole.ranked[0]
    assert first.layer == layer and first.share > 0.8
    assert abs(whole.measured - whole.predicted) < 1 and first.healed > whole.measured + 6


@pytest.mark.parametrize("name", small.NETWORKS)
def test_the_same_file_twice(files, name):
    path = files.small(name)
    both = hybrids(path, path, small.pictures()[:2])
    found, advice = local(both), advise(both, local(both))
    assert found.effects == advice.exclusions == ()
    assert (found.moved, found.measured, found.apart) == (0, math.inf, False)
    assert split(both).cause is advice.to_dict()["sqnr_db"] is None


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic"])
@pytest.mark.parametrize("name", small.NETWORKS)
def test_networks_of_all_kinds(files, name, form):
    """Effects of single layers add up to about what the whole file does; measured ranges clip nothing."""
    both = hybrids(files.small(name), files.small(name, form), small.pictures()[:2])
    found = local(both, heal=1)
    assert len(found.effects) >= 5
    assert found.moved > 0
    assert abs(found.measured - found.predicted) < 4
    healed = found.ranked[0].healed
    assert healed is not None and healed > found.measured - 1
    if form == "dynamic":
        parts = split(both)
        assert parts.clipping == 0 and parts.weights > 0 and parts.activations > 0


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


@pytest.fixture(scope="module")
def equalised_per_tensor():
    """Norms folded in and equalised, so that one layer reads what B holds in other units; A has its norms apart."""
    model = small.resnet(seed=5)
    equal = variants.equalised(variants.folded(model))
    scheme = quantise.Scheme("QDQ", per_channel=False, activations="int8", reduce_range=True)
    other = quantise.quantise(equal, scheme, quantise.calibrate(equal, small.pictures(32)))
    return model, other


def test_what_a_layer_reads_in_other_units_is_no_damage_of_its_own(equalised_per_tensor):
    """The factor is no larger than other noise where it is given, and grows where it is taken back."""
    found = local(hybrids(*equalised_per_tensor, small.pictures(4, seed=9)))
    assert max(one.e for one in found.effects) < 2 * found.moved < 0.5
    assert found.ranked[0].share < 0.7 and not any(one.taken_back for one in found.effects)


def test_what_others_take_back_is_no_damage(equalised_per_tensor, monkeypatch):
    """Where no factors are found, healing the layer tells: it gains nothing."""
    monkeypatch.setattr(Hybrids, "scale", lambda *_: False)
    found = local(hybrids(*equalised_per_tensor, small.pictures(4, seed=9)), heal=0)
    back = [one for one in found.effects if one.taken_back]
    assert back and all(one.e > 2 * found.moved and one.share == 0 for one in back)
    assert sum(one.share for one in found.effects) == pytest.approx(1)
    assert not found.ranked[0].taken_back
    figures = LayerFigures(Pair("x", "x", "x", "Conv", "values", 1.0), 20.0, 0.9, 0.0, 1.0, bits=8)
    assert "which other layers take back" in reason(figures, back[0])


def test_pruning_is_found_where_it_was_done(files):
    path = files.small("mobilenet")
    zeroed = {"block1.project.weight": lambda w: np.where(np.abs(w) < np.quantile(np.abs(w), 0.3), 0, w)}
    found = local(hybrids(path, edited(path, **zeroed), small.pictures()[:2]))
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


# --- what is advised, and what makes the noise ---------------------------------------------------


def test_operators_without_a_name_are_counted(files):
    path = files.small("resnet")
    bare = onnx.load(path)
    for node in bare.graph.node:
        node.ClearField("name")
    both = hybrids(bare, files.small("resnet", "QDQ"), small.pictures()[:2])
    advice = advise(both, local(both, heal=0))
    assert all(one.nodes == () and one.unnamed >= len(one.layers) - 1 for one in advice.exclusions)


def test_without_classes_there_is_no_agreement(files):
    both = hybrids(files.small("detector"), files.small("detector", "QDQ"), small.pictures()[:2])
    advice = advise(both, local(both, heal=0), restore=2)
    assert [len(one.layers) for one in advice.exclusions] == [1, 2]
    assert advice.agreement is None
    assert all(one.agreement is None and one.sqnr >= advice.sqnr for one in advice.exclusions)


@pytest.mark.parametrize(
    ("gains", "said", "best"),
    [
        ((6.0, 7.0), "leave it in float", 0),
        ((-0.04, 3.0), "do not help (-0.0 dB)", 1),
        ((0.2, 0.7), "do not help (+0.2 dB)", None),
        ((), "in float", None),
    ],
)
def test_what_does_not_help_is_not_a_way_out(gains, said, best):
    """A scale that is too small cuts off what the layer gives, whoever computes it."""
    lists = tuple(
        Exclusion(("a", "b")[:count], (), 20.0, gain, None, 0.1) for count, gain in enumerate(gains, 1)
    )
    advice = Advice(14.0, None, lists, 4)
    assert said in advice.way_out
    assert advice.best is (None if best is None else lists[best])


def test_shares_add_up():
    found = Split(weights=0.3, activations=0.2, clipping=0.1, pictures=4)
    assert found.shares == pytest.approx(
        {"operators": 0, "weights": 0.09 / 0.13, "clipping": 0.01 / 0.13, "rounding": 0.03 / 0.13}
    )
    assert found.cause == "weights"
    assert replace(found, together=0.6).shares["operators"] == pytest.approx(0.27 / 0.4)
    assert replace(found, together=0.6).cause == "operators"
    assert replace(found, halves="float16").shares["rounding"] == pytest.approx(0.12 / 0.13)
    assert Split(1e-6, 0.0, 0.0, 4).cause is None  # float32's own rounding
    nothing = Split(0.0, 0.0, 0.0, 4)
    assert nothing.cause is None
    assert nothing.to_dict()["db"] == {"weights": None, "activations": None, "clipping": None}
