"""Preprocessing recipes in files: our own JSON, Hugging Face's preprocessor_config.json, timm's config.json."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any, Final

from onnxviz.errors import ImageRejected, PreprocessingRejected, near
from onnxviz.graph.metadata import LARGEST_RECIPE
from onnxviz.image.io import read_bytes
from onnxviz.image.preprocessing import PRESETS, Preprocessing
from onnxviz.image.recipe import checked_number
from onnxviz.text import printable

_FILES: Final = ("preprocessor_config.json", "config.json")
# PIL.Image.Resampling, as Hugging Face's files store it.
_RESAMPLE: Final = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")


def from_file(path: str | os.PathLike[str]) -> Preprocessing:
    """The recipe in a JSON file: our own, Hugging Face's preprocessor_config.json, or timm's config.json.

    path     the file, a folder that holds such a file, or the name of a preset
    raises   PreprocessingRejected
    """
    if isinstance(path, str) and path in PRESETS:
        return PRESETS[path]
    text = os.fsdecode(path)
    name = printable(text, 200)
    if os.path.isdir(text):  # noqa: PTH112
        for file in _FILES:
            if os.path.isfile(os.path.join(text, file)):  # noqa: PTH113, PTH118
                return from_file(os.path.join(text, file))  # noqa: PTH118
        raise PreprocessingRejected(f"{name}: a folder without {' or '.join(_FILES)}")
    if not os.path.lexists(text):
        raise PreprocessingRejected(
            f"{name!r} is neither a preset nor a file{near(text, PRESETS)}; the presets are {', '.join(PRESETS)}"
        )
    try:
        fields = json.loads(read_bytes(text, name, LARGEST_RECIPE).decode("utf-8-sig"))
    except ImageRejected as error:
        raise PreprocessingRejected(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise PreprocessingRejected(f"{name}: not a JSON file ({printable(error, 120)})") from error
    try:
        return parse(fields)
    except PreprocessingRejected as error:
        raise PreprocessingRejected(f"{name}: {error}") from error


def parse(fields: Any) -> Preprocessing:
    """The recipe that a JSON object of one of the three kinds describes; raises PreprocessingRejected."""
    if not isinstance(fields, Mapping):
        raise PreprocessingRejected(f"expected a JSON object, got {type(fields).__name__}")
    for nested in ("image_processor", "pretrained_cfg"):
        if isinstance(fields.get(nested), Mapping):
            return parse(fields[nested])
    if "input_size" in fields:
        return from_timm(fields)
    markers = {"image_mean", "image_std", "do_resize", "do_normalize", "do_rescale", "rescale_factor"}
    if markers & fields.keys() or "image_processor_type" in fields or "feature_extractor_type" in fields:
        return from_hugging_face(fields)
    return Preprocessing.from_dict(fields)


# --- timm -------------------------------------------------------------------------------------


def from_timm(fields: Mapping[str, Any]) -> Preprocessing:
    """From timm's pretrained_cfg: input_size (C, H, W), mean, std, crop_pct, crop_mode, interpolation."""
    shape = fields["input_size"]
    if not isinstance(shape, (list, tuple)) or len(shape) != 3 or shape[0] not in (1, 3):
        raise PreprocessingRejected(f"input_size {printable(repr(shape), 60)}: expected [3, height, width]")
    mode = fields.get("crop_mode", "center")
    modes = {"center": "crop", "squash": "stretch", "border": "pad"}
    if not isinstance(mode, str) or mode not in modes:
        raise PreprocessingRejected(f"crop_mode {printable(repr(mode), 60)}: expected {', '.join(modes)}")
    return Preprocessing.from_dict(
        {
            "size": list(shape[1:]),
            "mean": fields.get("mean", PRESETS["imagenet"].mean),
            "std": fields.get("std", PRESETS["imagenet"].std),
            "unit": "pixel/255",
            "channels": "L" if shape[0] == 1 else "RGB",
            "resize": modes[mode],
            "crop_fraction": fields.get("crop_pct", 0.875),
            "interpolation": fields.get("interpolation", "bilinear"),
            "name": fields.get("architecture", "timm"),
        }
    )


# --- Hugging Face -----------------------------------------------------------------------------


def from_hugging_face(fields: Mapping[str, Any]) -> Preprocessing:
    """From an image processor's configuration; what it cannot say exactly is refused, not guessed."""
    name = fields.get("image_processor_type") or fields.get("feature_extractor_type")
    recipe = {
        **_hugging_face_size(fields),
        **_hugging_face_scaling(fields),
        "interpolation": _resample(fields.get("resample", 2)),
        "name": name or "preprocessor_config",
    }
    if len(recipe["mean"]) == 1 == len(recipe["std"]) and isinstance(fields.get("image_mean"), list):
        recipe["channels"] = "L"
    if fields.get("do_flip_channel_order"):
        recipe["channels"] = "BGR"
    return Preprocessing.from_dict(recipe)


def _resample(code: object) -> str:
    if isinstance(code, str) and code.lower() in _RESAMPLE:
        return code.lower()
    if isinstance(code, int) and not isinstance(code, bool) and 0 <= code < len(_RESAMPLE):
        return _RESAMPLE[code]
    raise PreprocessingRejected(
        f"resample {printable(repr(code), 40)}: expected 0 to 5, as PIL.Image.Resampling"
    )


def _hugging_face_scaling(fields: Mapping[str, Any]) -> dict[str, Any]:
    """mean and std for pixel/255, from rescaling by a factor, perhaps less 1, and then normalising."""
    factor, offset = 1.0, 0.0
    if fields.get("do_rescale", True):
        factor = checked_number("rescale_factor", fields.get("rescale_factor", 1 / 255))
        offset = 1.0 if fields.get("rescale_offset") else 0.0
    mean, std = fields.get("image_mean"), fields.get("image_std")
    if not fields.get("do_normalize", mean is not None):
        mean, std = [0.0], [1.0]
    if mean is None or std is None:
        raise PreprocessingRejected(
            "do_normalize is set, but image_mean or image_std is missing; write them into it"
        )
    means, stds = (
        [checked_number(key, value) for value in (values if isinstance(values, list) else [values])]
        for key, values in (("image_mean", mean), ("image_std", std))
    )
    if fields.get("include_top"):  # EfficientNetImageProcessor then divides by std once more
        stds = [value * value for value in stds]
    grain = 255 * factor  # what one unit of pixel/255 has become
    if grain <= 0:
        raise PreprocessingRejected(f"rescale_factor {factor}: expected a number over 0")
    return {
        "mean": [(value + offset) / grain for value in means],
        "std": [value / grain for value in stds],
        "unit": "pixel/255",
    }


def _hugging_face_size(fields: Mapping[str, Any]) -> dict[str, Any]:
    """size, resize and crop_fraction."""
    size, crop = fields.get("size"), fields.get("crop_size")
    cropped = bool(fields.get("do_center_crop", False)) and crop is not None
    if not fields.get("do_resize", size is not None):
        if cropped:
            raise PreprocessingRejected(
                "a centre crop without resizing cannot be expressed; give size and do_resize"
            )
        return {"size": None}
    if "crop_pct" in fields and fields["crop_pct"] is not None:
        # ConvNextImageProcessor: below 384 the short side and a crop, from there squashed.
        edge, fraction = _edge(size), checked_number("crop_pct", fields["crop_pct"])
        squashed = {"resize": "stretch", "crop_fraction": 1.0}
        return {
            "size": [edge, edge],
            **(squashed if edge >= 384 else {"resize": "crop", "crop_fraction": fraction}),
        }
    target = _pair("crop_size", crop) if cropped else None
    if isinstance(size, int) and not isinstance(size, bool):
        size = {"shortest_edge": size} if cropped else {"height": size, "width": size}
    if isinstance(size, list):
        size = dict(zip(("height", "width"), _pair("size", size), strict=True))
    if isinstance(size, Mapping) and set(size) == {"height", "width"}:
        full = _pair("size", size)
        fraction = _fraction(target or full, full)
        return {"size": list(target or full), "resize": "stretch", "crop_fraction": fraction}
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        edge, name = _edge(size), fields.get("image_processor_type") or fields.get("feature_extractor_type")
        if str(name).startswith("Levit"):
            edge = int(256 / 224 * edge)  # LevitImageProcessor does so, whatever the file says
        height, width = target or (edge, edge)
        if height != width:
            raise PreprocessingRejected(f"a crop {height}×{width} of a short side cannot be expressed")
        fraction = _fraction((height, width), (edge, edge))
        return {"size": [height, width], "resize": "crop", "crop_fraction": fraction}
    raise PreprocessingRejected(
        f"size {printable(repr(size), 80)} leaves the input's size open; expected height and width, or "
        'shortest_edge. Give a recipe of your own: {"size": [224, 224], "mean": [...], "std": [...]}'
    )


def _fraction(kept: tuple[int, int], full: tuple[int, int]) -> float:
    if kept[0] > full[0] or kept[1] > full[1]:
        raise PreprocessingRejected(f"the crop {kept} is larger than what it is cut from, {full}")
    if not math.isclose(kept[0] / full[0], kept[1] / full[1], rel_tol=1e-9):
        raise PreprocessingRejected(f"a crop {kept} of {full} changes the shape, which cannot be expressed")
    return kept[0] / full[0]


def _edge(size: Any) -> int:
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else size
    if isinstance(edge, int) and not isinstance(edge, bool) and 0 < edge < 1 << 16:
        return edge
    raise PreprocessingRejected(f"size {printable(repr(size), 80)}: expected a number of pixels")


def _pair(field: str, size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        return _edge(size.get("height")), _edge(size.get("width"))
    if isinstance(size, (list, tuple)):
        if len(size) != 2:
            raise PreprocessingRejected(f"{field} {printable(repr(size), 80)}: expected height and width")
        return _edge(size[0]), _edge(size[1])
    return _edge(size), _edge(size)
