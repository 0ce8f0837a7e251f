"""Recipes in files: our own, Hugging Face's and timm's, and what is not one."""

from __future__ import annotations

import json
import os
import time
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from onnxviz.errors import PreprocessingRejected
from onnxviz.image.configs import from_file, parse
from onnxviz.image.preprocessing import PRESETS, Preprocessing

RNG = np.random.default_rng(5)
IMAGENET = PRESETS["imagenet"]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def save(tmp_path, value, name="recipe.json"):
    path = tmp_path / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


# --- our own ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(PRESETS))
def test_a_preset_survives_json_exactly(tmp_path, name):
    recipe = PRESETS[name]
    assert Preprocessing.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert from_file(save(tmp_path, recipe.to_dict())) == recipe
    assert from_file(name) is recipe


NUMBER = st.floats(-3, 3, allow_nan=False)


@given(
    st.builds(
        Preprocessing,
        size=st.none() | st.tuples(st.integers(1, 999), st.integers(1, 999)),
        mean=st.tuples(NUMBER, NUMBER, NUMBER),
        std=st.tuples(*[st.floats(0.001, 300)] * 3),
        channels=st.sampled_from(["RGB", "BGR"]),
        layout=st.sampled_from(["NCHW", "NHWC"]),
        resize=st.sampled_from(["crop", "squash", "pad"]),
        crop_fraction=st.floats(0.1, 1),
        interpolation=st.sampled_from(["bilinear", "bicubic"]),
        dtype=st.sampled_from(["float32", "float16"]),
        name=st.text(max_size=30),
    )
)
@settings(max_examples=80)
def test_any_recipe_survives_json_exactly(recipe):
    """Also one whose mean or std is over 1 in units of pixel/255: the file says its unit."""
    stored = json.loads(json.dumps(recipe.to_dict()))
    assert Preprocessing.from_dict(stored) == recipe
    assert set(stored) == {field.name for field in fields(Preprocessing) if field.compare} | {"unit"}


def test_a_file_says_only_what_differs(tmp_path):
    assert from_file(save(tmp_path, {})) == Preprocessing()
    assert from_file(save(tmp_path, "\ufeff" + json.dumps({"preset": "unit"}))) == PRESETS["unit"]
    recipe = from_file(save(tmp_path, {"preset": "imagenet", "size": 299, "channels": "BGR"}))
    assert recipe == replace(IMAGENET.override(channels="BGR"), size=(299, 299))


@pytest.mark.parametrize(
    ("given_", "mean", "std"),
    [
        ({"mean": 127, "std": 128}, 127 / 255, 128 / 255),
        ({"mean": 0.5, "std": 0.5}, 0.5, 0.5),
        ({"mean": 0.5, "std": 0.5, "unit": "pixel"}, 0.5 / 255, 0.5 / 255),
        ({"mean": 2, "std": 3, "unit": "pixel/255"}, 2.0, 3.0),
        ({"mean": [127, 127, 127]}, 127 / 255, 1.0),
        ({"std": None}, 0.0, 1.0),
    ],
)
def test_units(given_, mean, std):
    recipe = Preprocessing.from_dict(given_)
    assert np.allclose([*recipe.mean, *recipe.std], [mean] * 3 + [std] * 3, rtol=1e-12)


# --- Hugging Face: files as the hub has them --------------------------------------------------

BASE = {"do_normalize": True, "image_mean": MEAN, "image_std": STD, "do_resize": True, "resample": 2}
HUB = {
    "google/vit-base-patch16-224 (old form)": (
        {"do_normalize": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": 224},
        Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3, resize="squash"),
    ),
    "microsoft/resnet-50": (
        {**BASE, "crop_pct": 0.875, "feature_extractor_type": "ConvNextFeatureExtractor", "resample": 3, "size": 224},
        Preprocessing((224, 224), tuple(MEAN), tuple(STD), crop_fraction=0.875, interpolation="bicubic"),
    ),
    "facebook/convnext-base-384": (
        {**BASE, "crop_pct": 1.0, "size": {"shortest_edge": 384}, "resample": 3},
        Preprocessing((384, 384), tuple(MEAN), tuple(STD), resize="squash", interpolation="bicubic"),
    ),
    "google/mobilenet_v2_1.0_224": (
        {
            "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "do_normalize": True,
            "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2,
            "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 256},
            "image_processor_type": "MobileNetV2ImageProcessor",
        },
        Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3, crop_fraction=0.875),
    ),
    "openai/clip-vit-base-patch32": (
        {**BASE, "crop_size": 224, "do_center_crop": True, "size": 224, "resample": 3},
        Preprocessing((224, 224), tuple(MEAN), tuple(STD), interpolation="bicubic"),
    ),
    "facebook/deit-base-patch16-224": (
        {**BASE, "crop_size": 224, "do_center_crop": True, "size": {"height": 256, "width": 256}, "resample": 3},
        Preprocessing(
            (224, 224), tuple(MEAN), tuple(STD), resize="squash", crop_fraction=0.875, interpolation="bicubic"
        ),
    ),
    "facebook/levit-128S": (
        {**BASE, "do_center_crop": True, "size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224},
         "feature_extractor_type": "LevitFeatureExtractor", "resample": 3},
        Preprocessing((224, 224), tuple(MEAN), tuple(STD), crop_fraction=0.875, interpolation="bicubic"),
    ),
    "apple/mobilevit-small": (
        {"crop_size": {"height": 256, "width": 256}, "do_center_crop": True, "do_flip_channel_order": True,
         "do_resize": True, "resample": 2, "size": {"shortest_edge": 288}, "do_rescale": True},
        Preprocessing((256, 256), channels="BGR", crop_fraction=256 / 288),
    ),
    "google/efficientnet-b0": (
        {**BASE, "do_center_crop": False, "do_rescale": True, "include_top": True,
         "rescale_factor": 0.00392156862745098, "rescale_offset": False, "resample": 0,
         "size": {"height": 224, "width": 224}},
        Preprocessing((224, 224), tuple(MEAN), tuple(s * s for s in STD), resize="squash", interpolation="nearest"),
    ),
    "nvidia/mit-b0 (nested)": (
        {"image_processor": {**BASE, "size": {"height": 512, "width": 512}, "do_reduce_labels": True}},
        Preprocessing((512, 512), tuple(MEAN), tuple(STD), resize="squash"),
    ),
    "scaled to -1...1 by the factor": (
        {"do_rescale": True, "rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False,
         "do_resize": False},
        Preprocessing(None, (0.5,) * 3, (0.5,) * 3),
    ),
    "not rescaled": (
        {**BASE, "do_rescale": False, "size": [64, 96], "image_mean": [127.0] * 3, "image_std": [128.0] * 3},
        Preprocessing((64, 96), (127 / 255,) * 3, (128 / 255,) * 3, resize="squash"),
    ),
    "grey": (
        {**BASE, "image_mean": [0.5], "image_std": [0.25], "size": 28},
        Preprocessing((28, 28), (0.5,), (0.25,), channels="L", resize="squash"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("model", list(HUB))
def test_hugging_face(tmp_path, model):
    config, expected = HUB[model]
    got = from_file(save(tmp_path, config, "preprocessor_config.json"))
    assert np.allclose([*got.mean, *got.std], [*expected.mean, *expected.std], rtol=1e-12)
    assert replace(got, mean=expected.mean, std=expected.std, name="custom") == expected
    assert from_file(tmp_path) == got  # the folder that a model was downloaded into


def test_hugging_face_tensor_by_hand():
    """rescale, normalise, on one picture, written out: what MobileNetV2's file asks for."""
    image = RNG.integers(0, 256, (300, 400, 3)).astype(np.uint8)
    recipe = parse(HUB["google/mobilenet_v2_1.0_224"][0])
    resized = np.asarray(Image.fromarray(image).resize((341, 256), Image.Resampling.BILINEAR))
    left = (341 - 224) // 2
    expected = ((resized[16:240, left : left + 224] * 0.00392156862745098 - 0.5) / 0.5).transpose(2, 0, 1)
    assert np.abs(recipe.apply(image) - expected).max() < 1e-6


@pytest.mark.parametrize(
    "config",
    [
        *(
            {**BASE, **change}
            for change in (
                {"size": {"shortest_edge": 800, "longest_edge": 1333}},
                {"size": {"longest_edge": 1024}},
                {"size": {"max_height": 5, "max_width": 5}},
                {"size": "large"},
                {"size": -3},
                {"size": True},
                {"size": {"height": 224, "width": None}},
                {"size": [1, 2, 3]},
                {"size": 200, "do_center_crop": True, "crop_size": 224},
                {
                    "size": {"shortest_edge": 256},
                    "do_center_crop": True,
                    "crop_size": {"height": 224, "width": 200},
                },
                {"size": {"height": 256, "width": 256}, "do_center_crop": True, "crop_size": [224, 200]},
                {"size": 256, "do_center_crop": True, "crop_size": [1, 2, 3]},
                {"do_resize": False, "do_center_crop": True, "crop_size": 224},
                {"size": 224, "resample": 9},
                {"size": 224, "resample": "linear"},
                {"size": 224, "image_mean": None},
                {"size": 224, "image_mean": ["a", "b", "c"]},
                {"size": 224, "image_std": [0.1, 0.2]},
                {"size": 224, "rescale_factor": 0},
                {"size": 224, "rescale_factor": float("nan")},
                {"size": 224, "crop_pct": 0.001},
                {"size": 224, "crop_pct": "x"},
            )
        ),
        {"input_size": 224},
        {"input_size": [5, 224, 224]},
        {"input_size": [3, 0, 224]},
        {"input_size": [3, 9, 9], "crop_mode": "x"},
        {"input_size": [3, 9, 9], "crop_mode": []},
        {"input_size": [3, 9, 9], "interpolation": "random"},
    ],
)
def test_what_hugging_face_or_timm_leave_open_is_refused(config):
    with pytest.raises(PreprocessingRejected):
        parse(config)


# --- timm -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "resize"), [("center", "crop"), ("squash", "stretch"), ("border", "pad")])
def test_timm(tmp_path, mode, resize):
    config = {
        "architecture": "tf_efficientnet_b1",
        "pretrained_cfg": {
            "input_size": [3, 240, 240], "interpolation": "bicubic", "crop_pct": 0.882, "crop_mode": mode,
            "mean": MEAN, "std": STD, "first_conv": "conv_stem", "pool_size": [8, 8],
        },
    }  # fmt: skip
    recipe = from_file(save(tmp_path, config, "config.json"))
    own = {"crop_fraction": 0.882, "interpolation": "bicubic", "resize": resize, "name": "tf_efficientnet_b1"}
    assert replace(recipe, name=own["name"]) == Preprocessing((240, 240), tuple(MEAN), tuple(STD), **own)
    assert from_file(str(tmp_path)) == recipe
    assert parse({"input_size": [1, 28, 28], "mean": [0.5], "std": [0.5]}).channels == "L"


# --- hostile ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        ("{", "not a JSON file"),
        ("[1, 2]", "JSON object"),
        ("null", "JSON object"),
        ("[" * 100_000, "not a JSON file"),
        ('{"mean": NaN}', "finite"),
        ('{"mean": 1e999}', "finite"),
        ('{"std": 0}', "over 0"),
        ('{"mean": [1,2]}', "3 numbers"),
        ('{"mean": "0.5"}', "finite number"),
        (json.dumps({"mean": [0.1] * 10_000}), "10000 numbers"),
        ('{"mean": {"a": 1}}', "finite number"),
        ('{"sise": 224}', "did you mean 'size'"),
        ('{"preset": "imagnet"}', "did you mean 'imagenet'"),
        ('{"preset": ["unit"]}', "no preset"),
        ('{"unit": "inch"}', "unit"),
        ('{"size": [100000, 100000]}', "size"),
        ('{"size": [224.0, 224]}', "size"),
        ('{"channels": ["RGB"]}', "channels"),
        ('{"dtype": "float32; rm -rf /"}', "dtype"),
        ('{"\\u001b[2J\\u202e": 1}', "unknown field"),
        ('{"pretrained_cfg": {"pretrained_cfg": {"pretrained_cfg": 3}}}', "unknown field"),
        ("\x00\x01", "not a JSON file"),
    ],
)
def test_hostile_files(tmp_path, text, word):
    path = save(tmp_path, text)
    with pytest.raises(PreprocessingRejected) as caught:
        from_file(path)
    message = str(caught.value)
    assert word in message
    assert path.name in message
    assert message.isprintable()
    assert len(message) < 600


def test_pipes_devices_and_huge_files_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "x.json")
    with (tmp_path / "big.json").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "no text.json").write_bytes(b"\xff\xfe{}")
    start = time.perf_counter()
    for path, words in (
        (tmp_path, "without preprocessor_config"),
        (tmp_path / "x.json", "pipe"),
        (tmp_path / "big.json", "bytes; at most"),
        (tmp_path / "no text.json", "not a JSON file"),
        ("/dev/zero", "device"),
        *(
            (name, r"neither a preset nor a file.*efficientnet-lite")
            for name in ("imagenett", "no/such.json", "", "a\0b")
        ),
    ):
        with pytest.raises(PreprocessingRejected, match=words):
            from_file(path)
    assert time.perf_counter() - start < 3
