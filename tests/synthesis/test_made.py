"""What techniques share that make pictures: what an early end leaves, by Ctrl-C at any step, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import onnxviz
from onnxviz.progress import Interrupted
from onnxviz.synthesis.texture import gram_texture
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
    "texture": (gram_texture, [PAINT], {"size": 32, "steps": 30}, 3, steps, 4),
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
