"""Int8 files of a network, sound or with faults planted in them: python tools/quantise.py MODEL [PICTURE...] -o DIR

ONNX Runtime's own quantiser, calibrated once for all the files: on the given pictures or folders, else on 68 crops of
the demo's photos.

    python tools/quantise.py efficientnet-lite0 -o int8                     both forms, per channel
    python tools/quantise.py MODEL --form QDQ --per-tensor -o int8          options of the quantiser
    python tools/quantise.py MODEL --calibrate noise -o int8                a usual mistake
    python tools/quantise.py MODEL --exclude-nodes exclude.json -o int8     what `onnxviz compare` advised
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from planted import KINDS, PLACES, Fault, Place, fault, faults, places, plant

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)] if str(ROOT) not in sys.path else []

__all__ = ["KINDS", "PLACES", "Fault", "Place", "fault", "faults", "places", "plant"]

PER_PHOTO = 4  # crops of each photo: 68 of the 17 photos
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

    return sorted(write_crops(folder, [*photos().values()], per_photo, seed=0).iterdir())


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
        calibrator.collect_data(Reader(_feeds(prepared.graph.input[0], arrays)))
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


class Reader:
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
        "--exclude-nodes",
        type=Path,
        metavar="FILE",
        help="nodes to leave in float: exclude.json of `onnxviz compare`, or names, one a line",
    )
    parser.add_argument("--calibrate", choices=("photos", *MISTAKES), default="photos")
    parser.add_argument(
        "--fault", action="append", default=[], metavar="KIND@LAYER", help="again for several"
    )
    parser.add_argument("--list-faults", action="store_true")
    options = parser.parse_args(arguments)
    from onnxviz.errors import OnnxVizError

    try:
        return made(options)
    except (ValueError, OSError, OnnxVizError) as error:  # what was asked for cannot be
        parser.error(str(error))


def made(options: argparse.Namespace) -> int:
    """The files as the command line says.

    raises   ValueError for what cannot be, OSError, OnnxVizError
    """
    from onnxviz.catalogue import resolve

    path = Path(resolve(options.model))
    try:
        model = onnx.load(path)
    except DecodeError as error:
        raise ValueError(f"{path} is no ONNX file: {error}") from error
    if options.list_faults:
        print("kinds:", *KINDS, "\nlayers:", *(place.layer for place in places(model)), sep="\n  ")
        return 0
    exclude = tuple(_names(options.exclude_nodes, model)) if options.exclude_nodes else ()
    wrong = [fault(model, text) for text in options.fault]
    ranges = None
    if options.form != "dynamic":
        with tempfile.TemporaryDirectory() as folder:
            pictures = [
                one
                for given in options.pictures
                for one in (sorted(given.iterdir()) if given.is_dir() else [given])
            ] or crops(Path(folder))
            ranges = calibrate(model, inputs(model, pictures, options.calibrate))
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


def _names(path: Path, model: onnx.ModelProto) -> list[str]:
    """Names of nodes that there are: one a line, a JSON list, or exclude.json as `onnxviz compare` writes it.

    raises   ValueError for a name that no node has
    """
    text = path.read_text(encoding="utf-8")
    found = json.loads(text) if text.lstrip()[:1] in ("[", "{") else text.split("\n")
    found = found["nodes_to_exclude"] if isinstance(found, dict) else found
    names = [name for name in (str(one).strip() for one in found) if name]
    known = {node.name for node in model.graph.node}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{path}: no node is called {', '.join(map(repr, unknown[:3]))}")
    return names


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
