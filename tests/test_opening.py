"""Opening a network: what the file says of pictures, what is guessed, and that guesses are said."""

from __future__ import annotations

import json
import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graph.test_input_scaling import CAFFE, MEAN, STD, column, network
from PIL import Image

import onnxviz
from onnxviz.cli.main import run
from onnxviz.errors import PreprocessingAssumed, UsageError


def quiet(model: onnx.ModelProto, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error", PreprocessingAssumed)
        return onnxviz.load(model, provider="cpu", **options)


def marked(props: dict[str, str], size=("height", "width")) -> onnx.ModelProto:
    model = network()
    for axis, side in zip((2, 3), size, strict=True):
        dimension = model.graph.input[0].type.tensor_type.shape.dim[axis]
        dimension.Clear()
        setattr(dimension, "dim_value" if isinstance(side, int) else "dim_param", side)
    for key, value in props.items():
        model.metadata_props.add(key=key, value=value)
    return model


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)


def test_a_guess_is_a_warning_at_the_callers_line_once_a_network() -> None:
    with pytest.warns(PreprocessingAssumed, match=r"assuming 'imagenet'.*give preprocess=") as caught:
        net = onnxviz.load(network(), provider="cpu")
        net.prepare(np.zeros((16, 16, 3), np.uint8))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "--" not in str(caught[0].message)
    assert [str(caught[0].message)] == net.warnings


@pytest.mark.parametrize(
    "options",
    [
        {"preprocess": "unit"},
        {"mean": [0.5] * 3, "std": [0.5] * 3},
    ],
)
def test_what_the_caller_said_is_no_guess(options) -> None:
    assert quiet(network(), **options).warnings == []


def test_the_command_line_says_it_once_and_not_with_mean_and_std(tmp_path, capfd) -> None:
    onnx.save(network(), tmp_path / "n.onnx")
    arguments = ["inspect", str(tmp_path / "n.onnx"), "--json"]
    assert run(arguments) == 0
    assert capfd.readouterr().err.count("does not say") == 1
    assert run([*arguments, "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert json.loads(out)["warnings"] == []


@pytest.mark.parametrize(
    ("steps", "low", "high", "order"),
    [
        ([("Div", 255), ("Sub", column(MEAN)), ("Div", column(STD))], 0, 255, [0, 1, 2]),
        ([("Sub", column(MEAN)), ("Div", column(STD))], 0, 1, [0, 1, 2]),
        ([("Sub", column(CAFFE))], 0, 255, [2, 1, 0]),
        ([("Add", 1), ("Mul", 127.5), ("Sub", column(CAFFE))], -1, 1, [2, 1, 0]),
    ],
)
def test_a_network_that_scales_inside_gets_the_pixels_that_it_takes(steps, low, high, order) -> None:
    """The oracle is plain ONNX Runtime on the pixels that the scaling was written for."""
    model = network(*steps)
    with pytest.warns(PreprocessingAssumed, match="scale pixels themselves"):
        net = onnxviz.load(model, provider="cpu")
    picture = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    picture = net.pictures(picture)[0]  # as it is seen: 'tensorflow' crops
    x = (picture[..., order].astype(np.float64) / 255 * (high - low) + low).transpose(2, 0, 1)[None]
    prepared = net.preprocessing.normalise(picture[None])
    np.testing.assert_allclose(prepared, x, atol=1e-4)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"image": x.astype(np.float32)})[0]
    found = net.run(prepared, [net.head.scores])[net.head.scores]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


ULTRALYTICS = {
    "names": "{0: 'cat', 1: \"dog's\", 2: 'bird'}",
    "stride": "32",
    "task": "detect",
    "batch": "1",
    "imgsz": "[32, 64]",
}


def test_ultralytics_metadata_gives_size_labels_scaling_and_letterbox(photo) -> None:
    net = quiet(marked(ULTRALYTICS))
    assert net.labels == ["cat", "dog's", "bird"]
    assert net.size == (32, 64)
    pre = net.preprocessing
    assert (pre.mean, pre.std, pre.resize, pre.name) == ((0.0,) * 3, (1.0,) * 3, "letterbox", "ultralytics")
    # 40×20 pixels in 64×32: enlarged 1.6 times, nothing left over; a square one has grey at both sides.
    assert net.pictures(photo)[0].shape == (32, 64, 3)
    seen = net.pictures(photo[:, :20])[0]
    expected = np.full((32, 64, 3), 114, np.uint8)
    expected[:, 16:48] = np.asarray(
        Image.fromarray(photo[:, :20]).resize((32, 32), Image.Resampling.BILINEAR)
    )
    np.testing.assert_array_equal(seen, expected)
    np.testing.assert_allclose(net.prepare(photo[:, :20])[0], expected.transpose(2, 0, 1) / 255, atol=1e-6)


def test_an_ultralytics_classifier_is_cut_from_the_middle(photo) -> None:
    net = quiet(marked({**ULTRALYTICS, "task": "classify", "imgsz": "16"}))
    assert (net.preprocessing.resize, net.size, net.preprocessing.crop_fraction) == ("crop", (16, 16), 1.0)


def test_a_size_that_the_file_fixes_stays_and_broken_entries_are_told() -> None:
    net = quiet(marked({**ULTRALYTICS, "names": "{0: 'cat'", "imgsz": "large"}, (16, 16)))
    assert net.size == (16, 16)
    assert net.labels is None
    assert any("metadata names" in text for text in net.warnings)
    assert any("metadata imgsz" in text for text in net.warnings)


def test_onnx_own_entries_for_pictures() -> None:
    props = {"Image.NominalPixelRange": "Normalized_1_1", "Image.BitmapPixelFormat": "Bgr8"}
    pre = quiet(marked(props)).preprocessing
    assert (pre.mean, pre.std, pre.channels) == ((0.5,) * 3, (0.5,) * 3, "BGR")


@pytest.mark.parametrize(
    ("resize", "box"),
    [("crop", (10, 0, 30, 20)), ("stretch", (0, 0, 40, 20))],
)
def test_resize_says_what_of_the_picture_is_seen(photo, resize, box) -> None:
    net = quiet(network(), preprocess="unit", resize=resize)
    seen = Image.fromarray(photo).resize((16, 16), Image.Resampling.BILINEAR, box)
    got = net.pictures(photo)[0].astype(int)
    assert np.abs(got - np.asarray(seen)).max() <= 1 + (resize == "crop")


def test_letterbox_shows_the_whole_picture_on_grey(photo, tmp_path) -> None:
    net = quiet(network(), preprocess="unit", resize="letterbox")
    expected = np.full((16, 16, 3), 114, np.uint8)
    expected[4:12] = np.asarray(Image.fromarray(photo).resize((16, 8), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(net.pictures(photo)[0], expected)
    assert net.preprocessing.to_dict()["resize"] == "letterbox"
    assert onnxviz.saliency(net, photo, target=0).values.shape == (16, 16)
    # The explainer does the same in operators.
    graph = onnxviz.explainer_model(net, "saliency", target=0)
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    heat = dict(
        zip([o.name for o in session.get_outputs()], session.run(None, {"image": photo[None]}), strict=True)
    )["heatmap"]
    expected = onnxviz.saliency(net, photo, target=0).values
    assert np.corrcoef(heat.ravel(), expected.ravel())[0, 1] > 0.99


def test_keep_leaves_each_picture_its_size(photo) -> None:
    assert quiet(marked({}), preprocess="imagenet", resize="keep").pictures(photo)[0].shape == (20, 40, 3)
    with pytest.raises(UsageError, match=r"fixed to 16×16.*choose another resize="):
        quiet(network(), preprocess="unit", resize="keep")
    with pytest.raises(
        UsageError, match=r"did you mean 'stretch'.*expected crop, stretch, letterbox or keep"
    ):
        quiet(network(), preprocess="unit", resize="strech")


def test_resize_on_the_command_line(photo, tmp_path, capsys) -> None:
    onnx.save(network(), tmp_path / "n.onnx")
    Image.fromarray(photo).save(tmp_path / "p.png")
    arguments = [
        "predict",
        str(tmp_path / "n.onnx"),
        str(tmp_path / "p.png"),
        "--preprocess",
        "unit",
        "--json",
    ]
    assert run([*arguments, "--resize", "letterbox"]) == 0
    assert json.loads(capsys.readouterr().out)["manifest"]["preprocessing"]["resize"] == "letterbox"
    assert run([*arguments, "--resize", "keep"]) == 2
    assert "choose another --resize" in capsys.readouterr().err
