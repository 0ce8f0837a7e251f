"""Differentiable scalars over layer values, one a picture; they add up and scale.

An objective is maximised; a loss is its negative. `2 * logit(285) - 0.01 * tv()` is an objective again.

Each appends its scalar, (N,), to the graph as operators of the standard domain, so that the gradient is one graph with
the network. Layers are named by their value names; None stands for the input that the gradient is taken by.
"""

from __future__ import annotations

from onnxviz.objectives.base import FED, LOGITS, Objective, Term, class_scores, gram_matrix
from onnxviz.objectives.likeness import gram, match
from onnxviz.objectives.terms import (
    alignment,
    channel,
    direction,
    diversity,
    l2,
    layer,
    logit,
    neuron,
    norm,
    part,
    step,
    tv,
)

__all__ = [
    "FED",
    "LOGITS",
    "Objective",
    "Term",
    "alignment",
    "channel",
    "class_scores",
    "direction",
    "diversity",
    "gram",
    "gram_matrix",
    "l2",
    "layer",
    "logit",
    "match",
    "neuron",
    "norm",
    "part",
    "step",
    "tv",
]
