"""Points drawn: where they belong, in colours that every eye tells apart, with names that hide nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxviz.figures import style
from onnxviz.figures.charts import OTHER, PALETTE, Groups, legend, marker, scatter, side_by_side


def places_of(picture, colour, box=None):
    """(n, 2) the pixels (x, y) of exactly this colour."""
    pixels = np.asarray(picture)
    if box is not None:
        pixels = pixels[: box[1], : box[0]]
    return np.argwhere((pixels == np.array(colour)).all(axis=2))[:, ::-1]


def three():
    points = np.array([[0, 0], [4, 0], [0, 3]], np.float32)
    return points, Groups(np.arange(3), ["left", "right", "high"])


def test_points_are_where_they_belong():
    points, groups = three()
    picture = scatter(points, groups, size=(800, 700))
    box = (800, 600)  # above the legend
    left, right, high = (places_of(picture, marker(i)[0], box).mean(axis=0) for i in range(3))
    assert right[0] > left[0] + 100
    assert abs(right[1] - left[1]) < 2
    assert high[1] < left[1] - 100  # y points upwards
    assert abs(high[0] - left[0]) < 2
    # One scale for both axes.
    assert (right[0] - left[0]) / 4 == pytest.approx((left[1] - high[1]) / 3, rel=0.01)


def test_a_colour_and_a_shape_for_each_of_many_groups():
    marks = [marker(number) for number in range(2 * len(PALETTE))]
    assert len(set(marks)) == len(marks)
    assert marker(-1) == (OTHER, ())
    # Neighbours in the legend differ in both.
    for one, two in itertools.pairwise(marks):
        assert one[0] != two[0]
        assert one[1] != two[1]


# Viénot, Brettel & Mollon 1999: what is left of linear RGB for a reader without red or without green cones.
_PROTANOPE = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
_DEUTERANOPE = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])


@pytest.mark.parametrize(
    "eye", [np.eye(3), _PROTANOPE, _DEUTERANOPE], ids=["all", "protanope", "deuteranope"]
)
def test_colours_differ_for_every_eye(eye):
    linear = (np.array([marker(number)[0] for number in range(7)]) / 255) ** 2.2
    seen = np.clip(linear @ eye.T, 0, 1) ** (1 / 2.2) * 255
    for one, two in itertools.combinations(seen, 2):
        assert np.linalg.norm(one - two) > 35


def test_the_legend_counts_every_point():
    groups = Groups(np.array([0, 0, 1, -1, -1, -1]), ["cat", "dog"], "7 other classes")
    picture = legend(groups, 600)
    for number in (0, 1, -1):
        assert len(places_of(picture, marker(number)[0])) > 20
    without = legend(Groups(np.array([0, 0, 1]), ["cat", "dog"]), 600)
    assert not len(places_of(without, OTHER))


def test_a_name_never_covers_points_of_other_groups():
    random = np.random.default_rng(0)
    crowd = random.uniform(-1, 1, (400, 2)).astype(np.float32)
    of = np.arange(400) % 2
    named = scatter(crowd, Groups(of, ["n" * 20, "m" * 20]), size=(900, 900))
    bare = scatter(crowd, Groups(of, ["", ""]), size=(900, 900))
    for group in (0, 1):
        colour = marker(group)[0]
        assert len(places_of(named, colour, (900, 820))) == len(places_of(bare, colour, (900, 820)))


def test_a_group_on_its_own_is_named_beside_it():
    points = np.repeat([[0.0, 0.0], [5.0, 5.0]], 30, axis=0)
    points += np.random.default_rng(0).normal(size=(60, 2), scale=0.05)
    named = scatter(points, Groups(np.repeat([0, 1], 30), ["wolf", "fox"]), size=(900, 900))
    x, y = places_of(named, style.INK, (900, 840)).T
    for group in (0, 1):
        cx, cy = places_of(named, marker(group)[0], (900, 840)).mean(axis=0)
        assert np.any((np.abs(x - cx) < 40) & (np.abs(y - cy) < 70))


@pytest.mark.parametrize("count", [1, 2, 5000])
def test_any_number_of_points(count):
    points = np.random.default_rng(0).normal(size=(count, 2)).astype(np.float32)
    assert scatter(points).size == (960, 960)


def test_points_in_one_place_or_on_a_line_are_drawn():
    for points in (np.ones((5, 2)), np.stack([np.arange(5), np.zeros(5)], 1), np.full((3, 2), 1e30)):
        picture = scatter(points.astype(np.float32), size=(400, 400))
        assert len(places_of(picture, PALETTE[0])) > 20


def test_the_same_points_give_the_same_picture_and_names_from_strangers_are_harmless():
    points, groups = three()
    assert scatter(points, groups).tobytes() == scatter(points.copy(), groups).tobytes()
    odd = Groups(groups.of, ["\x1b[31mred\u202e", "a" * 500, "日本語 ❤"], "<script>")
    assert scatter(points, odd, axes=("\x00", "é" * 300)).size == (960, 960)


def test_two_pictures_stand_beside_each_other():
    points, groups = three()
    left, right = scatter(points, size=(300, 300)), scatter(points, groups, size=(500, 400))
    both = side_by_side(left, right, "title", "over the left", "over the right")
    assert both.width >= 300 + 500
    columns = places_of(both, marker(0)[0])[:, 0]
    assert columns.min() < 330  # of the left picture
    assert columns.max() > 420  # and of the right one
    assert len(places_of(both, style.INK, (both.width, 60)))
