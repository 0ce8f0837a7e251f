"""What every technique promises: float32 values, the same ones for the same seed, inputs left alone, a manifest, a
picture, and files that tell the same as the arrays."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import onnxviz
from onnxviz.errors import OnnxVizError, UsageError

TECHNIQUES = {
    "filters": lambda net, image, files: onnxviz.filters(net),
    "activations": lambda net, image, files: onnxviz.activations(net, image, "stem"),
    "occlusion": lambda net, image, files: onnxviz.occlusion(
        net, image, window=64, stride=64, fill="noise", seed=3
    ),
    "rise": lambda net, image, files: onnxviz.rise(net, image, masks=8, seed=3),
    "saliency": lambda net, image, files: onnxviz.saliency(
        net, image, method="smoothgrad", samples=2, seed=3
    ),
    "attributions": lambda net, image, files: onnxviz.attributions(
        net, files[:2], ["smoothgrad", "full-gradient"], samples=2, seed=3
    ),
    "segment": lambda net, image, files: onnxviz.segment(net, image, seed=3),
    "cam": lambda net, image, files: onnxviz.cam(net, image),
    "faithfulness": lambda net, image, files: onnxviz.faithfulness(
        net, files[:2], ["saliency"], grid=2, steps=2, seed=3
    ),
    "ascent": lambda net, image, files: onnxviz.ascent(
        net, target=[285, 980], start=image, steps=2, size=96, seed=3
    ),
    "dream": lambda net, image, files: onnxviz.dream(net, image, size=96, octaves=2, steps=2, seed=3),
    "invert": lambda net, image, files: onnxviz.invert(net, image, ["stem", "blocks.2.add"], steps=3, seed=3),
    "style": lambda net, image, files: onnxviz.style(
        net, image, files[-1], size=96, steps=4, start="noise", seed=3
    ),
    "texture": lambda net, image, files: onnxviz.texture(net, image, "quilt", size=64, seed=3),
    "fool": lambda net, image, files: onnxviz.fool(net, image, method="pgd", steps=2, seed=3),
    "patches": lambda net, image, files: onnxviz.patches(net, files, "stem", top=2),
    "embed": lambda net, image, files: onnxviz.embed(net, files),
    "neighbours": lambda net, image, files: onnxviz.neighbours(net, files, k=2, seed=3),
    "map": lambda net, image, files: onnxviz.map(net, files, method="pca", seed=3),
}
# What draws from the seed, and must give something else for another one.
SEEDED = {
    "ascent": lambda net, image: onnxviz.ascent(
        net, target=[285, 980], start=image, steps=2, size=96, seed=4
    ),
    "occlusion": lambda net, image: onnxviz.occlusion(net, image, window=64, stride=64, fill="noise", seed=4),
    "rise": lambda net, image: onnxviz.rise(net, image, masks=8, seed=4),
    "saliency": lambda net, image: onnxviz.saliency(net, image, method="smoothgrad", samples=2, seed=4),
    "dream": lambda net, image: onnxviz.dream(net, image, size=96, octaves=2, steps=2, seed=4),
    "invert": lambda net, image: onnxviz.invert(net, image, ["stem", "blocks.2.add"], steps=3, seed=4),
    "style": lambda net, image: onnxviz.style(net, image, image, size=96, steps=4, start="noise", seed=4),
    "texture": lambda net, image: onnxviz.texture(net, image, "quilt", size=64, seed=4),
    "fool": lambda net, image: onnxviz.fool(net, image, method="pgd", steps=2, seed=4),
}


@pytest.fixture(scope="module", params=TECHNIQUES)
def technique(request):
    return request.param


@pytest.fixture(scope="module")
def result(technique, net, cat, photo_files):
    return TECHNIQUES[technique](net, cat, photo_files)


def test_values_are_finite_float32(result):
    assert result.values.dtype == np.float32
    assert result.values.size
    assert np.isfinite(result.values).all()


def test_the_same_seed_gives_the_same_and_leaves_the_input_alone(technique, result, net, cat, photo_files):
    image = cat.copy()
    contents = [path.read_bytes() for path in photo_files]
    again = TECHNIQUES[technique](net, image, photo_files)
    np.testing.assert_array_equal(again.values, result.values)
    assert again.manifest == result.manifest
    np.testing.assert_array_equal(image, cat)
    assert [path.read_bytes() for path in photo_files] == contents


def test_another_seed_gives_something_else(technique, result, net, cat):
    if technique in SEEDED:
        assert not np.array_equal(SEEDED[technique](net, cat).values, result.values)


def test_the_manifest_tells_what_the_numbers_rest_on(technique, result, net):
    manifest = result.manifest
    assert manifest["schema"] == f"onnxviz.{technique}/1"
    assert manifest["model"]["sha256"] == net.digest
    assert manifest["provider"] == "CPUExecutionProvider"
    assert {"versions", "preprocessing", "parameters", "figures", "limits", "warnings"} <= set(manifest)


def test_files_tell_the_same_as_the_arrays(technique, result, tmp_path):
    saved = result.save(
        tmp_path / ("out" if technique == "patches" else "out.png" if technique != "embed" else "out.npy")
    )
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert saved.exists()
    assert not [path for path in written if path.name.startswith(".")]
    for path in written:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert picture.mode == "RGB"
                assert min(picture.size) >= 40
    if technique != "patches":
        np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), result.values)
        assert (
            json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["schema"]
            == result.manifest["schema"]
        )


def test_a_notebook_shows_it(result):
    assert result._repr_png_().startswith(b"\x89PNG")


def test_it_goes_where_arrays_go(result):
    assert np.asarray(result) is result.values
    assert np.asarray(result, np.float64).dtype == np.float64
    copy = np.array(result)
    assert copy is not result.values
    np.testing.assert_array_equal(copy, result.values)


def test_it_is_told_on_a_line_and_in_json(result):
    assert repr(result).startswith(f"<{type(result).__name__} {result.values.shape} float32")
    assert len(repr(result)) < 300
    assert "\n" not in repr(result)
    told = result.to_dict()
    assert len(json.dumps(told, allow_nan=False)) < 20_000
    assert told["type"] == type(result).__name__
    assert told["values"]["shape"] == list(result.values.shape)
    assert told["manifest"]["schema"] == result.manifest["schema"]


def test_it_is_drawn_into_anybodys_axes(result):
    class Axes:
        def imshow(self, picture):
            self.picture = picture

        def set_axis_off(self):
            self.bare = True

    axes = Axes()
    assert result.plot(axes) is axes
    assert axes.bare
    np.testing.assert_array_equal(axes.picture, np.asarray(result.picture()))


def test_what_is_no_network_is_said(technique, cat, photo_files):
    """A path in a network's place, the commonest slip of all."""
    with pytest.raises(
        UsageError, match=rf"{technique} got 'model.onnx' in place of a network; .*onnxviz.load"
    ):
        TECHNIQUES[technique]("model.onnx", cat, photo_files)


def test_nor_do_others_take_a_path(cat):
    for call in (onnxviz.predict, lambda net, _: onnxviz.inspect(net)):
        with pytest.raises(UsageError, match="in place of a network"):
            call(object(), cat)


def test_what_cannot_be_used_is_a_typed_error(technique, net, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    if technique != "filters":
        with pytest.raises(OnnxVizError):
            TECHNIQUES[technique](net, tmp_path / "broken.png", [tmp_path / "broken.png"])
