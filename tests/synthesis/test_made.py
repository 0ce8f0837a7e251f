"""What techniques share that make pictures: what an early end leaves, by Ctrl-C at any step, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import onnxviz
from onnxviz.errors import ImageRejected, UnknownLayer, UsageError
from onnxviz.progress import Interrupted
from tests.synthesis.painted import picture

PHOTO, PAINT = picture(60, 80, seed=1), picture(seed=2)
CLASSES = {"target": [3, 4, 5], "steps": 4, "batch": 1, "size": 32}
TWO = ["class 3", "class 4"], 2


def pictures(made):
    return made.labels, len(made.manifest["figures"]["pictures"])


def octaves(made):
    assert np.abs(made.values - PHOTO / 255).max() > 0.01
    return made.values.shape, len(made.manifest["figures"]["octaves"])


def layers(made):
    return made.layers, [row["steps_done"] for row in made.manifest["figures"]["layers"]]


def steps(made):
    return made.manifest["figures"]["steps_done"]


# The technique, what it is given, the step at which it is stopped, and what is left of it.
ENDED = {
    "ascent": (onnxviz.ascent, [], CLASSES, 6, pictures, TWO),
    "best": (onnxviz.ascent, [], CLASSES | {"steps": 9, "preset": "lecture"}, 10, pictures, TWO),
    "dream": (onnxviz.dream, [PHOTO], {"octaves": 2, "steps": 3}, 4, octaves, ((60, 80, 3), 1)),
    "invert": (
        onnxviz.invert, [PHOTO[:32, :32], ["relu3", "relu10", "relu17"]], {"steps": 5}, 6,
        layers, (["relu3", "relu10"], [5, 2]),
    ),
    "style": (onnxviz.style, [PHOTO, PAINT], {"steps": 30}, 4, steps, 5),
    "texture": (onnxviz.texture, [PAINT], {"size": 32, "steps": 30}, 3, steps, 4),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDED)
def test_ctrl_c_keeps_what_there_is(small, name):
    technique, given, options, at, told, left = ENDED[name]

    def stop(shot):
        if shot.index == at:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        technique(small, *given, **options, watch=stop)
    assert caught.value.partial.manifest["incomplete"] is True
    assert np.isfinite(caught.value.partial.values).all()
    assert told(caught.value.partial) == left


GREY = np.full((40, 40, 3), 90, np.uint8)
# The technique, what it is given, options, and how it says that this makes no sense.
REFUSED = [
    (onnxviz.dream, [PHOTO, "relu11"], {}, UnknownLayer, "did you mean 'relu1"),
    (onnxviz.dream, [PHOTO, "relu10"], {"channels": [16]}, UsageError, "index 16"),
    (onnxviz.dream, [PHOTO, "relu10"], {"channels": []}, UsageError, "at least one"),
    (onnxviz.dream, [PHOTO, "relu10"], {"channels": [1], "guide": PHOTO}, UsageError, "no guide"),
    (onnxviz.dream, [PHOTO, "relu10"], {"octaves": 0}, UsageError, "octaves"),
    (onnxviz.dream, [PHOTO, "relu10"], {"scale": 1.0}, UsageError, "scale"),
    (onnxviz.dream, [PHOTO, "relu10"], {"rate": 0}, UsageError, "rate"),
    (onnxviz.dream, [PHOTO, "relu17"], {"size": 6}, ImageRejected, "too small"),
    (onnxviz.invert, [PAINT, "relu11"], {}, UnknownLayer, "did you mean 'relu1"),
    (onnxviz.invert, [PAINT, []], {}, UsageError, "expected a layer"),
    (onnxviz.invert, [PAINT, "relu3"], {"steps": 0}, UsageError, "steps"),
    (onnxviz.invert, [PAINT, "relu3"], {"tv_weight": -1}, UsageError, "0 or more"),
    (onnxviz.invert, [PAINT, "relu3"], {"beta": 0}, UsageError, "beta"),
    (onnxviz.invert, [PAINT, "relu3"], {"alpha": 0.5}, UsageError, "alpha"),
    (onnxviz.style, [PHOTO, PAINT], {"layers": ["relu15"]}, UnknownLayer, "did you mean 'relu1"),
    (onnxviz.style, [PHOTO, PAINT], {"layers": ["logits"]}, UnknownLayer, "no layer"),
    (onnxviz.style, [PHOTO, PAINT], {"style_weights": [1, 2]}, UsageError, "2 style weights"),
    (onnxviz.style, [PHOTO, PAINT], {"style_weights": [-1]}, UsageError, "0 or more"),
    (onnxviz.style, [PHOTO, PAINT], {"layers": {"relu3": -1}}, UsageError, "0 or more"),
    (onnxviz.style, [PHOTO, PAINT], {"layers": {"relu3": 0}}, UsageError, "weight over 0"),
    (onnxviz.style, [PHOTO, PAINT], {"style_weight": 0}, UsageError, "style weight over 0"),
    (onnxviz.style, [PHOTO, PAINT], {"style_weight": float("nan")}, UsageError, "expected numbers"),
    (onnxviz.style, [PHOTO, PAINT], {"colour": "sepia"}, UsageError, "luminance"),
    (onnxviz.style, [PHOTO, PAINT], {"optimiser": "sgd"}, UsageError, "lbfgs or adam"),
    (onnxviz.style, [PHOTO, PAINT], {"steps": 0}, UsageError, "steps"),
    (onnxviz.style, [PHOTO, PAINT], {"style_scale": 0}, UsageError, "style_scale"),
    (onnxviz.style, [PHOTO, PAINT], {"size": 5}, ImageRejected, "too small"),
    (onnxviz.style, [PHOTO, PAINT], {"gram": "plain"}, UsageError, "uncentred or centred"),
    (onnxviz.style, [PHOTO, []], {}, UsageError, "at least one"),
    (onnxviz.style, [PHOTO, GREY], {}, ImageRejected, "one colour"),
    (onnxviz.texture, [PAINT], {"layers": ["relu11"]}, UnknownLayer, "did you mean"),
    (onnxviz.texture, [PAINT], {"steps": 0}, UsageError, "steps"),
    (onnxviz.texture, [PAINT[:6, :6]], {}, ImageRejected, "too small"),
    (onnxviz.texture, [GREY], {}, ImageRejected, "one colour"),
]


@pytest.mark.parametrize(("technique", "given", "options", "error", "words"), REFUSED)
def test_what_makes_no_sense_is_refused(small, technique, given, options, error, words):
    with pytest.raises(error, match=words):
        technique(small, *given, **options)
