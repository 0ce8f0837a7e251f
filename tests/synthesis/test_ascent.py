"""Class and feature visualisation: presets, several pictures at once, figures, files, early ends, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import onnxviz
from onnxviz.errors import (
    GradientNotFinite,
    LimitExceeded,
    ModelUnsuitable,
    UnknownLabel,
    UnknownLayer,
    UsageError,
)
from onnxviz.runtime.ort import Resident
from onnxviz.synthesis.ascent import page_bytes
from onnxviz.synthesis.presets import PRESETS, recipe
from tests import networks


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.startswith("yosinski")])
def test_yosinskis_rates_suit_trained_networks(net, preset: str) -> None:
    made = onnxviz.ascent(net, target=980, preset=preset, steps=20, size=96)
    (row,) = made.manifest["figures"]["pictures"]
    assert row["objective_end"] > row["objective_start"] + 0.5


def test_yosinskis_table_is_the_papers() -> None:
    """Table 1, in grey levels: decay, blur, every, small norm, contribution, iterations, rate or (limit, rise)."""
    table = {
        "yosinski-1": (0, 0.5, 4, 50, 0, 500, (100, 2)),
        "yosinski-2": (0.3, 0, 4, 20, 0, 750, 100),
        "yosinski-3": (1e-4, 1.0, 4, 0, 0, 1000, 100),
        "yosinski-4": (0, 0.5, 4, 0, 90, 1000, (1e8, 2)),
    }
    names = ("decay", "blur_radius", "blur_every", "small_pixels", "small_contributions", "steps")
    for name, (*values, rate) in table.items():
        assert [getattr(PRESETS[name], one) for one in names] == values
        update = PRESETS[name].update()
        if isinstance(rate, tuple):
            found = update.norm, update.most * 255**2, update.rate
            assert found == ("progress", pytest.approx(rate[0]), rate[1])
        else:
            assert (update.norm, update.rate * 255**2) == ("none", pytest.approx(rate))


def test_grey_pictures_are_shown_stretched_and_say_so(tiny, tmp_path) -> None:
    made = onnxviz.ascent(tiny, target=3, preset="yosinski-3", steps=3, deviation=0.5 / 255, rate=1e-6)
    assert made.values.std(axis=(0, 1, 2)).max() < 1 / 255
    (row,) = made.manifest["figures"]["pictures"]
    assert "contrast" in made.captions[0]
    # Stretched by one factor about the mean colour, which becomes middle grey.
    mean = np.array(tiny.preprocessing.mean, np.float32)
    inside = (made.shown > 0) & (made.shown < 1)
    wanted = 0.5 + (made.values.astype(np.float64) - mean) * row["contrast"]
    np.testing.assert_allclose(made.shown[inside], wanted[inside], atol=2e-3)
    assert 0.98 < inside.mean() < 1
    assert made.pictures().std() > 30
    assert made.picture().height > made.values.shape[1]  # with its caption, though there is one only
    # The probability is that of the values, not of what is shown.
    seen = tiny.probabilities(tiny.preprocessing.normalise(made.values * 255))
    assert row["probability"] == pytest.approx(float(seen[0, 3]), rel=1e-4)
    np.testing.assert_array_equal(np.load(made.save(tmp_path / "a.png").with_suffix(".npy")), made.values)
    plain = onnxviz.ascent(tiny, target=3, preset="yosinski-3", steps=3, stretch=False)
    assert plain.shown is None
    assert "contrast" not in plain.manifest["figures"]["pictures"][0]


@pytest.mark.parametrize("preset", ["lucid", "lecture", "simonyan"])
def test_every_preset_raises_the_score(tiny, preset: str) -> None:
    made = onnxviz.ascent(tiny, target=[3, 4], preset=preset, steps=40)
    figures = made.manifest["figures"]["pictures"]
    assert all(row["objective_end"] > row["objective_start"] + 0.1 for row in figures)
    assert [(row["target"], {"clipped", "rank"} <= set(row)) for row in figures] == [(3, True), (4, True)]
    assert len(made.values) == 2
    assert 0 <= made.values.min() < made.values.max() <= 1
    assert made.manifest["parameters"]["recipe"]["steps"] == 40


def test_the_network_recognises_what_was_made_of_a_class(net) -> None:
    """Few steps of each kind; the benchmark takes all of them and shows the picture to another network too."""
    made = onnxviz.ascent(net, target=["volcano"], preset="lecture", steps=40)
    (row,) = made.manifest["figures"]["pictures"]
    assert (row["rank"], made.values.shape) == (1, (1, 224, 224, 3))
    assert row["probability"] > 0.9
    made = onnxviz.ascent(net, target=980, steps=30, size=128, margin=32, redirected=0)
    (row,) = made.manifest["figures"]["pictures"]
    assert row["rank"] <= 5
    assert row["clipped"] < 0.1
    assert made.values.shape == (1, 146, 146, 3)


def test_each_picture_has_its_own_goal_whatever_the_batch(tiny) -> None:
    """Groups of two and three alike: pictures do not depend on their neighbours."""
    options = {"preset": "simonyan", "steps": 5, "target": [1, 7, 3, 5]}
    together = onnxviz.ascent(tiny, batch=4, **options)
    apart = onnxviz.ascent(tiny, batch=3, **options)
    np.testing.assert_allclose(together.values, apart.values, atol=1e-4)
    assert not np.allclose(together.values[0], together.values[1], atol=1e-2)
    assert together.labels == ["class 1", "class 7", "class 3", "class 5"]


# --- layers ---------------------------------------------------------------------------------------


def test_channels_neurons_directions_and_whole_layers(tiny) -> None:
    for goal in (
        {"channel": [2, 9]},
        {"channel": 2, "neuron": (3, 4)},
        {"channel": 2, "neuron": "middle"},
        {"direction": np.arange(16.0), "cosine": 2.0},
        {},
    ):
        made = onnxviz.ascent(tiny, layer="conv2", steps=12, preset="simonyan", **goal)
        rows = made.manifest["figures"]["pictures"]
        assert all(row["objective_end"] > row["objective_start"] for row in rows), goal
        assert "probability" not in rows[0]
    assert len(onnxviz.ascent(tiny, layer="conv2", channel=[2, 9], steps=1).labels) == 2


def test_a_channel_answers_to_its_picture_more_than_the_others(tiny) -> None:
    made = onnxviz.ascent(tiny, layer="conv2", channel=[0, 1, 2, 3], steps=30, preset="simonyan")
    x = tiny.preprocessing.normalise(made.values * 255)
    means = tiny.run(x, ["conv2"])["conv2"].mean(axis=(2, 3))
    assert means[:, :4].argmax(axis=0).tolist() == [0, 1, 2, 3]


def test_copies_differ_more_with_diversity(tiny) -> None:
    def alike(weight: float) -> float:
        made = onnxviz.ascent(
            tiny, layer="relu2", channel=2, copies=3, diversity=weight, steps=40, preset="lucid", jitter=0
        )
        a = tiny.run(tiny.preprocessing.normalise(made.values * 255), ["relu2"])["relu2"]
        rows = a.reshape(3, 16, -1)
        grams = (rows @ rows.swapaxes(1, 2)).reshape(3, -1)
        grams /= np.linalg.norm(grams, axis=1, keepdims=True)
        return float((grams @ grams.T)[np.triu_indices(3, 1)].mean())

    assert alike(20.0) < alike(0.0) - 0.02


def test_channels_last_and_a_batch_of_one() -> None:
    last = onnxviz.load(networks.nhwc(), provider="cpu")
    layer = next(one for one in last.layers if one.channels_last and one.shape[-1] == 16)
    made = onnxviz.ascent(last, layer=layer.name, channel=[0, 15], steps=3)
    assert made.values.shape[0] == 2
    with pytest.raises(UsageError, match="16 channels"):
        onnxviz.ascent(last, layer=layer.name, channel=16)
    one = onnxviz.load(networks.static_batch(), provider="cpu")
    assert onnxviz.ascent(one, target=[1, 2], steps=2).values.shape[0] == 2


# --- what it gives --------------------------------------------------------------------------------


def test_a_page_of_all_channels_links_to_their_patches(tiny, tmp_path) -> None:
    made = onnxviz.ascent(tiny, layer="conv1", channel="all", steps=2, batch=8)
    sheets = tmp_path / "best patches" / "conv1"
    sheets.mkdir(parents=True)
    for channel in (0, 5):
        Image.new("RGB", (4, 4)).save(sheets / f"channel-{channel:04d}.png")
    page = page_bytes(made, tmp_path / "pages" / "all.html", sheets.parent).decode()
    assert (
        len(made.labels) == page.count('<figure id="channel-') == page.count("data:image/webp;base64,") == 8
    )
    assert page.count('href="../best%20patches/conv1/channel-0005.png"') == 2
    assert "channel-0001.png" not in page
    assert "href" not in page_bytes(made, tmp_path / "plain.html").decode()
    with pytest.raises(UsageError, match="no sheets"):
        page_bytes(made, tmp_path / "bad.html", tmp_path / "pages")


def test_what_is_watched(tiny) -> None:
    shots, done = [], []

    def watch(shot):
        shots.append((shot.index, shot.total, set(shot.terms), shot.picture() if shot.index == 5 else None))

    more = {"watch": watch, "progress": lambda *step: done.append(step)}
    onnxviz.ascent(tiny, target=[3, 4, 5], steps=4, batch=2, margin=35, **more)
    assert [shot[:3] for shot in shots] == [(i, 8, {"logit(fed)"}) for i in range(8)]
    assert done[-1] == (8, 8, "steps")
    assert shots[5][3].dtype == np.uint8
    assert shots[5][3].shape == (37, 37, 3)  # the third picture alone
    alone = onnxviz.ascent(tiny, target=3, steps=2).picture()
    assert alone.mode == "RGB"
    assert min(alone.size) >= 200  # 37 pixels would be a stamp


# --- early ends -----------------------------------------------------------------------------------


def test_a_limit_hit_in_the_middle_keeps_what_there_is(tiny, monkeypatch) -> None:
    runs, run = [], Resident.run

    def limited(self, *given):
        runs.append(1)
        if len(runs) == 7:
            raise LimitExceeded("one run took too long")
        return run(self, *given)

    monkeypatch.setattr(Resident, "run", limited)
    with pytest.raises(LimitExceeded) as caught:
        onnxviz.ascent(tiny, target=[3, 4, 5], steps=4, batch=1)
    assert caught.value.partial.manifest["incomplete"] is True
    assert caught.value.partial.labels == ["class 3", "class 4"]


def test_numbers_that_run_away_keep_the_last_good_picture() -> None:
    m = networks.Maker()
    mean = m("ReduceMean", "image", axes=[2, 3], keepdims=0)
    x = m("Neg", m("Log", m("Add", mean, m.constant(np.float32(-0.05)))))
    net = onnxviz.load(m.model({"image": ("N", 3, 8, 8)}, {x: ("N", 3)}), preprocess="unit", provider="cpu")
    values = []
    options = {"preset": "simonyan", "rate": 0.4, "l2": 0, "steps": 20, "size": 8}
    with pytest.raises(GradientNotFinite, match="at step") as caught:
        onnxviz.ascent(net, target=1, **options, watch=lambda shot: values.append(shot.picture()))
    assert caught.value.partial.manifest["incomplete"] is True
    np.testing.assert_array_equal(caught.value.partial.pictures()[0], values[-1])


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, UsageError, "one of target=, layer="),
        ({"target": 30}, UnknownLabel, "30"),
        ({"layer": "conv3", "channel": 0}, UnknownLayer, "conv2"),
        ({"layer": "conv2", "channel": 16}, UsageError, "16 channels"),
        ({"layer": "conv2", "channel": "most"}, UsageError, "'all'"),
        ({"layer": "conv2", "neuron": (1, 1)}, UsageError, "give channel"),
        ({"layer": "conv2", "channel": 1, "neuron": (99, 1)}, UsageError, "length 16"),
        ({"layer": "features", "channel": 1, "neuron": (1, 1)}, UsageError, "no map"),
        ({"target": 3, "preset": "lucit"}, UsageError, "did you mean 'lucid'"),
        ({"target": 3, "ratte": 1}, UsageError, "no option 'ratte'; did you mean 'rate'"),
        ({"target": 3, "rate": -1}, UsageError, "rate is -1"),
        ({"target": 3, "optimiser": "sgd"}, UsageError, "adam or ascent"),
        ({"target": 3, "decay": 0.1}, UsageError, "parametrise='pixels'"),
        ({"target": 3, "copies": 0}, UsageError, "copies"),
        ({"target": 3, "batch": 0}, UsageError, "batch"),
        ({"target": 3, "diversity": 1.0}, UsageError, "give layer"),
    ],
)
def test_refused(tiny, options, error, text: str) -> None:
    with pytest.raises(error, match=text):
        onnxviz.ascent(tiny, steps=options.pop("steps", 1), **options)


def test_a_size_that_the_network_cannot_take() -> None:
    m = networks.Maker(seed=2)
    x = m("Relu", m("Conv", "image", m.random(8, 3, 7, 7)))
    early = m("MaxPool", x, kernel_shape=[3, 3], strides=[3, 3])
    y = m("Gemm", m("Flatten", early), m.random(10, 8 * 8 * 8), transB=1)
    net = onnxviz.load(m.model({"image": ("N", 3, 32, 32)}, {y: ("N", 10)}), provider="cpu")
    with pytest.raises(ModelUnsuitable, match="40×40"):
        onnxviz.ascent(net, target=3, size=40, steps=1)
    made = onnxviz.ascent(net, layer=early, channel=3, size=40, margin=0, steps=1)
    assert made.values.shape == (1, 40, 40, 3)
    with pytest.raises(ModelUnsuitable, match="too small"):
        onnxviz.ascent(net, layer=early, channel=3, size=5, steps=1)


def test_recipes_scale_with_the_size() -> None:
    lucid = recipe("lucid", {"steps": None, "margin": 32, "jitter": 28})
    assert lucid.canvas((224, 224)) == (224 + lucid.margin,) * 2
    assert lucid.canvas((112, 224)) == (112 + lucid.margin // 2, 224 + lucid.margin)
    small, large = (lucid.transforms((side, side))[0].reach for side in (112, 224))
    assert large == 2 * small == lucid.jitter + lucid.margin / 2
    pixels = recipe("lecture", {"margin": 20})
    small, large = (pixels.transforms((side, side))[0].pixels for side in (112, 224))
    assert large == 2 * small == pixels.jitter


@pytest.mark.parametrize("name", ["vgg19", "inception_v1"])
def test_networks_of_others(name: str) -> None:
    """Old opsets, a batch of one, LRN, a fixed head: a class at the network's size, a channel at another."""
    net = onnxviz.load(networks.light(name, width=64), preprocess="imagenet", provider="cpu")
    made = onnxviz.ascent(net, target=[3, 5], steps=3, preset="simonyan", rate=0.001)
    assert all(row["objective_end"] > row["objective_start"] for row in made.manifest["figures"]["pictures"])
    layer = [one.name for one in net.layers if one.op == "Relu"][3]
    made = onnxviz.ascent(net, layer=layer, channel=[0, 1], steps=2, size=64, margin=0)
    assert made.values.shape == (2, 64, 64, 3)
