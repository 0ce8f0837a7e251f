"""Which operators a model may use, and how many inputs, outputs and which attributes each of them takes.

Allowed are ONNX's own operators as the installed `onnx` package knows them (ai.onnx, ai.onnx.ml), those of ONNX
Runtime's domain com.microsoft, and what the model itself defines as functions. ONNX Runtime's stand here as data, since
`graph/` does not import onnxruntime: from `onnxruntime.capi.onnxruntime_pybind11_state.get_all_operator_schema()` of
1.32.0, CPU build; a test compares. The walks over a parsed model stand here, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final, cast

import onnx
from onnx.defs import SchemaError

from onnxviz.errors import ModelRejected, near
from onnxviz.text import quoted

ML: Final = "ai.onnx.ml"
MICROSOFT: Final = "com.microsoft"
#: The newest version of each domain's operators that is known here.
NEWEST: Final[dict[str, int]] = {
    "": onnx.defs.onnx_opset_version(),
    ML: onnx.defs.onnx_ml_opset_version(),
    MICROSOFT: 1,
}
#: ONNX Runtime guarantees to run operators from this version on.
OLDEST: Final = 7
_ANY_NUMBER: Final = 2**31 - 1
# Name, its inputs (. needed, ? may be left out, * any number, one at least), the attributes that it needs.
_CONTRIBUTED: Final = """
    Attention:..?????:num_heads AttnLSTM:...???????????
    BeamSearch:..?..???????:decoder,eos_token_id,pad_token_id BiasAdd:... BiasDropout:..??? BiasGelu:..
    BiasSoftmax:..:is_inner_broadcast BiasSplitGelu:.. BifurcationDetector:...? BitmaskBiasDropout:..???
    BitmaskDropout:.?? BranchwiseRMSNorm:.? CDist:.. CausalConvWithState:..?? ComplexMul:..
    ComplexMulConj:.. ConvStateReplay:.... ConvTransposeWithDynamicPads:..?? CropAndResize:....
    DecoderAttention:.....???....:num_heads DecoderMaskedMultiHeadAttention:.??????????:num_heads
    DecoderMaskedSelfAttention:...?.?.??:num_heads DequantizeBFP:...:bfp_type DequantizeLinear:..?
    DequantizeWithOrder:..:order_input,order_output,to DynamicQuantizeLSTM:...?????....
    DynamicQuantizeMatMul:...?? DynamicSparseAttention:.??????....?????????:kv_num_heads,num_heads
    DynamicTimeWarping:. EmbedLayerNormalization:.?..?..?? EngramGate:.....? ExpandDims:.. FastGelu:.?
    FusedConv:..?? FusedGemm:..? FusedMatMul:.. FusedMatMulActivation:..:activation GatedAdd:...?
    GatedDeltaNet:.?????????? GatedDeltaNetStateReplay:.... GatedRMSNorm:...
    GatedRelativePositionBias:......?:num_heads GatherBlockQuantized:...? GatherND:..
    GatherPacked:..:K,packed_type Gelu:. GemmFastGelu:..? GemmFloat8:..???? GemmaRotaryEmbedding:.....
    GreedySearch:..?????:decoder,eos_token_id,pad_token_id GridSample:.. GroupNorm:...:activation,groups
    GroupQueryAttention:.????..??????????:kv_num_heads,num_heads
    HyperConnectionLowRankMix:.....??:num_branches HyperConnectionPostMix:...? HyperConnectionPreMix:..
    Inverse:. Irfft:.:signal_ndim IsAllFinite:* LinearAttention:...???:kv_num_heads,q_num_heads
    LinearAttentionGate:...? LongformerAttention:.......:num_heads,window
    MRotaryEmbedding:....:mrope_section Mamba2Verify:..........:heads,n_groups
    MatMulBlockQuantizedFp4Weight:....?? MatMulBlockQuantizedFp8Weight:...??
    MatMulBnb4:...:K,N,block_size,quant_type MatMulFpQ4:... MatMulInteger16:.. MatMulIntegerToFloat:....???
    MatMulNBits:...???:K,N,block_size MatMulNBitsMlp:.??..?..?:K,N,activation,block_size
    MatMulNBitsQLoRA:.......:K,N MatMulNBitsQkv:.?...?..?..?:K,Nkv,Nq,block_size
    MatMulPacked:..?:K,N,packed_type MaxpoolWithMask:.. MoE:...?.??? MoEGroupRouter:..?:top_k
    MoEPacked:...?.?:down_type,gate_type MulInteger:.?.? MultiHeadAttention:.?????????:num_heads
    MurmurHash3:. NGramHashMapping:...????:max_ngram_size,n_head_per_ngram,pad_id
    NGramRepeatBlock:..:ngram_size NhwcConv:..? NhwcFusedConv:..?? NhwcMaxPool:.:kernel_shape
    PackedAttention:.....?:num_heads PackedMultiHeadAttention:.???..?:num_heads
    PackedSparseAttentionIndexer:.?......????..?.??????:compress_ratio,policy_mode,state_capacity
    PackedSparseAttentionIndexerMerge:...????:max_output_entries,policy_mode Pad:..?
    PagedAttention:.??.?...?????????:kv_num_heads,num_heads QAttention:.....????:num_heads
    QEmbedLayerNormalization:.?..?..?..?....?.. QGemm:......??? QLinearAdd:..?..?.?
    QLinearAveragePool:..?.?:kernel_shape QLinearConcat:..*:axis QLinearConv:........?
    QLinearGlobalAveragePool:..... QLinearLeakyRelu:..?.? QLinearMul:..?..?.?
    QLinearReduceMean:..?.?:axes,keepdims QLinearSigmoid:..?.? QLinearSoftmax:..?..:opset
    QLinearWhere:......... QMoE:...??.???????????????
    QOrderedAttention:..............??.???:num_heads,order_input,order_output,order_weight QOrderedGelu:...
    QOrderedLayerNormalization:...?.
    QOrderedLongformerAttention:..............:num_heads,order_global_weight,order_input,order_output,order_weight,window
    QOrderedMatMul:.....???:order_A,order_B,order_Y QuantizeBFP:.:bfp_type QuantizeLinear:..?
    QuantizeWithOrder:..:order_input,order_output QuickGelu:. RMSNormRotary:.....?:rotary_embedding_dim
    Range:..? ReduceSumInteger:.:axes,keepdims RelativePositionBias:...:max_distance RemovePadding:..
    RestorePadding:.. Rfft:. RotaryEmbedding:.... RouterGateUpProj:..:router_size SampleOp:.
    Sampling:..???????:decoder,eos_token_id,pad_token_id ScaledSiLU:.? SkipGroupNorm:....?:activation,groups
    SkipLayerNormalization:...?? SkipSimplifiedLayerNormalization:...?
    SparseAttention:.??......??:kv_num_heads,num_heads,sparse_block_size
    SparseAttentionIndexer:.?....?.??????:compress_ratio,policy_mode
    SparsePagedAttention:.??.....?..???????????:kv_num_heads,num_heads SparseToDenseMatMul:..
    SpeculativePrefixCommit:....... SwiGLU:.? Tokenizer:.:mark,mincharnum,pad_value TorchEmbedding:..??
    TransposeMatMul:.. Trilu:.? UnfoldTensor:.:size Unique:. VarlenCausalConvWithState:...?.???
    VarlenNGramHashMapping:....??????:max_ngram_size,n_head_per_ngram,pad_id
    WhisperBeamSearch:..?..??????????:decoder,eos_token_id,pad_token_id WordConvEmbedding:....
"""
#: Operators of the domain com.microsoft, which ONNX has no description of: their inputs, the attributes that they need.
CONTRIBUTED: Final = {name: rest for name, *rest in (row.split(":") for row in _CONTRIBUTED.split())}

#: Operators of com.microsoft that make their kernel open a file or load a library that the model names.
REFUSED: Final = {
    "EPContext": "it makes ONNX Runtime open a compiled file that the model names",
    "Snpe": "it runs a program for another accelerator, packed into the model",
}

#: Operators that ONNX Runtime still has in ONNX's own domain: experiments of before opset 10, the fused
#: normalisation that it writes when it saves an optimised model. With the first opset that lacks them.
LEGACY: Final[dict[str, int]] = {
    "Affine": 10,
    "Crop": 10,
    "DynamicSlice": 10,
    "GRUUnit": 10,
    "GivenTensorFill": 10,
    "ImageScaler": 10,
    "ParametricSoftplus": 10,
    "Scale": 10,
    "ScaledTanh": 10,
    "SimplifiedLayerNormalization": 1 << 30,
    "ThresholdedRelu": 10,
}

#: What a domain stands for that a model may use but not bring along.
FOREIGN: Final = {
    "com.microsoft.nchwc": "ONNX Runtime saved this model after fitting it to one processor",
    "com.ms.internal.nhwc": "ONNX Runtime saved this model after fitting it to one accelerator",
    "ai.onnx.contrib": "it is ONNX Runtime Extensions' domain, whose operators are code in a library of their own",
    "ai.onnx.preview.training": "it is for training",
    "org.pytorch.aten": "PyTorch could not translate this operator when it exported the model",
    "aten": "PyTorch could not translate this operator when it exported the model",
    "trt.plugins": "it is TensorRT's domain",
    "mmdeploy": "its operators are code in mmdeploy's own library",
}

#: Attributes of ONNX's own operators that say yes or no -> whether ONNX Runtime takes 1 alone for yes, or all but 0.
FLAGS: Final[dict[str, bool]] = {
    **dict.fromkeys(
        ("allowzero", "ceil_mode", "keepdims", "largest", "noop_with_empty_axes", "sorted"), True
    ),
    **dict.fromkeys(
        (
            "align_corners", "count_include_pad", "input_forget", "inverse", "layout", "onesided",
            "select_last_index", "transA", "transB", "upper",
        ),
        False,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Signature:
    """What one operator takes and gives.

    inputs, outputs   (fewest, most)
    needed            the inputs that must not be left out, by place: their names in ONNX's description
    many              the place from which on inputs are several of one kind, none of which may be left out; or None
    attributes        type by name (`onnx.AttributeProto.AttributeType`); None where any may be given
    required          the attributes that must be given
    """

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    needed: dict[int, str]
    many: int | None
    attributes: dict[str, int] | None
    required: frozenset[str]


def normal(domain: str) -> str:
    """The domain by its short name: '' for 'ai.onnx'."""
    return "" if domain == "ai.onnx" else domain


@cache
def _known(domain: str) -> frozenset[str]:
    names = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.domain == domain}
    return frozenset(names)


def signature(domain: str, op: str, version: int, where: str) -> Signature | None:
    """What the operator takes; None where it is known by name only (newer opsets, old experiments).

    domain    as `normal` gives it
    version   of the operator set that the model imports for the domain
    where     the node, for the message
    raises    ModelRejected naming domain and operator when there is no such operator
    """
    if domain == MICROSOFT:
        if op in REFUSED:
            raise ModelRejected(f"{where}: {REFUSED[op]}, so models with {domain}.{op} are not opened")
        if op not in CONTRIBUTED:
            raise ModelRejected(_unknown(domain, op, where, CONTRIBUTED.keys()))
        return _contributed(op)
    if domain not in ("", ML):
        raise ModelRejected(
            f"{where}: the operator {quoted(op)} is of the domain {quoted(domain)}, which is not one of ai.onnx, "
            f"ai.onnx.ml and com.microsoft, and the model does not define it as a function; "
            f"{FOREIGN.get(domain, 'it needs code that onnxviz does not load')}"
        )
    found = _signature(domain, op, min(version, NEWEST[domain]))
    if isinstance(found, Signature):
        return found if version <= NEWEST[domain] else None
    if not domain and version < LEGACY.get(op, 0):
        return None
    if found is not None:
        raise ModelRejected(f"{where}: opset {version} has no {quoted(op)} any more ({found})")
    if op in _known(domain):
        raise ModelRejected(
            f"{where}: the operator {quoted(op)} is newer than opset {version}, which the model says it is written in"
        )
    raise ModelRejected(_unknown(domain or "ai.onnx", op, where, _known(domain)))


def is_operator(domain: str, op: str, version: int) -> bool:
    """Whether there is an operator of this name in this version of the domain (as `normal` gives it)."""
    if domain == MICROSOFT:
        return op in CONTRIBUTED
    return domain in NEWEST and isinstance(_signature(domain, op, min(version, NEWEST[domain])), Signature)


@cache
def description(domain: str, op: str, version: int) -> onnx.defs.OpSchema | None:
    """ONNX's own description of an operator; None where there is none of this name in this version."""
    try:
        return onnx.defs.get_schema(op, min(version, NEWEST.get(domain, version)), domain)
    except (SchemaError, TypeError, ValueError):
        return None


@cache
def _contributed(op: str) -> Signature:
    places, *required = CONTRIBUTED[op]
    several = places.find("*")
    fewest = max(places.rfind("."), several) + 1
    return Signature(
        (fewest, _ANY_NUMBER if several >= 0 else len(places)),
        (1, _ANY_NUMBER),
        {place: f"of {len(places)}" for place, kind in enumerate(places) if kind == "."},
        several if several >= 0 else None,
        None,
        frozenset(required[0].split(",")) if required else frozenset(),
    )


@cache
def _signature(domain: str, op: str, version: int) -> Signature | str | None:
    """The signature; or why the operator is no more; or None where there is none of this name."""
    schema = description(domain, op, version)
    if schema is None:
        return None
    if schema.deprecated:
        return f"deprecated since {schema.since_version}"
    attributes = {name: int(cast(Any, attribute.type).value) for name, attribute in schema.attributes.items()}
    options = onnx.defs.OpSchema.FormalParameterOption
    several = [place for place, each in enumerate(schema.inputs) if each.option == options.Variadic]
    return Signature(
        (schema.min_input, schema.max_input),
        (schema.min_output, schema.max_output),
        {place: each.name for place, each in enumerate(schema.inputs) if each.option == options.Single},
        several[0] if several else None,
        attributes,
        frozenset(name for name, attribute in schema.attributes.items() if attribute.required),
    )


def _unknown(domain: str, op: str, where: str, known: Iterable[str]) -> str:
    return f"{where}: there is no operator {quoted(op)} in the domain {domain}{near(op[:100], sorted(known))}"


def check_call(signature: Signature, node: onnx.NodeProto) -> None:
    """Hold a node against its operator's signature; inputs left out at its end are dropped.

    raises   ModelRejected
    """
    for kind, given, (fewest, most) in (
        ("inputs", list(node.input), signature.inputs),
        ("outputs", list(node.output), signature.outputs),
    ):
        # What is left out at the end is not there; but a Loop's condition is one of the two that it needs.
        while len(given) > (fewest if kind == "inputs" else 0) and not given[-1]:
            given.pop()
        if not fewest <= len(given) <= most:
            upper = "" if fewest == most else f" to {most}" if most < _ANY_NUMBER else " or more"
            raise ModelRejected(f"{label(node)} has {len(given)} {kind}; its operator has {fewest}{upper}")
    for place, name in enumerate(node.input):
        if not name and (
            place in signature.needed or (signature.many is not None and place >= signature.many)
        ):
            called = f" ({signature.needed[place]})" if place in signature.needed else ""
            raise ModelRejected(
                f"the {label(node)} leaves out its input {place + 1}{called}, which its operator needs"
            )
    # ONNX Runtime 1.32 dies of some.
    while len(node.input) > signature.inputs[0] and not node.input[-1]:
        del node.input[-1]
    names = set()
    for attribute in node.attribute:
        names.add(attribute.name)
        if signature.attributes is None:
            continue
        expected_type = signature.attributes.get(attribute.name)
        if expected_type is None:
            raise ModelRejected(
                f"{label(node)} has an attribute {quoted(attribute.name)} that its operator does not have"
                f"{near(attribute.name[:100], signature.attributes)}"
            )
        if attribute.type != expected_type and not attribute.ref_attr_name:
            kinds = onnx.AttributeProto.AttributeType
            raise ModelRejected(
                f"{label(node)}: the attribute {quoted(attribute.name)} is of the type {kinds.Name(attribute.type)}, "
                f"expected {kinds.Name(expected_type)}"
            )
    if missing := signature.required - names:
        raise ModelRejected(f"{label(node)} lacks its attribute {quoted(min(missing))}")


@lru_cache(maxsize=4096)
def tensor_type(dtype: int, shape: tuple[int | None, ...] | None) -> bytes:
    """A tensor's type as ONNX writes it."""
    kind = onnx.TypeProto()
    kind.tensor_type.elem_type = dtype
    if shape is not None:
        kind.tensor_type.shape.SetInParent()
    for size in shape or ():
        dim = kind.tensor_type.shape.dim.add()
        if size is not None and size >= 0:  # of others ONNX's inference of a Slice ends the process
            dim.dim_value = size
    return kind.SerializeToString()


# --- a parsed model: its subgraphs, and every place where tensors can be ---------------------------

#: Characters of a name or an entry that a module path is read from.
LONGEST: Final = 10_000
_Attribute = onnx.AttributeProto
_HOLDERS: Final = frozenset(
    {
        _Attribute.TENSOR,
        _Attribute.TENSORS,
        _Attribute.SPARSE_TENSOR,
        _Attribute.SPARSE_TENSORS,
        _Attribute.GRAPH,
        _Attribute.GRAPHS,
    }
)
#: Where tensors can be: a graph (its weights) or an attribute of a node, and what it is called in messages.
Place = tuple[onnx.GraphProto | onnx.AttributeProto, str]


def subgraphs(attribute: onnx.AttributeProto) -> Iterable[onnx.GraphProto]:
    """The graphs in one attribute; mostly none. One that refers to its function's attribute has nothing of its own."""
    if attribute.ref_attr_name:
        return ()
    if attribute.type == _Attribute.GRAPH:
        return (attribute.g,)
    return attribute.graphs if attribute.type == _Attribute.GRAPHS else ()


def graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The main graph and every subgraph, those in functions too."""
    yield model.graph
    for body in (model.graph, *model.functions):
        yield from _below(body.node)


def _below(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in nodes:
        for attribute in node.attribute:
            for graph in subgraphs(attribute):
                yield graph
                yield from _below(graph.node)


def places(model: onnx.ModelProto) -> Iterator[Place]:
    """Every graph, and every attribute of a node that may hold tensors, in subgraphs and functions too."""
    yield from _in_graph(model.graph)
    for function in model.functions:
        for attribute in function.attribute_proto:
            yield from _in_attribute(attribute, f"a default of the function {quoted(function.name)}")
        for node in function.node:
            yield from _in_node(node)


def _in_graph(graph: onnx.GraphProto) -> Iterator[Place]:
    yield graph, "the weight"
    for node in graph.node:
        yield from _in_node(node)


def _in_node(node: onnx.NodeProto) -> Iterator[Place]:
    for attribute in node.attribute:
        if attribute.type in _HOLDERS and not attribute.ref_attr_name:
            yield from _in_attribute(attribute, f"{quoted(attribute.name)} of the {label(node)}")


def _in_attribute(attribute: onnx.AttributeProto, what: str) -> Iterator[Place]:
    yield attribute, what
    for graph in subgraphs(attribute):
        yield from _in_graph(graph)


def tensors(
    place: onnx.GraphProto | onnx.AttributeProto, what: str
) -> Iterator[tuple[onnx.TensorProto, str]]:
    """The dense tensors that lie in one place itself, with what each is called in messages."""
    if isinstance(place, onnx.GraphProto):
        for tensor in place.initializer:
            yield tensor, f"{what} {quoted(tensor.name)}"
    elif place.type == _Attribute.TENSOR:
        yield place.t, what
    elif place.type == _Attribute.TENSORS:
        for tensor in place.tensors:
            yield tensor, what


def label(node: onnx.NodeProto) -> str:
    """How a node is called in messages: its operator and its name, or its first output where it has none."""
    if node.name:
        return f"{quoted(node.op_type)} node {quoted(node.name)}"
    return f"{quoted(node.op_type)} node that makes {quoted(next(iter(node.output), ''))}"
