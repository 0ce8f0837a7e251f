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


def load(model, **options):
    return onnxviz.load(model, provider="cpu", **{"preprocess": "imagenet", **options})


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def by_hand(net, image: np.ndarray, layer: str, target: int) -> np.ndarray:
    """One masked picture at a time; the map before upsampling, with its negative part."""
    x = net.prepare(image)
    activations = net.activations(image, [layer])[layer][0]
    if net.layer(layer).channels_last:
        activations = np.moveaxis(activations, 2, 0)
    scores = np.full(len(activations), -np.inf)
    for channel, values in enumerate(activations):
        whole = F.interpolate(torch.from_numpy(values.copy())[None, None], (32, 32), mode="bilinear")[
            0, 0
        ].numpy()
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
    net = load(make())
    found = onnxviz.cam(net, picture(), target=4, layer=layer, method="score-cam", signed=True)
    coarse = by_hand(net, picture(), layer, 4)
    wanted = F.interpolate(torch.from_numpy(coarse)[None, None], (32, 32), mode="bilinear")[0, 0].numpy()
    np.testing.assert_allclose(found.values, wanted, rtol=1e-3, atol=1e-4)
    cut = onnxviz.cam(net, picture(), target=4, layer=layer, method="score-cam")
    kept = F.interpolate(torch.from_numpy(np.maximum(coarse, 0))[None, None], (32, 32), mode="bilinear")[0, 0]
    np.testing.assert_allclose(cut.values, kept.numpy(), rtol=1e-3, atol=1e-4)


def test_masks_run_from_0_to_1_and_channels_that_mark_nothing_are_left_out():
    rng = np.random.default_rng(0)
    activations = rng.standard_normal((6, 5, 4)).astype(np.float32)
    activations[2] = 0
    activations[4] = 3.25
    net = load(networks.tiny_cnn())
    rows, columns = cam_layers.matrices(net.layer("pool"), (5, 4), (32, 48))
    masks, used = cells(activations, rows, columns, at_once=4)
    assert used.tolist() == [True, True, False, True, False, True]
    whole = rows @ masks @ columns.T
    np.testing.assert_allclose(whole.min(axis=(1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(whole.max(axis=(1, 2)), 1, atol=1e-6)


def test_any_objective_and_any_batch():
    net = load(networks.tiny_cnn())
    wanted = onnxviz.cam(net, picture(), target=4, method="score-cam")
    found = onnxviz.cam(net, picture(), objective=objectives.logit(4), method="score-cam", batch=3)
    np.testing.assert_allclose(found.values, wanted.values, rtol=1e-4, atol=1e-5)
    assert found.score == pytest.approx(wanted.manifest["figures"]["objective"], rel=1e-4)
    # Twice the logit makes the softmax over the channels sharper.
    double = onnxviz.cam(net, picture(), objective=2 * objectives.logit(4), method="score-cam")
    assert not np.allclose(double.values, wanted.values, rtol=1e-3)


@pytest.fixture(scope="module")
def alone():
    return load(networks.tiny_cnn(), threads=1)


def stopping(after: int):
    """Progress that is interrupted by Ctrl-C at its call number `after`, counted from 1, of channels."""
    calls = iter(range(1, 10_000))

    def progress(done: int, total: int | None, what: str) -> None:
        if what == "channels" and next(calls) == after:
            raise KeyboardInterrupt

    return progress


def test_ctrl_c_keeps_the_channels_so_far(alone):
    with pytest.raises(Interrupted) as stop:
        onnxviz.cam(alone, picture(), target=4, method="score-cam", batch=2, progress=stopping(3))
    partial = stop.value.partial
    assert partial.manifest["incomplete"] is True
    figures = partial.manifest["figures"]
    assert 0 < figures["masks_done"] < figures["masks"]
    assert partial.values.max() > 0


def test_ctrl_c_keeps_the_pictures_so_far(alone):
    one = onnxviz.cam(alone, picture(0), target=4, method="score-cam", batch=2)
    batches = -(-(one.manifest["figures"]["masks"] + 1) // 2)
    given = [picture(0), picture(1), picture(2)]
    with pytest.raises(Interrupted) as stop:
        onnxviz.cam(alone, given, target=4, method="score-cam", batch=2, progress=stopping(batches + 3))
    partial = stop.value.partial
    assert partial.manifest["incomplete"] is True
    assert partial.values.shape == (2, 1, 32, 32)
    np.testing.assert_allclose(partial.values[0, 0], one.values, atol=1e-5)
