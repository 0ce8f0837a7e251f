"""occlusion, rise, saliency, segment, cam, activations: one picture, several, sheets, pages, what Ctrl-C leaves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import onnxviz
from onnxviz.attribution.methods import of
from tests import toys
from tests.networks import Maker, tiny_cnn

ONE_EACH = {
    "occlusion": "--window 6 --stride 6",
    "rise": "--masks 4 --grid 3",
    "segment": "--method saliency",
    "activations": "--layer features",
}
# Parameters of the manifest, by the options that say them.
ONE = [
    (
        "occlusion TOY photos/0.png --window 4x6 --stride 4x3 --fill mean --target green",
        {"window": [6, 4], "stride": [3, 4], "target": 1, "label": "green", "fill": "mean"},  # height, width
    ),
    (
        "rise TOY photos/0.png --layer features -c 0 --neuron 5,9 --masks 9 --grid 3 --seed 3",
        {"label": "features, channel 0 at (5, 9)", "seed": 3},
    ),
    (
        "saliency TOY photos/0.png --method integrated-gradients --steps 4 --baseline grey --target green "
        "--percentile 95",
        {
            "method": "integrated-gradients",
            "target": 1,
            "label": "green",
            "steps": 4,
            "baseline": "grey",
            "percentile": 95,
        },
    ),
    ("segment TOY photos/0.png --method saliency -t red", {"method": "saliency", "label": "red"}),
    (
        "cam TINY large/0.png --target 'thing 3' --layer relu1 --signed",
        {"method": "grad-cam", "target": 3, "label": "thing 3", "layers": ["relu1"], "signed": True}
        | {"align": "stretch"},
    ),
    (
        "cam TINY large/0.png --objective 'logit(3) - logit(4)' --align field -m hirescam",
        {"target": None, "align": "field", "method": "hirescam"},
    ),
]


@pytest.mark.parametrize(("line", "parameters"), ONE, ids=[line.split(" -")[0] for line, _ in ONE])
def test_picture_values_and_manifest(line, parameters, shell) -> None:
    said = shell(f"{line} --json -o map.png")
    assert said.code == 0, said.err
    command, network, *_ = line.split()
    manifest = said.json["manifest"]
    assert said.json["schema"] == f"onnxviz.{command}/1"
    assert {name: manifest["parameters"][name] for name in parameters} == parameters
    assert "objective" not in line or "logit(3)" in manifest["parameters"]["label"]
    assert shell.manifest("map") == manifest
    values = shell.values("map")
    assert values.shape == ((12, 12) if network == "TOY" else (32, 32))
    assert command != "segment" or set(np.unique(values)) == {0.0, 1.0}
    assert "masks" not in line or manifest["figures"]["masks"] == 9
    assert Image.open("map.png").mode == "RGB"


def test_known_maps(shell) -> None:
    """An objective as text, and a neuron."""
    assert (
        shell(
            "saliency TOY photos/0.png -m gradient -o a.png --objective \"logit('red') - 2 * logit(1)\""
        ).code
        == 0
    )
    np.testing.assert_allclose(shell.values("a")[5, 7], -1 / 1024, rtol=1e-5)
    assert shell("saliency TOY photos/0.png --layer features -c 0 --neuron 5,9 -o b.png").code == 0
    assert np.argwhere(shell.values("b")).tolist() == [[5, 9]]


def test_what_is_odd_about_a_map_is_said(shell) -> None:
    """A score that no pixel moves."""
    m = Maker()
    x = m("Conv", "image", m.constant(np.ones((2, 3, 1, 1), np.float32)), m.constant([-9e9, -9e9]))
    off = m("Flatten", m("GlobalAveragePool", m("Relu", x)))
    Path("off.onnx").write_bytes(m.model({"image": ("N", 3, 8, 8)}, {off: ("N", 2)}).SerializeToString())
    said = shell("saliency off.onnx photos/0.png --preprocess unit -o o.png")
    assert said.code == 0 and "zero everywhere" in said.err
    assert shell("segment off.onnx photos/0.png --preprocess unit -o s.png").code == 3


# --- several ---------------------------------------------------------------------------------------


@pytest.fixture
def photos(things) -> Path:
    """A folder of two pictures of one name and one that is broken."""
    Path("mine/deep").mkdir(parents=True)
    shutil.copy(things / "photos" / "0.png", "mine/a.png")
    shutil.copy(things / "photos" / "1.png", "mine/deep/a.png")
    Path("mine/broken.png").write_bytes(b"\x89PNG")
    return Path("mine")


@pytest.mark.parametrize("command", ONE_EACH)
def test_several_pictures_give_a_file_each_as_if_alone(command, shell, photos) -> None:
    said = shell(f"{command} TOY mine {ONE_EACH[command]} --json -o out/")
    assert said.code == 0
    names = [f"{command}-a", f"{command}-a-2"]
    assert said.json["out"] == [f"out/{name}.png" for name in names]
    assert "broken.png" in said.json["skipped"][0]["path"] and "broken.png" in said.err
    assert sorted(os.listdir("out")) == sorted(
        f"{name}{end}" for name in names for end in (".json", ".npy", ".png")
    )
    assert shell(f"{command} TOY mine/deep/a.png {ONE_EACH[command]} -o one.jpg").code == 0
    assert Image.open("one.jpg").format == "JPEG"
    np.testing.assert_array_equal(shell.values("one"), shell.values(f"out/{names[1]}"))


def test_where_no_picture_can_be_read_it_is_refused(shell, photos) -> None:
    for name in ("a.png", "deep/a.png"):
        (photos / name).write_bytes(b"")
    said = shell("occlusion TOY mine -o out/")
    assert said.code == 3 and "none of the 3 pictures" in said.err


def test_a_sheet_of_pictures_methods_and_targets(shell, photos) -> None:
    said = shell(
        "saliency TOY mine -m saliency -m smoothgrad -m grad-cam --samples 2 -t red -t green -o sheet.png"
    )
    assert said.code == 0 and "broken.png" in said.err
    manifest = shell.manifest("sheet")
    assert shell.values("sheet").shape == (2, 3, 12, 12) and len(manifest["skipped"]) == 1
    assert [(one["name"], one["label"]) for one in manifest["figures"]["pictures"]] == [
        ("a", "red"),
        ("a", "green"),
    ]
    line = "cam TINY large -m grad-cam -m score-cam -l relu1 -l pool -t 1 -t 'thing 2' -o cam.png"
    assert shell(line).out == "cam.png\n"
    manifest = shell.manifest("cam")
    listed = manifest["figures"]["pictures"]
    assert shell.values("cam").shape == (2, 2, 32, 32)
    assert [(one["name"], one["label"]) for one in listed] == [("0", "thing 1"), ("1", "thing 2")]
    assert set(listed[0]["methods"]) == {"grad-cam", "score-cam"}
    assert [one["path"] for one in manifest["pictures"]] == [
        str(shell.things / "large" / f"{i}.png") for i in (0, 1)
    ]


def test_a_sheet_is_of_one_size_and_of_the_methods_of_its_command(shell) -> None:
    assert shell("cam TINY large/0.png -m all -o all.png").code == 0
    assert shell.manifest("all")["parameters"]["methods"] == list(of("cam"))
    for others in ("", "-m grad-cam"):
        told = shell(f"cam TINY large/0.png {others} -m no-cam").err.rpartition("there are ")[2]
        assert told.strip().split(", ") == list(of("cam"))
    Path("free.onnx").write_bytes(tiny_cnn(size="S").SerializeToString())
    Image.new("RGB", (40, 36), "red").save("b.png")
    said = shell("cam free.onnx large/0.png b.png --resize keep -o kept.png")
    assert said.code == 2 and "different sizes" in said.err


def test_many_pictures_of_a_sheet_are_pages(tmp_path) -> None:
    """A hundred photos in one sheet were a strip of 23,695 pixels."""
    found = onnxviz.attributions(toys.load(), [toys.photo(i) for i in range(20)], ["saliency", "gradient"])
    found.save(tmp_path / "s.png")
    pages = sorted(tmp_path.glob("*.png"))
    assert [path.name for path in pages] == ["s-2.png", "s-3.png", "s.png"]
    assert np.load(tmp_path / "s.npy").shape == (20, 2, 12, 12)
    assert all(max(Image.open(path).size) < 5_000 for path in pages)


def test_in_python_a_list_gives_a_list_and_the_picture_may_be_given_by_its_keyword() -> None:
    net, photos = toys.load(), [toys.photo(0), toys.photo(1)]
    for technique, options in (
        (onnxviz.occlusion, {"window": 6, "stride": 6}),
        (onnxviz.rise, {"masks": 4, "grid": 3}),
        (onnxviz.activations, {"layer": "features"}),
    ):
        several = technique(net, photos, **options)
        assert isinstance(several, list)
        for one, photo in zip(several, photos, strict=True):
            np.testing.assert_array_equal(one.values, technique(net, image=photo, **options).values)
    with pytest.raises(TypeError):
        onnxviz.activations(net, layer="features")
    assert [one.target for one in onnxviz.occlusion(net, photos, target=[1, 0], window=6)] == [1, 0]
    with pytest.raises(onnxviz.errors.UsageError, match="3 targets for 2 pictures"):
        onnxviz.occlusion(net, photos, target=[1, 0, 1])


@pytest.mark.parametrize(("command", "method"), [("saliency", "smoothgrad"), ("cam", "grad-cam")])
def test_a_page_with_each_map_over_its_photo(shell, command, method) -> None:
    assert shell(f"{command} TOY photos --method {method} -o sheet.html").code == 0
    text = Path("sheet.html").read_text("utf-8")
    assert text.count('<details class="photo') == text.count(f'data-method="{method}"') == 2 and ">1<" in text
    assert "default-src 'none'" in text and "http" not in text.replace("http-equiv", "")
    assert shell.manifest("sheet")["written"][0] == "*.html"
    assert {"sheet.png", "sheet.npy"} <= {*os.listdir()}
    assert (
        shell(f"{command} TOY photos/0.png --method {method} -o sheet.html").code == 0
    )  # one takes its place
    text = Path("sheet.html").read_text("utf-8")
    assert text.count('<details class="photo') == 1
    assert f'title="{shell.things / "photos" / "0.png"}"' in text  # called as its file, not as its class


# --- Ctrl-C ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "run", "done"),
    [
        ("occlusion TOY photos/0.png --window 4 --stride 4 --batch 3 --threads 1", 3, {"windows_done": 5}),
        ("rise TOY photos/0.png --masks 30 --grid 3 --batch 3 --threads 1", 3, {"masks_done": 5}),
        (
            "saliency TOY photos/0.png -m smoothgrad --batch 1",
            4,
            {"samples_done": 2},
        ),  # the first is the class
    ],
)
def test_ctrl_c_keeps_what_is_done_and_exits_130(line, run, done, shell, interrupt) -> None:
    interrupt(run)
    said = shell(f"{line} -o map.png")
    manifest = shell.manifest("map")
    assert said.code == 130 and "incomplete" in said.err
    assert manifest["incomplete"] is True and manifest["figures"].items() >= done.items()
    assert shell.values("map").any() and "map.png" in os.listdir()
