"""The network with the batch and the size that a plan needs, or a typed error that says why it cannot have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from onnxviz.errors import ModelUnsuitable

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxviz.network import Network
    from onnxviz.optimise.plan import Plan


def fitted(net: Network, plan: Plan, layers: Sequence[str | None]) -> ir.Model:
    """The network with a float input, a free batch, and a free size where it is shown another than its own.

    layers   the values that the objective reads; None stands for the picture
    raises   ModelUnsuitable for a batch that stays fixed, a layer that exists at the network's own size only, or an
             input that is needed as integers
    """
    from onnxviz.graph.real_input import real_input

    model, fixed = net.batched
    together = plan.count * plan.draws
    if together > 1 and fixed in (None, 1) and net.alone is not None:
        raise ModelUnsuitable(
            f"images go through this network one at a time ({net.alone}); {plan.count} pictures × {plan.draws} draws "
            "were asked for: make one picture at a time, with one draw"
        )
    if fixed not in (None, together):
        raise ModelUnsuitable(
            f"this file takes {fixed} images at once and no other number; {plan.count} pictures × {plan.draws} draws "
            "were asked for"
        )
    model = real_input(model, net.input.name)
    own, shown = (net.input.height, net.input.width), plan.shown()
    if all(a is None or a == b for a, b in zip(own, shown, strict=True)):
        return model
    from onnxviz.grad.model import all_values
    from onnxviz.graph.surgery import free_size

    model, barrier = free_size(model)
    there = all_values(model.graph)
    lost = [name for name in layers if name is not None and name not in there]
    if barrier is not None and lost:
        raise ModelUnsuitable(
            f"at {shown[1]}×{shown[0]} pixels this network ends before {barrier!r}, and {lost[0]!r} lies behind it: "
            f"show the network {own[1]}×{own[0]} pixels, or take an earlier layer"
        )
    return model
