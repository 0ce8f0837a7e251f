"""Occlusion against loops over pictures that were covered by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from onnx import TensorProto

import onnxviz
from onnxviz import running
from onnxviz.attribution.occlusion import average, windows
from onnxviz.errors import UnknownLabel, UnknownLayer, UsageError
from onnxviz.progress import Interrupted
from onnxviz.runtime.ort import Program
from tests import toys
from tests.stopped import stopped
from tests.toys import load

FORMS = {**toys.FORMS, "logits": {"softmax": False}}


def by_hand(picture: np.ndarray, target: int, window: int, stride: int, fill: np.ndarray) -> np.ndarray:
    """The map that occlusion of `toys.detector` must give, one covered picture at a time."""
    whole = toys.softmax(toys.logits(picture[None]))[0, target]
    total, count = np.zeros((toys.SIDE, toys.SIDE)), np.zeros((toys.SIDE, toys.SIDE))
    starts = [at for at in range(0, toys.SIDE, stride) if at == 0 or at - stride + window < toys.SIDE]
    for top, left in itertools.product(starts, starts):
        place = np.s_[top : top + window, left : left + window]
        hidden = picture.astype(np.float64)
        hidden[place] = fill[place]
        total[place] += whole - toys.softmax(toys.logits(hidden[None]))[0, target]
        count[place] += 1
    return total / count


def occluded(net, picture=None, **options):
    """By windows of 4 pixels side by side, unless other ones are asked for."""
    picture = toys.photo() if picture is None else picture
    return onnxviz.occlusion(net, picture, **{"window": 4, "stride": 4, **options})


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


@pytest.mark.parametrize("threads", [None, 1, 2, 3, 7])
def test_batches_side_by_side_change_nothing(toy, threads) -> None:
    net, wanted = load(threads=threads), occluded(toy, stride=2).values
    for batch in (None, 1, 2, 4, 7, 100):
        done = []
        got = occluded(net, stride=2, batch=batch, progress=lambda *step, to=done: to.append(step[0]))
        np.testing.assert_allclose(got.values, wanted, atol=1e-7)
        assert done == sorted(done)
        assert done[-1] == 25
        # All runs together hold no more images than were asked for.
        assert got.manifest["parameters"]["batch"] * min(threads or 1, batch or 26) <= (batch or 32)


def test_fills(toy) -> None:
    picture = toys.photo()
    pixels = picture.astype(np.float64)
    colour = np.broadcast_to(pixels.mean(axis=(0, 1)), pixels.shape)
    for fill, shown in (("grey", np.full_like(pixels, 127.5)), ("mean", colour)):
        values = occluded(toy, fill=fill).values
        np.testing.assert_allclose(values, by_hand(picture, 0, 4, 4, shown), atol=1e-6)
    # A blurred flat picture is the picture: nothing falls.
    assert not occluded(toy, np.full_like(picture, 90), fill="blur").values.any()
    assert occluded(toy, fill="blur").values.any()


def test_a_target_by_index_and_label(toy) -> None:
    red, green, named = (occluded(toy, target=target) for target in (None, 1, "green"))
    np.testing.assert_allclose(green.values, -red.values, atol=1e-6)  # two probabilities sum to 1
    np.testing.assert_array_equal(named.values, green.values)
    assert (named.target, named.label) == (1, "green")


def test_a_function_of_the_probabilities(toy) -> None:
    result = occluded(toy, objective=lambda p: p[:, 0] - p[:, 1])
    np.testing.assert_allclose(result.values, 2 * occluded(toy, target=0).values, atol=1e-6)
    assert result.target is None


@pytest.mark.parametrize("form", [{}, {"layout": "NHWC"}, {"dtype": TensorProto.FLOAT16}], ids=str)
def test_a_layers_channel_and_a_neuron(form) -> None:
    net, picture = load(**form), toys.photo()
    mean = occluded(net, layer="features", channel=1, fill="zero")
    # Covering a 4×4 block takes its green sum out of the mean over all 144 positions.
    sums = picture[..., 1].astype(np.float64).reshape(3, 4, 3, 4).sum(axis=(1, 3)) / 144
    wanted = np.kron(sums, np.ones((4, 4)))
    np.testing.assert_allclose(mean.values, wanted, rtol=1e-3, atol=0.1 if form else 1e-4)
    assert (mean.target, mean.label) == (None, "features, channel 1")
    neuron = occluded(net, layer="features", channel=0, neuron=(5, 9), fill="zero")
    wanted = np.zeros((toys.SIDE, toys.SIDE))
    wanted[4:8, 8:12] = picture[5, 9, 0]
    np.testing.assert_array_equal(neuron.values, wanted)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"layer": "features", "channel": 2}, UsageError, "2 channels"),
        ({"layer": "nowhere", "channel": 0}, UnknownLayer, "nowhere"),
        ({"target": "blue"}, UnknownLabel, "blue"),
        ({"objective": lambda p: p}, UsageError, "one number an image"),
        ({"window": 13}, UsageError, "larger than the image"),
        ({"window": (4, 13)}, UsageError, "larger than the image"),
        ({"window": 0}, UsageError, "at least 1"),
        ({"stride": 0}, UsageError, "at least 1"),
        ({"window": 2.5}, UsageError, "whole number"),
        ({"fill": "gray"}, UsageError, "did you mean 'grey'"),
    ],
)
def test_what_cannot_be_measured_is_said(toy, arguments, error, words) -> None:
    with pytest.raises(error, match=words):
        occluded(toy, **arguments)


def test_a_list_gives_what_single_pictures_give(toy) -> None:
    picture = toys.photo()
    together = occluded(toy, [picture, picture[::-1]])
    np.testing.assert_array_equal(together[1].values, occluded(toy, picture[::-1]).values)


def test_windows_are_cut_off_at_the_border() -> None:
    boxes = windows((7, 9), (4, 5), (3, 3))
    wanted = [[0, 0, 4, 5], [0, 3, 4, 8], [0, 6, 4, 9], [3, 0, 7, 5], [3, 3, 7, 8], [3, 6, 7, 9]]
    np.testing.assert_array_equal(boxes, wanted)
    assert len(windows((224, 224), (32, 32), (16, 16))) == 169
    assert len(windows((224, 224), (224, 224), (5, 5))) == 1


def test_a_stride_over_the_window_leaves_gaps(toy) -> None:
    np.testing.assert_array_equal(windows((7, 5), (2, 5), (6, 9)), [[0, 0, 2, 5], [6, 0, 7, 5]])
    np.testing.assert_array_equal(windows((7, 5), (2, 5), (9, 9)), [[0, 0, 2, 5]])
    values = occluded(toy, window=3, stride=5, fill="zero").values
    covered = np.isin(np.arange(12), (0, 1, 2, 5, 6, 7, 10, 11))
    assert not values[~covered].any()
    assert not values[:, ~covered].any()
    assert values[5:8, 5:8].any()


def test_windows_and_strides_that_are_not_given_suit_the_image(toy, net, cat) -> None:
    for network, picture, given, window, stride in (
        (toy, toys.photo(), None, (2, 2), (1, 1)),
        (toy, toys.photo(), (6, 12), (6, 12), (3, 3)),
        (net, cat, 224, (224, 224), (16, 16)),
    ):
        parameters = onnxviz.occlusion(network, picture, window=given).manifest["parameters"]
        assert (parameters["window"], parameters["stride"]) == (window, stride)
    result = onnxviz.occlusion(toy, toys.photo(), window=(4, 12), stride=(4, 1), fill="zero")
    assert (result.values == result.values[:, :1]).all()
    assert result.manifest["figures"]["windows"] == 3


def test_overlaps_are_averaged() -> None:
    values = average(np.array([1.0, 4.0]), np.array([[0, 0, 2, 3], [0, 2, 2, 5]]), (3, 5))
    np.testing.assert_array_equal(values, [[1, 1, 2.5, 4, 4], [1, 1, 2.5, 4, 4], [0, 0, 0, 0, 0]])


def test_an_input_tensor_instead_of_a_picture(toy) -> None:
    picture = toys.photo()
    result = occluded(toy, np.moveaxis(picture, -1, 0)[None].astype(np.float32))
    np.testing.assert_array_equal(result.image, picture)
    np.testing.assert_array_equal(result.values, occluded(toy).values)


def test_progress_and_ctrl_c() -> None:
    alone, seen = load(threads=1), []  # batches are as large as asked for
    full = occluded(alone, batch=3, progress=lambda *step: seen.append(step))
    assert seen == [(2, 9, "windows"), (5, 9, "windows"), (8, 9, "windows"), (9, 9, "windows")]
    assert "incomplete" not in full.manifest

    partial = stopped(occluded, alone, batch=3, when=lambda done, *_: done == 5)
    assert partial.manifest["figures"]["windows_done"] == 5
    wanted = full.values.copy()
    wanted[4:8, 8:] = wanted[8:] = 0  # windows 5 to 8, of three a row, were not reached
    np.testing.assert_array_equal(partial.values, wanted)


def test_ctrl_c_before_anything_is_known_is_plain(toy, monkeypatch) -> None:
    def stop(*_args, **_more):
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxviz.runtime.ort.Program.__call__", stop)
    with pytest.raises(KeyboardInterrupt) as caught:
        occluded(toy)
    assert not isinstance(caught.value, Interrupted)


def test_what_the_manifest_tells(toy) -> None:
    result = occluded(toy)
    parameters, figures = result.manifest["parameters"], result.manifest["figures"]
    assert (parameters["window"], parameters["label"]) == ((4, 4), "red")
    assert figures["windows"] == 9
    place = figures["largest_fall_window"]["top"], figures["largest_fall_window"]["left"]
    assert result.values[place] == np.float32(figures["largest_fall"]) == result.values.max()


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
    photo = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    wanted = occluded(load(), photo, stride=3, batch=8)
    sizes: list[set[int]] = []
    still: set[str] = set()
    on_cpu, compiled = Program.__call__, running.compile

    def noted(self, feeds, outputs=None):
        sizes.append({len(array) for name, array in feeds.items() if name not in still})
        return on_cpu(self, feeds, outputs)

    def elsewhere(*arguments, **settings):
        program = compiled(*arguments, **settings)
        program.provider = "elsewhere"
        return program

    monkeypatch.setattr(Program, "put", lambda self, name, array: still.add(name) or array)
    monkeypatch.setattr(Program, "__call__", noted)
    monkeypatch.setattr("onnxviz.running.compile", elsewhere)
    found = occluded(load(), photo, stride=3, batch=8)
    runs = [one for one in sizes if one]
    assert len(runs) > 2
    assert all(one == {8} for one in runs), runs
    np.testing.assert_allclose(found.values, wanted.values, atol=1e-6)
