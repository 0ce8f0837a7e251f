"""What an operator is: the one table that every room asks.

A row says what its operators have in common, in the words of `Operator`; whoever has to know whether an operator works
place by place, only moves data, keeps the shape or has weights takes the answer from here, so that no two rooms can
disagree. An operator that stands in no row is read as one that may do anything. Below it the other spellings: fused,
quantised and contributed operators, each with the standard operator that moves data as it does.

Other tables keyed by operator say how one is differentiated (grad/rules), how torch runs it (backends/torch) and what
it is written as instead (graph/lift, graph/fused). docs/operators.md shows them side by side (`python
tools/operators.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final, NamedTuple


class Operator(NamedTuple):
    """What the named operators have in common.

    family      the kind of work that they do
    sees        which places of its inputs a unit of the result reads: "place" its own of all inputs, with broadcasting;
                "own" its own of the first (the others are bounds and scales); "everything"; else the word by which
                analysis/receptive_rules.py finds its rule
    keeps       what stays of the first input: "shape"; "axes" where they stay in order though their sizes change
    moves       "form" where the result has the elements of the first input in their order, "places" where they move,
                come several times, are left out or filled up
    channels    axis 1 holds the channels by definition: "kept" are those of the input, "made" are channels of its own
    negative    whether a result can be below 0: "always", "as" where an operand can be; "" is taken for never
    weights     places of the learned kernels and matrices; biases, slopes and scales are none
    steering    places of the inputs that steer it and are no weights: bounds, scales, sizes, indices, statistics
    numbers     of these, the inputs that are one number; files have them as vectors of one element too (keras2onnx, the
                ONNX zoo), which the standard does not have and ONNX Runtime runs
    sizes       inputs that say how large a result becomes, or how often a body runs
    ranks       what its inputs must be, a word each: "*" anything; "3" three axes; "3+" three or more; "=" as many as
                the first input; "." one number, as a scalar or a vector of one; "v" a vector of one number for each
                channel of the first input
    changed     its form or meaning is not the same in all opsets from 7 on: attributes became inputs, defaults moved
    computes    of arithmetic, functions, reductions and movements: the word for each name, NumPy's where that has one.
                Who recognises a formula (a softmax of five nodes, ReLU6 as Min and Max) or works one out asks for it
    trained     those of them, "*" all, whose gradient by ONNX Runtime's training build the tests hold against ours
    macs        how multiply-accumulates are counted (analysis/cost.py); "" counts none
    """

    names: str
    family: str
    sees: str = "everything"
    keeps: str = ""
    moves: str = ""
    channels: str = ""
    negative: str = ""
    weights: tuple[int, ...] = ()
    steering: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    macs: str = ""
    changed: bool = False
    ranks: str = ""
    computes: str = ""
    trained: str = ""


_ = Operator
ROWS: Final = (
    # --- products with weights ---
    _("Conv", "convolution", "conv", channels="made", negative="always", weights=(1,), macs="kernel", ranks="3+ = 1",
      computes="conv", trained="*"),
    _("ConvTranspose", "convolution", "conv_transpose", channels="made", negative="always", weights=(1,),
      macs="spread", ranks="3+ = 1", computes="conv_transpose"),
    _("DeformConv", "convolution", channels="made", negative="always", weights=(1,), macs="kernel", ranks="4 4 4 1 4"),
    _("Gemm", "product", "gemm", negative="always", weights=(1,), macs="gemm", ranks="2 2", computes="gemm",
      trained="*"),
    _("MatMul", "product", "matmul", negative="always", weights=(1,), macs="matmul", computes="matmul", trained="*"),
    _("Einsum", "product", "einsum", negative="always", weights=(1,), macs="einsum"),
    _("LSTM", "recurrent", "recurrent", weights=(1, 2), steering=(4, 5, 6), macs="recurrent", changed=True,
      ranks="3 3 3 2 1 3 3 2"),
    _("GRU RNN", "recurrent", "recurrent", weights=(1, 2), steering=(4, 5), macs="recurrent", changed=True,
      ranks="3 3 3 2 1 3 3 2"),
    _("Attention", "attention", "entry", macs="attention", changed=True),
    _("LinearAttention RotaryEmbedding SwiGLU", "attention", changed=True),
    # --- normalisations ---
    _("BatchNormalization", "normalisation", "own", "shape", channels="made", negative="always",
      steering=(3, 4), changed=True, ranks="* v v v v"),  # running mean and variance: measured, not learned
    _("InstanceNormalization", "normalisation", "map", "shape", channels="kept", negative="always", ranks="3+ v v",
      computes="instance_norm"),
    _("GroupNormalization", "normalisation", "picture", "shape", channels="kept", negative="always", changed=True,
      computes="group_norm"),
    _("LRN", "normalisation", "lrn", "shape", channels="kept", negative="as", ranks="4"),
    _("LayerNormalization RMSNormalization", "normalisation", "trailing", "shape", negative="always",
      computes="layer_norm rms_norm", trained="LayerNormalization"),
    _("SimplifiedLayerNormalization", "normalisation", "trailing", "shape", negative="always", changed=True),
    _("LpNormalization", "normalisation", "axis", "shape", negative="as", ranks="1+"),
    _("MeanVarianceNormalization", "normalisation", "mean_variance", "shape", negative="always", changed=True),
    _("Softmax LogSoftmax Hardmax", "softmax", "softmax", "shape", changed=True,
      computes="softmax log_softmax hardmax", trained="Softmax LogSoftmax"),
    # --- pools and reductions ---
    _("AveragePool MaxPool", "pooling", "pool", channels="kept", negative="as", ranks="3+",
      computes="mean_pool max_pool", trained="MaxPool"),
    _("LpPool", "pooling", "pool", channels="kept", changed=True, ranks="3+"),
    _("GlobalAveragePool GlobalMaxPool", "global pooling", "global_pool", channels="kept", negative="as", ranks="3+",
      trained="GlobalAveragePool"),
    _("GlobalLpPool", "global pooling", "global_pool", channels="kept", ranks="3+"),
    _("MaxUnpool", "unpooling", "unpool", channels="kept", negative="as", steering=(1, 2), sizes=(1, 2), changed=True,
      ranks="3+ = 1"),
    _("MaxRoiPool", "region pooling", channels="kept", negative="as", steering=(1,), ranks="4 2"),
    _("RoiAlign", "region pooling", channels="kept", negative="as", steering=(1, 2), changed=True, ranks="4 2 1"),
    _("ReduceMax ReduceMean ReduceMin ReduceSum", "reduction", "reduction", negative="as", steering=(1,), changed=True,
      computes="max mean min sum", trained="ReduceMean ReduceSum"),
    _("ReduceL1 ReduceL2 ReduceSumSquare", "reduction", "reduction", steering=(1,), changed=True,
      computes="l1 l2 sum_square", trained="ReduceL2"),
    _("ReduceLogSum ReduceLogSumExp ReduceProd", "reduction", "reduction", steering=(1,), changed=True,
      computes="log_sum log_sum_exp prod", trained="ReduceLogSumExp"),
    _("ArgMax ArgMin", "place of an end", "arg_reduction"),
    _("CumSum CumProd", "cumulation", "cumulation", "shape", negative="as", steering=(1,), numbers=(1,), ranks="1+ ."),
    # --- place by place ---
    _("Relu ThresholdedRelu Sigmoid HardSigmoid Softplus", "activation", "place", "shape",
      computes="relu thresholded_relu sigmoid hard_sigmoid softplus", trained="Relu Sigmoid"),
    _("LeakyRelu PRelu Elu Celu Selu Gelu Swish HardSwish Mish Softsign Tanh Shrink", "activation", "place", "shape",
      computes="leaky_relu prelu elu celu selu gelu swish hard_swish mish softsign tanh shrink",
      trained="LeakyRelu Tanh"),
    _("Clip", "activation", "own", "shape", steering=(1, 2), numbers=(1, 2), changed=True, computes="clip",
      trained="*"),
    _("Add Sum Mean", "arithmetic", "place", negative="as", computes="add total total_mean", trained="Add"),
    _("Sub", "arithmetic", "place", negative="always", computes="subtract", trained="*"),
    _("Mul Div Max Min Mod", "arithmetic", "place", computes="multiply divide maximum minimum mod",
      trained="Mul Div Max Min"),
    _("Pow", "arithmetic", "place", steering=(1,), computes="power", trained="*"),
    _("Where", "choice", "place", steering=(0,), computes="where", trained="*"),
    _("Abs Ceil Exp Floor Log Neg Reciprocal Round Sign Sqrt Erf", "function", "place", "shape",
      computes="absolute ceil exp floor log negative reciprocal round sign sqrt erf",
      trained="Abs Exp Log Neg Sqrt Erf"),
    _("Acos Acosh Asin Asinh Atan Atanh Cos Cosh Sin Sinh Tan", "function", "place", "shape"),
    _("Equal Greater GreaterOrEqual Less LessOrEqual", "comparison", "place",
      computes="equal greater greater_equal less less_equal"),
    _("IsInf IsNaN", "comparison", "place", "shape"),
    _("And Or Xor", "logic", "place", computes="logical_and logical_or logical_xor"),
    _("Not BitwiseNot", "logic", "place", "shape", computes="logical_not bitwise_not"),
    _("BitShift BitwiseAnd BitwiseOr BitwiseXor", "logic", "place"),
    _("Cast", "type", "own", "shape", negative="as", computes="cast", trained="*"),
    _("CastLike", "type", "own", "shape", negative="as", steering=(1,)),
    _("QuantizeLinear DequantizeLinear", "quantisation", "own", "shape", steering=(1, 2), changed=True,
      computes="quantize dequantize"),
    _("DynamicQuantizeLinear", "quantisation", "range", "shape", changed=True, computes="quantize_measured"),
    # --- what only moves data ---
    _("Identity", "form", "place", "shape", "form", negative="as", computes="identity", trained="*"),
    _("Dropout", "form", "own", "shape", "form", negative="as", steering=(1, 2), numbers=(1, 2), changed=True,
      computes="dropout"),
    _("Flatten", "form", "reshape", moves="form", negative="as", computes="flatten", trained="*"),
    _("Reshape", "form", "reshape", moves="form", negative="as", steering=(1,), computes="reshape", trained="*"),
    _("Squeeze Unsqueeze", "form", "reshape", moves="form", negative="as", steering=(1,), changed=True,
      computes="squeeze expand_dims", trained="*"),
    _("Transpose", "movement", "transpose", moves="places", negative="as", computes="transpose", trained="*"),
    _("Expand", "movement", "own", "axes", "places", negative="as", steering=(1,), sizes=(1,),
      computes="broadcast_to", trained="*"),
    _("Tile", "movement", "tile", "axes", "places", negative="as", steering=(1,), sizes=(1,), ranks="* 1",
      computes="tile", trained="*"),
    _("Pad", "movement", "pad", "axes", "places", negative="as", steering=(1, 2, 3), numbers=(2,), sizes=(1,),
      changed=True, ranks="* 1 . 1", computes="pad", trained="*"),
    _("CenterCropPad", "movement", "everything", "axes", "places", negative="as", steering=(1,), sizes=(1,),
      changed=True),
    _("Slice", "movement", "cut", "axes", "places", negative="as", steering=(1, 2, 3, 4), changed=True,
      ranks="1+ 1 1 1 1", computes="slice", trained="*"),
    _("Split", "movement", "split", "axes", "places", negative="as", steering=(1,), changed=True, computes="split"),
    _("Concat", "joining", "concat", "axes", negative="as", computes="concatenate", trained="*"),
    _("DepthToSpace", "movement", "depth_to_space", moves="places", channels="made", negative="as", ranks="4"),
    _("SpaceToDepth", "movement", "space_to_depth", moves="places", channels="made", negative="as", ranks="4"),
    _("Gather", "movement", "gather", moves="places", negative="as", steering=(1,), ranks="1+", computes="take",
      trained="*"),
    _("GatherElements", "movement", "gather_elements", moves="places", negative="as", steering=(1,), ranks="1+ =",
      trained="*"),
    _("GatherND", "movement", moves="places", negative="as", steering=(1,), ranks="1+ 1+", trained="*"),
    _("ReverseSequence", "movement", "everything", "shape", "places", negative="as", steering=(1,), ranks="2+ 1"),
    _("Trilu", "movement", "everything", "shape", "places", negative="as", steering=(1,), numbers=(1,)),
    _("Scatter ScatterElements", "scattering", "everything", "shape", steering=(1,), changed=True, ranks="1+ = ="),
    _("ScatterND", "scattering", "everything", "shape", steering=(1,), changed=True, ranks="1+ 1+"),
    _("TensorScatter", "scattering", "everything", "shape", steering=(1,), changed=True),
    _("Resize", "resizing", "resize", "axes", negative="as", steering=(1, 2, 3), sizes=(1, 2, 3), changed=True,
      ranks="1+", computes="resize"),
    _("Upsample", "resizing", "resize", "axes", negative="as", steering=(1,), sizes=(1,), changed=True, ranks="1+"),
    _("GridSample", "resizing", "entry", channels="kept", negative="as", changed=True, ranks="3+ ="),
    _("AffineGrid", "resizing", sizes=(1,), ranks="3 1"),
    _("Col2Im", "movement", ranks="3 1 1"),
    # --- what picks some of many ---
    _("TopK", "selection", "top_k", "axes", steering=(1,), changed=True, ranks="1+", computes="top_k", trained="*"),
    _("Compress", "selection", moves="places", negative="as", steering=(1,)),
    _("NonMaxSuppression", "selection", changed=True, ranks="3 3"),
    _("NonZero Unique", "selection", changed=True),
    # --- shapes, control, signals ---
    _("Shape Size", "shape", "nothing"),
    _("ConstantOfShape", "constant", sizes=(0,), computes="full"),
    _("RandomNormalLike RandomUniformLike Bernoulli", "random", "everything", "shape", changed=True),
    _("RandomNormal RandomUniform Multinomial", "random", changed=True),
    _("EyeLike", "constant", "everything", "shape", computes="eye"),
    _("Constant", "constant", changed=True, computes="constant"),
    _("Range", "constant", numbers=(0, 1, 2), sizes=(0, 1, 2), computes="arange"),
    _("OneHot", "constant", numbers=(1,), sizes=(1,)),
    _("If", "control flow", numbers=(0,), changed=True, computes="branch"),
    _("Loop", "control flow", numbers=(0, 1), sizes=(0, 1), changed=True, computes="loop"),
    _("Scan", "control flow", changed=True),
    _("SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength", "sequence",
      changed=True),
    _("ConcatFromSequence SequenceMap SplitToSequence", "sequence", changed=True),
    _("Optional OptionalGetElement OptionalHasElement", "sequence", changed=True),
    _("DFT", "signal", sizes=(1,), changed=True, ranks="2+ . ."),
    _("STFT", "signal", changed=True, ranks="2+ . 1 ."),
    _("Det", "determinant"),
)  # fmt: skip


class Spelling(NamedTuple):
    """A fused, quantised or contributed operator, seen as the standard one that moves data as it does.

    of              the standard operator; "" where none moves data so
    places          where it has that operator's data and weights; scales and zero points are left out
    scale           the input that is the scale of a quantised result; its zero point is the next one
    parameters      the inputs to look for weights at, where `places` leaves some out
    family          its kind, where it does more than `of`
    domain          "ort" com.microsoft, "onnx" the standard's own, "both"
    channels_last   by definition, whatever its attributes say
    real            its result is floating point though its data are integers
    """

    of: str
    places: tuple[int, ...] = ()
    scale: int | None = None
    parameters: tuple[int, ...] = ()
    family: str = ""
    domain: str = "ort"
    channels_last: bool = False
    real: bool = False


_S = Spelling
#: As the standard and ONNX Runtime's ContribOperators.md define them.
SPELLINGS: Final[dict[str, Spelling]] = {
    "QLinearConv": _S("Conv", (0, 3, 8), scale=6, domain="both"),
    "QLinearMatMul": _S("MatMul", (0, 3), scale=6, domain="onnx"),
    "ConvInteger": _S("Conv", (0, 1), domain="onnx"),
    "MatMulInteger": _S("MatMul", (0, 1), domain="onnx"),
    "NhwcConv": _S("Conv", (0, 1, 2), channels_last=True),
    "FusedConv": _S("Conv", (0, 1, 2)),
    "NhwcFusedConv": _S("Conv", (0, 1, 2), channels_last=True),
    "NhwcMaxPool": _S("MaxPool", (0,), channels_last=True),
    "QGemm": _S("Gemm", (0, 3, 6), scale=7),
    "FusedGemm": _S("Gemm", (0, 1, 2)),
    "FusedMatMul": _S("MatMul", (0, 1)),
    "FusedMatMulActivation": _S("MatMul", (0, 1)),
    "TransposeMatMul": _S("MatMul", (0, 1)),
    "DynamicQuantizeLSTM": _S("LSTM", (0, 1, 2, 3, 4, 5, 6, 7)),
    "DynamicQuantizeMatMul": _S("MatMul", (0, 1), parameters=(0, 1, 4), real=True),
    "MatMulIntegerToFloat": _S("MatMul", (0, 1), parameters=(0, 1, 6), real=True),
    "QLinearConcat": _S("Concat", scale=0),  # y_scale, y_zero, then (x, scale, zero) for each piece
    "QLinearAdd": _S("Add", (0, 3), scale=6),
    "QLinearMul": _S("Mul", (0, 3), scale=6),
    "QLinearWhere": _S("Where", (0, 1, 4), scale=7),
    "QLinearGlobalAveragePool": _S("GlobalAveragePool", (0,), scale=3),
    "QLinearAveragePool": _S("AveragePool", (0,), scale=3),
    "QLinearLeakyRelu": _S("LeakyRelu", (0,), scale=3),
    "QLinearSigmoid": _S("Sigmoid", (0,), scale=3),
    "QLinearSoftmax": _S("Softmax", (0,), scale=3),
    "QuantizeLinear": _S("QuantizeLinear", (0, 1, 2), scale=1),
    "DequantizeLinear": _S("DequantizeLinear", (0, 1, 2)),
    "Gelu": _S("Relu", (0,)),
    "QuickGelu": _S("Relu", (0,)),
    "FastGelu": _S("Add", (0, 1), family="activation"),  # its optional second input is a bias
    "BiasGelu": _S("Add", (0, 1), family="activation"),
    "BiasAdd": _S("Add", (0, 1, 2)),
    "SkipLayerNormalization": _S("Add", (0, 1), parameters=(0, 1, 2, 3, 4), family="normalisation"),
    "SkipSimplifiedLayerNormalization": _S("Add", (0, 1), parameters=(0, 1, 2, 3), family="normalisation"),
    "QAttention": _S("", parameters=(0, 1, 2), family="attention"),
    "MultiHeadAttention": _S("", family="attention"),
}

TABLE: Final[dict[str, Operator]] = {name: row for row in ROWS for name in row.names.split()}
_UNKNOWN: Final = Operator("", "unknown")


def operator(name: str) -> Operator:
    """The row of a standard operator; one that says nothing where the table has none."""
    return TABLE.get(name, _UNKNOWN)


_COMPUTES: Final = {
    name: word
    for row in ROWS
    if row.computes
    for name, word in zip(row.names.split(), row.computes.split(), strict=True)
}
#: What a standard operator works out of its numbers: `Operator.computes`; None for what is no arithmetic.
computes: Final[Callable[[str], str | None]] = _COMPUTES.get


@functools.cache
def computing(words: str) -> frozenset[str]:
    """The names of the operators that compute one of these."""
    wanted = words.split()
    return frozenset([name for name, word in _COMPUTES.items() if word in wanted])


def operators(where: Callable[[Operator], object]) -> frozenset[str]:
    """The names of the standard operators whose row answers the question with yes."""
    return frozenset(name for name, row in TABLE.items() if where(row))


def family(name: str) -> str:
    """The kind of work of an operator in any spelling: `Operator.family`."""
    spelling = SPELLINGS.get(name)
    if spelling is None:
        return operator(name).family
    return spelling.family or TABLE[spelling.of].family


#: Place by place on all of their inputs, with broadcasting.
POINTWISE: Final = operators(lambda row: row.sees == "place")
#: Place by place on their first input.
OWN: Final = operators(lambda row: row.sees == "own")
#: What the backend ort-training may differentiate.
TRAINED: Final = frozenset({
    name for name, row in TABLE.items() if row.trained == "*" or name in row.trained.split()
})  # fmt: skip
ACTIVATIONS: Final = operators(lambda row: row.family == "activation")
#: The elements of the first input in their order, under another shape at most.
RENAMING: Final = operators(lambda row: row.moves == "form")
#: Elements of the first input: in another order, some of them, or several times.
MOVING: Final = operators(lambda row: row.moves)
#: Their result has the first input's shape; so has that of `POINTWISE` where nothing is broadcast.
SAME_SHAPE: Final = operators(lambda row: row.keeps == "shape")
#: Channels at axis 1, by definition.
MAPS: Final = operators(lambda row: row.channels)
#: ... of which these take axis 0 for the pictures of a batch, and read pictures through one input alone.
BATCH_FIRST: Final = operators(lambda row: row.channels and row.sees not in ("entry", "everything", "unpool"))
#: But for DeformConv, whose places the picture chooses.
CONVOLUTIONS: Final = operators(lambda row: row.sees in ("conv", "conv_transpose"))
#: Convolutions of the standard's domain in all spellings -> where they have their kernel.
KERNEL_AT: Final = {
    **{name: TABLE[name].weights[0] for name in sorted(CONVOLUTIONS)},
    **{name: row.places[1] for name, row in SPELLINGS.items() if row.of == "Conv" and row.domain != "ort"},
}
#: Normalise by numbers of the file, not by the picture's own: a factor and a summand a channel.
BY_STATISTICS: Final = operators(lambda row: row.family == "normalisation" and row.sees == "own")
WEIGHTED: Final = operators(lambda row: row.family in ("convolution", "product"))
#: Products of integers, sums of them: the scales are laid on behind.
INTEGER_SUMS: Final = frozenset(
    {name for name, row in SPELLINGS.items() if row.domain == "onnx" and row.scale is None}
)
#: Give codes of a scale that is one of their inputs, or measured.
QUANTISING: Final = frozenset(
    {name for name, row in SPELLINGS.items() if row.scale is not None} | computing("quantize_measured")
)
#: Slide a window over maps, as wide as `kernel_shape`, `strides` and `pads` say, and no unpooling or spreading.
WINDOWS: Final = operators(lambda row: row.sees in ("conv", "pool"))
POOLS: Final = operators(lambda row: row.family == "pooling")
RECURRENT: Final = operators(lambda row: row.family == "recurrent")
#: What picks some of many: how many, and which, hangs on the picture.
SELECTIONS: Final = operators(lambda row: row.family == "selection")
#: Whose inputs say how large a result becomes, or how often a body runs; and the choice between bodies.
GROWING: Final = operators(lambda row: row.sizes) | {"If"}
#: The elements of the first input in their order, under another shape.
RESHAPING: Final = operators(lambda row: row.sees == "reshape")
RESIZING: Final = operators(lambda row: row.sees == "resize")


def by_scales_alone(name: str, opset: int) -> bool:
    """Whether a resizing knows no sizes, and has its scales as second input: Upsample, and Resize before opset 11."""
    return name == "Upsample" or opset < 11


#: Tell the size of what they read and nothing of its contents.
SHAPE_ONLY: Final = operators(lambda row: row.family == "shape")
#: With bodies: graphs of their own.
CONTROL: Final = operators(lambda row: row.family == "control flow")
GLOBAL_POOLS: Final = operators(lambda row: row.family == "global pooling")
REDUCTIONS: Final = operators(lambda row: row.family == "reduction")
CASTS: Final = operators(lambda row: row.family == "type")
#: Changes nothing but the form or the rounding.
FORM: Final = RENAMING | {"Cast", "DequantizeLinear", "QuantizeLinear", "Transpose"}
#: A number stays the number it is, but for rounding.
VALUE_KEPT: Final = FORM - RESHAPING - {"Transpose", "Dropout"}
