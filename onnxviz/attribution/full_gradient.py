"""Full-gradient attribution: the input's share of the score, and every bias' share, at every layer."""

from __future__ import annotations

import numpy as np

from onnxviz.attribution.sampled import Found, Job, completeness
from onnxviz.figures.heat import fit
from onnxviz.grad import table
from onnxviz.graph.offsets import offsets


def full_gradient(job: Job) -> Found:
    """The input's shares (input times gradient) and every bias' shares (bias times its cotangent), in one map.

    Srinivas & Fleuret 2019, arXiv:1905.00780. Input and biases together explain the whole score; the figures say how
    far (completeness_error, relative to the score). As in the paper, each layer's shares are taken by magnitude,
    stretched to 0...1, enlarged to the picture and added up over channels and layers. Biases are those of the graph
    with BatchNormalization folded; what a clipped or curved activation adds counts as its bias.

    The map is smooth and shaped like the object, but rests much on the picture's own edges: under random weights it
    hardly changes (correlation 0.75 to 0.98 on the bundled network). It tells where, not why.
    """
    net, x = job.net, job.x
    found = offsets(
        net.batched[0],
        job.aim.objective.layers(net.batched[0], job.source),
        lambda node: not table.is_zero(node.op_type, node.domain),
    )
    layers = [offset.layer for offset in found]
    also = list(dict.fromkeys(name for offset in found for name in offset.needs if name != job.source))
    wrt = [job.source, *(name for name in dict.fromkeys(layers) if name != job.source)]
    run = job.aim.gradients(net, wrt, also=also)
    size = net.batch_size(job.batch)
    last = {layer.name for layer in net.layers if layer.channels_last}
    height, width = job.pictures[0].shape[:2]
    maps, scores, sums = [], [], []
    # Chunk by chunk: the cotangents of every layer of many pictures would fill the memory.
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        arrays = {job.source: x[part]} | run(x[part], job.aim.feeds(np.arange(len(x))[part]), batch=job.batch)
        shares = x[part] * arrays[f"{job.source}.gradient"]
        total = shares.sum(axis=tuple(range(1, x.ndim)), dtype=np.float64)
        layout = net.input.layout
        map_ = _stretched(shares).sum(axis=1 if layout == "NCHW" else 3)  # (n, H, W)
        for offset in found:
            cotangent = arrays[f"{offset.layer}.gradient"]
            shares = offset.read(arrays) * cotangent
            total += shares.sum(axis=tuple(range(1, shares.ndim)), dtype=np.float64)
            if shares.ndim == 4:
                channels = 3 if offset.layer in last else 1
                map_ += np.stack([fit(one, height, width) for one in _stretched(shares).sum(axis=channels)])
        maps.append(map_)
        scores.append(arrays["objective"])
        sums.append(total)
        job.progress(min(start + size, len(x)), len(x), "images")
    score, total = np.concatenate(scores), np.concatenate(sums)
    figures, warnings = completeness(
        total,
        score,
        "input and biases add up to {sum} of a score of {whole} (completeness error {error}): this network has "
        "operators whose offsets are not known (attention, normalisation of each picture, QLinearConv)",
    )
    parameters = {"layers_with_offsets": len(found)}
    return Found(np.concatenate(maps), score, parameters, figures, warnings)


def _stretched(shares: np.ndarray) -> np.ndarray:
    """Magnitudes (n, ...) of one layer as 0...1 for each picture."""
    magnitudes = np.abs(shares)
    axes = tuple(range(1, shares.ndim))
    low = magnitudes.min(axis=axes, keepdims=True)
    span = magnitudes.max(axis=axes, keepdims=True) - low
    result: np.ndarray = (magnitudes - low) / np.where(span > 0, span, 1)
    return result
