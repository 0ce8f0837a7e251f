"""The operators of ONNX Runtime that are not ONNX's own, as data: `graph/` does not import onnxruntime.

From `onnxruntime.capi.onnxruntime_pybind11_state.get_all_operator_schema()` of 1.32.0, CPU build; a test compares.
"""

from __future__ import annotations

from typing import Final

DOMAIN: Final = "com.microsoft"

_NAMES: Final = """
    Attention AttnLSTM BeamSearch BiasAdd BiasDropout BiasGelu BiasSoftmax BiasSplitGelu BifurcationDetector
    BitmaskBiasDropout BitmaskDropout BranchwiseRMSNorm CDist CausalConvWithState ComplexMul ComplexMulConj
    ConvStateReplay ConvTransposeWithDynamicPads CropAndResize DecoderAttention
    DecoderMaskedMultiHeadAttention DecoderMaskedSelfAttention DequantizeBFP DequantizeLinear
    DequantizeWithOrder DynamicQuantizeLSTM DynamicQuantizeMatMul DynamicSparseAttention DynamicTimeWarping
    EmbedLayerNormalization EngramGate ExpandDims FastGelu FusedConv FusedGemm FusedMatMul
    FusedMatMulActivation GatedAdd GatedDeltaNet GatedDeltaNetStateReplay GatedRMSNorm
    GatedRelativePositionBias GatherBlockQuantized GatherND GatherPacked Gelu GemmFastGelu GemmFloat8
    GemmaRotaryEmbedding GreedySearch GridSample GroupNorm GroupQueryAttention HyperConnectionLowRankMix
    HyperConnectionPostMix HyperConnectionPreMix Inverse Irfft IsAllFinite LinearAttention LinearAttentionGate
    LongformerAttention MRotaryEmbedding Mamba2Verify MatMulBlockQuantizedFp4Weight
    MatMulBlockQuantizedFp8Weight MatMulBnb4 MatMulFpQ4 MatMulInteger16 MatMulIntegerToFloat MatMulNBits
    MatMulNBitsMlp MatMulNBitsQLoRA MatMulNBitsQkv MatMulPacked MaxpoolWithMask MoE MoEGroupRouter MoEPacked
    MulInteger MultiHeadAttention MurmurHash3 NGramHashMapping NGramRepeatBlock NhwcConv NhwcFusedConv
    NhwcMaxPool PackedAttention PackedMultiHeadAttention PackedSparseAttentionIndexer
    PackedSparseAttentionIndexerMerge Pad PagedAttention QAttention QEmbedLayerNormalization QGemm QLinearAdd
    QLinearAveragePool QLinearConcat QLinearConv QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul
    QLinearReduceMean QLinearSigmoid QLinearSoftmax QLinearWhere QMoE QOrderedAttention QOrderedGelu
    QOrderedLayerNormalization QOrderedLongformerAttention QOrderedMatMul QuantizeBFP QuantizeLinear
    QuantizeWithOrder QuickGelu RMSNormRotary Range ReduceSumInteger RelativePositionBias RemovePadding
    RestorePadding Rfft RotaryEmbedding RouterGateUpProj SampleOp Sampling ScaledSiLU SkipGroupNorm
    SkipLayerNormalization SkipSimplifiedLayerNormalization SparseAttention SparseAttentionIndexer
    SparsePagedAttention SparseToDenseMatMul SpeculativePrefixCommit SwiGLU Tokenizer TorchEmbedding
    TransposeMatMul Trilu UnfoldTensor Unique VarlenCausalConvWithState VarlenNGramHashMapping
    WhisperBeamSearch WordConvEmbedding
"""
#: Operators of the domain com.microsoft.
MICROSOFT: Final = frozenset(_NAMES.split())

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
