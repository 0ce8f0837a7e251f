"""Score-CAM against a plain loop over pictures that were masked by hand; how it is interrupted."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import onnxviz
from onnxviz import objectives
from onnxviz.attribution import cam_layers
from onnxviz.attribution.cam import cells
from onnxviz.progress import Interrupted
from tests import networks
from tests.attribution.pieces import load, pictures


def scored(net, image: np.ndarray | list[np.ndarray] | None = None, **options):
    return onnxviz.cam(
        net, picture() if image is None else image, **{"target": 4, "method": "score-cam"} | options
    )


def picture(seed: int = 0) -> np.ndarray:
    return pictures(1, seed=seed)[0]


def enlarged(map_: np.ndarray) -> np.ndarray:
    return F.interpolate(torch.from_numpy(map_)[None, None], (32, 32), mode="bilinear")[0, 0].numpy()


def by_hand(net, image: np.ndarray, layer: str, target: int) -> np.ndarray:
    """One masked picture at a time; the map before upsampling, with its negative part."""
    x = net.prepare(image)
    activations = net.activations(image, [layer])[layer][0]
    if net.layer(layer).channels_last:
        activations = np.moveaxis(activations, 2, 0)
    scores = np.full(len(activations), -np.inf)
    for channel, values in enumerate(activations):
        whole = enlarged(values.copy())
        if whole.max() - whole.min() > 1e-6:
            mask = (whole - whole.min()) / (whole.max() - whole.min())
            masked = x * (mask[None, None] if net.input.layout == "NCHW" else mask[None, :, :, None])
            logits = net.run(masked.astype(np.float32), [net.head.logits])[net.head.logits]
            scores[channel] = logits.reshape(-1)[target]
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    return np.einsum("chw,c->hw", activations, weights)


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (networks.tiny_cnn, "pool"),
        (networks.tiny_cnn, "conv1"),
        (networks.nhwc, "transpose10"),
        (lambda: networks.static_batch(batch=2), "relu17"),
    ],
    ids=["default layer", "signed layer", "NHWC", "batch of 2"],
)
def test_the_map_is_that_of_masking_by_hand(make, layer):
    net = load(make(), preprocess="imagenet")
    coarse = by_hand(net, picture(), layer, 4)
    for signed, kept in ((True, coarse), (False, np.maximum(coarse, 0))):
        found = scored(net, layer=layer, signed=signed)
        np.testing.assert_allclose(found.values, enlarged(kept), rtol=1e-3, atol=1e-4)


def test_masks_run_from_0_to_1_and_channels_that_mark_nothing_are_left_out(alone, monkeypatch):
    monkeypatch.setattr("onnxviz.attribution.cam._AT_ONCE", 4)
    activations = np.random.default_rng(0).standard_normal((6, 5, 4)).astype(np.float32)
    activations[2], activations[4] = 0, 3.25
    rows, columns = cam_layers.matrices(alone.layer("pool"), (5, 4), (32, 48))
    masks, used = cells(activations, rows, columns)
    assert used.tolist() == [True, True, False, True, False, True]
    whole = rows @ masks @ columns.T
    np.testing.assert_allclose(whole.min(axis=(1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(whole.max(axis=(1, 2)), 1, atol=1e-6)


def test_any_objective_and_any_batch(alone):
    wanted = scored(alone)
    found = scored(alone, target=None, objective=objectives.logit(4), batch=3)
    np.testing.assert_allclose(found.values, wanted.values, rtol=1e-4, atol=1e-5)
    assert found.score == pytest.approx(wanted.manifest["figures"]["objective"], rel=1e-4)
    # Twice the logit makes the softmax over the channels sharper.
    double = scored(alone, target=None, objective=2 * objectives.logit(4))
    assert not np.allclose(double.values, wanted.values, rtol=1e-3)


@pytest.fixture(scope="module")
def alone():
    return load(networks.tiny_cnn(), threads=1, preprocess="imagenet")


def stopping(after: int):
    """Progress that is interrupted by Ctrl-C at its call number `after`, counted from 1, of channels."""
    calls = iter(range(1, 10_000))

    def progress(done: int, total: int | None, what: str) -> None:
        if what == "channels" and next(calls) == after:
            raise KeyboardInterrupt

    return progress


def test_ctrl_c_keeps_the_channels_so_far(alone):
    with pytest.raises(Interrupted) as stop:
        scored(alone, batch=2, progress=stopping(3))
    partial = stop.value.partial
    assert partial.manifest["incomplete"] is True
    figures = partial.manifest["figures"]
    assert 0 < figures["masks_done"] < figures["masks"]
    assert partial.values.max() > 0


def test_ctrl_c_keeps_the_pictures_so_far(alone):
    one = scored(alone, batch=2)
    batches = -(-(one.manifest["figures"]["masks"] + 1) // 2)
    with pytest.raises(Interrupted) as stop:
        scored(alone, [picture(seed) for seed in range(3)], batch=2, progress=stopping(batches + 3))
    partial = stop.value.partial
    assert partial.manifest["incomplete"] is True
    assert partial.values.shape == (2, 1, 32, 32)
    np.testing.assert_allclose(partial.values[0, 0], one.values, atol=1e-5)
