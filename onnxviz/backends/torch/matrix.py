"""Matrix products."""

from __future__ import annotations

from typing import Any

import torch

from onnxviz.backends.torch.table import operator

operator("MatMul")(torch.matmul)
operator("Det")(torch.linalg.det)


@operator("Gemm")
def gemm(
    a: Any,
    b: Any,
    c: Any = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    broadcast: int = 1,
) -> Any:
    """alpha·A·B + beta·C."""
    y = (a.T if transA else a) @ (b.T if transB else b)
    y = y if alpha == 1.0 else alpha * y
    return y if c is None else y + (c if beta == 1.0 else beta * c)


@operator("Einsum")
def einsum(*xs: Any, equation: str) -> Any:
    """Any sum of products, repeated indices (diagonals) and ellipses included."""
    return torch.einsum(equation.replace(" ", ""), *xs)


@operator("FusedMatMul", domain="com.microsoft")
def fused_matmul(
    a: Any,
    b: Any,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Any:
    """alpha·A·B; a transposed batch axis is the first one, moved behind the second last."""
    a = a.movedim(0, -2) if transBatchA else a
    b = b.movedim(0, -2) if transBatchB else b
    return alpha * ((a.mT if transA else a) @ (b.mT if transB else b))
