"""Int8 files of a network, sound or with faults planted in them: python tools/quantise.py MODEL [PICTURE...] -o DIR

ONNX Runtime's own quantiser, calibrated once for all the files: on the given pictures or folders, else on 68 crops of
the demo's photos.

    python tools/quantise.py efficientnet-lite0 -o int8                     both forms, per channel
    python tools/quantise.py MODEL --form QDQ --per-tensor -o int8          options of the quantiser
    python tools/quantise.py MODEL --calibrate noise -o int8                a usual mistake
    python tools/quantise.py MODEL --exclude-nodes exclude.txt -o int8      what `onnxviz compare` advised
    python tools/quantise.py MODEL --fault scale*8@stem -o int8             a fault, for a tool to find
    python tools/quantise.py MODEL --list-faults                            the faults and where they can be

Run it with a Python that has onnxviz with the extras `cpu` and `demo` (tools/test.py makes one).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)] if str(ROOT) not in sys.path else []

PER_PHOTO = 4  # crops of each photo: 68 of the 17 photos
PLACES = 10  # layers that faults are planted at
TYPES = ("int8", "uint8", "int16", "uint16")
#: What a network can be calibrated on instead of photos in its own recipe, and what comes of it.
MISTAKES = {
    "unit": "pixels of 0 to 1, whatever the network's recipe is: values beyond are clipped",
    "raw": "pixels of 0 to 255: ranges far too wide, everything is rounded coarsely",
    "noise": "normal noise in place of photos",
}


# --- sound files ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scheme:
    """How a file is quantised.

    form            'QDQ', 'QOperator', or 'dynamic' (ranges measured while it runs)
    per_channel     a scale for each output channel of the weights
    activations     type of the codes of activations, one of TYPES
    weights         type of the codes of weights; QDQ: or 'float32', weights and biases are not quantised
    pairs           QDQ alone: weights stand as float32 in the file, with QuantizeLinear and DequantizeLinear behind
    reduce_range    weights in 7 bits, for processors that would overflow
    exclude         names of nodes that stay float
    """

    form: str = "QDQ"
    per_channel: bool = True
    activations: str = "uint8"
    weights: str = "int8"
    pairs: bool = False
    reduce_range: bool = False
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.form != "QDQ" and (self.pairs or self.weights not in TYPES):
            raise ValueError(f"float weights are for QDQ alone, not for {self.form}")


def crops(folder: Path, per_photo: int = PER_PHOTO) -> list[Path]:
    """Crops of the demo's photos, written into the folder."""
    from onnxviz.demo.photos import photos, write_crops

    return sorted(write_crops(folder, photos(), per_photo, seed=0).iterdir())


def inputs(model: onnx.ModelProto, pictures: Sequence[Any], calibrate: str = "photos") -> np.ndarray:
    """What the pictures are for the network's input, (N, ...) float32.

    calibrate   'photos': as the network's recipe says; or one of MISTAKES
    """
    import onnxviz

    std = {"unit": (1.0,) * 3, "raw": (1 / 255,) * 3}.get(calibrate)
    scaled = {} if std is None else {"mean": (0.0,) * 3, "std": std}
    prepared = onnxviz.load(model, provider="cpu", **scaled).prepare(list(pictures))
    if calibrate == "noise":
        return np.random.default_rng(0).standard_normal(prepared.shape, np.float32)
    return prepared


def calibrate(model: onnx.ModelProto, arrays: np.ndarray) -> Any:
    """The smallest and the largest number of each value (ONNX Runtime's `TensorsData`).

    arrays   (N, ...) float32, the pictures as the network takes them
    """
    from onnxruntime.quantization import create_calibrator

    prepared = _prepared(model)
    with _quietly(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(prepared, path)
        calibrator = create_calibrator(path, None, str(Path(folder) / "augmented.onnx"))
        calibrator.collect_data(_Reader(_feeds(prepared.graph.input[0], arrays)))
        return calibrator.compute_data()


def quantise(model: onnx.ModelProto, scheme: Scheme, ranges: Any = None) -> onnx.ModelProto:
    """The network in another form.

    ranges   what `calibrate` gave; None where the scheme is dynamic
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    prepared = _prepared(model)
    opset = next(entry.version for entry in prepared.opset_import if not entry.domain)
    if scheme.form == "QDQ" and scheme.per_channel and opset < 13:
        raise ValueError(
            f"QDQ per channel needs opset 13, the file has {opset}: convert it, or quantise per tensor"
        )
    types = {name: QuantType[f"Q{name.replace('int', 'Int').replace('uInt', 'UInt')}"] for name in TYPES}
    common: dict[str, Any] = {
        "per_channel": scheme.per_channel,
        "reduce_range": scheme.reduce_range,
        "weight_type": types[scheme.weights if scheme.weights in TYPES else "int8"],
        "nodes_to_exclude": list(scheme.exclude),
    }
    with _quietly(), tempfile.TemporaryDirectory() as folder:
        before, after, cache = (Path(folder) / name for name in ("before.onnx", "after.onnx", "ranges.json"))
        onnx.save(prepared, before)
        if scheme.form == "dynamic":
            quantize_dynamic(before, after, **common)
        else:
            from onnxruntime.quantization import save_tensors_data

            save_tensors_data(ranges, cache)
            quantize_static(
                before,
                after,
                None,
                quant_format=QuantFormat[scheme.form],
                activation_type=types[scheme.activations],
                extra_options={"AddQDQPairToWeight": True} if scheme.pairs else {},
                calibration_cache_path=cache,
                **common,
            )
        made = onnx.load(after)
    return made if scheme.weights in TYPES else _with_float_weights(made, prepared)


def _feeds(image: onnx.ValueInfoProto, arrays: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    """One picture at a time, or as many as the file fixes; the last batch is filled with the first pictures."""
    kind = image.type.tensor_type
    batch = kind.shape.dim[0].dim_value or 1
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    for start in range(0, len(arrays), batch):
        rows = [place % len(arrays) for place in range(start, start + batch)]
        yield {image.name: arrays[rows].astype(dtype)}


def _with_float_weights(int8: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """A QDQ file whose weights and biases are those of the float network: its activations alone are quantised."""
    floats = {tensor.name: tensor for tensor in model.graph.initializer}
    graph, gone = int8.graph, set()
    for node in list(graph.node):
        name = node.input[0].removesuffix("_quantized") if node.op_type == "DequantizeLinear" else ""
        if name in floats:
            gone.update(node.input)
            graph.initializer.append(floats[name])
            graph.node.remove(node)
            for reader in graph.node:
                reader.input[:] = [name if one == node.output[0] else one for one in reader.input]
    kept = [tensor for tensor in graph.initializer if tensor.name not in gone]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return int8


class _Reader:
    """Feeds, as ONNX Runtime's calibrators ask for them."""

    def __init__(self, feeds: Iterable[Mapping[str, np.ndarray]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return next(self._feeds, None)


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose weights are no inputs any more; that needs IR version 4."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    stored = {tensor.name for tensor in copy.graph.initializer}
    images = [value for value in copy.graph.input if value.name not in stored]
    del copy.graph.input[:]
    copy.graph.input.extend(images)
    copy.ir_version = max(copy.ir_version, 7)
    return copy


def _prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that ONNX Runtime's quantiser takes."""
    copy = copied(model)
    for entry in copy.opset_import:  # what the light files of the onnx wheel use reads the same in opset 11
        if not entry.domain and entry.version < 11:
            entry.version = 11
    return copy


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """ONNX Runtime's quantiser warns on the root logger about what is meant here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


# --- faults ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A layer with weights.

    layer     what the float file calls its result
    names     that, and the Relu or Clip behind it, which is one with it in an int8 file: each names the place
    weights   the name of its weights; axis: that of their output channels
    """

    layer: str
    names: tuple[str, ...]
    weights: str
    axis: int


@dataclass(frozen=True)
class Fault:
    """One mistake at one place."""

    kind: str
    place: Place

    def __str__(self) -> str:
        return f"{self.kind}@{self.place.layer}"


def places(model: onnx.ModelProto) -> list[Place]:
    """The layers of a float network that have weights, in its order."""
    stored = {tensor.name for tensor in model.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or node.input[1] not in stored:
            continue
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        axis = 0 if node.op_type == "Conv" or transposed else 1
        names = [node.output[0]]
        after = readers.get(names[0], [])
        if len(after) == 1 and after[0].op_type in ("Relu", "Clip"):
            names.append(after[0].output[0])
        found.append(Place(names[0], tuple(names), node.input[1], axis))
    return found


def faults(model: onnx.ModelProto, count: int = PLACES) -> list[Fault]:
    """Every kind of fault at so many layers of a float network, spread evenly from the first to the last."""
    found = places(model)
    chosen = sorted({round(place) for place in np.linspace(0, len(found) - 1, count)})
    return [Fault(kind, found[place]) for place in chosen for kind in KINDS]


def fault(model: onnx.ModelProto, text: str) -> Fault:
    """KIND@LAYER of a float network; the layer's name may be that of its Relu or Clip.

    raises   ValueError with what there is
    """
    kind, _, layer = text.partition("@")
    if kind not in KINDS:
        raise ValueError(f"no fault is called {kind!r}; there are {', '.join(KINDS)}")
    found = places(model)
    for place in found:
        if layer in place.names:
            return Fault(kind, place)
    known = ", ".join(place.layer for place in found)
    raise ValueError(f"no layer with weights is called {layer!r}; there are {known}")


def plant(int8: onnx.ModelProto, wrong: Fault) -> onnx.ModelProto:
    """A copy of an int8 file with a fault in it: only numbers change, no node and no name."""
    file = _File(int8)
    KINDS[wrong.kind](file, wrong.place)
    return file.model


class _File:
    """The stored numbers of an int8 file, by the names that ONNX Runtime's quantiser gives them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self._tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self._makers = {name: node for node in self.model.graph.node for name in node.output}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(self._tensors[name])

    def __setitem__(self, name: str, array: np.ndarray) -> None:
        old = self[name]
        if old.dtype.kind in "iu":
            limits = np.iinfo(old.dtype)
            array = np.rint(array).clip(limits.min, limits.max)
        self._tensors[name].CopyFrom(
            numpy_helper.from_array(array.astype(old.dtype).reshape(old.shape), name)
        )

    def activation(self, place: Place) -> str:
        """The quantised value at a place: its scale is NAME_scale."""
        for name in reversed(place.names):
            if f"{name}_scale" in self:
                return name
        raise ValueError(f"the file has no scale for any of {', '.join(place.names)}")

    def weights(self, place: Place) -> str:
        """What a place's weights are stored as: codes, or the float weights themselves."""
        return place.weights if place.weights in self else f"{place.weights}_quantized"

    def rescale(self, name: str, factor: float | np.ndarray) -> None:
        """Multiply a scale. The biases in its units mean what they meant: a quantiser would write them so."""
        for codes, scale in self._biases(name):
            self[codes] = self[codes] / factor
            if scale is not None:
                self[scale] = self[scale] * factor
        self[name] = self[name] * factor

    def _biases(self, scale: str) -> Iterator[tuple[str, str | None]]:
        """The biases that are in units of this scale, each with the name of its own scale, if it has one."""
        for node in self.model.graph.node:
            bias = {"QLinearConv": 8, "QGemm": 6}.get(node.op_type)
            if bias is not None:
                if len(node.input) > bias and node.input[bias] and scale in (node.input[1], node.input[4]):
                    yield node.input[bias], None
            elif node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.input) > 2:
                made = [self._makers.get(name) for name in node.input]
                if all(m is not None and m.op_type == "DequantizeLinear" for m in made):
                    x, w, b = (list(m.input) for m in made if m is not None)
                    if scale in (x[1], w[1]) and b[0] in self:
                        yield b[0], b[1]


def _scale(factor: float) -> Callable[[_File, Place], None]:
    def edit(file: _File, place: Place) -> None:
        file.rescale(f"{file.activation(place)}_scale", factor)

    return edit


def _zero(codes: int) -> Callable[[_File, Place], None]:
    def edit(file: _File, place: Place) -> None:
        name = f"{file.activation(place)}_zero_point"
        file[name] = file[name].astype(np.int64) + codes

    return edit


def _weights(factor: float) -> Callable[[_File, Place], None]:
    def edit(file: _File, place: Place) -> None:
        if place.weights in file:
            file[place.weights] = file[place.weights] * factor
        if f"{place.weights}_scale" in file:
            file.rescale(f"{place.weights}_scale", factor)

    return edit


def _channel(factor: float) -> Callable[[_File, Place], None]:
    """Of the channel whose weights reach furthest."""

    def edit(file: _File, place: Place) -> None:
        scale, held = f"{place.weights}_scale", file.weights(place)
        weights = np.moveaxis(file[held].astype(np.float64), place.axis, 0)
        real = np.abs(weights).reshape(len(weights), -1).max(axis=1)
        if held != place.weights:
            real = real * file[scale]
        factors = np.ones(len(weights))
        factors[real.argmax()] = factor
        per_channel = scale in file and file[scale].size > 1
        if not per_channel or held == place.weights:
            file[held] = np.moveaxis((weights.T * factors).T, 0, place.axis)
        if per_channel:
            file.rescale(scale, factors)

    return edit


def _bits(count: int) -> Callable[[_File, Place], None]:
    """Weights in symmetric codes of so many bits, as far as they reached before."""

    def edit(file: _File, place: Place) -> None:
        most, held = 2 ** (count - 1) - 1, file.weights(place)
        weights = file[held].astype(np.float64)
        if held == place.weights:
            others = tuple(axis for axis in range(weights.ndim) if axis != place.axis)
            step = np.abs(weights).max(axis=others, keepdims=True) / most
        else:
            step = np.iinfo(file[held].dtype).max / most
        file[held] = np.rint(weights / step) * step

    return edit


#: The faults, by name.
KINDS: dict[str, Callable[[_File, Place], None]] = {
    "scale*8": _scale(8),
    "scale/2": _scale(1 / 2),
    "scale/4": _scale(1 / 4),
    "zero+24": _zero(24),
    "weights*1.1": _weights(1.1),
    "weights*1.5": _weights(1.5),
    "channel*4": _channel(4),
    "4bit": _bits(4),
}


# --- command line ---------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a float ONNX file, or a name of the catalogue")
    parser.add_argument("pictures", nargs="*", type=Path, help="what to calibrate on: files or folders")
    parser.add_argument("-o", "--out", type=Path, default=Path(), metavar="DIR")
    parser.add_argument("--form", choices=("both", "QDQ", "QOperator", "dynamic"), default="both")
    parser.add_argument("--per-tensor", action="store_true", help="one scale for all weights of a layer")
    parser.add_argument("--activations", choices=TYPES, default=Scheme.activations)
    parser.add_argument("--weights", choices=(*TYPES, "float32"), default=Scheme.weights)
    parser.add_argument("--reduce-range", action="store_true", help="weights in 7 bits")
    parser.add_argument("--pairs", action="store_true", help="QDQ: float weights, quantised when it runs")
    parser.add_argument(
        "--exclude-nodes", type=Path, metavar="FILE", help="nodes to leave in float, one a line"
    )
    parser.add_argument("--calibrate", choices=("photos", *MISTAKES), default="photos")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="KIND@LAYER", help="again for several"
    )
    parser.add_argument("--list-faults", action="store_true")
    options = parser.parse_args(arguments)
    from onnxviz.catalogue import resolve

    path = Path(resolve(options.model))
    model = onnx.load(path)
    if options.list_faults:
        print("kinds:", *KINDS, "\nlayers:", *(place.layer for place in places(model)), sep="\n  ")
        return 0
    try:
        wrong = [fault(model, text) for text in options.fault]
    except ValueError as error:
        parser.error(str(error))
    ranges = None
    if options.form != "dynamic":
        with tempfile.TemporaryDirectory() as folder:
            pictures = [
                one
                for given in options.pictures
                for one in (sorted(given.iterdir()) if given.is_dir() else [given])
            ] or crops(Path(folder))
            ranges = calibrate(model, inputs(model, pictures, options.calibrate))
    exclude = tuple(_names(options.exclude_nodes)) if options.exclude_nodes else ()
    options.out.mkdir(parents=True, exist_ok=True)
    for form in ("QDQ", "QOperator") if options.form == "both" else (options.form,):
        scheme = Scheme(
            form,
            not options.per_tensor,
            options.activations,
            options.weights,
            options.pairs and form == "QDQ",
            options.reduce_range,
            exclude,
        )
        int8 = quantise(model, scheme, ranges)
        for one in wrong:
            int8 = plant(int8, one)
        target = options.out / f"{path.stem}.{form.lower()}.onnx"
        onnx.save(int8, target)
        print(target)
    return 0


def _names(path: Path) -> list[str]:
    """Names of nodes: one a line, or a JSON list."""
    text = path.read_text(encoding="utf-8")
    found = json.loads(text) if text.lstrip().startswith("[") else text.split("\n")
    return [name for name in (str(one).strip() for one in found) if name]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
