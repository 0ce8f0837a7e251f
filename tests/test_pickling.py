"""Networks, objectives and results go to other processes and are copied deeply: networks open themselves again."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import warnings

import numpy as np
import pytest
from networks import tiny_cnn

import onnxviz
from onnxviz import objectives
from onnxviz.errors import ModelRejected

PHOTO = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
SETTINGS = {
    "preprocess": "unit",
    "labels": [f"class {i}" for i in range(10)],
    "provider": "cpu",
    "threads": 1,
}


def seen(net, objective) -> np.ndarray:
    """Also what a child computes."""
    return onnxviz.saliency(net, PHOTO, objective=objective, method="gradient").values


@pytest.mark.parametrize("source", ["path", "bytes", "message"])
def test_a_network_and_an_objective_reach_a_process_that_shares_nothing(source, tmp_path):
    model = tiny_cnn()
    path = tmp_path / "tiny.onnx"
    path.write_bytes(model.SerializeToString())
    net = onnxviz.load({"path": path, "bytes": path.read_bytes(), "message": model}[source], **SETTINGS)
    objective = 2 * objectives.logit(3) - 0.1 * objectives.tv()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(seen, (net, objective))
    np.testing.assert_array_equal(there, seen(net, objective))


def test_a_copy_is_opened_as_the_network_was(tmp_path, monkeypatch):
    (tmp_path / "tiny.onnx").write_bytes(tiny_cnn().SerializeToString())
    monkeypatch.chdir(tmp_path)
    net = onnxviz.load("tiny.onnx", **SETTINGS, layout="NCHW", backend="native")
    monkeypatch.chdir("/")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = copy.deepcopy(net)
    assert other is not net and other.model is not net.model
    for name in (
        "name",
        "digest",
        "labels",
        "provider",
        "threads",
        "backend",
        "preprocessing",
        "chosen_output",
    ):
        assert getattr(other, name) == getattr(net, name), name
    assert copy.copy(net).model is net.model
    other = pickle.loads(pickle.dumps(net.at(net.model.graph.outputs[0].name)))
    assert other.chosen_output == net.model.graph.outputs[0].name


def test_what_was_assumed_is_warned_of_once(tmp_path):
    with pytest.warns(onnxviz.errors.PreprocessingAssumed):
        net = onnxviz.load(tiny_cnn(), provider="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "assuming" in " ".join(copy.deepcopy(net).warnings)


def test_a_file_that_changed_since_is_no_copy(tmp_path):
    path = tmp_path / "tiny.onnx"
    path.write_bytes(tiny_cnn().SerializeToString())
    parcel = pickle.dumps(onnxviz.load(path, **SETTINGS))
    model = tiny_cnn()
    model.doc_string = "another"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelRejected, match="has changed since"):
        pickle.loads(parcel)


def test_an_isolated_network_gets_a_worker_of_its_own():
    net = onnxviz.load(tiny_cnn(), **SETTINGS, isolate=True)
    other = copy.deepcopy(net)
    net.close()
    try:
        assert other.predict(PHOTO)[0][0].label.startswith("class ")
    finally:
        other.close()


@pytest.mark.parametrize(
    "objective",
    [
        objectives.logit(),
        objectives.channel("conv1", 2) + objectives.neuron("conv1", 1, 3, 4),
        objectives.part("probabilities", slice(1, 3), None) - objectives.l2(),
        objectives.match("conv1", np.ones((1, 2), np.float32)),
        objectives.channel("conv1", 2).laid_out(lambda layer: True).renamed({"conv1": "other"}),
    ],
    ids=str,
)
def test_an_objective_stays_what_it_is(objective):
    for other in (pickle.loads(pickle.dumps(objective)), copy.deepcopy(objective)):
        assert str(other) == str(objective)
        for (weight, term), (expected, own) in zip(other.terms, objective.terms, strict=True):
            assert (weight, term.layer, term.across) == (expected, own.layer, own.across)
            assert term.last == own.last
            assert term.build.__qualname__ == own.build.__qualname__


def test_results_are_copied_whole():
    net = onnxviz.load(tiny_cnn(), **SETTINGS)
    layer = net.layers[0].name
    for result in (
        onnxviz.saliency(net, PHOTO),
        onnxviz.cam(net, PHOTO, layer=layer),
        onnxviz.activations(net, PHOTO, layer),
        onnxviz.filters(net),
        onnxviz.attributions(net, [PHOTO], ["saliency", "gradient"]),
        onnxviz.ascent(net, target=1, steps=2),
    ):
        other = pickle.loads(pickle.dumps(result))
        np.testing.assert_array_equal(other.values, result.values)
        assert other.manifest == result.manifest
        assert np.array_equal(np.asarray(other.picture()), np.asarray(result.picture()))
