"""What a network is made of."""

from __future__ import annotations

import contextlib
import html
from collections import Counter
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Final

from onnxviz.errors import LONGEST_MESSAGE, ImageRejected, ModelUnsuitable, OnnxVizError, judged, spelt
from onnxviz.graph.head import Head
from onnxviz.graph.layers import Layer
from onnxviz.graph.quantisers import Quantisation, Quantiser, bytes_by_type, quantisation
from onnxviz.network import Network
from onnxviz.provenance import check_open
from onnxviz.text import printable

# What a table tells of how a tensor is held.
_HELD: Final = ("codes", "bits", "granularity", "symmetric", "scale", "zero_point", "low", "high")


@dataclass(frozen=True)
class Inspection:
    """What `inspect` found.

    network      the network
    operators    how often each operator occurs
    parameters   the number of weights, each counted once
    macs         multiply–accumulate operations for one image
    gradients    for each operator on the way from the image, whether gradients pass it; None where the graph cannot
                 be brought into the form that is differentiated
    torch_only   those of them that native gradients have no rule for and torch can do; None where torch is not
                 installed to tell
    """

    network: Network
    operators: dict[str, int]
    parameters: int
    macs: int
    gradients: dict[str, bool] | None
    torch_only: list[str] | None

    def __repr__(self) -> str:
        nodes = sum(self.operators.values())
        return f"<Inspection of {self.network!r}: {nodes} nodes, {self.parameters:,} parameters, {self.macs:,} MACs>"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(chr(10).join(map(printable, self.lines())))}</pre>"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        net, outputs = self.network, self.outputs  # concluded first: the manifest tells of it
        return {
            **net.manifest("inspect"),
            "input": asdict(net.input),
            "outputs": [str(value.name) for value in net.model.graph.outputs],
            "output_meanings": [one.to_dict() for one in outputs],
            "classes": self.classes,
            "labels": len(net.labels) if net.labels is not None else None,
            "parameters": self.parameters,
            "macs": self.macs,
            "operators": self.operators,
            "gradients": self.gradients,
            "torch_only": self.torch_only,
            "findings": net.findings,
            "bytes": bytes_by_type(net.model),
            "quantisation": self.quantisation.to_dict() if self.quantisation else None,
            "layers": [_plain(layer) for layer in net.layers],
        }

    def table(self) -> dict[str, list[Any]]:
        """A row a layer: name, op, shape, parameters, macs, receptive_field and stride (height×width).

        Of a quantised file also how the layer's values are held (codes, bits, granularity, symmetric, scale, zero_point
        and the real numbers from low to high that the codes hold), and its weights (weight_ before these).
        """
        layers = self.network.layers
        found: dict[str, list[Any]] = {
            "name": [layer.name for layer in layers],
            "op": [layer.op for layer in layers],
            "shape": [_shape(layer.shape) for layer in layers],
            "parameters": [layer.parameters for layer in layers],
            "macs": [layer.macs for layer in layers],
            "receptive_field": [_pair(layer.receptive_field) for layer in layers],
            "stride": [_pair(layer.stride) for layer in layers],
        }
        quantised = self.quantisation
        if quantised is None:
            return found
        weights = [quantised.weights.get(layer.node) if layer.parameters else None for layer in layers]
        for start, held in (
            ("", [quantised.activations.get(layer.name) for layer in layers]),
            ("weight_", weights),
        ):
            cells = [{} if one is None else one.to_dict() for one in held]
            for name in _HELD:
                found[start + name] = [_cell(row.get(name)) for row in cells]
        return found

    @cached_property
    def quantisation(self) -> Quantisation | None:
        """How a quantised file holds its tensors; None for one that holds none as integers."""
        with judged(self.network.judge):
            return quantisation(self.network.model, self.network.input.name)

    @property
    def classes(self) -> int | None:
        """The number of classes, or None where the network is no classifier."""
        try:
            return self.network.head.classes
        except ModelUnsuitable:
            return None

    @cached_property
    def outputs(self) -> list[Head]:
        """What each output of the file is, the one that is predicted as it was checked by running."""
        net = self.network
        with contextlib.suppress(ModelUnsuitable):
            if len(net.model.graph.outputs) == 1:
                return [net.end]
            return [net.end if one.output == net.end.output else one for one in net.outputs]
        return net.outputs

    def lines(self) -> list[str]:
        """The same for a reader: the input, the totals, the layers as a tree, the operators."""
        return [*self._summary(), "", *self._table(), "", *self._operators()]

    def _summary(self) -> list[str]:
        net = self.network
        pre = net.preprocessing
        imports = net.model.opset_imports.items()
        opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in imports)
        height, width = net.size
        sides = f"{width}×{height}"
        if pre.size is not None and pre.fixed is None:
            sides = f"{pre.size[1] or 'W'}×{pre.size[0] or 'H'} (each picture's aspect)"
        lines = [
            f"{net.name}  (sha256 {net.digest[:12]}…, opset {opsets}, IR {net.model.ir_version}"
            + (f", made by {_short(net.model.producer_name)})" if net.model.producer_name else ")"),
            f"input       {_short(net.input.name)}: {_shape(net.input.shape)} {net.input.dtype} {net.input.layout}, "
            f"fed with {sides} {pre.channels} {'pixels' if pre.pictorial else 'channels'} ({pre.name})",
            f"outputs     {', '.join(_short(value.name) for value in net.model.graph.outputs)}"
            + (f"; {self.classes} classes" if self.classes else "")
            + (f", labels such as '{_short(net.labels[0])}'" if net.labels else ""),
            *(f"            {printable(one.describe(), LONGEST_MESSAGE)}" for one in self.outputs),
            f"parameters  {self.parameters:,}",
            f"MACs        {self.macs:,} for one image of {width}×{height}",
        ]
        if self.quantisation is not None:
            kinds = ", ".join(f"{count:,} of {name}" for name, count in bytes_by_type(net.model).items())
            lines += [f"quantised   {self.quantisation.format}"]
            lines += [f"            {text}" for text in self.quantisation.lines()]
            lines += [f"bytes       {kinds}"]
        lines += [f"warning     {printable(spelt(text), LONGEST_MESSAGE)}" for text in net.warnings]
        lines += [f"finding     {text}" for text in net.findings]
        return lines

    def _table(self) -> list[str]:
        held = self.quantisation.activations if self.quantisation is not None else {}
        head = (
            "layer",
            "operator",
            "shape",
            "parameters",
            "MACs",
            "field",
            "stride",
            "held as" if held else "",
        )
        rows: list[tuple[str, ...]] = [head]
        above: tuple[str, ...] = ()
        for layer in self.network.layers:
            path = _branch(layer)
            # The module path is printed where it changes, as the branches of a tree.
            for depth, part in enumerate(path):
                if path[: depth + 1] != above[: depth + 1]:
                    rows.append(("  " * depth + _short(part) + "/", *[""] * (len(head) - 1)))
            above = path
            rows.append(
                (
                    "  " * len(path) + _short(layer.name),
                    _short(layer.op),
                    _shape(layer.shape),
                    f"{layer.parameters:,}" if layer.parameters else "",
                    f"{layer.macs:,}" if layer.macs else "",
                    _pair(layer.receptive_field),
                    _pair(layer.stride),
                    _held(held.get(layer.name)),
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        form = "  ".join(f"{{:{'>' if 3 <= i <= 6 else '<'}{width}}}" for i, width in enumerate(widths))
        return [form.format(*row).rstrip() for row in rows]

    def _operators(self) -> list[str]:
        counted = ", ".join(f"{_short(name)} ×{count}" for name, count in self.operators.items())
        lines = [f"operators   {counted}"]
        if self.gradients is None:
            return lines
        lacking = [name for name, passes in self.gradients.items() if not passes]
        if not lacking:
            return [*lines, "gradients   every operator has a rule"]
        # What can be done about operators without a rule.
        if self.torch_only is None:
            way = '; torch may know them: pip install "onnxviz[torch]"'
        elif not self.torch_only:
            way = ", nor does torch know them"
        else:
            some = self.torch_only if len(self.torch_only) < len(lacking) else ["them"]
            way = f"; torch does {', '.join(some)} (--backend auto falls back to it)"
        return [*lines, f"gradients   no rule for {', '.join(map(_short, lacking))}{way}"]


def inspect(net: Network) -> Inspection:
    """The input, the layers (shape, parameters, MACs, receptive field) and the operators of a network.

    raises   LimitExceeded where what its output is shows in a run alone, and that takes longer than it may
    """
    from onnxviz.grad.model import support

    check_open(net, "inspect")
    _ = net.batched  # puts on record what mixes the images of a batch
    try:
        net.check_size(net.size)
    except ImageRejected as small:
        net.warnings.append(str(small))
    except OnnxVizError:  # of an output that holds no scores
        pass
    gradients = None
    with contextlib.suppress(OnnxVizError), judged(net.judge):
        gradients = support(net.model, net.input.name)
    counts = Counter(
        f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        for node in net.model.graph.all_nodes()
    )
    return Inspection(
        network=net,
        operators=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        parameters=sum(layer.parameters for layer in net.layers),
        macs=sum(layer.macs for layer in net.layers),
        gradients=gradients,
        torch_only=_torch_only(gradients),
    )


def _torch_only(gradients: dict[str, bool] | None) -> list[str] | None:
    """torch is asked (and imported, which takes a second) only where something lacks a rule."""
    from onnxviz.backends.choose import version

    lacking = [name for name, passes in (gradients or {}).items() if not passes]
    if not lacking:
        return []
    if version("torch") is None:
        return None
    from onnxviz.backends.torch.executor import knows

    return [name for name in lacking if knows(name)]


def _plain(layer: Layer) -> dict[str, Any]:
    """A layer's facts by name, without the map that they were read from."""
    facts = {one.name: getattr(layer, one.name) for one in fields(layer) if one.name != "trace"}
    return facts | {"quantised": vars(layer.quantised) if layer.quantised is not None else None}


def _branch(layer: Layer) -> tuple[str, ...]:
    """The modules around a layer, without its own: a branch for each leaf would only double the lines."""
    path = tuple(layer.path)
    return path[:-1] if path and layer.name.split(".")[-1] == path[-1] else path


def _held(one: Quantiser | None) -> str:
    """How a layer's values are held, in a table's cell."""
    if one is None:
        return ""
    told = one.to_dict()
    if one.low is None:
        return f"{one.codes}, range measured while it runs"
    step = f"{told['scale']:.4g}" if isinstance(told["scale"], float) else one.granularity
    return f"{one.codes} {told['low']:.4g}…{told['high']:.4g}, step {step}, zero point {told['zero_point']}"


def _cell(value: Any) -> Any:
    """A number, or the smallest and the largest of several, as a table holds it."""
    return f"{value[0]}…{value[1]}" if isinstance(value, list) else value


def _short(name: object) -> str:
    """A name as a line of text holds it: columns are as wide as their longest cell."""
    return printable(name, 120)


def _shape(shape: tuple[int | str, ...]) -> str:
    return "×".join(map(_short, shape))


def _pair(pair: tuple[Any, Any] | None) -> str:
    if pair is None:
        return ""
    return str(pair[0]) if pair[0] == pair[1] else f"{pair[1]}×{pair[0]}"
