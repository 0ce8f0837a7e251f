"""Gradient rules of Gemm and MatMul."""

from __future__ import annotations

from typing import Any

from onnxviz.grad.backward import rank_of, unbroadcast
from onnxviz.grad.forms import shared
from onnxviz.grad.table import vjp
from onnxviz.graph.tape import array


@vjp("Gemm")
def gemm(op, g, y, a, b, c=None, *, alpha, beta, transA, transB):
    """alpha·A'B' + beta·C, each factor against the other's transpose."""
    scaled = op.Mul(g, alpha) if alpha != 1.0 else g

    def to_a():
        other, sign = (op.Neg(b), -1.0) if shared(op, b) else (b, None)
        if transA:
            return op.Gemm(other, scaled, transA=transB, transB=1, alpha=sign)
        return op.Gemm(scaled, other, transB=1 - transB, alpha=sign)

    def to_b():
        other, sign = (op.Neg(a), -1.0) if array(a) is not None and shared(op, a) else (a, None)
        if transB:
            return op.Gemm(scaled, other, transA=1, transB=transA, alpha=sign)
        return op.Gemm(other, scaled, transA=1 - transA, alpha=sign)

    return to_a, to_b, lambda: unbroadcast(op, op.Mul(g, beta) if beta != 1.0 else g, c, y)


@vjp("MatMul")
def matmul(op, g, y, a, b):
    """g·Bᵀ and Aᵀ·g over the last two axes; vectors are matrices of one row or column; batch axes broadcast."""
    rank_a, rank_b = rank_of(a), rank_of(b)
    full = g
    if rank_b == 1:
        full = op.Unsqueeze(full, [-1])
    if rank_a == 1:
        full = op.Unsqueeze(full, [-2])

    def to_a():
        other = op.Unsqueeze(b, [0]) if rank_b == 1 else _transposed(op, b, rank_b)
        if rank_a == 1:  # the row of every batch element, summed
            rows = op.MatMul(full, other)
            return op.ReduceSum(rows, list(range(max(rank_b, 2) - 1)), keepdims=0)
        return _summed(op, op.MatMul(full, other), a, y, rank_a, rank_b)

    def to_b():
        other = op.Unsqueeze(a, [1]) if rank_a == 1 else _transposed(op, a, rank_a)
        if rank_b == 1:
            columns = op.Squeeze(op.MatMul(other, full), [-1])
            return (
                op.ReduceSum(columns, list(range(max(rank_a, 2) - 2)), keepdims=0) if rank_a > 2 else columns
            )
        return _summed(op, op.MatMul(other, full), b, y, rank_b, rank_a)

    return to_a, to_b


def _transposed(op: Any, value: Any, rank: int) -> Any:
    return op.Transpose(value, perm=[*range(rank - 2), rank - 1, rank - 2])


def _summed(op: Any, g: Any, x: Any, y: Any, rank: int, other: int) -> Any:
    """Sum the batch axes that x was broadcast along."""
    if other <= 2:  # the other factor has no batch axes
        return g
    return unbroadcast(op, g, x, y, keep=2)
