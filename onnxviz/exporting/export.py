"""A torch network as an ONNX file that explains itself."""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxviz.errors import (
    LabelsRejected,
    MissingDependency,
    OutputRefused,
    RuntimeFailed,
    UsageError,
    renamed,
    spelt,
)
from onnxviz.exporting.source import FORMS, Source, Wanted, from_callable, torch, weights_alone

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxviz.exporting.trace import Difference, Traced
    from onnxviz.image.preprocessing import Preprocessing

#: Read by every ONNX Runtime since 1.15, and by onnxruntime-web; the lowest that torch exports to without conversion.
OPSET = 18
_COMPILED = "TORCHINDUCTOR_CACHE_DIR"


@dataclass(frozen=True)
class Exported:
    """What `export` made.

    path         the file
    source       where the network comes from, in words; also in the file
    digest       the SHA-256 of the file
    size         (height, width) in pixels that it was exported for
    dynamic      which of 'N' (batch), 'H', 'W' are open in the file: 'NHW', 'N' or ''
    opset        the version of the standard operators
    outputs      the file's outputs; the first is the network's own
    classes      the number of classes, or None
    difference   the largest difference between the file and torch on random input, or None where it was not compared
    warnings     what could not be done as asked
    """

    path: Path
    source: str
    digest: str
    size: tuple[int, int]
    dynamic: str
    opset: int
    outputs: tuple[str, ...]
    classes: int | None
    difference: Difference | None
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return {**asdict(self), "path": str(self.path)}


@contextlib.contextmanager
def _unlittered() -> Iterator[None]:
    """Take away the folder for compiled code that torch makes among the temporary files; it stays empty here."""
    given = os.environ.get(_COMPILED)
    try:
        yield
    finally:
        made = os.environ.get(_COMPILED)  # torch sets it when it makes the folder
        if given is None and made is not None:
            with contextlib.suppress(OSError):  # gone, or another process has put something there
                Path(made).rmdir()


@renamed
@_unlittered()
def export(
    source: Any,
    out: str | os.PathLike[str],
    *,
    options: Mapping[str, Any] | None = None,
    random: bool = False,
    trust_remote_code: bool = False,
    seed: int = 0,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    opset: int = OPSET,
    dynamic_batch: bool = True,
    dynamic_size: bool = True,
    expose: Iterable[str] | bool = False,
    preprocess: Preprocessing | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    labels: Sequence[str] | str | os.PathLike[str] | None = None,
    licence: str | None = None,
    verify: bool = True,
) -> Exported:
    """Write a torch network as ONNX: open batch and size, readable layer names, preprocessing and labels inside.

    source          torchvision:NAME, timm:NAME, transformers:ID (with `random`: a class such as
                    ResNetForImageClassification, or a model type such as resnet), module:callable,
                    file.py:callable, or a torch.nn.Module. A callable is called with `options` and gives a module.
                    This runs the code that it names.
    out             the .onnx file, written whole or not at all
    options         given on to whoever builds the network: {"num_classes": 10}; `weights` names those of torchvision
    random          random weights drawn from `seed`, instead of trained ones
    trust_remote_code
                    let code run that comes with trained weights: a folder's Python files, a pickle
    size            (height, width) in pixels, or one number; None: what the network was made for, else 224
    channels        of the input; None: the network's own
    opset           version of the standard operators, 18 or higher
    dynamic_batch   leave the batch open
    dynamic_size    leave height and width open, where the network allows it and the graph stays as good
    expose          True: every intermediate value as a further output; or the names of some layers
    preprocess      how pictures become the input: a preset's name, a JSON file, a `Preprocessing` or its fields;
                    None: what the network's package says
    labels          the classes' names: a list, a file, or 'imagenet'; None: what the network's package says
    licence         of the weights; None: what the network's package says
    verify          compare the graph with torch on random input, at a batch of three and at another size if open
    returns         Exported
    raises          UsageError, MissingDependency (torch, or the package of the source), InputRefused (weights that
                    cannot be had, or that bring code), ModelUnsuitable (what torch cannot export), RuntimeFailed (the
                    file would not compute what torch does: nothing is written), LabelsRejected, PreprocessingRejected,
                    OutputRefused
    """
    from onnxviz.exporting.trace import evaluating, trace
    from onnxviz.files import sha256
    from onnxviz.graph.metadata import save

    if opset < OPSET:
        raise UsageError(f"opset {opset} is too old; torch exports {OPSET} or higher")
    if Path(out).is_dir():
        raise OutputRefused(f"cannot write {os.fspath(out)!r}: it is a folder; name a file")
    asked = _pair(size)
    found = build(source, Wanted(dict(options or {}), random, seed, trust_remote_code))
    shape = asked or found.size or (224, 224)
    depth = channels or found.channels
    found = _described(found, shape, preprocess, labels, licence)
    module = _in_float32(found.module)
    with evaluating(module):
        found = _labelled(found, module, (1, depth, *shape), strict=labels is not None)
        traced = trace(module, shape, depth, opset=opset, batch=dynamic_batch, free=dynamic_size)
        model = to_model(found, traced)
        difference = None
        if verify:
            traced, model, difference = _verified(found, traced, model, module, depth, opset, seed)
    classes = _classes(model)
    if expose is not False:
        model = _exposed(model, expose)
    path = save(model, Path(out))
    return Exported(
        path=path,
        source=found.text,
        digest=sha256(path),
        size=shape,
        dynamic=traced.dynamic,
        opset=model.opset_imports[""],
        outputs=tuple(str(value.name) for value in model.graph.outputs),
        classes=classes,
        difference=difference,
        warnings=[spelt(note) for note in (*found.notes, *traced.notes)],
    )


def to_model(found: Source, traced: Traced) -> ir.Model:
    """The traced graph, tidied, named and described: the last step before it is written."""
    from onnxviz.exporting.names import readable, tidy
    from onnxviz.exporting.trace import INNER
    from onnxviz.graph.metadata import Metadata, write

    def rename(path: str) -> str:
        return found.rename("" if path == INNER else path.removeprefix(f"{INNER}."))

    model = traced.model
    tidy(model, found.name)
    readable(model, rename)
    if found.finish is not None:
        found.finish(model)
    described = Metadata(
        preprocessing=found.preprocessing,
        labels=None if found.labels is None else tuple(map(str, found.labels)),
        source=found.text,
        licence=found.licence,
    )
    write(model.metadata_props, described)
    return model


def _verified(
    found: Source, traced: Traced, model: ir.Model, module: Any, depth: int, opset: int, seed: int
) -> tuple[Traced, ir.Model, Difference | None]:
    """The graph with its difference from torch; one of fixed size where it is only wrong at other sizes."""
    from onnxviz.exporting.trace import TOLERANCE, compare, trace

    free = "H" in traced.dynamic
    batch = 3 if "N" in traced.dynamic else 1
    shapes = [(batch, depth, *size) for size in (traced.sizes if free else traced.sizes[:1])]
    try:
        difference = compare(model, module, shapes, seed)
    except MissingDependency as error:
        traced.notes.append(f"not compared with torch: {error}")
        return traced, model, None
    except RuntimeFailed as error:
        if not free:
            raise
        reason = str(error)
    else:
        if difference.relative <= TOLERANCE:
            return traced, model, difference
        reason = (
            f"it differs from torch by {difference.relative:.1e} of the largest output at {difference.at}"
        )
        if not free:
            raise RuntimeFailed(f"the exported graph is wrong: {reason}; nothing was written")
    height, width = traced.sizes[0]
    fixed = trace(module, (height, width), depth, opset=opset, batch="N" in traced.dynamic, free=False)
    fixed.notes.append(f"height and width stay {height}×{width}: left open, {reason}")
    return _verified(found, fixed, to_model(found, fixed), module, depth, opset, seed)


def _described(
    found: Source, shape: tuple[int, int], preprocess: Any, labels: Any, licence: str | None
) -> Source:
    from onnxviz.labels import read_labels

    fields = found.preprocessing if preprocess is None else _fields(preprocess)
    if fields is not None and fields.get("size") is not None:
        fields = {**fields, "size": list(shape)}
    return replace(
        found,
        preprocessing=fields,
        labels=found.labels if labels is None else read_labels(labels),
        licence=licence or found.licence,
    )


def _labelled(found: Source, module: Any, shape: tuple[int, ...], *, strict: bool) -> Source:
    """The source with labels that fit its output; those of its package are left out where they do not."""
    from onnxviz.exporting.trace import run_torch
    from onnxviz.labels import check_count

    if found.labels is None:
        return found
    device = next((p.device for p in module.parameters()), torch().device("cpu"))
    output = run_torch(module, torch().zeros(shape, device=device))
    if strict:
        if output.ndim != 2:
            raise LabelsRejected(f"labels are for classifiers; this network gives {tuple(output.shape)}")
        check_count(found.labels, int(output.shape[1]))
    elif output.ndim != 2 or output.shape[1] != len(found.labels):
        note = f"the package's {len(found.labels)} labels are left out: the output is {tuple(output.shape)}"
        return replace(found, labels=None, notes=[*found.notes, note])
    return found


def _fields(preprocessing: Any) -> Mapping[str, Any]:
    from onnxviz.image.configs import from_file
    from onnxviz.image.preprocessing import PRESETS, Preprocessing

    if isinstance(preprocessing, Mapping):
        preprocessing = Preprocessing.from_dict(dict(preprocessing))
    elif not isinstance(preprocessing, Preprocessing):
        preprocessing = PRESETS.get(str(preprocessing)) or from_file(preprocessing)
    fields: Mapping[str, Any] = preprocessing.to_dict()
    return fields


def _exposed(model: ir.Model, names: Iterable[str] | bool) -> ir.Model:
    from onnxviz.graph.layers import layers, resolve
    from onnxviz.graph.surgery import expose

    if isinstance(names, bool):
        return expose(model)
    known = layers(model)
    return expose(model, [resolve(known, name).name for name in names])


def _in_float32(module: Any) -> Any:
    """The module, or a float32 copy where its weights are of another precision."""
    if all(p.dtype == torch().float32 or not p.is_floating_point() for p in module.parameters()):
        return module
    return copy.deepcopy(module).float()


def _classes(model: ir.Model) -> int | None:
    shape = model.graph.outputs[0].shape
    return shape[1] if shape is not None and len(shape) == 2 and isinstance(shape[1], int) else None


def _pair(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < 1:
        raise UsageError(f"size {size!r} is not one number of pixels or a height and a width")
    return int(pair[0]), int(pair[1])


# --- what a source means ----------------------------------------------------------------------


def build(source: Any, wanted: Wanted) -> Source:
    """The network that `source` means.

    source   a torch.nn.Module, a `Source`, or text: torchvision:NAME, timm:NAME, transformers:NAME,
             module:callable, file.py:callable

    Naming a module or file runs its code. What a hub or a folder holds runs no code, unless `wanted.trusted`: neither
    Python files of its own nor a pickle.

    raises   UsageError, MissingDependency, InputRefused when trained weights cannot be had or would run code
    """
    torch()
    if isinstance(source, Source):
        return source
    if not isinstance(source, str):
        if not isinstance(source, torch().nn.Module):
            raise UsageError(f"expected a torch.nn.Module or one of {FORMS}; got {type(source).__name__}")
        name = type(source).__name__
        return Source(source, name, f"torch module {type(source).__module__}.{name}")
    kind, colon, name = source.partition(":")
    if not colon or not name or not kind:
        raise UsageError(f"{source!r} names no torch network; expected {FORMS}{_hint(source)}")
    if "trust_remote_code" in wanted.options:
        raise UsageError("trust_remote_code is no option of a network: give --trust-remote-code")
    if kind in ("torchvision", "timm", "transformers"):
        from onnxviz.exporting import hubs

        with contextlib.nullcontext() if wanted.trusted else weights_alone():
            made: Source = getattr(hubs, kind)(name, wanted)
            return made
    return from_callable(source, wanted)


def _hint(text: str) -> str:
    from onnxviz.catalogue import entries

    known = next((entry for entry in entries() if entry.name == text), None)
    if known is None:
        return ""
    if known.export is None:
        return f"; {text!r} is a network of the catalogue that needs no export"
    return f"; for the catalogue's {text!r} give {known.export!r}, or `onnxviz models --fetch {text}`"
