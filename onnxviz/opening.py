"""Opening a network: finding the file, loading it safely, and settling its input, preprocessing and labels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.limits import Limits
from onnxviz.graph.load import load as load_graph
from onnxviz.inputs import InputSpec, fix_inputs, image_input
from onnxviz.labels import read_labels
from onnxviz.network import DEFAULT_SIZE, Network
from onnxviz.runtime.backends import check as check_backend

if TYPE_CHECKING:
    import onnx

    from onnxviz.image.preprocess import Preprocessing

#: How the warning begins that the preprocessing is a guess.
ASSUMED = "the file does not say how pictures become its input"


def load(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model,
    *,
    preprocess: Preprocessing | str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    provider: str = "auto",
    threads: int | None = None,
    backend: str = "auto",
    size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channels: str | None = None,
    layout: str | None = None,
    input: str | None = None,
    feeds: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    output: str | None = None,
) -> Network:
    """Open a convolutional network in ONNX form.

    model        a path, a name of the catalogue ('efficientnet-lite0' is bundled), the file's bytes, or a parsed model
    preprocess   how pictures become its input: a preset's name, a JSON file, or a Preprocessing; None: what the
                 model's metadata says, else ImageNet's usual values (with a warning)
    labels       the classes' names: a file, a list, or 'imagenet'; None: what the metadata says
    provider     'auto' (CUDA where it works, else CPU), 'cpu', 'cuda', or any name that ONNX Runtime knows
    threads      threads within an operator; None: ONNX Runtime decides
    backend      what computes gradients: 'auto' (native, and torch where native lacks a rule and torch is installed),
                 'native', 'torch' or 'ort-training'
    size         height and width in pixels, for networks that allow it
    mean, std    per channel, of pixels in 0..1 or 0..255; change what `preprocess` says
    channels     'RGB', 'BGR', 'L' (grey) or 'RGBA'
    layout       'NCHW' or 'NHWC', where the shape does not tell
    input        the image input's name, where there are several inputs
    feeds        fixed values for the other inputs
    limits       what is too large, too deep or too slow (`onnxviz.Limits`)
    output       the output that is predicted and explained, where there are several; None: what looks like class scores
    raises       UnknownLayer for an output that there is not; ModelRejected, ModelUnsuitable, LimitExceeded,
                 LabelsRejected, PreprocessingRejected, UsageError
    """
    from onnxviz.graph.metadata import read_labels as labels_of
    from onnxviz.graph.metadata import read_preprocessing

    check_backend(backend)
    source = _locate(model)
    loaded = load_graph(source, limits=limits or Limits())
    graph = fix_inputs(loaded.model, dict(feeds)) if feeds else loaded.model
    warnings = list(loaded.warnings)
    spec = image_input(graph, input, layout.upper() if layout else None, warnings)
    if not any(value.dtype is None or value.dtype.is_floating_point() for value in graph.graph.outputs):
        from onnxviz.graph.layers import layers

        named = ", ".join(repr(layer.name) for layer in layers(graph, input=spec.name)[-4:])
        raise ModelUnsuitable(
            f"none of the model's outputs is a float tensor ({', '.join(str(v.name) for v in graph.graph.outputs)}); "
            f"make one of its layers an output first: onnxviz expose MODEL --layer L, with L such as {named}"
        )
    if output is not None:
        from onnxviz.graph.head import named_output

        named_output(graph, output)
    wanted_size = (size, size) if isinstance(size, int) else size
    preprocessing = _preprocessing(
        preprocess, read_preprocessing(loaded.model, warnings), spec, wanted_size, warnings
    ).override(mean=mean, std=std, channels=channels.upper() if channels else None)
    barrier = None
    fixed = (spec.height, spec.width)
    if wanted_size is not None and None not in fixed and fixed != wanted_size:
        from onnxviz.graph.surgery import free_size

        graph, barrier = free_size(graph)
        spec = image_input(graph, None, spec.layout)
    given = read_labels(labels) if labels is not None else labels_of(loaded.model, warnings)
    network = Network(
        loaded,
        name=source.stem if isinstance(source, Path) else "model",
        model=graph,
        spec=spec,
        preprocessing=preprocessing,
        labels=given,
        provider=provider,
        threads=threads,
        backend=backend,
        warnings=warnings,
        barrier=barrier,
        output=output,
    )
    if labels is not None and given is not None:
        from onnxviz.meaning import check_labels

        check_labels(network, given)
    return network


def _locate(model: Any) -> Any:
    """A path where a path or a catalogue name was given, anything else as it is."""
    if isinstance(model, (str, os.PathLike)):
        from onnxviz.catalogue import resolve

        return resolve(os.fspath(model))
    return model


def _preprocessing(
    given: Any,
    recorded: Preprocessing | None,
    spec: InputSpec,
    size: tuple[int, int] | None,
    warnings: list[str],
) -> Preprocessing:
    """What was given, else what the model's metadata says, else a guess that is recorded as a warning."""
    from onnxviz.image.preprocess import PRESETS, Preprocessing, from_file

    if isinstance(given, Preprocessing):
        chosen = given
    elif given is not None:
        chosen = PRESETS[str(given)] if str(given) in PRESETS else from_file(given)
    elif recorded is not None:
        chosen = recorded
    elif spec.dtype == "uint8":
        chosen = PRESETS["uint8"]
    else:
        preset = "imagenet" if spec.channels in (3, None) else "unit"
        warnings.append(
            f"{ASSUMED}: assuming {preset!r}; if predictions look wrong, give --preprocess NAME|FILE"
        )
        chosen = PRESETS[preset]
    channels = {1: "L", 4: "RGBA"}.get(spec.channels or 3, chosen.channels)
    height, width = (size or (spec.height, spec.width)) if size or spec.height else (None, None)
    if height is None or width is None:
        final = chosen.size or ((DEFAULT_SIZE, DEFAULT_SIZE) if given is None else None)
    else:
        final = (height, width)
    return chosen.override(size=final, channels=channels, layout=spec.layout, dtype=spec.dtype)
