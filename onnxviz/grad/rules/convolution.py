"""Gradient rules of Conv and ConvTranspose, 1-D to 3-D, any pads, strides, dilations and groups."""

from __future__ import annotations

from onnxviz.grad.backward import NoRule
from onnxviz.grad.forms import conv_to_input, conv_to_weight, shared
from onnxviz.grad.table import vjp
from onnxviz.grad.windows import Window
from onnxviz.graph.tape import dims


@vjp("Conv")
def conv(
    op, g, y, x, w, b=None, *, auto_pad, dilations=None, group, kernel_shape=None, pads=None, strides=None
):
    """Each output position hands its cotangent back along the kernel (form: see forms.py)."""
    win = Window.of(_kernel(w, kernel_shape), strides, pads, dilations, auto_pad, dims(x))
    return (
        lambda: conv_to_input(op, g, w, x, y, group, win),
        lambda: conv_to_weight(op, g, x, w, group, win),
        lambda: op.ReduceSum(g, [0, *win.axes], keepdims=0),
    )


@vjp("ConvTranspose")
def conv_transpose(
    op, g, y, x, w, b=None, *,
    auto_pad, dilations=None, group, kernel_shape=None, output_padding=None, output_shape=None, pads=None, strides=None,
):  # fmt: skip
    """It is the adjoint of a Conv with the same weights; so that Conv is its adjoint."""
    if output_shape is not None:
        raise NoRule("has an output_shape that could not be made explicit pads")
    win = Window.of(_kernel(w, kernel_shape), strides, pads, dilations, auto_pad)
    if min(win.pads) < 0:
        raise NoRule("has negative pads")

    def to_input():
        back, kernel = (op.Neg(g), op.Neg(w)) if shared(op, w) and group == 1 else (g, w)
        out = op.Conv(
            back, kernel, group=group, strides=list(win.strides), dilations=list(win.dilations), pads=win.pads
        )
        # An output padding of a stride or more (dilation allows it) makes windows that no input owns.
        wide = [
            a for a, p, s in zip(win.axes, output_padding or win.begin, win.strides, strict=True) if p >= s
        ]
        if output_padding is None or not wide:
            return out
        return op.Slice(out, [0] * len(wide), op.vector([op.extent(x, a) for a in wide]), wide)

    return (
        to_input,
        lambda: conv_to_weight(op, x, g, w, group, win),
        lambda: op.ReduceSum(g, [0, *win.axes], keepdims=0),
    )


def _kernel(w, kernel_shape):
    known = dims(w)
    if known is not None and all(isinstance(d, int) for d in known[2:]):
        return known[2:]
    if kernel_shape is None:
        raise NoRule("has weights of unknown shape")
    return kernel_shape
