"""What is known about a value before the model runs, and what ONNX's own inference adds for one node after the other.

The inference is native code that a stranger's model may crash or hang; it is asked for a node only when
`graph.open.operands` has let that node pass. It knows no operators of ONNX Runtime: of those that move data as a
standard one does (`graph.operators.SPELLINGS`) that one is asked for. Where ONNX Runtime gives other lengths, its
lengths count (`graph.shapes`).
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import onnx

from onnxviz.errors import ModelRejected
from onnxviz.graph.analysis.known_values import COMPUTED, Value, compute, measured
from onnxviz.graph.open.signatures import MICROSOFT, NEWEST, description, label, tensor_type
from onnxviz.graph.operators import (
    POINTWISE,
    POOLS,
    RESIZING,
    SAME_SHAPE,
    SHAPE_ONLY,
    SPELLINGS,
    Spelling,
    by_scales_alone,
    computes,
    computing,
    operator,
)
from onnxviz.graph.shapes import UNGUARDED, pool_lengths, resized_shape
from onnxviz.text import printable

#: Sizes of a shape, None where one depends on the input.
Sizes = tuple[int | None, ...]
#: Values of so many elements are computed: shapes, axes, scales.
MOST_ELEMENTS: Final = 1024
#: NumPy has no arrays of more, and what is asked about each grows with the square where a chain adds them one by one.
MOST_DIMENSIONS: Final = 64


class Known(NamedTuple):
    """What is certain about a value.

    shape      None where not even the rank is known; a size below 0 is what comes of wrong numbers
    value      its elements, where there are few and they follow from constants
    partly     such elements where some of them are not known
    constant   whether it follows from constants alone, so that ONNX Runtime computes it when it loads the model
    dtype      its element type, as ONNX numbers them
    other      the type of what is no tensor: a serialised onnx.TypeProto
    """

    shape: Sizes | None = None
    value: np.ndarray | None = None
    partly: Value | None = None
    constant: bool = False
    dtype: int | None = None
    other: bytes | None = None

    @property
    def least(self) -> int:
        """The fewest elements that it can have, if no size that the input decides is 0."""
        return math.prod(size for size in self.shape if size is not None) if self.shape is not None else 0

    @property
    def elements(self) -> Value | None:
        """What is known of its elements."""
        return self.partly if self.value is None else Value(self.value)

    def holding(self, value: Value) -> Known:
        """It with these elements, where they are few."""
        elements, unsure = value
        if elements.size > MOST_ELEMENTS:
            return self
        if unsure is not None:
            return self._replace(shape=elements.shape, partly=value)
        return self._replace(shape=elements.shape, value=elements, constant=True)

    @property
    def type(self) -> Known:
        """It without its shape and elements."""
        return Known(dtype=self.dtype, other=self.other)


UNKNOWN: Final = Known()


def constant(value: np.ndarray, dtype: int) -> Known:
    """What is known about an array of an element type that NumPy may not have."""
    return Known(value.shape, value if value.size <= MOST_ELEMENTS else None, constant=True, dtype=dtype)


@dataclass
class Call:
    """One node with what is known about its inputs.

    lookup       the elements of a small constant tensor, None for others
    inputs       one an input; None for one left out
    attributes   by name; those that refer to an attribute of the function are already replaced
    version      of the operator set
    outputs      how many it has
    """

    op: str
    lookup: Callable[[onnx.TensorProto], np.ndarray | None]
    inputs: Sequence[Known | None]
    attributes: Mapping[str, onnx.AttributeProto]
    version: int
    outputs: int

    def known(self, place: int) -> Known:
        """The input at `place`; UNKNOWN for one left out."""
        found = self.inputs[place] if place < len(self.inputs) else None
        return UNKNOWN if found is None else found

    def given(self, place: int) -> bool:
        """Whether the input at `place` is not left out."""
        return place < len(self.inputs) and self.inputs[place] is not None

    def shape(self, place: int = 0) -> Sizes:
        """The shape of an input.

        raises   Unsure when it is not known
        """
        shape = self.known(place).shape
        if shape is None:
            raise Unsure
        return shape

    def value(self, place: int) -> np.ndarray:
        """The elements of an input.

        raises   Unsure when they are not known
        """
        value = self.known(place).value
        if value is None:
            raise Unsure
        return value

    def whole(self, place: int) -> list[int]:
        """The elements of an input as whole numbers, flattened.

        raises   Unsure
        """
        return [int(number) for number in self.value(place).reshape(-1).tolist()]

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute: a number, bytes, a list of these, or the array of a small tensor.

        raises   Unsure when it is a large tensor, or comes from outside a function
        """
        found = self.attributes.get(name)
        if found is None:
            return default
        if found.ref_attr_name:
            raise Unsure
        value = onnx.helper.get_attribute_value(found)
        if isinstance(value, onnx.TensorProto):
            value = self.lookup(value)
            if value is None:
                raise Unsure
        return value if isinstance(value, (int, float, bytes, np.ndarray)) else list(value)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The values of all attributes by name, text as text.

        raises   Unsure
        """
        found = {name: self.attribute(name) for name in self.attributes}
        return {
            name: one.decode(errors="replace") if isinstance(one, bytes) else one
            for name, one in found.items()
        }

    def option(self, place: int, name: str) -> list[int]:
        """Whole numbers that are an input in newer opsets (at `place`) and an attribute in older ones.

        raises   Unsure when they are an input and not known, or nowhere
        """
        if self.given(place):
            return self.whole(place)
        found = self.attribute(name)
        if found is None:
            raise Unsure
        return found if isinstance(found, list) else [found]


class Unsure(Exception):
    """The answer depends on what is not known before the model runs."""


#: What wrong numbers raise; the run would refuse them.
NONSENSE: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, Unsure)


# --- inference --------------------------------------------------------------------------------

# Which elements inference reads: of shapes, axes, scales.
_READ: Final = frozenset({np.dtype(kind) for kind in (np.int32, np.int64, np.float32, np.float64, np.bool_)})
# Where it is wrong and ONNX Runtime runs the node: functions of ONNX's own whose bodies its inference misunderstands.
_WRONG_ABOUT: Final = computing("layer_norm") | {"MeanVarianceNormalization"}
# Of before opset 10, without a description: experiments that keep the shape.
_KEEPING: Final = SAME_SHAPE | {"Affine", "ImageScaler", "ParametricSoftplus", "Scale", "ScaledTanh"}
_TWINS: Final = SAME_SHAPE | POINTWISE | computing("conv matmul")
# Of ONNX Runtime, with the name, inputs and attributes of a standard one.
_NAMESAKES: Final = computing("pad arange")
_MENDED: Final = POOLS | RESIZING | computing("broadcast_to arange reshape") | {"MaxUnpool", "STFT"}
# Inputs that are lengths, one after the other: the standard wants a vector.
_LENGTHS: Final = frozenset({("full", 0), ("broadcast_to", 1)})
_LONGEST: Final = 400
_TAG: Final = re.compile(r"\[(Shape|Type)InferenceError\] ?")


def infer(call: Call, node: onnx.NodeProto, judging: bool) -> list[Known]:
    """What is known about a node's outputs; [] where nothing is.

    call      of `node`, with what is known about its inputs
    judging   whether the node is refused where it contradicts itself
    raises    ModelRejected naming the node
    """
    found = _inferred(call, node, judging)
    if not found and call.op in _KEEPING:
        found = [call.known(0).type._replace(shape=call.known(0).shape)]
    if not found:
        return found
    if not [known for known in call.inputs if known is not None and not known.constant]:
        found = [one._replace(constant=True) for one in found]
    if call.op in _MENDED:
        with contextlib.suppress(*NONSENSE):
            shape = _mended(call, found[0].shape)
            # The indices of a MaxPool have its result's shape.
            found = [
                one._replace(shape=shape) if not i or call.op in POOLS else one for i, one in enumerate(found)
            ]
    values: Sequence[Value | None] = ()
    if call.op in COMPUTED and found[0].least <= MOST_ELEMENTS:
        inputs = [None if known is None else known.elements for known in call.inputs]
        if all(value or known is None for value, known in zip(inputs, call.inputs, strict=True)):
            with contextlib.suppress(Unsure):
                values = compute(call.op, inputs, call.settings, call.outputs)
    elif call.op in SHAPE_ONLY and call.known(0).shape is not None:
        with contextlib.suppress(Unsure):
            values = [measured(call.op, call.shape(0), call.settings)]
    for place, (known, value) in enumerate(zip(found, values, strict=False)):
        if value is not None and _agree(known.shape, value.elements.shape):
            found[place] = known.holding(value)
    return found


def _agree(shape: Sizes | None, other: Sizes) -> bool:
    return shape is None or (
        len(shape) == len(other) and all(a in (None, b) for a, b in zip(shape, other, strict=True))
    )


def _inferred(call: Call, node: onnx.NodeProto, judging: bool) -> list[Known]:
    """What ONNX says of the node, or of the standard operator that moves data as it does."""
    if call.op in UNGUARDED:
        return []
    asked, inputs, version = node, list(call.inputs), call.version
    if node.domain == MICROSOFT:
        twin = SPELLINGS.get(call.op)
        if call.op in _NAMESAKES:
            twin = Spelling(call.op, (0, 1, 2))
        elif twin is None or twin.of not in _TWINS or not twin.places or call.attribute("channels_last", 0):
            return []
        judging, version = False, NEWEST[""]
        read = 1 if twin.of in SAME_SHAPE else 3 if call.op in _NAMESAKES else 2
        places = [place for place in twin.places if call.given(place)][:read]
        inputs = [_transposed(call, place) for place in places]
        names = [str(place) for place in places]  # one value may be read in two ways
        asked = _node(call, twin.of, names, node.output[:1], "", description("", twin.of, version))
    elif [one for one in node.attribute if one.ref_attr_name]:
        asked = _node(call, call.op, node.input, node.output, node.domain)
    schema = description(asked.domain, asked.op_type, version)
    if schema is None:
        return []
    types, data, sure = _given(call.op, asked.input, inputs)
    try:
        given = _asked(schema, asked, types, data, version)
    except MemoryError:
        raise
    except Exception as error:  # it has no error of its own for what its C++ throws
        if judging and sure and call.op not in _WRONG_ABOUT:
            reason = printable(_TAG.sub("", str(error)).strip(), _LONGEST)
            raise ModelRejected(f"the {label(node)} does not fit its inputs: {reason}") from None
        return []
    results = [_read(given[name]) if name in given else UNKNOWN for name in node.output]
    return results if sure else [Known(one.shape) for one in results]


def _node(
    call: Call,
    op: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    domain: str = "",
    schema: onnx.defs.OpSchema | None = None,
) -> onnx.NodeProto:
    """The node with the attributes that are known, and that `schema` has."""
    asked = onnx.NodeProto(op_type=op, domain=domain, input=inputs, output=outputs)
    for name, attribute in call.attributes.items():
        if not attribute.ref_attr_name and (schema is None or name in schema.attributes):
            asked.attribute.add().CopyFrom(attribute)
            asked.attribute[-1].name = name  # a function's own may be called otherwise
    return asked


def _asked(schema: onnx.defs.OpSchema, node: onnx.NodeProto, types: Any, data: Any, version: int) -> Any:
    """What ONNX says of a node's outputs: {name: bytes of a TypeProto}, of inputs in such bytes.

    `onnx.shape_inference.infer_node_outputs` parses what was serialised for it, so what it calls is called itself
    where this onnx has it.
    """
    imports = {node.domain: version}
    if (infer := getattr(schema, "_infer_node_outputs", None)) is not None:
        return infer(node.SerializeToString(), types, data, {}, imports, onnx.IR_VERSION)
    found = onnx.shape_inference.infer_node_outputs(
        schema,
        node,
        {name: onnx.TypeProto.FromString(one) for name, one in types.items()},
        {name: onnx.TensorProto.FromString(one) for name, one in data.items()},
        opset_imports=[onnx.helper.make_opsetid(node.domain, version)],
        ir_version=onnx.IR_VERSION,
    )
    return {name: one.SerializeToString() for name, one in found.items()}


def _given(
    op: str, names: Sequence[str], inputs: Sequence[Known | None]
) -> tuple[dict[str, bytes], dict[str, bytes], bool]:
    """The types of the inputs and the elements of small ones, by name; and whether all the types are known.

    One that is not known is taken for that of another input.
    """
    types: dict[str, bytes] = {}
    data: dict[str, bytes] = {}
    sure = True
    row = operator(op)
    reading = row.keeps != "shape" and row.sees != "place" and not row.weights
    for place, (name, known) in enumerate(zip(names, inputs, strict=True)):
        if not name or known is None:
            continue
        if known.other is not None:
            types[name] = known.other
            continue
        dtype = known.dtype
        if dtype is None:
            sure = False
            dtype = next((one.dtype for one in inputs if one and one.dtype), onnx.TensorProto.FLOAT)
        shape = known.shape
        if shape == (1,) and place in row.numbers:  # ONNX Runtime takes it for the number in it
            shape = ()
        elif known.value is not None and (computes(op), place) in _LENGTHS:  # ... and a shape of any rank
            shape = (known.value.size,)
        types[name] = tensor_type(dtype, shape)
        value = known.value
        if reading and value is not None and value.dtype in _READ and len(dims := shape or ()) < 2:
            lengths = [size for size in dims if size is not None]
            tensor = onnx.TensorProto(dims=lengths, data_type=dtype, raw_data=value.tobytes())
            data[name] = tensor.SerializeToString()
    return types, data, sure


def _transposed(call: Call, place: int) -> Known | None:
    """An input, with its last axes exchanged where FusedMatMul reads it so."""
    known, name = call.known(place), ("transA", "transB")[place > 0]
    if known.shape is None or len(known.shape) < 2 or not call.attribute(name, 0):
        return known
    return known._replace(shape=(*known.shape[:-2], known.shape[-1], known.shape[-2]))


@lru_cache(maxsize=4096)
def _read(content: bytes) -> Known:
    kind = onnx.TypeProto.FromString(content)
    if kind.WhichOneof("value") != "tensor_type":
        return Known(other=content)
    dims = kind.tensor_type.shape.dim
    shape = tuple([dim.dim_value if dim.HasField("dim_value") else None for dim in dims])
    known = kind.tensor_type.HasField("shape")
    return Known(shape if known else None, dtype=kind.tensor_type.elem_type or None)


# --- where ONNX Runtime knows better, or ONNX tells less than is certain ------------------------


def _mended(call: Call, shape: Sizes | None) -> Sizes | None:
    """The shape of the first output.

    raises   whatever wrong numbers make Python raise
    """
    if call.op in POOLS:
        return (*call.shape(0)[:2], *(None if n is None or n < 0 else n for n in windows(call)))
    if call.op in RESIZING:
        right = resized_shape(call.shape(0), call.settings, *_factors(call))
        return tuple(one if one is not None or shape is None else shape[i] for i, one in enumerate(right))
    if computes(call.op) == "reshape" and (wanted := call.known(1).partly) is not None:
        before, keeping = call.known(0).shape, not call.attribute("allowzero", 0)
        lengths = np.where(False if wanted.unsure is None else wanted.unsure, -1, wanted.elements).tolist()
        kept = [before[i] if keeping and before and not size else size for i, size in enumerate(lengths)]
        return tuple(size if size is not None and size > -keeping else None for size in kept)
    if computes(call.op) == "arange":  # ONNX counts in 64 bits
        start, limit, step = (call.value(place).reshape(-1)[0].item() for place in range(3))
        return (max(math.ceil((limit - start) / step), 0),)
    if call.op == "STFT":  # ONNX does not halve the frequencies
        return None
    if operator(call.op).sees == "unpool" and call.given(2):
        return tuple(call.whole(2))
    if (
        computes(call.op) == "broadcast_to" and call.known(0).shape is None
    ):  # the shape given is still the least
        return tuple(None if size == 1 else size for size in call.whole(1))
    return shape


def windows(call: Call) -> list[int | None]:
    """How many windows a pool has along each axis; 0 or less where none fits in."""
    return pool_lengths(call.shape(0)[2:], call.settings)


def _factors(call: Call) -> tuple[list[Any], list[Any]]:
    """The scales and the sizes that a Resize or Upsample is given; [] for none.

    raises   Unsure
    """
    old = by_scales_alone(call.op, call.version)
    places = {"scales": 1} if old else {"scales": 2, "sizes": 3}
    given = {
        name: call.value(place).reshape(-1).tolist()
        for name, place in places.items()
        if call.given(place) and call.known(place).shape != (0,)
    }
    return given.get("scales") or call.attribute("scales") or [], given.get("sizes") or []
