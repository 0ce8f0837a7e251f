"""Opening a network: finding the file, loading it safely, and settling its input, preprocessing and labels."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import onnx
import onnx_ir as ir

from onnxviz import provenance
from onnxviz.catalogue import resolve
from onnxviz.errors import (
    MOST_THREADS,
    ModelRejected,
    ModelUnsuitable,
    PreprocessingAssumed,
    UsageError,
    spelt,
    warn,
)
from onnxviz.graph.analysis.dataflow import duplicate
from onnxviz.graph.naming import rename
from onnxviz.graph.open.load import Loaded
from onnxviz.graph.open.load import load as load_graph
from onnxviz.inputs import fix_inputs, image_input, picture_input, recipe_of, wanted_size
from onnxviz.isolate import on
from onnxviz.limits import Limits
from onnxviz.network import Network
from onnxviz.runtime import providers

if TYPE_CHECKING:
    from onnxviz.image.preprocessing import Preprocessing
    from onnxviz.runtime.worker import Worker


def load(
    model: str | os.PathLike[str] | bytes | onnx.ModelProto | ir.Model,
    *,
    preprocess: Preprocessing | str | os.PathLike[str] | None = None,
    labels: str | os.PathLike[str] | Sequence[str] | None = None,
    provider: str = "auto",
    provider_options: Mapping[str, Any] | None = None,
    threads: int | None = None,
    backend: str = "auto",
    size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channels: str | None = None,
    layout: str | None = None,
    resize: str | None = None,
    input: str | None = None,
    feeds: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
    output: str | None = None,
    isolate: bool = False,
    names: Mapping[str, Sequence[str]] | None = None,
    optimise: bool = True,
) -> Network:
    """Open a convolutional network in ONNX form.

    model        a path, a name of the catalogue ('efficientnet-lite0' is bundled), the file's bytes, or a parsed model
    preprocess   how pictures become its input: a preset's name, a JSON file, or a Preprocessing; None: what the
                 model's metadata says (ours, Ultralytics', ONNX's own), else what its first operators tell, else
                 ImageNet's usual values; both of these with a `PreprocessingAssumed` warning, unless mean and std are
                 given
    labels       the classes' names: a file, a list, or 'imagenet'; None: what the metadata says
    provider     'auto' (CUDA where it works, else CPU), 'cpu', 'cuda', or any that is installed: built into ONNX
                 Runtime, or a package beside it, such as onnxruntime-ep-webgpu ('webgpu'); `onnxviz.doctor` lists them
    provider_options  options of that provider, by name, such as {'device_type': 'GPU'}
    threads      threads within an operator; None: ONNX Runtime decides
    backend      what computes gradients: 'auto' (native, and torch where native lacks a rule and torch is installed),
                 'native', 'torch' or 'ort-training'
    size         height and width in pixels, for networks that allow it; one number where the file leaves a single side
                 open: that side. None: what the file fixes; a single open side follows each picture's aspect
    mean, std    per channel, of pixels in 0..1 or 0..255; change what `preprocess` says
    channels     'RGB', 'BGR', 'L' (grey) or 'RGBA'; or a number: arrays of so many channels instead of pictures
    layout       'NCHW' or 'NHWC', where the shape does not tell
    resize       'crop' (the middle), 'stretch' (both sides), 'letterbox' (all of it on grey 114) or 'keep' (each
                 picture's own size)
    input        the image input's name, where there are several inputs
    feeds        values for the other inputs, by name: numbers, arrays, .npy files; or pictures, which become that input
                 as the others do. What is given for one picture is repeated for each of a batch
    limits       what is too large, too deep or too slow (`onnxviz.Limits`)
    output       the output that is predicted and explained, where there are several; None: what looks like class scores
    isolate      whether a process of the network's own opens it, infers its shapes and runs it, for files of strangers:
                 a model that crashes, hangs or fills the memory is then `WorkerCrashed` or `LimitExceeded`, and the
                 caller goes on. Backend 'native' only. Ends with the network, or at `close`
    names        what layers are called: {name in the file: (new name, further names)}; see `onnxviz.like`
    optimise     whether ONNX Runtime may rewrite the graph, as it does by default; of quantised files that changes the
                 numbers
    raises       ProviderUnavailable where this ONNX Runtime has no such provider; UnknownLayer for an output that there
                 is not; ModelRejected, ModelUnsuitable, LimitExceeded, LabelsRejected, PreprocessingRejected,
                 UsageError, WorkerCrashed
    """
    settings = dict(locals())  # for whoever opens it again
    if backend != "auto":
        from onnxviz.backends.choose import check

        check(backend)
    if threads is not None and not (isinstance(threads, Integral) and 1 <= threads <= MOST_THREADS):
        raise UsageError(f"threads must be a whole number from 1 to {MOST_THREADS}, got {threads!r}")
    texts = {"provider": provider, "layout": layout, "resize": resize, "input": input, "output": output}
    for name, text in texts.items():
        if not isinstance(text, str) and (text is not None or name == "provider"):
            raise UsageError(f"{name} is a text, got {text!r}")
    settings["provider"] = providers.asked(provider, settings.pop("provider_options"))
    providers.require(settings["provider"])
    if limits is not None and not isinstance(limits, Limits):
        raise UsageError(
            f"limits is an onnxviz.Limits, such as onnxviz.Limits(run_seconds=10), not a {type(limits).__name__!r}"
        )
    if isolate and backend not in ("auto", "native"):
        raise UsageError(
            f"backend {backend!r} runs in this process, which isolate=True keeps the model out of: leave out one of "
            "them"
        )
    del settings["model"]
    source = resolve(os.fspath(model)) if isinstance(model, (str, os.PathLike)) else model
    loaded: Loaded | None = None
    worker: Worker | None = None
    if isolate:
        from onnxviz.isolated import opened

        loaded, worker = opened(source, limits or Limits())
    try:
        with on(worker):
            loaded = loaded or load_graph(source, limits=limits or Limits())
            network = _network(loaded, worker, source, SimpleNamespace(**settings))
    except BaseException:
        if worker is not None:
            worker.close()
        raise
    settings |= {name: _anywhere(settings[name]) for name in ("preprocess", "labels")}
    listed = isinstance(model, str) and source != Path(model)  # in the catalogue
    network.reopening = functools.partial(_reopening, model if listed else _anywhere(model), settings)
    return network


def _anywhere(given: Any) -> Any:
    """A file's path so that it is found from another folder, too; names, and what is no path, as they are."""
    return Path(given).absolute() if isinstance(given, (str, os.PathLike)) and Path(given).exists() else given


def _reopening(model: Any, settings: dict[str, Any], network: Network) -> tuple[Callable[..., Network], Any]:
    """What pickling keeps of a network: a function that opens it again, and what that is given.

    model   what `load` was given; parsed models go as bytes
    """
    digest = network.digest if isinstance(model, (str, os.PathLike)) else None
    if isinstance(model, (onnx.ModelProto, ir.Model)):
        message = ir.to_proto(model) if isinstance(model, ir.Model) else model
        model = message.SerializeToString()
    return _reopened, (model, digest, network.name, {**settings, "output": network.chosen_output})


def _reopened(model: Any, digest: str | None, name: str, settings: dict[str, Any]) -> Network:
    """The network again; what it warns of was said when it was first opened.

    raises   what `load` raises; ModelRejected where it is another file than it was
    """
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PreprocessingAssumed)
        network = load(model, **settings)
    if digest not in (None, network.digest):
        network.close()
        raise ModelRejected(f"{os.fspath(model)!r} has changed since the network was opened; open it again")
    network.name = name
    return network


def _network(loaded: Loaded, worker: Worker | None, source: Any, given: Any) -> Network:
    """The network of a model that was opened.

    given   the arguments of `load` by their names
    """
    graph = loaded.model
    if any(graph.graph.subgraphs()):
        from onnxviz.graph.fold import decided

        graph = decided(graph)
    if given.names:
        graph = duplicate(graph)
        rename(graph, given.names)
    recipe = given.preprocess, given.mean, given.std, given.channels, given.resize, given.size
    held: list[dict[str, Any]] = []
    if given.feeds:
        graph = fed(graph, given.feeds, given.input, *recipe, limits=loaded.limits)
        values = {name: graph.graph.initializers[name].const_value for name in given.feeds}
        held = provenance.fed(
            {name: tensor.numpy() for name, tensor in values.items() if tensor}, given.feeds
        )
    warnings = list(loaded.warnings)
    spec = image_input(graph, given.input, given.layout.upper() if given.layout else None, warnings)
    graph = _with_scores(graph, spec.name, warnings)
    if given.output is not None:
        from onnxviz.graph.head import named_output

        named_output(graph, given.output)
    asked_size = wanted_size(given.size, spec)
    preprocessing, assumed = recipe_of(*recipe, graph, spec, warnings)
    preprocessing = replace(preprocessing, limits=loaded.limits)
    if assumed is not None and (given.mean is None or given.std is None):
        warnings.append(assumed)
        warn(assumed, PreprocessingAssumed)
    if not preprocessing.pictorial:
        count = preprocessing.count
        warnings.append(
            f"it takes {count} channels that are no picture: give arrays (H, W, {count}) or .npy files of them, uint8 "
            "pixels or the network's own values; figures show the mean of the channels in grey"
        )
    elif preprocessing.count == 4 and assumed is not None and given.channels is None:
        warnings.append(
            "its 4 channels are taken for RGBA, opaque in pictures; if they are something else, give arrays (H, W, 4)"
        )
    if spec.channels not in (None, preprocessing.count):
        raise UsageError(
            f"{spec.name!r} takes {spec.channels} channels, and {preprocessing.channels} are {preprocessing.count}; "
            "leave out --channels (channels= in Python), or give a number, such as "
            f"{spec.channels}: arrays of so many"
        )
    barrier = None
    fixed = (spec.height, spec.width)
    if asked_size is not None and any(a not in (None, b) for a, b in zip(fixed, asked_size, strict=True)):
        from onnxviz.graph.picture_sizes import free_size

        graph, barrier = free_size(graph)
        spec = image_input(graph, None, spec.layout)
    labels: list[str] | None
    if given.labels is not None:
        from onnxviz.labels import read_labels

        labels = read_labels(given.labels, loaded.limits)
    else:
        from onnxviz.graph.metadata import read_labels as labels_of

        labels = labels_of(loaded.model, warnings, loaded.limits)
    network = Network(
        loaded,
        name=source.stem if isinstance(source, Path) else "model",
        model=graph,
        spec=spec,
        preprocessing=preprocessing,
        labels=labels,
        warnings=[spelt(text) for text in warnings],
        barrier=barrier,
        fed=held,
        worker=worker,
        **{name: getattr(given, name) for name in ("provider", "threads", "backend", "output", "optimise")},
    )
    if given.labels is not None and labels is not None:
        from onnxviz.meaning import check_labels

        check_labels(network.end, labels)
    return network


def _with_scores(graph: ir.Model, image: str, warnings: list[str]) -> ir.Model:
    """The model; where its outputs only tell which score is the largest, with these scores as outputs, which is told.

    raises   ModelUnsuitable where no output is a float tensor, and none tells of scores
    """
    from onnxviz.graph.surgery import with_scores

    found, names = with_scores(graph)
    given = ", ".join(str(value.name) for value in graph.graph.outputs)
    if names:
        taken = ", ".join(map(repr, names))
        warnings.append(
            f"the file only tells which score is the largest ({given}): the scores themselves, {taken}, are taken as "
            "its output"
        )
    elif not any(value.dtype is None or value.dtype.is_floating_point() for value in graph.graph.outputs):
        from onnxviz.graph.layers import layers

        named = ", ".join(repr(layer.name) for layer in layers(graph, input=image)[-4:])
        raise ModelUnsuitable(
            f"none of the model's outputs is a float tensor ({given}); make one of its layers an output first: "
            f"`onnxviz expose MODEL --layer L`, with L such as {named}"
        )
    return found


def fed(
    graph: ir.Model,
    feeds: Mapping[str, Any],
    image: str | None = None,
    *recipe: Any,
    limits: Limits | None = None,
) -> ir.Model:
    """A copy of the model whose inputs named in `feeds` hold these values, see `load`.

    image    the input that takes the pictures; None: the only one that is left
    recipe   `preprocess`, `mean`, `std`, `channels`, `resize` and `size` of `load`, for pictures that are fed
    limits   of the pictures and of the files of arrays
    raises   UsageError, ImageRejected
    """
    from onnxviz.image.preprocessing import is_array_file, load_array

    held = limits or Limits()
    chosen: Callable[..., tuple[Preprocessing, Any]] = functools.partial(recipe_of, *(recipe or (None,) * 6))

    def tensor(value: ir.Value, picture: Any) -> Any:
        """A picture, or an array from a file, prepared as the network's pictures are."""
        if is_array_file(picture):
            array = load_array(picture, limits=held)
            if (
                array.dtype != "uint8"
                or array.ndim not in (2, 3)
                or value.shape is None
                or len(value.shape) != 4
            ):
                return array
        spec = picture_input(graph, value, picture)
        found = replace(chosen(graph, spec, [])[0], limits=held)
        return found.apply(found.read(picture))[None]

    return fix_inputs(graph, feeds, tensor, image)
