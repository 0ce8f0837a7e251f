"""Faithfulness against the papers' own definitions, written once more in NumPy that makes every covered picture."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d

import onnxviz
from onnxviz.attribution import faithfulness as module
from onnxviz.attribution import flipping
from onnxviz.attribution.occlusion import filling
from onnxviz.attribution.targets import Measure, parse
from onnxviz.errors import ImageRejected, UnknownLabel, UsageError
from onnxviz.progress import Interrupted
from tests import toys

SIDE = toys.SIDE


def measured(net, picture, values, measures, **how):
    score = Measure(net, parse(net, 0))
    asked = flipping.How(**{"fill": "grey", "grid": 3, "steps": 4, "seed": 0, "batch": None} | how)
    return flipping.measured(net, score, net.prepare(picture), picture, values, measures, asked)


def red(net, x: np.ndarray) -> np.ndarray:
    return net.probabilities(x.astype(np.float32))[:, 0].astype(np.float64)


@pytest.fixture(scope="module")
def maps() -> list[np.ndarray]:
    """Maps without two equal values."""
    rng = np.random.default_rng(5)
    return [rng.permutation(SIDE * SIDE).reshape(SIDE, SIDE).astype(np.float32) for _ in range(2)]


def rise_reference(net, x: np.ndarray, explanation: np.ndarray, mode: str) -> float:
    """`CausalMetric` of RISE's authors: a row of pixels a step, from start to finish."""
    size, step = explanation.size, explanation.shape[1]
    if mode == "del":
        start, finish = x.copy(), np.zeros_like(x)
    else:
        box = np.zeros((11, 11))
        box[5, 5] = 1
        kernel = gaussian_filter(box, 5)
        start = np.stack([convolve2d(plane, kernel, "same") for plane in x[0]])[None]
        finish = x.copy()
    order = np.flip(np.argsort(explanation.reshape(-1)))
    steps = (size + step - 1) // step
    scores = np.empty(steps + 1)
    for i in range(steps + 1):
        scores[i] = red(net, start)[0]
        taken = order[step * i : step * (i + 1)]
        start.reshape(3, size)[:, taken] = finish.reshape(3, size)[:, taken]
    return (scores.sum() - scores[0] / 2 - scores[-1] / 2) / (len(scores) - 1)


def quantus_reference(net, x: np.ndarray, explanation: np.ndarray) -> float:
    """The score summed while a row of pixels a step becomes "black"."""
    predictions, order = [], np.argsort(-explanation.flatten())
    for start in range(0, order.size, SIDE):
        x.reshape(3, -1)[:, order[start : start + SIDE]] = x.min()
        predictions.append(red(net, x)[0])
    return np.trapezoid(predictions, dx=1)


@pytest.mark.parametrize(
    ("measure", "reference", "tolerance"),
    [
        ("deletion", lambda *given: rise_reference(*given, "del"), 1e-5),
        ("insertion", lambda *given: rise_reference(*given, "ins"), 1e-5),
        ("pixel-flipping", quantus_reference, 1e-4),
    ],
)
def test_a_measure_is_that_of_its_authors(toy, maps, measure, reference, tolerance) -> None:
    found = measured(toy, toys.photo(), maps, [measure])[measure]
    wanted = [reference(toy, toy.prepare(toys.photo()), one) for one in maps]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("form", [{}, {"layout": "NHWC"}, {"batch": 1}])
def test_the_gain_is_the_area_between_both_orders(form, maps) -> None:
    net, picture = toys.load(**form), toys.photo(1)
    found = measured(net, picture, maps, ["srg"])
    x = net.prepare(picture)
    hidden = filling(net, x, picture, "grey", radius=4, seed=0)
    counts = np.array([0, 2, 4, 7, 9])  # of nine cells in four steps
    for number, one in enumerate(maps):
        blocks = one.reshape(3, 4, 3, 4).mean(axis=(1, 3)).reshape(-1)
        areas = []
        for order in (np.argsort(-blocks), np.argsort(blocks)):
            curve = []
            for count in counts:
                gone = np.isin(np.arange(9), order[:count]).reshape(3, 3).repeat(4, 0).repeat(4, 1)
                mask = gone[None, ..., None] if net.input.layout == "NHWC" else gone[None, None]
                curve.append(red(net, np.where(mask, hidden, x))[0])
            areas.append(np.trapezoid(curve, counts / 9))
        assert found["srg"][number] == pytest.approx(areas[1] - areas[0], abs=1e-5)


def test_the_curves_begin_with_the_picture_and_end_with_the_fill(maps) -> None:
    net, picture = toys.load(dtype=TensorProto.UINT8), toys.photo(1)
    curves = measured(net, picture, maps, ["srg"], fill="zero")["curves"]
    assert curves.shape == (2, 2, 5)
    np.testing.assert_allclose(curves[..., 0], red(net, net.prepare(picture))[0], atol=1e-6)
    np.testing.assert_allclose(curves[..., -1], 0.5, atol=1e-6)  # black: neither red nor green


def test_imputed_pixels_are_the_means_of_their_neighbours(maps) -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, SIDE, SIDE)).astype(np.float32)
    gone = maps[0] < 100
    found = flipping.imputed(x, gone, (2, 3), seed=0)
    np.testing.assert_array_equal(found[0][:, ~gone], x[0][:, ~gone])
    padded = np.pad(found[0], ((0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    total, weight = np.zeros((3, SIDE, SIDE)), np.zeros((SIDE, SIDE))
    for dy, dx in np.ndindex(3, 3):
        share = {0: 0, 1: 1 / 6, 2: 1 / 12}[abs(dy - 1) + abs(dx - 1)]
        near = padded[:, dy : dy + SIDE, dx : dx + SIDE]
        total += share * np.nan_to_num(near)
        weight += share * ~np.isnan(near[0])
    assert np.abs(found[0] - total / weight)[:, gone].max() < 0.06  # the noise, 0.01 in ten values


def test_a_map_of_what_counts_beats_chance_and_its_inverse_does_not(toy) -> None:
    place = np.zeros((SIDE, SIDE), np.float32)
    place[4:8, 6:10] = 1
    rng = np.random.default_rng(0)
    pictures = [toys.photo(seed) for seed in range(6)]
    columns = []
    for picture in pictures:
        given = [place, -place, *(rng.random((SIDE, SIDE)) for _ in range(4))]
        columns.append(measured(toy, picture, given, list(flipping.MEASURES), fill="zero"))
    # Twelve pixels are too few for the others: a blur of 11, and noise that its neighbours make up for.
    for name in ("srg", "deletion", "pixel-flipping"):
        table = np.stack([[*one[name][:2], one[name][2:].mean(), 0] for one in columns], axis=1)
        good, bad, *_ = module.judged(["good", "bad", *module.BASELINES], name, table, seed=0)
        assert good.better is True, name
        assert bad.better is False, name
        assert good.low < good.value < good.high


def test_the_whole_of_it(toy, tmp_path) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(b"no picture")
    images, methods = [toys.photo(seed) for seed in range(3)], ["saliency", "grad-cam", "occlusion"]
    told = []
    result = onnxviz.faithfulness(
        toy, [*images, path], methods, grid=4, measures="all", progress=lambda *one: told.append(one)
    )
    assert result.methods == [*methods, *module.BASELINES]
    assert result.values.shape == (5, 3)
    assert told[-1] == (3, 4, "pictures")
    assert result.manifest["skipped"][0]["path"].endswith("broken.png")
    table = result.table()
    assert len(table["value"]) == 5 * len(flipping.MEASURES)
    assert result.score("occlusion", "road").value == table["value"][-3]
    assert set(result.no_better) <= set(methods)
    again = onnxviz.faithfulness(toy, images, methods, grid=4, measures="all")
    np.testing.assert_array_equal(again.values, result.values)
    assert result.picture().width > 400
    result.save(tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text().startswith("measure,method,value,low,high,better_than_random\n")


def test_each_picture_has_its_target_and_one_alone_no_limits_and_no_verdict(toy) -> None:
    images = [toys.photo(0), toys.photo(0)]
    result = onnxviz.faithfulness(toy, images, ["occlusion"], grid=4, target=["red", "green"])
    alone = onnxviz.faithfulness(toy, images[:1], ["occlusion"], grid=4, target="red")
    assert result.values[0, 0] == alone.values[0, 0]
    assert result.values[0, 1] != result.values[0, 0]
    one = alone.score("occlusion")
    assert (one.low, one.high, one.better) == (None, None, None)
    assert alone.picture().width > 400


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"methods": []}, UsageError, "got none"),
        ({"methods": ["saliency", "saliency"]}, UsageError, "each once; got saliency, saliency"),
        ({"methods": "oclusion"}, UsageError, "did you mean 'occlusion'"),
        ({"methods": "gradcam"}, UsageError, "did you mean 'grad-cam'"),
        ({"fill": "blue"}, UsageError, "unknown fill 'blue'.*did you mean 'blur'"),
        ({"grid": 1}, UsageError, "at least 2"),
        ({"grid": 13}, UsageError, "from 2 to 12"),
        ({"steps": 0}, UsageError, "at least 1"),
        ({"measures": "deletoin"}, UsageError, "did you mean 'deletion'"),
        ({"measures": []}, UsageError, "got none"),
        ({"images": []}, UsageError, "no picture was given"),
        ({"target": "blue"}, UnknownLabel, "blue"),
        ({"images": "a.png"}, ImageRejected, "a.png: the file is empty"),
    ],
)
def test_what_cannot_be_is_told(toy, tmp_path, monkeypatch, options, error, words) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(error, match=words):
        onnxviz.faithfulness(toy, **{"images": toys.photo(), "methods": ["saliency"], "grid": 4} | options)


def test_what_was_done_before_ctrl_c_is_kept(toy, monkeypatch) -> None:
    measured_before, calls = flipping.measured, []

    def stop(*given):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measured_before(*given)

    monkeypatch.setattr(flipping, "measured", stop)
    with pytest.raises(Interrupted) as stopped:
        onnxviz.faithfulness(toy, [toys.photo(0), toys.photo(1)], ["saliency"], grid=4)
    assert stopped.value.partial.values.shape == (3, 1)
    assert stopped.value.partial.manifest["incomplete"] is True
