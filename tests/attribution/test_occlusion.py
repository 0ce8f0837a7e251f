"""Occlusion against loops over pictures that were covered by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import TensorProto

import onnxviz
from onnxviz.attribution.occlusion import average, windows
from onnxviz.errors import UnknownLabel, UnknownLayer, UsageError
from onnxviz.progress import Interrupted
from tests import toys
from tests.toys import load

FORMS = {
    "plain": {},
    "opset 7": {"opset": 7},
    "newest opset": {"opset": 24},
    "NHWC": {"layout": "NHWC"},
    "fp16": {"dtype": TensorProto.FLOAT16},
    "uint8": {"dtype": TensorProto.UINT8},
    "uint8 NHWC": {"dtype": TensorProto.UINT8, "layout": "NHWC"},
    "batch of 1": {"batch": 1},
    "batch of 4": {"batch": 4},
    "logits": {"softmax": False},
}


@pytest.fixture(scope="module")
def toy():
    return load()


@pytest.fixture(scope="module")
def alone():
    """The toy on one thread, where batches are as large as asked for."""
    return load(threads=1)


def by_hand(picture: np.ndarray, target: int, window: int, stride: int, fill: np.ndarray) -> np.ndarray:
    """The map that occlusion of `toys.detector` must give, one covered picture at a time."""
    whole = toys.softmax(toys.logits(picture[None]))[0, target]
    total, count = np.zeros((toys.SIDE, toys.SIDE)), np.zeros((toys.SIDE, toys.SIDE))
    top = 0
    while True:
        left = 0
        while True:
            place = np.s_[top : top + window, left : left + window]
            hidden = picture.astype(np.float64)
            hidden[place] = fill[place]
            total[place] += whole - toys.softmax(toys.logits(hidden[None]))[0, target]
            count[place] += 1
            if left + window >= toys.SIDE:
                break
            left += stride
        if top + window >= toys.SIDE:
            break
        top += stride
    return total / count


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_map_is_that_of_covering_by_hand(form) -> None:
    picture = toys.photo()
    result = onnxviz.occlusion(load(**form), picture, window=5, stride=3, fill="zero")
    assert result.values.shape == (toys.SIDE, toys.SIDE)
    assert result.values.dtype == np.float32
    wanted = by_hand(picture, 0, 5, 3, np.zeros((toys.SIDE, toys.SIDE, 3)))
    assert wanted.max() > 0.1
    np.testing.assert_allclose(result.values, wanted, atol=3e-3 if "dtype" in form else 1e-6)
    assert (result.target, result.label) == (0, "red")
    np.testing.assert_allclose(result.score, toys.softmax(toys.logits(picture[None]))[0, 0], atol=2e-3)
    np.testing.assert_array_equal(result.image, picture)


@pytest.mark.parametrize("batch", [1, 2, 7, 100])
def test_the_batch_changes_nothing(toy, batch) -> None:
    picture = toys.photo()
    one = onnxviz.occlusion(toy, picture, window=4, stride=2, batch=batch)
    np.testing.assert_allclose(
        one.values, onnxviz.occlusion(toy, picture, window=4, stride=2).values, atol=1e-7
    )


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_batches_side_by_side_change_nothing(toy, threads) -> None:
    net = load(threads=threads)
    for batch in (None, 1, 2, 4, 100):
        done = []
        got = onnxviz.occlusion(
            net,
            toys.photo(),
            window=4,
            stride=2,
            batch=batch,
            progress=lambda *step, to=done: to.append(step[0]),
        )
        wanted = onnxviz.occlusion(toy, toys.photo(), window=4, stride=2).values
        np.testing.assert_allclose(got.values, wanted, atol=1e-7)
        assert done == sorted(done)
        assert done[-1] == 25
        # All runs together hold no more images than were asked for.
        assert got.manifest["parameters"]["batch"] * min(threads, batch or 26) <= (batch or 32)


def test_fills(toy) -> None:
    picture = toys.photo()
    pixels = picture.astype(np.float64)
    grey = onnxviz.occlusion(toy, picture, window=4, stride=4, fill="grey")
    np.testing.assert_allclose(grey.values, by_hand(picture, 0, 4, 4, np.full_like(pixels, 127.5)), atol=1e-6)
    mean = onnxviz.occlusion(toy, picture, window=4, stride=4, fill="mean")
    colour = np.broadcast_to(pixels.mean(axis=(0, 1)), pixels.shape)
    np.testing.assert_allclose(mean.values, by_hand(picture, 0, 4, 4, colour), atol=1e-6)
    # A blurred flat picture is the picture: nothing falls.
    flat = np.full_like(picture, 90)
    assert not onnxviz.occlusion(toy, flat, window=4, stride=4, fill="blur").values.any()
    assert onnxviz.occlusion(toy, picture, window=4, stride=4, fill="blur").values.any()


def test_noise_follows_the_seed(toy) -> None:
    one, same, other = (
        onnxviz.occlusion(toy, toys.photo(), window=4, stride=4, fill="noise", seed=seed).values
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-4


def test_a_target_by_index_and_label(toy) -> None:
    picture = toys.photo()
    red = onnxviz.occlusion(toy, picture, window=4, stride=4)
    green = onnxviz.occlusion(toy, picture, target=1, window=4, stride=4)
    np.testing.assert_allclose(green.values, -red.values, atol=1e-6)  # two probabilities sum to 1
    named = onnxviz.occlusion(toy, picture, target="green", window=4, stride=4)
    np.testing.assert_array_equal(named.values, green.values)
    assert (named.target, named.label) == (1, "green")
    with pytest.raises(UnknownLabel):
        onnxviz.occlusion(toy, picture, target="blue")


def test_a_function_of_the_probabilities(toy) -> None:
    picture = toys.photo()
    result = onnxviz.occlusion(toy, picture, window=4, stride=4, objective=lambda p: p[:, 0] - p[:, 1])
    red = onnxviz.occlusion(toy, picture, target=0, window=4, stride=4)
    np.testing.assert_allclose(result.values, 2 * red.values, atol=1e-6)
    assert result.target is None
    with pytest.raises(UsageError, match="one number an image"):
        onnxviz.occlusion(toy, picture, objective=lambda p: p, window=4, stride=4)


@pytest.mark.parametrize("form", [{}, {"layout": "NHWC"}, {"dtype": TensorProto.FLOAT16}], ids=str)
def test_a_layers_channel_and_a_neuron(form) -> None:
    net, picture = load(**form), toys.photo()
    mean = onnxviz.occlusion(net, picture, layer="features", channel=1, window=4, stride=4, fill="zero")
    # Covering a 4×4 block takes its green sum out of the mean over all 144 positions.
    sums = picture[..., 1].astype(np.float64).reshape(3, 4, 3, 4).sum(axis=(1, 3)) / 144
    np.testing.assert_allclose(
        mean.values, np.kron(sums, np.ones((4, 4))), rtol=1e-3, atol=0.1 if form else 1e-4
    )
    assert (mean.target, mean.label) == (None, "features, channel 1")
    neuron = onnxviz.occlusion(
        net, picture, layer="features", channel=0, neuron=(5, 9), window=4, stride=4, fill="zero"
    )
    wanted = np.zeros((toys.SIDE, toys.SIDE))
    wanted[4:8, 8:12] = picture[5, 9, 0]
    np.testing.assert_array_equal(neuron.values, wanted)


def test_what_cannot_be_measured_is_said(toy) -> None:
    picture = toys.photo()
    for arguments, words in (
        ({"target": 0, "layer": "features", "channel": 0}, "one of target"),
        ({"layer": "features"}, "channel="),
        ({"channel": 0}, "layer="),
        ({"layer": "features", "channel": 2}, "2 channels"),
        ({"layer": "features", "channel": 0, "neuron": (12, 0)}, "12×12 neurons"),
        ({"layer": "logits", "channel": 0, "neuron": (0, 0)}, "no map"),
    ):
        with pytest.raises(UsageError, match=words):
            onnxviz.occlusion(toy, picture, window=4, stride=4, **arguments)
    with pytest.raises(UnknownLayer):
        onnxviz.occlusion(toy, picture, layer="nowhere", channel=0)


def test_windows_and_fills_that_make_no_sense(toy) -> None:
    picture = toys.photo()
    for arguments, words in (
        ({"window": 13}, "larger than the image"),
        ({"window": (4, 13)}, "larger than the image"),
        ({"window": 0}, "at least 1"),
        ({"stride": 0}, "at least 1"),
        ({"window": 2.5}, "whole number"),
        ({"fill": "gray"}, "did you mean 'grey'"),
    ):
        with pytest.raises(UsageError, match=words):
            onnxviz.occlusion(toy, picture, **{"window": 4, "stride": 4, **arguments})
    together = onnxviz.occlusion(toy, [picture, picture[::-1]], window=4, stride=4)
    alone = onnxviz.occlusion(toy, picture[::-1], window=4, stride=4)
    np.testing.assert_array_equal(together[1].values, alone.values)


def test_windows_are_cut_off_at_the_border() -> None:
    boxes = windows((7, 9), (4, 5), (3, 3))
    np.testing.assert_array_equal(
        boxes, [[0, 0, 4, 5], [0, 3, 4, 8], [0, 6, 4, 9], [3, 0, 7, 5], [3, 3, 7, 8], [3, 6, 7, 9]]
    )
    assert len(windows((224, 224), (32, 32), (16, 16))) == 169
    assert len(windows((224, 224), (224, 224), (5, 5))) == 1


def test_a_stride_over_the_window_leaves_gaps(toy) -> None:
    np.testing.assert_array_equal(windows((7, 5), (2, 5), (6, 9)), [[0, 0, 2, 5], [6, 0, 7, 5]])
    np.testing.assert_array_equal(windows((7, 5), (2, 5), (9, 9)), [[0, 0, 2, 5]])
    values = onnxviz.occlusion(toy, toys.photo(), window=3, stride=5, fill="zero").values
    covered = np.isin(np.arange(12), (0, 1, 2, 5, 6, 7, 10, 11))
    assert not values[~covered].any()
    assert not values[:, ~covered].any()
    assert values[5:8, 5:8].any()


def test_windows_and_strides_that_are_not_given_suit_the_image(toy, net, cat) -> None:
    small = onnxviz.occlusion(toy, toys.photo()).manifest["parameters"]
    assert (small["window"], small["stride"]) == ((2, 2), (1, 1))
    narrow = onnxviz.occlusion(toy, toys.photo(), window=(6, 12)).manifest["parameters"]
    assert (narrow["window"], narrow["stride"]) == ((6, 12), (3, 3))
    usual = onnxviz.occlusion(net, cat, window=224).manifest["parameters"]
    assert (usual["window"], usual["stride"]) == ((224, 224), (16, 16))


def test_overlaps_are_averaged() -> None:
    values = average(np.array([1.0, 4.0]), np.array([[0, 0, 2, 3], [0, 2, 2, 5]]), (3, 5))
    np.testing.assert_array_equal(values, [[1, 1, 2.5, 4, 4], [1, 1, 2.5, 4, 4], [0, 0, 0, 0, 0]])


def test_a_window_and_stride_of_two_sizes(toy) -> None:
    picture = toys.photo()
    result = onnxviz.occlusion(toy, picture, window=(4, 12), stride=(4, 1), fill="zero")
    assert (result.values == result.values[:, :1]).all()
    assert result.manifest["figures"]["windows"] == 3


def test_an_input_tensor_instead_of_a_picture(toy) -> None:
    picture = toys.photo()
    tensor = np.moveaxis(picture, -1, 0)[None].astype(np.float32)
    result = onnxviz.occlusion(toy, tensor, window=4, stride=4)
    np.testing.assert_array_equal(result.image, picture)
    np.testing.assert_array_equal(result.values, onnxviz.occlusion(toy, picture, window=4, stride=4).values)


def test_progress_and_ctrl_c(alone) -> None:
    picture = toys.photo()
    seen = []
    full = onnxviz.occlusion(
        alone, picture, window=4, stride=4, batch=3, progress=lambda *step: seen.append(step)
    )
    assert seen == [(2, 9, "windows"), (5, 9, "windows"), (8, 9, "windows"), (9, 9, "windows")]
    assert "incomplete" not in full.manifest

    def stop(done: int, total: int | None, what: str) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        onnxviz.occlusion(alone, picture, window=4, stride=4, batch=3, progress=stop)
    partial = caught.value.partial
    assert partial.manifest["incomplete"] is True
    assert partial.manifest["figures"]["windows_done"] == 5
    wanted = full.values.copy()
    wanted[4:8, 8:] = wanted[8:] = 0  # windows 5 to 8, of three a row, were not reached
    np.testing.assert_array_equal(partial.values, wanted)


def test_ctrl_c_before_anything_is_known_is_plain(toy, monkeypatch) -> None:
    def stop(*_args, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxviz.runtime.ort.Program.__call__", stop)
    with pytest.raises(KeyboardInterrupt) as caught:
        onnxviz.occlusion(toy, toys.photo(), window=4, stride=4)
    assert not isinstance(caught.value, Interrupted)


def test_what_is_saved(toy, tmp_path) -> None:
    picture = toys.photo()
    before = picture.copy()
    result = onnxviz.occlusion(toy, picture, window=4, stride=4)
    np.testing.assert_array_equal(picture, before)
    path = result.save(tmp_path / "map.png")
    np.testing.assert_array_equal(np.load(path.with_suffix(".npy")), result.values)
    manifest = json.loads(path.with_suffix(".json").read_text())
    assert manifest["schema"] == "onnxviz.occlusion/1"
    assert manifest["parameters"]["window"] == [4, 4]
    assert manifest["parameters"]["label"] == "red"
    figures = manifest["figures"]
    assert figures["windows"] == 9
    box = figures["largest_fall_window"]
    assert (
        result.values[box["top"], box["left"]] == np.float32(figures["largest_fall"]) == result.values.max()
    )


def test_the_bundled_network_as_with_pictures_covered_outside_the_graph(net, cat) -> None:
    result = onnxviz.occlusion(net, cat, target=285, window=80, stride=48, fill="zero")
    assert result.values.shape == (224, 224)
    assert result.score > 0.2
    x = net.prepare(cat)
    boxes = windows((224, 224), (80, 80), (48, 48))
    covered = np.repeat(x, len(boxes), axis=0)
    for entry, (top, left, bottom, right) in zip(covered, boxes, strict=True):
        entry[:, top:bottom, left:right] = 0
    falls = net.probabilities(x)[0, 285] - net.probabilities(covered)[:, 285]
    assert falls.max() > 0.05
    np.testing.assert_allclose(result.values, average(falls, boxes, (224, 224)), atol=1e-6)


def test_on_a_device_every_run_has_the_same_size(monkeypatch) -> None:
    """A card plans its kernels anew for each size of batch; the CPU's program stands in for one."""
    from onnxviz import running
    from onnxviz.runtime.ort import Program

    sizes: list[set[int]] = []
    on_cpu = Program.__call__

    def noted(self, feeds, outputs=None):
        sizes.append({len(array) for name, array in feeds.items() if name not in still})
        return on_cpu(self, feeds, outputs)

    photo = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    still: set[str] = set()
    wanted = onnxviz.occlusion(load(), photo, window=4, stride=3, batch=8)
    monkeypatch.setattr(Program, "put", lambda self, name, array: still.add(name) or array)
    monkeypatch.setattr(Program, "__call__", noted)
    compiled = running.compile

    def elsewhere(*arguments, **settings):
        program = compiled(*arguments, **settings)
        program.provider = "elsewhere"
        return program

    monkeypatch.setattr("onnxviz.running.compile", elsewhere)
    found = onnxviz.occlusion(load(), photo, window=4, stride=3, batch=8)
    runs = [one for one in sizes if one]
    assert len(runs) > 2
    assert all(one == {8} for one in runs), runs
    np.testing.assert_allclose(found.values, wanted.values, atol=1e-6)
