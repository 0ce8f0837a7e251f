"""A file whose layers are called as in another file of the network: an int8 file is asked by the float file's names."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from onnxviz.comparing.match import Matching, match
from onnxviz.errors import PreprocessingAssumed, UsageError
from onnxviz.graph.dequantised import drop_unread
from onnxviz.graph.layers import Layer, resolve
from onnxviz.graph.operators import ACTIVATIONS, BY_STATISTICS
from onnxviz.graph.surgery import expose
from onnxviz.network import Network
from onnxviz.opening import load
from onnxviz.progress import Progress, silent
from onnxviz.provenance import Likeness

# What is meant for the other file as well.
_SHARED: Final = ("provider", "threads", "limits", "size", "isolate")


def like(model: Any, other: Any, *, progress: Progress = silent, **options: Any) -> Network:
    """Open a network whose layers are called as in another file of it.

    The values are matched by what they are (weights, and the numbers that come of two probe pictures), not by what they
    are called. What has no counterpart keeps its own name.

    model     what `onnxviz.load` takes: the file that is opened, such as the int8 one
    other     the same, or a Network: the file whose names are asked for, such as the float one
    progress  told how far it is: (done, total, what)
    options   those of `onnxviz.load`
    raises    UsageError where the two are not the same network, and what `onnxviz.load` raises
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PreprocessingAssumed)
        shared = {name: value for name, value in options.items() if name in _SHARED}
        a = other if isinstance(other, Network) else load(other, **shared)
        with load(model, **options) as b:
            matching = _matched(a, b, progress)
    names, nearly = _names(a, matching)
    network = load(model, names=names, **options)
    own = {called[0]: name for name, called in names.items()}
    _marked(network, Likeness(a.name, a.digest, own, nearly))
    if not isinstance(other, Network):
        a.close()
    return network


def _quietly(model: Any, other: Any, **options: Any) -> Network:
    """Without a word on preprocessing, for what sees no pictures."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PreprocessingAssumed)
        return like(model, other, **options)


def exposed(model: Any, other: Any, layers: Sequence[str] | None, **options: Any) -> ir.Model:
    """The model with layers as outputs that are called as in another file of it; see `like` and `onnxviz.expose`."""
    net = _quietly(model, other, **options)
    found = expose(net.model, None if layers is None else [net.layer(name).name for name in layers])
    drop_unread(found)
    return found


def own_names(model: Any, other: Any, names: Sequence[str], **options: Any) -> list[str]:
    """What a file itself calls the values that have these names in another file of its network; see `like`."""
    net = _quietly(model, other, **options)
    assert net.likeness is not None
    called = [net.layer(name).name for name in names]
    return [net.likeness.own.get(name, name) for name in called]


def _marked(network: Network, likeness: Likeness) -> Network:
    """The network with what it is like on record, also where it is opened again after pickling."""
    network.likeness = likeness
    reopen = network.reopening
    assert reopen is not None
    network.reopening = lambda net: (_again, (likeness, *reopen(net)))
    return network


def _again(likeness: Likeness, make: Callable[..., Network], arguments: Sequence[Any]) -> Network:
    return _marked(make(*arguments), likeness)


def _matched(a: Network, b: Network, progress: Progress) -> Matching:
    if a.size != b.size:
        sizes = [f"{net.name!r} sees {net.size[1]}×{net.size[0]} pixels" for net in (a, b)]
        raise UsageError(
            f"{' and '.join(sizes)}: the two cannot be compared; give --size where the files leave it open"
        )
    matching = match(a, b, *probes(a, b), progress=progress)
    matching.require_same_network()
    return matching


def probes(a: Network, b: Network, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two pictures as the input of both networks: noise whose amplitude falls with the frequency, as photos' does
    (Field 1987); where a network takes no pictures, `Network.samples`."""
    if not (a.preprocessing.pictorial and b.preprocessing.pictorial):
        return a.samples(), b.samples()
    rng = np.random.default_rng(seed)
    height, width = a.size
    y, x = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    fall = 1 / np.maximum(np.hypot(y, x), 1 / max(height, width))
    pictures = []
    for _ in range(2):
        waves = np.fft.rfft2(rng.standard_normal((3, height, width))) * fall
        grey = np.fft.irfft2(waves + waves.mean(axis=0, keepdims=True) * 2, s=(height, width))
        scaled = 127 + 55 * grey / grey.std(axis=(1, 2), keepdims=True)
        pictures.append(scaled.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
    return a.prepare(pictures), b.prepare(pictures)


def _names(a: Network, matching: Matching) -> tuple[dict[str, list[str]], dict[str, str]]:
    """{name in B: (name in A, what else A is asked by)}, and what is to be said of names that fit only nearly."""
    counterpart = {pair.layer: pair.b for pair in matching.pairs}
    found = {b: [layer] for layer, b in counterpart.items()}
    behind = _behind(matching, counterpart)
    nearly: dict[str, str] = {}
    for name in _asked(a.layers):
        layer = resolve(a.layers, name).name
        if layer in counterpart:
            found[counterpart[layer]].append(name)
        elif layer in behind:
            taken = behind[layer]
            found[counterpart[taken]].append(name)
            none = f"{name!r} of {a.name!r} has no value of its own here"
            nearly[name] = f"{none}; {taken!r}, which follows it, is taken"
    return {b: list(dict.fromkeys(names)) for b, names in found.items()}, nearly


def _asked(layers: tuple[Layer, ...]) -> list[str]:
    """All that layers are asked for by: names of values, nodes and modules."""
    names = [layer.name for layer in layers] + [layer.node for layer in layers if layer.node]
    names += [".".join(layer.path[:n]) for layer in layers for n in range(1, len(layer.path) + 1)]
    return list(dict.fromkeys(names))


def _behind(matching: Matching, counterpart: dict[str, str]) -> dict[str, str]:
    """A's layers without a counterpart, and the one that follows each with nothing but activations between."""
    found: dict[str, str] = {}
    for node in reversed(matching.a.graph):
        y: ir.Value = node.outputs[0]
        x = node.inputs[0] if node.inputs else None
        if x is None or (node.op_type not in ACTIVATIONS | BY_STATISTICS):
            continue
        taken = str(y.name) if y.name in counterpart else found.get(str(y.name))
        if taken is not None and x.name not in counterpart and len(x.uses()) == 1:
            found[str(x.name)] = taken
    return found
