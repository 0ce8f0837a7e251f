"""`style-apply`: any network from a picture to a picture, whatever it calls black and white, at any size."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from networks import Maker
from onnx import helper
from PIL import Image

import onnxviz
from onnxviz.cli.main import run
from onnxviz.errors import ImageRejected, ModelUnsuitable, UsageError


def painter(
    *, size=("H", "W"), batch="N", gain=1.0, shift=0.0, last=False, grey=False, stride=1
) -> onnx.ModelProto:
    """red and blue exchanged, then gain · x + shift; `stride`: halved and brought back to an even size."""
    m, sides = Maker(), [stride] * 2
    x = m("Transpose", "image", perm=[0, 3, 1, 2]) if last else "image"
    swap = np.eye(3, dtype=np.float32)[::-1][: 1 if grey else 3].reshape(-1, 3, 1, 1) * np.float32(gain)
    if stride > 1:
        x = m("AveragePool", x, kernel_shape=sides, strides=sides, ceil_mode=1, count_include_pad=0)
    x = m("Conv", x, m.constant(swap.copy()))
    x = m("Add", x, m.constant(np.float32(shift)))
    if stride > 1:
        x = m("Resize", x, "", m.constant(np.array([1, 1, stride, stride], np.float32)), mode="nearest",
              coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    if last:
        x = m("Transpose", x, perm=[0, 2, 3, 1])
    return m.model({"image": (batch, *size, 3) if last else (batch, 3, *size)}, {x: None})


def apply(m: Maker, output: str, picture: np.ndarray, shape=("N", 3, "H", "W"), **options):
    """What the network of `m` makes of a picture."""
    return onnxviz.style_apply(opened(m.model({"image": shape}, {output: None}), **options), picture)


def opened(model: onnx.ModelProto, **options):
    return onnxviz.load(model, provider="cpu", **options)


@pytest.fixture(scope="module")
def small(cat) -> np.ndarray:
    return np.ascontiguousarray(cat[60:121, 100:190])


@pytest.mark.parametrize(
    ("options", "preset", "expected"),
    [
        ({}, "raw", "0..255"),
        ({}, "unit", "0..1"),
        ({}, "tensorflow", "-1..1"),
        ({"gain": 255.0}, "unit", "0..255"),
        ({"gain": 1 / 255}, "raw", "0..1"),
        ({"last": True}, "raw", "0..255"),
        ({"batch": 2}, "raw", "0..255"),
    ],
)
def test_colours_come_out_as_they_should(options, preset, expected, small):
    made = onnxviz.style_apply(opened(painter(**options), preprocess=preset), small)
    assert made.manifest["parameters"]["output_range"] == expected
    assert made.manifest["schema"] == "onnxviz.style-apply/1"
    np.testing.assert_array_equal(made.image, small[..., ::-1])
    assert made.picture().size == (90, 61)
    assert made.values.dtype == np.float32


def test_the_range_can_be_given(small):
    net = opened(painter(), preprocess="unit")
    made = onnxviz.style_apply(net, small, output_range="-1..1")
    np.testing.assert_allclose(made.values, small[..., ::-1] / 510 + 0.5, atol=1e-6)
    with pytest.raises(UsageError, match=r"0\.\.255, 0\.\.1, -1\.\.1"):
        onnxviz.style_apply(net, small, output_range="0-1")


def test_where_nothing_says_it_the_input_is_tried(small):
    """Each of these gives a picture for one form of input only: the others lie beyond its clipping."""
    m = Maker()
    made = apply(m, m("Clip", "image", m.constant(np.float32(0)), m.constant(np.float32(1))), small)
    assert made.manifest["preprocessing"]["name"] == "unit"
    assert made.manifest["preprocessing_from"].startswith("tried")
    assert not [text for text in made.manifest["warnings"] if "assuming" in text]
    np.testing.assert_array_equal(made.image, small)
    m = Maker()
    made = apply(m, m("Clip", m("Sub", "image", m.constant(np.float32(2))), m.constant(np.float32(0))), small)
    assert made.manifest["preprocessing"]["name"] == "raw"


def test_the_files_own_word_counts(small):
    from onnxviz.graph import metadata
    from onnxviz.image.preprocessing import PRESETS

    model, props = painter(), {}
    metadata.write(props, metadata.Metadata(preprocessing=PRESETS["tensorflow"].to_dict()))
    helper.set_model_props(model, props)
    made = onnxviz.style_apply(opened(model), small)
    assert made.manifest["preprocessing"]["name"] == "tensorflow"
    assert made.manifest["preprocessing"]["size"] is None
    assert "metadata" in made.manifest["preprocessing_from"]
    np.testing.assert_array_equal(made.image, small[..., ::-1])


def test_a_fixed_size_is_freed(small):
    made = onnxviz.style_apply(opened(painter(size=(32, 32), batch=1), preprocess="raw"), small)
    np.testing.assert_array_equal(made.image, small[..., ::-1])
    assert not made.manifest["warnings"]


def test_a_size_that_cannot_be_freed_is_told(small):
    m = Maker()
    x = m("Reshape", "image", m.constant(np.array([1, 3 * 32 * 32])))
    x = m("Reshape", x, m.constant(np.array([1, 3, 32, 32])))
    made = apply(m, x, small, (1, 3, 32, 32), preprocess="raw")
    assert made.values.shape == (61, 90, 3)
    assert "only pictures of 32×32 pixels" in made.manifest["warnings"][-1]
    expected = Image.fromarray(small).resize((32, 32), Image.Resampling.LANCZOS)
    again = expected.resize((90, 61), Image.Resampling.LANCZOS)
    assert np.abs(made.image.astype(int) - np.asarray(again)).max() <= 2


def test_what_strides_add_is_cut_off(small):
    made = onnxviz.style_apply(opened(painter(stride=4), preprocess="raw"), small)
    assert made.values.shape == (61, 90, 3)
    blocks = small[:60, :88].reshape(15, 4, 22, 4, 3).mean(axis=(1, 3))
    expected = np.repeat(np.repeat(blocks, 4, axis=0), 4, axis=1)[..., ::-1]
    np.testing.assert_allclose(made.values[:60, :88] * 255, expected, atol=1e-2)


def test_sizes_that_do_not_fit_are_padded_for_the_run(small):
    """x and its halved and doubled self add up at even sizes only; 61 pixels become 64 and are cut off again."""
    m = Maker()
    half = m("AveragePool", "image", kernel_shape=[2, 2], strides=[2, 2])
    scales = m.constant(np.array([1, 1, 2, 2], np.float32))
    twice = m("Resize", half, "", scales, mode="nearest", coordinate_transformation_mode="asymmetric")
    made = apply(m, m("Mul", m("Add", "image", twice), m.constant(np.float32(0.5))), small, preprocess="raw")
    padded = np.pad(small, ((0, 3), (0, 6), (0, 0)), mode="symmetric").astype(np.float64)
    blocks = padded.reshape(32, 2, 48, 2, 3).mean(axis=(1, 3))
    expected = (padded + blocks.repeat(2, axis=0).repeat(2, axis=1))[:61, :90] / 2
    np.testing.assert_allclose(made.values * 255, expected, atol=1e-2)


def test_grey_becomes_three_channels(small):
    made = onnxviz.style_apply(opened(painter(grey=True), preprocess="raw"), small)
    np.testing.assert_array_equal(made.image, np.repeat(small[..., 2:], 3, axis=2))


def test_the_bundled_style_network_paints(cat):
    """In the browns and violets of its style, with the picture's own lights and darks."""
    from skimage import data

    from onnxviz.catalogue import entry
    from onnxviz.files import sha256

    listed = entry("tissue")
    assert listed.path is not None
    assert sha256(listed.path) == listed.sha256
    content = listed.path.read_bytes()
    assert not [path for path in (b"/tmp", b"/home") if path in content]
    net = onnxviz.load("tissue", provider="cpu")
    assert not net.warnings
    made = onnxviz.style_apply(net, cat, size=200)
    style = data.immunohistochemistry()[..., :3].reshape(-1, 3).mean(axis=0)
    before, after = cat.reshape(-1, 3).mean(axis=0), made.image.reshape(-1, 3).mean(axis=0)
    assert np.abs(after - style).max() < 0.5 * np.abs(before - style).max()
    grey = [picture.mean(axis=2).ravel() for picture in (made.image, made.content)]
    assert np.corrcoef(*grey)[0, 1] > 0.5


@pytest.mark.parametrize(("size", "made"), [("45", (45, 30)), ("45x20", (45, 20))])
def test_the_command(tmp_path, small, size, made):
    Image.fromarray(small).save(tmp_path / "cat.png")
    onnx.save(painter(), tmp_path / "swap.onnx")
    files = [str(tmp_path / name) for name in ("swap.onnx", "cat.png", "out.png")]
    assert run(["style-apply", *files[:2], "--preprocess", "raw", "--size", size, "-o", files[2]]) == 0
    with Image.open(files[2]) as picture:
        assert picture.size == made
    assert json.loads((tmp_path / "out.json").read_text())["parameters"]["size"] == [*made[::-1]]
    assert np.load(tmp_path / "out.npy").shape == (*made[::-1], 3)


def test_what_is_no_style_network_is_said(net, small, tmp_path):
    with pytest.raises(ModelUnsuitable, match="onnxviz style"):
        onnxviz.style_apply(net, small)
    m = Maker()
    with pytest.raises(ModelUnsuitable, match="NaN"):
        apply(m, m("Div", "image", m.constant(np.float32(0))), small, preprocess="raw")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ImageRejected):
        onnxviz.style_apply(opened(painter(), preprocess="raw"), tmp_path / "broken.png")
