"""What a model file says about itself: `onnxviz.*` entries among its metadata.

An exported file carries how its pictures are prepared, what its classes are called, where it comes from and
under which licence, so that it can be used years later without the program that made it. All of it is text in
ONNX's own `metadata_props`, which every other tool ignores:

    onnxviz.preprocessing   JSON object, the fields of `image.preprocessing.Preprocessing.to_dict()`
    onnxviz.labels          JSON array of strings, one a class, in order
    onnxviz.source          free text: package, class, weights
    onnxviz.licence         SPDX identifier where there is one

Read, never written, where none of ours says it: what Ultralytics' exporter leaves (`imgsz`, `names`, `task`, `stride`,
`channels`), and ONNX's own entries for pictures (`Image.NominalPixelRange`, `Image.BitmapPixelFormat`).

A model from a stranger may hold anything here. What cannot be read is left out with a warning; it never stops
the model from loading, since the same facts can be given by flags.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir

from onnxviz.limits import Limits
from onnxviz.text import json_escaped

PREFIX = "onnxviz."
PREPROCESSING = PREFIX + "preprocessing"
LABELS = PREFIX + "labels"
SOURCE = PREFIX + "source"
LICENCE = PREFIX + "licence"

#: Bytes of a recipe, here or in a file: a hundred times what any says.
LARGEST_RECIPE: Final = 1 << 20


@dataclass(frozen=True)
class Metadata:
    """What a model says about itself; None where it says nothing.

    preprocessing  the fields of a `Preprocessing`, still to be checked by `Preprocessing.from_dict`
    labels         one name a class
    source         where the network comes from
    licence        the licence of its weights
    warnings       what was there and could not be read
    """

    preprocessing: Mapping[str, Any] | None = None
    labels: tuple[str, ...] | None = None
    source: str | None = None
    licence: str | None = None
    warnings: tuple[str, ...] = ()


def read(props: Mapping[str, str], limits: Limits | None = None) -> Metadata:
    """Read the `onnxviz.*` entries of `model.metadata_props` (any mapping of text to text).

    Never raises: what is broken or over the limits is None, with one warning each.
    """
    limits = limits or Limits()
    warnings: list[str] = []
    preprocessing = _json(props, PREPROCESSING, warnings, LARGEST_RECIPE)
    if preprocessing is not None and not isinstance(preprocessing, dict):
        warnings.append(
            f"metadata {PREPROCESSING}: a JSON object was expected, not {_kind(preprocessing)}; ignored"
        )
        preprocessing = None
    labels = _json(props, LABELS, warnings, limits.text_bytes)
    if labels is not None:
        problem = _labels_problem(labels, limits.labels)
        if problem:
            warnings.append(f"metadata {LABELS}: {problem}; ignored")
            labels = None
    if preprocessing is None:
        preprocessing = _ultralytics(props, warnings) or _onnx_image(props, warnings)
    if labels is None and props.get("names") and _is_ultralytics(props):
        labels = _names(props["names"], warnings, limits)
    return Metadata(
        preprocessing=preprocessing,
        labels=None if labels is None else tuple(labels),
        source=props.get(SOURCE) or None,
        licence=props.get(LICENCE) or None,
        warnings=tuple(warnings),
    )


# --- other exporters --------------------------------------------------------------------------


def _is_ultralytics(props: Mapping[str, str]) -> bool:
    return "names" in props and ("stride" in props or "task" in props or "imgsz" in props)


def _ultralytics(props: Mapping[str, str], warnings: list[str]) -> dict[str, Any] | None:
    """The recipe of a network that Ultralytics exported: 0 to 1, letterboxed; a classifier's is cut from the middle."""
    if not _is_ultralytics(props):
        return None
    recipe: dict[str, Any] = {
        "unit": "pixel/255",
        "resize": "crop" if props.get("task") == "classify" else "letterbox",
        "name": "ultralytics",
    }
    if props.get("channels", "").strip() == "1":
        recipe["channels"] = "L"
    text = props.get("imgsz", "")
    sides = re.findall(r"\d{1,6}", text[:100])
    if len(sides) in (1, 2):
        recipe["size"] = [int(sides[0]), int(sides[-1])]
    elif text:
        warnings.append(f"metadata imgsz: expected one side or two, not {text[:60]!r}; ignored")
    return recipe


def _names(text: str, warnings: list[str], limits: Limits) -> list[str] | None:
    """The classes' names that Ultralytics writes as Python text, {0: 'person', ...}."""
    from onnxviz.labels import parse_labels

    try:
        if len(text) > limits.text_bytes:
            raise ValueError(_too_long(text, limits.text_bytes))
        return parse_labels(text, limits=limits)
    except (ValueError, RecursionError) as error:
        warnings.append(f"metadata names: {error}; ignored")
        return None


_RANGES = {"NominalRange_0_255": (0.0, 1 / 255), "Normalized_0_1": (0.0, 1.0), "Normalized_1_1": (0.5, 0.5)}
_FORMATS = {"Gray8": "L", "Rgb8": "RGB", "Bgr8": "BGR", "Rgba8": "RGBA"}


def _onnx_image(props: Mapping[str, str], warnings: list[str]) -> dict[str, Any] | None:
    """The recipe of ONNX's standard entries (MetadataProps.md): the pixels' range and the order of colours."""
    given = props.get("Image.NominalPixelRange")
    if not given:
        return None
    if given not in _RANGES:
        warnings.append(f"metadata Image.NominalPixelRange: {given[:60]!r} is not known; ignored")
        return None
    order = props.get("Image.BitmapPixelFormat", "Rgb8")
    if order not in _FORMATS:
        warnings.append(f"metadata Image.BitmapPixelFormat: {order[:60]!r} is not known; taken for Rgb8")
    mean, std = _RANGES[given]
    return {
        "mean": [mean],
        "std": [std],
        "unit": "pixel/255",
        "channels": _FORMATS.get(order, "RGB"),
        "name": "onnx metadata",
    }


def write(props: MutableMapping[str, str], metadata: Metadata) -> None:
    """Write `metadata` into `model.metadata_props`; a field that is None leaves its entry as it was.

    The JSON has sorted keys and no spaces: the same facts always give the same bytes.
    """
    if metadata.preprocessing is not None:
        props[PREPROCESSING] = _dump(dict(metadata.preprocessing))
    if metadata.labels is not None:
        props[LABELS] = _dump(list(metadata.labels))
    if metadata.source is not None:
        props[SOURCE] = metadata.source
    if metadata.licence is not None:
        props[LICENCE] = metadata.licence


def read_labels(
    model: ir.Model, warnings: list[str] | None = None, limits: Limits | None = None
) -> list[str] | None:
    """The classes' names that a model carries, or None; what cannot be read is noted in `warnings`."""
    found = read(model.metadata_props, limits)
    note(warnings, [text for text in found.warnings if LABELS in text or "metadata names" in text])
    return None if found.labels is None else list(found.labels)


def note(warnings: list[str] | None, texts: list[str]) -> None:
    """Put texts into the warnings that a caller collects, where it does."""
    if warnings is not None:
        warnings.extend(texts)


def _dump(value: object) -> str:
    # A lone half of a pair, which JSON can hold, has no place in protobuf's text.
    return json_escaped(
        json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    )


def _too_long(text: str, most: int) -> str:
    return f"{len(text)} characters, over the limit of {most}"


def _json(props: Mapping[str, str], key: str, warnings: list[str], most: int) -> Any:
    text = props.get(key)
    if not text:
        return None
    if len(text) > most:
        warnings.append(f"metadata {key}: {_too_long(text, most)}; ignored")
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        warnings.append(f"metadata {key}: not JSON ({type(error).__name__}); ignored")
        return None


def _labels_problem(labels: object, most: int) -> str | None:
    if not isinstance(labels, list):
        return f"a JSON array was expected, not {_kind(labels)}"
    if len(labels) > most:
        return f"{len(labels)} labels, over the limit of {most}"
    wrong = next((i for i, label in enumerate(labels) if not isinstance(label, str)), None)
    return None if wrong is None else f"label {wrong} is {_kind(labels[wrong])}, not text"


def _kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")


# --- writing: whole or not at all, large weights beside it ----------------------------------------


# A protobuf message ends at 2 GiB; below 1.5 GiB of weights the rest always fits.
_ONE_FILE_BYTES = 3 << 29


def save(model: ir.Model, path: str | os.PathLike[str], *, one_file_bytes: int = _ONE_FILE_BYTES) -> Path:
    """Write `model` to `path`; over `one_file_bytes` of weights, these go to `path`.data.

    raises   OutputRefused
    """
    from onnxviz.files import write_atomic

    target = Path(path)
    weights = sum(
        v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None
    )
    if weights <= one_file_bytes:
        return write_atomic(target, ir.serde.serialize_model(model).SerializeToString())
    return _save_apart(model.clone(), target)


def _save_apart(model: ir.Model, target: Path) -> Path:
    """Weights and the graph that names them as one set: there is no graph while the weights are of another."""
    from onnxviz.file_set import FileSet

    data = target.with_name(target.name + ".data")
    tensors = []
    offset = 0
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.dtype == ir.DataType.STRING:
            continue
        tensors.append(tensor)
        value.const_value = ir.ExternalTensor(
            data.name, offset, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.numpy().shape), name=name
        )
        offset += tensor.nbytes
    with FileSet(target) as files:
        files.add(data, (tensor.tobytes() for tensor in tensors))
        return files.finish(ir.serde.serialize_model(model).SerializeToString())
