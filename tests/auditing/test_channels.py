"""What channels look for, on a report's page: the best places in the photos, and pictures that are made."""

from __future__ import annotations

import numpy as np
import pytest

import onnxviz
from onnxviz.auditing.channels import look
from onnxviz.errors import UnknownLayer, UnsupportedOperator, UsageError
from onnxviz.features.patch_pictures import cut
from onnxviz.progress import silent

LAYER = "blocks.3.expand"


def test_the_channels_that_stand_out_most_with_their_patches(net, photo_files) -> None:
    (found,) = look(net, photo_files, [LAYER], 3, False, 0, silent)
    best = onnxviz.patches(net, photo_files, LAYER)
    order = np.argsort(-best.layers[0].standing_out, kind="stable")[:3]
    assert found.channels == order.tolist()
    tiles, _ = cut(best, [(0, int(order[0]), 0)], 96)
    drawn, tile = np.asarray(found.picture), tiles[0, int(order[0]), 0]
    height, width = tile.shape[:2]
    assert any(
        (drawn[y : y + height, x : x + width] == tile).all()
        for y in range(60)
        for x in range(drawn.shape[1] - width)
    )


def test_the_page_has_them_beside_it_and_under_three_megabytes(net, photo_files, tmp_path) -> None:
    layers = [LAYER, "head.relu6"]
    found = onnxviz.report(net, photo_files, look_into=layers, most=2, explained=0)
    text = found.save(tmp_path / "out").read_text("utf-8")
    assert [one.layer for one in found.looked] == layers == found.manifest["parameters"]["look_into"]
    assert (
        'src="photos/figure-002.' in text and len(list((tmp_path / "out" / "photos").glob("figure-*"))) == 2
    )
    assert len(text) < 3_000_000 and "each unit sees the whole picture" in text
    whole = found.save(tmp_path / "one", one_file=True).read_text("utf-8")
    assert "photos/figure" not in whole and whole.count("data:image/") > text.count("data:image/")


def test_a_picture_is_made_for_each_channel_on_request(net, photo_files, monkeypatch) -> None:
    monkeypatch.setattr("onnxviz.auditing.channels._STEPS", 2)
    (without,) = look(net, photo_files[:2], [LAYER], 2, False, 0, silent)
    (found,) = look(net, photo_files[:2], [LAYER], 2, True, 0, silent)
    made = onnxviz.ascent(net, layer=LAYER, channel=found.channels, steps=2, seed=0).pictures()
    assert found.channels == without.channels and found.picture.width > without.picture.width
    assert len(made) == 2 and not found.failed


def test_where_nothing_can_be_made_the_page_says_why(net, photo_files, monkeypatch) -> None:
    def refuse(*_, **__):
        raise UnsupportedOperator("no rule for Loop")

    monkeypatch.setattr("onnxviz.synthesis.ascent.ascent", refuse)
    found = onnxviz.report(net, photo_files[:2], look_into=[LAYER], most=1, visualise=True, explained=0)
    assert len(found.looked) == 1
    assert any("no rule for Loop" in text for text in found.manifest["warnings"])


def test_mistakes_are_told_before_any_work(net, photo_files) -> None:
    with pytest.raises(UnknownLayer, match=r"blocks\.3\.expand"):
        onnxviz.report(net, photo_files, look_into=["blocks.3.expnd"])
    with pytest.raises(UsageError, match="1 or more"):
        onnxviz.report(net, photo_files, look_into=[LAYER], most=0)
