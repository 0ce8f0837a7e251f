"""What `compare` must say of files whose faults are known, and must not say of sound ones.

The faults are those of `tools/quantise.py`, eight kinds at ten layers of the bundled network; COSTLY are those that
cost 2 dB or more at the logits. Here one file holds a kind of fault at all ten layers at once: a layer's own effect does not
depend on what the file does elsewhere. `tools/bench/compare.py` plants each alone and asks anew, beside its peers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest
import quantise

import onnxviz
from onnxviz.comparing.hybrids import Hybrids
from onnxviz.comparing.local import local
from onnxviz.comparing.match import match, normal
from onnxviz.errors import UsageError
from tests.comparing import small, variants
from tests.networks import fp16

FORMS = ("QDQ", "QOperator")
#: What `python tools/bench/compare.py` prints.
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


# --- which layer ----------------------------------------------------------------------------------


def test_the_faults_are_at_ten_layers_of_the_bundled_network(bundled):
    planted = quantise.faults(bundled)
    assert len(planted) == 80
    assert list(dict.fromkeys(fault.place.layer for fault in planted)) == list(COSTLY)


@pytest.mark.parametrize("form", FORMS)
def test_planted_faults_are_named_first(net, bundled, sound, probes, form):
    x = probes[::4]
    model = onnx.load(sound[form])
    matching = match(net, opened(model), x)
    own = {one.layer: one.e for one in local(Hybrids(net, opened(model), matching, x, x), heal=0).effects}
    planted, ranks = quantise.faults(bundled), {}
    for kind in quantise.KINDS:
        chosen = [one for one in planted if one.kind == kind and kind in COSTLY[one.place.layer]]
        wrong = model
        for fault in chosen:
            wrong = quantise.plant(wrong, fault)
        b = opened(wrong)
        hybrids = Hybrids(net, b, dataclasses.replace(matching, b=normal(b)), x, x)
        names = [next(name for name in one.place.names if name in own) for one in chosen]
        values = {pair.layer: value for value, pair in hybrids.pairs.items()}
        moved = hybrids.distances([hybrids.graft.local(values[name]) for name in names]).moved.mean(axis=1)
        for fault, name, e in zip(chosen, names, moved, strict=True):
            ranks[str(fault)] = sum(other >= e for layer, other in own.items() if layer != name)
    assert len(ranks) == sum(map(len, COSTLY.values()))
    later = {fault: rank for fault, rank in ranks.items() if rank}
    assert len(later) <= len(ranks) * 3 / 46, later
    assert max(ranks.values()) < 3, later


@pytest.mark.parametrize("text", ["scale/4@blocks.9.expand", "zero+24@blocks.11.expand"])
def test_a_fault_by_itself_is_a_finding(net, bundled, sound, files, text):
    """The whole of it on a file that has one fault."""
    fault = quantise.fault(bundled, text)
    found = compared(net, opened(quantise.plant(onnx.load(sound["QOperator"]), fault)), files.photos()[::6])
    first = found.effects.ranked[0].layer
    assert first in fault.place.names
    expected = {"scale/4": "compare.clipping", "zero+24": "compare.relu"}[fault.kind]
    assert (expected, first) in grave(found)


# --- what and why ---------------------------------------------------------------------------------


def compared(a: Any, b: Any, images: Any, **options: Any) -> Any:
    options = {"methods": (), "restore": 0, "probes": 4} | options
    return onnxviz.compare(a, b, images, **options)


def grave(found: Any) -> list[tuple[str, str]]:
    return [(one.id, one.where) for one in found.findings if one.severity in ("high", "medium")]


# Small networks take (pixel/255 − 0.5) × 6.4, so that `small.pictures` can be given as pixels.
_RECIPE = {"mean": (0.5,) * 3, "std": (1 / 6.4,) * 3}


def pixels(count: int = 12) -> list[np.ndarray]:
    """`small.pictures` as uint8 pictures."""
    real = small.pictures(count, seed=3).transpose(0, 2, 3, 1)
    return list(np.rint((real / 6.4 + 0.5) * 255).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("form", FORMS)
def test_a_sound_file_has_no_finding(net, sound, files, form):
    found = compared(net, opened(str(sound[form])), files.photos()[::3])
    assert grave(found) == []
    assert found.matching.macs > 0.99


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
@pytest.mark.parametrize("name", small.NETWORKS)
def test_sound_files_of_other_networks_have_no_finding(files, name, options):
    a, b = (opened(str(path), **_RECIPE) for path in (files.small(name), files.small(name, **options)))
    found = compared(a, b, pixels())
    assert grave(found) == []
    assert found.matching.macs > 0.99


def test_per_tensor_is_told_by_answers_and_weights(net, files):
    found = compared(net, opened(str(files("QDQ", per_channel=False))), files.photos())
    assert found.split.cause == "weights"
    assert "compare.answers" in dict(grave(found))


def test_calibration_on_pictures_of_0_to_1_is_clipping(net, files):
    found = compared(net, opened(str(files("QDQ", calibrate="unit"))), files.photos()[::4])
    assert found.split.cause == "clipping"
    assert "compare.clipping" in dict(grave(found))


def test_calibration_on_noise_is_rounding(net, files):
    found = compared(net, opened(str(files("QDQ", calibrate="raw"))), files.photos()[::4])
    assert found.split.cause == "rounding"
    assert "compare.range" in dict(grave(found))


def test_float_weights_are_what_the_runtime_makes_of_them(net, files):
    found = compared(net, opened(str(files("QDQ", weights="float32"))), files.photos()[::4])
    assert [one for one in grave(found) if one[0] == "compare.runtime"]
    assert found.split.shares["weights"] < 0.01


# --- nothing changed ------------------------------------------------------------------------------


def test_the_same_file_twice_is_nil(net, files):
    found = compared(net, net, files.photos()[:4])
    assert found.findings == []
    assert found.matching.macs == found.matching.values == 1
    assert not any(one.e for one in found.effects.effects)


@pytest.mark.parametrize(
    ("variant", "most"),
    [(variants.unfolded, 1e-4), (variants.equalised, 1e-4), (variants.nhwc, 1e-4), (fp16, 0.05)],
)
def test_another_form_of_the_same_network(net, bundled, files, variant, most):
    b = opened(variant(bundled))
    found = compared(net, b, files.photos()[:4], probes=2)
    assert found.matching.macs >= 0.99
    assert max((one.e for one in found.effects.effects), default=0) <= most
    assert grave(found) == []


def test_pruning_is_found_in_the_layers(net, bundled, files):
    found = compared(net, opened(variants.pruned(bundled)), files.photos()[:4], probes=2)
    assert found.matching.macs >= 0.99
    assert found.split.cause == "weights"


def test_two_different_networks_are_no_pair(net, files):
    a, b = (opened(small.NETWORKS[name](), **_RECIPE) for name in ("resnet", "mobilenet"))
    with pytest.raises(UsageError, match="not the same network"):
        compared(a, b, pixels(4))
