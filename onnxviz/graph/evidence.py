"""What names say about a row of numbers: whether they are the scores of classes, or quantities of their own."""

from __future__ import annotations

import re
from collections.abc import Iterable

_CLASSES = frozenset({
    "categories", "category", "class", "classes", "classification", "classifier", "classify", "cls", "label", "labels",
    "logit", "logits", "prob", "probabilities", "probability", "probs", "softmax"
})  # fmt: skip
_QUANTITIES = frozenset({
    "age", "ages", "angle", "angles", "arousal", "bbox", "bboxes", "boundingbox", "box", "boxes", "coord",
    "coordinate", "coordinates", "coords", "corners", "count", "counts", "delta", "deltas", "density", "depth",
    "descriptor", "descriptors", "distance", "embed", "embedding", "embeddings", "encoding", "euler", "feat", "feats",
    "feature", "features", "gaze", "height", "heights", "joints", "keypoint", "keypoints", "kpt", "kpts", "landmark",
    "landmarks", "latent", "loc", "locations", "mos", "offset", "offsets", "pitch", "pose", "poses", "position",
    "positions", "price", "quality", "quat", "quaternion", "reg", "regress", "regression", "regressions",
    "regressor", "roll", "rotation", "speed", "steering", "temperature", "translation", "valence", "vertices", "xy",
    "xywh", "xyxy", "xyz", "yaw"
})  # fmt: skip
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def words(name: str) -> list[str]:
    """The words of a name: 'fc_bboxPred.weight' has fc, bbox, pred and weight, in small letters."""
    return [word.lower() for word in _WORD.findall(name)]


def of_classes(names: Iterable[str]) -> str | None:
    """The word by which one of these names speaks of classes."""
    return _first(names, _CLASSES)


def of_quantities(names: Iterable[str]) -> str | None:
    """The word by which one of these names speaks of measured quantities or features, and not of their classes."""
    return _first((name for name in names if not _CLASSES.intersection(words(name))), _QUANTITIES)


def _first(names: Iterable[str], wanted: frozenset[str]) -> str | None:
    return next((word for name in names for word in words(name) if word in wanted), None)
