"""The features of an image as one vector, made inside the graph.

    layer (N, D) ─────────────────────────────────────────▶ features (N, D)
    layer (N, C, H, W) ─ GlobalAveragePool ─ Flatten ─▶ features (N, C)

Only C numbers an image leave the graph, not C feature maps. Cast, Transpose, GlobalAveragePool and Flatten
are written alike in every opset (a mean by ReduceMean is not: its axes became an input): they fit any model.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.analysis.dataflow import prune
from onnxviz.graph.build import builder

FEATURES = "onnxviz.features"


def pooled(
    model: ir.Model, value: str, rank: int, *, channels_last: bool = False, keep: Sequence[str] = ()
) -> ir.Model:
    """A copy of `model` whose first output is one vector of features an image, (N, D) float32.

    A value of rank 2 is taken as it is; of one of rank 4 each channel is averaged over all places, so that
    images of any size give vectors of one length. Half and double precision become float32; quantised numbers
    do as they are, in steps of the layer's scale.

    value           the layer's value
    rank            its number of dimensions
    channels_last   whether a value of rank 4 is (N, H, W, C)
    keep            outputs of `model` that stay; all others go, with what only they need
    raises          UnknownLayer, ModelUnsuitable for a value of another rank
    """
    if rank not in (2, 4):
        raise ModelUnsuitable(
            f"{value!r} has {rank} dimensions; features are taken from layers of channels with a map "
            "(N, C, H, W) or of channels alone (N, C): choose another --layer"
        )
    b = builder(model)
    found = b.value(value)
    x = found if found.dtype == ir.DataType.FLOAT else b.op.Cast(found, to=int(ir.DataType.FLOAT))
    if rank == 4:
        if channels_last:
            x = b.op.Transpose(x, perm=[0, 3, 1, 2])
        x = b.op.Flatten(b.op.GlobalAveragePool(x), axis=1)
    name = b.add_output(x, FEATURES)
    outputs = {str(output.name): output for output in b.graph.outputs}
    b.graph.outputs.clear()
    b.graph.outputs.extend(outputs[key] for key in dict.fromkeys((name, *keep)))
    prune(b.model)
    return b.model
