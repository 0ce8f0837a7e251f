"""What `compare` must say of files whose faults are known, and must not say of sound ones.

The faults are those of `tools/quantise.py`, eight kinds at ten layers of the bundled network; COSTLY are those that
cost 2 dB or more at the logits. Here one file holds a fault at each of the ten layers: a layer's own effect
does not depend on what the file does elsewhere. `tools/bench compare` gives its peers each fault in a file of its own.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import onnx
import pytest
import quantise
from onnx import numpy_helper

import onnxviz
from onnxviz.comparing.cause import noise
from onnxviz.comparing.hybrids import Hybrids
from onnxviz.comparing.local import Local, advise, local, split
from onnxviz.comparing.match import match, normal
from tests.comparing import small, variants
from tests.networks import edited, fp16
from tests.processors import CUTS_SUMS

FORMS = ("QDQ", "QOperator")
#: As `tools/bench compare:QDQ-onnxviz` finds them.
COSTLY = {
    "stem": ("scale*8", "scale/2", "scale/4", "weights*1.5", "channel*4", "4bit"),
    "blocks.1.project": ("scale*8", "scale/4", "weights*1.1", "weights*1.5", "channel*4", "4bit"),
    "blocks.3.project": ("scale*8", "scale/4", "weights*1.1", "weights*1.5", "channel*4", "4bit"),
    "blocks.5.depthwise": ("scale/2", "scale/4", "zero+24", "weights*1.1", "weights*1.5", "channel*4"),
    "blocks.7.depthwise": ("scale/4", "zero+24", "weights*1.5"),
    "blocks.9.expand": ("scale/4", "zero+24", "weights*1.5"),
    "blocks.11.expand": ("scale/2", "scale/4", "zero+24", "weights*1.1", "weights*1.5"),
    "blocks.12.project": ("weights*1.5", "channel*4"),
    "blocks.14.project": ("weights*1.5", "4bit"),
    "logits": ("scale/4", "weights*1.5"),
}


def opened(model: Any, **options: Any) -> onnxviz.Network:
    return onnxviz.load(model, provider="cpu", **options)


def compared(a: Any, b: Any, images: Any, **options: Any) -> Any:
    return onnxviz.compare(a, b, images, **({"methods": (), "restore": 0, "probes": 4} | options))


def grave(found: Any) -> list[tuple[str, str]]:
    return [(one.id, one.where) for one in found.findings if one.severity in ("high", "medium")]


@pytest.fixture(scope="module")
def located(net, sound, probes):
    """The sound file in a form, how it is matched, and each layer's own effect."""

    @functools.cache
    def of(form: str) -> tuple[onnx.ModelProto, Hybrids, Local]:
        model, x = onnx.load(sound[form]), probes[::4]
        b = opened(model)
        hybrids = Hybrids(net, b, match(net, b, x), x, x)
        return model, hybrids, local(hybrids)

    return of


# --- which layer ----------------------------------------------------------------------------------


def test_the_faults_are_at_ten_layers_of_the_bundled_network(bundled):
    planted = quantise.faults(bundled)
    assert len(planted) == 80
    assert list(dict.fromkeys(fault.place.layer for fault in planted)) == list(COSTLY)


@pytest.mark.parametrize("form", FORMS)
def test_planted_faults_are_named_first(net, bundled, located, probes, form):
    model, whole, effects = located(form)
    x = probes[::4]
    own = {one.layer: one.e for one in effects.effects}
    planted, ranks = quantise.faults(bundled), {}
    for number in range(max(map(len, COSTLY.values()))):
        kinds = {layer: costly[number] for layer, costly in COSTLY.items() if number < len(costly)}
        chosen = [one for one in planted if kinds.get(one.place.layer) == one.kind]
        b = opened(functools.reduce(quantise.plant, chosen, model))
        hybrids = Hybrids(net, b, dataclasses.replace(whole.matching, b=normal(b)), x, x)
        names = [next(name for name in one.place.names if name in own) for one in chosen]
        values = {pair.layer: value for value, pair in hybrids.pairs.items()}
        moved = hybrids.distances([hybrids.graft.local(values[name]) for name in names]).moved.mean(axis=1)
        for fault, name, e in zip(chosen, names, moved, strict=True):
            ranks[str(fault)] = sum(other >= e for layer, other in own.items() if layer != name)
    assert len(ranks) == sum(map(len, COSTLY.values()))
    later = {fault: rank for fault, rank in ranks.items() if rank}
    assert len(later) <= len(ranks) * 3 / 46, later
    assert max(ranks.values()) < 3, later


@pytest.mark.parametrize(
    ("form", "fault"), [("QDQ", "scale/4@blocks.3.project"), ("QOperator", "zero+24@blocks.11.expand")]
)
def test_a_file_with_one_fault_is_matched_and_the_layer_named(net, bundled, located, probes, form, fault):
    """As a stranger has it: nothing is known of the sound file. Healing the layer cures it in place."""
    wrong = quantise.fault(bundled, fault)
    b, x = opened(quantise.plant(located(form)[0], wrong)), probes[:2]
    found = local(Hybrids(net, b, match(net, b, x), x, x), heal=1)
    assert found.ranked[0].layer in wrong.place.names
    assert found.ranked[0].healed > found.measured + 2


@pytest.mark.parametrize("form", FORMS)
def test_a_sound_file(located, form):
    """61 layers, none of which makes all the damage, and which together come near what B does."""
    _, _, found = located(form)
    assert len(found.effects) == 61
    assert sum(one.share for one in found.effects) == pytest.approx(1)
    assert found.ranked[0].share < 0.6
    assert 13 < found.measured < found.predicted < 21
    assert not found.apart
    healed = [one.healed for one in found.ranked if one.healed is not None]
    assert len(healed) == 5
    assert healed[0] > found.measured


def test_both_forms_blame_the_same_layers(located):
    first, second = ({one.layer for one in located(form)[2].ranked[:10]} for form in FORMS)
    assert len(first & second) >= 8


def test_three_layers_left_in_float_are_worth_3_db_as_was_measured(bundled, files, located):
    """What was advised from hybrids holds of the network that ONNX Runtime quantises anew with the list."""
    _, both, effects = located("QDQ")
    advice = advise(both, effects)
    assert [len(one.layers) for one in advice.exclusions] == [1, 2, 3, 5, 8]
    third = advice.exclusions[2]
    assert set(third.nodes) <= {node.name for node in bundled.graph.node}
    assert third.unnamed == 0 and 0 < third.macs < 0.3 and third.agreement is not None
    assert advice.to_dict()["nodes_to_exclude"] == list(advice.best.nodes)
    inputs = both._x
    clean, before, after = (
        logits(model, inputs) for model in (bundled, files("QDQ"), files("QDQ", exclude=third.nodes))
    )
    assert sqnr(clean, after) - sqnr(clean, before) >= 3
    moved = np.linalg.norm(after - clean, axis=1) / np.linalg.norm(clean, axis=1)
    assert -20 * np.log10(moved.mean()) == pytest.approx(third.sqnr, abs=1)


def logits(model: Any, x: np.ndarray) -> np.ndarray:
    """The logits less their mean, by ONNX Runtime as the file is."""
    net = opened(model, optimise=False)
    z = np.concatenate([net.run(one[None], ["logits"])["logits"] for one in x]).astype(np.float64)
    return z - z.mean(axis=1, keepdims=True)


def sqnr(clean: np.ndarray, noisy: np.ndarray) -> float:
    return float(20 * np.log10(np.linalg.norm(clean) / np.linalg.norm(clean - noisy)))


# --- what and why (the other kinds: test_compare.py) ----------------------------------------------


def test_float_weights_are_what_the_runtime_makes_of_them(net, files):
    found = compared(net, opened(files("QDQ", weights="float32")), files.photos()[::8])
    assert found.split.shares["weights"] < 0.01
    (rewritten,) = (one for one in found.findings if one.id == "compare.runtime")
    assert rewritten.severity == "high"


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("largest", [1, 100])
def test_what_is_cut_and_what_is_rewritten_are_told_apart(monkeypatch, form, largest):
    """ONNX Runtime quantises one layer's float weights per tensor; a dead channel, whose weights are the largest,
    leaves the others nothing. All the other products may be cut on a processor without VNNI."""
    monkeypatch.setattr("onnxviz.comparing.why.machine", lambda: {"vnni": False})
    first = np.arange(48) == 0
    a = edited(
        small.bounded(seed=3),
        **{
            "block1.expand.bias": lambda bias: np.where(first, np.float32(-100), bias),
            "block1.depthwise.weight": lambda w: (w.T * np.where(first, largest, 1)).T.astype(np.float32),
        },
    )
    b = quantise.quantise(a, quantise.Scheme(form), quantise.calibrate(a, small.pictures()))
    numbers = {one.name: one for one in a.graph.initializer}
    for node in [node for node in b.graph.node if node.op_type == "DequantizeLinear"]:
        name = node.input[0].removesuffix("_quantized")
        if name.startswith("block1.depthwise.") and name in numbers:
            b.graph.initializer.append(
                numpy_helper.from_array(numpy_helper.to_array(numbers[name]), node.output[0])
            )
            b.graph.node.remove(node)
    found = compared(*(opened(model, **small.SCALED) for model in (a, b)), small.photos(6, seed=9))
    told = [(one.severity, "VNNI" in one.sentence) for one in found.findings if one.id == "compare.runtime"]
    rewritten = form == "QDQ" and largest > 1
    assert told == ([("medium", False)] if rewritten else [])
    assert found.why.saturates and (not rewritten or found.why.whole.sqnr < 20)
    assert any("rewriting of the graph" in text for text in noise(found)) is rewritten


@pytest.mark.parametrize("name", small.NETWORKS)
@pytest.mark.parametrize(
    "options",
    [
        {"form": "QDQ"},
        {"form": "QOperator"},
        {"form": "QDQ", "per_channel": False, "activations": "int8"},
        {"form": "QDQ", "activations": "uint16", "weights": "int16"},
        {"form": "QDQ", "reduce_range": True, "pairs": True},
        {"form": "dynamic"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_sound_files_of_other_networks_have_no_finding(files, name, options):
    if CUTS_SUMS and options.get("weights") != "int16":  # else the processor is what is found
        options = options | {"reduce_range": True}
    a, b = (opened(path, **small.SCALED) for path in (files.small(name), files.small(name, **options)))
    found = compared(a, b, small.photos(12, seed=3))
    assert grave(found) == []
    assert found.matching.macs > 0.99


# --- another form, and nothing changed ------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "most"),
    [
        (lambda model: variants.equalised(variants.unfolded(model)), 1e-4),
        (variants.nhwc, 1e-4),
        (fp16, 0.02),
    ],
    ids=["unfolded and equalised", "nhwc", "fp16"],
)
def test_another_form_of_the_bundled_network(net, bundled, probes, variant, most):
    b = opened(variant(bundled))
    x = probes[:2]
    xb = x.transpose(0, 2, 3, 1) if b.input.shape[-1] == 3 else x
    matching = match(net, b, x, xb)
    assert matching.macs >= 0.99
    effects = local(Hybrids(net, b, matching, x, xb), heal=0)
    assert effects.moved <= most
    assert max((one.e for one in effects.effects), default=0) <= most


def levelled(seed: int, factors: Any) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A network, and itself with channels of norms times factors of their ranges, which the next layers take back."""
    model = small.resnet(seed=seed)
    names = [f"block{block}.relu1" for block in range(3)]
    ranges = small.opened(model).run(small.pictures(32), names)
    changes: dict[str, Any] = {}
    for block, name in enumerate(names):
        s = factors(ranges[name].max(axis=(0, 2, 3))).astype(np.float32)
        changes |= {f"block{block}.norm1.{part}": lambda x, s=s: x * s for part in ("scale", "bias")}
        changes[f"block{block}.conv2.weight"] = lambda w, s=s: w / s[None, :, None, None]
    return model, edited(model, **changes)


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize(("seed", "layer"), [(1, "block2.relu1"), (2, "block1.relu1")])
def test_a_range_is_held_in_its_own_units_where_channels_are_levelled(form, seed, layer):
    """The strongest channels are made weaker: A's values lie far beyond what B holds, and nothing is cut off. A scale
    that is too small cuts off all the same."""
    a, b = levelled(
        seed, lambda top: np.where(top > np.median(top), 0.5 ** (1 + np.arange(len(top)) % 3), 1.5)
    )
    b = quantise.quantise(
        b, quantise.Scheme(form, reduce_range=True), quantise.calibrate(b, small.pictures(32))
    )
    x = small.photos(6, seed=9)
    for cut in (False, True):
        other = edited(b, **{f"{layer}_scale": lambda scale: scale / 4}) if cut else b
        found = compared(*(opened(model, **small.SCALED) for model in (a, other)), x)
        told = [one.where for one in found.findings if one.id == "compare.clipping"]
        assert told == ([layer] if cut else []) and (cut or not grave(found))


def test_where_nothing_moves_the_answers_no_layer_is_a_fault():
    """Of channels that are dead on the few pictures that are looked at nobody knows the units."""
    a, b = levelled(0, lambda top: 0.5 ** np.round(np.log2(np.maximum(top, 1))))
    found = compared(*(opened(model, **small.SCALED) for model in (a, b)), small.photos(6, seed=9))
    assert found.effects.still and not grave(found)


def test_pruning_is_a_change_of_weights(net, bundled, probes):
    x, b = probes[:2], opened(variants.pruned(bundled))
    matching = match(net, b, x)
    assert matching.macs >= 0.99
    assert split(Hybrids(net, b, matching, x, x)).shares["weights"] == pytest.approx(1)
