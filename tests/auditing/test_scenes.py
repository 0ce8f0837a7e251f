"""Crops of one photo are one scene, and marks make none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from onnxviz.auditing.checks.shortcut import regions, scenes
from onnxviz.auditing.subject import made

PART = regions(96, 96)[0]
PHOTOS = made(200, 200, 0, 2)


def crop(photo: np.ndarray, top: int, left: int, edge: int) -> np.ndarray:
    return np.asarray(Image.fromarray(photo[top : top + edge, left : left + edge]).resize((96, 96)))


@pytest.mark.parametrize(
    ("one", "other", "count"),
    [
        ((0, 0, 0, 140), (0, 0, 0, 140), 1),
        ((0, 0, 0, 140), (0, 30, 40, 100), 1),
        ((0, 0, 0, 140), (1, 0, 0, 140), 2),
    ],
    ids=["the same", "cut and resized", "another photo"],
)
def test_what_shows_one_scene(one, other, count):
    views = [crop(PHOTOS[photo], *cut) for photo, *cut in (one, other)]
    assert scenes(views, PART) == scenes(views[::-1], PART) == count


def test_a_mark_that_two_photos_bear_makes_them_no_scene():
    views = [crop(photo, 0, 0, 140).copy() for photo in PHOTOS]
    for view in views:
        view[: 96 // 4, : 96 // 4] = np.indices((24, 24)).sum(axis=0)[..., None] % 7 * 30
    assert scenes(views, PART) == 2
    assert scenes([*views, views[0]], PART) == 2


def test_pictures_without_anything_to_compare_are_different():
    assert scenes([np.full((8, 8, 1), 9, np.uint8)] * 2, PART) == 2
