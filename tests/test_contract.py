"""What every technique promises: float32 values, the same ones for the same seed, inputs left alone, a manifest, a
picture, and files that tell the same as the arrays."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import onnxviz
from onnxviz.errors import OnnxVizError, UsageError


def made(name, net, image, files, seed=3):
    """What a technique gives for these pictures."""
    given, options = {
        "filters": ([], {}),
        "activations": ([image, "stem"], {}),
        "occlusion": ([image], {"window": 64, "stride": 64, "fill": "noise", "seed": seed}),
        "rise": ([image], {"masks": 8, "seed": seed}),
        "saliency": ([image], {"method": "smoothgrad", "samples": 2, "seed": seed}),
        "attributions": ([files[:2], ["smoothgrad", "full-gradient"]], {"samples": 2, "seed": seed}),
        "segment": ([image], {"seed": seed}),
        "cam": ([image], {}),
        "faithfulness": ([files[:2], ["saliency"]], {"grid": 2, "steps": 2, "seed": seed}),
        "ascent": ([], {"target": [285, 980], "start": image, "steps": 2, "size": 96, "seed": seed}),
        "dream": ([image], {"size": 96, "octaves": 2, "steps": 2, "seed": seed}),
        "invert": ([image, ["stem", "blocks.2.add"]], {"steps": 3, "seed": seed}),
        "style": ([image, files[-1]], {"size": 96, "steps": 4, "start": "noise", "seed": seed}),
        "texture": ([image, "quilt"], {"size": 64, "seed": seed}),
        "fool": ([image], {"method": "pgd", "steps": 2, "seed": seed}),
        "patches": ([files, "stem"], {"top": 2}),
        "embed": ([files], {}),
        "neighbours": ([files], {"k": 2, "seed": seed}),
        "map": ([files], {"method": "pca", "seed": seed}),
    }[name]
    return getattr(onnxviz, name)(net, *given, **options)


# What draws from the seed, and must give something else for another one.
SEEDED = ["ascent", "occlusion", "rise", "saliency", "dream", "invert", "style", "texture", "fool"]
PLAIN = ["filters", "activations", "attributions", "segment", "cam", "faithfulness", "patches", "embed"]


@pytest.fixture(scope="module", params=[*SEEDED, *PLAIN, "neighbours", "map"])
def technique(request):
    return request.param


@pytest.fixture(scope="module")
def result(technique, net, cat, photo_files):
    return made(technique, net, cat, photo_files)


def test_values_are_finite_float32_and_go_where_arrays_go(result):
    assert result.values.dtype == np.float32 and result.values.size
    assert np.isfinite(result.values).all()
    assert np.asarray(result) is result.values
    assert np.asarray(result, np.float64).dtype == np.float64
    copy = np.array(result)
    assert copy is not result.values
    np.testing.assert_array_equal(copy, result.values)


def test_the_same_seed_gives_the_same_and_leaves_the_input_alone(technique, result, net, cat, photo_files):
    image = cat.copy()
    contents = [path.read_bytes() for path in photo_files]
    again = made(technique, net, image, photo_files)
    np.testing.assert_array_equal(again.values, result.values)
    assert again.manifest == result.manifest
    np.testing.assert_array_equal(image, cat)
    assert [path.read_bytes() for path in photo_files] == contents
    if technique in SEEDED:
        other = made(technique, net, cat, photo_files, seed=4)
        assert not np.array_equal(other.values, result.values)


def test_the_manifest_tells_what_the_numbers_rest_on(technique, result, net):
    manifest = result.manifest
    assert manifest["schema"] == f"onnxviz.{technique}/1"
    assert manifest["model"]["sha256"] == net.digest
    assert manifest["provider"] == "CPUExecutionProvider"
    assert {"versions", "preprocessing", "parameters", "figures", "limits", "warnings"} <= set(manifest)
    assert repr(result).startswith(f"<{type(result).__name__} {result.values.shape} float32")
    assert len(repr(result)) < 300 and "\n" not in repr(result)
    told = result.to_dict()
    assert len(json.dumps(told, allow_nan=False)) < 20_000
    assert told["type"] == type(result).__name__
    assert told["values"]["shape"] == list(result.values.shape)
    assert told["manifest"]["schema"] == manifest["schema"]


def test_files_tell_the_same_as_the_arrays(technique, result, tmp_path):
    saved = result.save(tmp_path / {"patches": "out", "embed": "out.npy"}.get(technique, "out.png"))
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
        manifest = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
        assert manifest["schema"] == result.manifest["schema"]


def test_a_notebook_shows_it_and_anybodys_axes(result):
    class Axes:
        def imshow(self, picture):
            self.picture = picture

        def set_axis_off(self):
            self.bare = True

    assert result._repr_png_().startswith(b"\x89PNG")
    axes = Axes()
    assert result.plot(axes) is axes
    assert axes.bare
    np.testing.assert_array_equal(axes.picture, np.asarray(result.picture()))


def test_what_cannot_be_used_is_a_typed_error(technique, net, cat, photo_files, tmp_path):
    """A path in a network's place, the commonest slip of all; a picture that is none."""
    words = rf"{technique} got 'model.onnx' in place of a network; .*onnxviz.load"
    with pytest.raises(UsageError, match=words):
        made(technique, "model.onnx", cat, photo_files)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    if technique != "filters":
        with pytest.raises(OnnxVizError):
            made(technique, net, tmp_path / "broken.png", [tmp_path / "broken.png"])


def test_nor_do_others_take_a_path(cat):
    for call in (onnxviz.predict, lambda net, _: onnxviz.inspect(net)):
        with pytest.raises(UsageError, match="in place of a network"):
            call(object(), cat)
