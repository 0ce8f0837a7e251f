"""What the demo's sections show: a function a topic (`topics.py`) runs a technique and gives its pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import onnxviz
from onnxviz.auditing.report.page import Block, Figure, Table, Text
from onnxviz.demo.photos import Stage, write_int8
from onnxviz.figures.grids import Row, rows, side_by_side
from onnxviz.files import png_bytes, write_atomic
from onnxviz.image.io import read
from onnxviz.objectives import logit

# Layers of the bundled network, from shallow to deep, whose channels a reader recognises something in.
_SHALLOW, _MIDDLE, _DEEP = "stem.relu6", "blocks.5.expand.relu6", "head.relu6"
# Channels that like something with a name: faces, text, stars, bricks, coins; cats, motorcycles, rockets, cups.
_MIDDLE_CHANNELS = (2, 36, 5, 66, 103, 35, 108, 138)
_DEEP_CHANNELS = (4, 398, 1053, 177, 436, 961, 1116, 46)
# Of the gradient methods, one of each kind for the first look.
_FEW = ("saliency", "guided", "smoothgrad-squared", "integrated-gradients", "grad-cam")
# A layer with maps of 14 × 14 places, where the methods still differ; at the last layer, 7 × 7, they are nearly one.
_CAM_LAYER, _CAMS = "blocks.10.add", ("grad-cam", "layercam", "hirescam", "eigencam")
# What these layers know of a photo falls off visibly from one to the next.
_INVERTED = ("blocks.1.expand.relu6", "blocks.5.expand.relu6", "blocks.10.add", "blocks.14.add")
# Classes that a reader knows by their look: things, animals, a place.
_CLASSES = ("volcano", "flamingo", "tiger", "daisy", "balloon", "lemon")
# In front of their ReLU6, which cuts off at 6: there the gradient ends long before the picture is finished.
_FEATURES = (("blocks.5.expand", "middle", _MIDDLE_CHANNELS), ("head", "deep", _DEEP_CHANNELS))
# Where a photo is all texture, of those that are installed: rows and columns, and the side that they are shown at.
_PATCHES = {
    "brick": (slice(128, 256), slice(128, 256), 64),
    "gravel": (slice(128, 256), slice(128, 256), 64),
    "coffee": (slice(300, 364), slice(20, 84), 64),
    "flower": (slice(140, 268), slice(220, 348), 64),
}
_SIDE = 144
# Content and style; and what a photo lends as a style, where its name does not tell.
_PAIRS = (("astronaut", "coffee"), ("china", "ihc"), ("chelsea", "china"), ("flower", "china"))
_STYLES = {"coffee": "coffee and wood", "ihc": "stained tissue"}
_PAINTER = "tissue"
# The int8 file, the photos' crops that it is calibrated on and compared on, and what of its page the demo shows.
_INT8, _CALIBRATED, _COMPARED = "efficientnet-lite0.int8.onnx", 64, 48
_OF_COMPARISON = ("What to do", "Which layer", "What makes the noise", "Where they look")
# Photos that get maps, and crops that are audited: 30 is what all checks without labels need.
_EXPLAINED, _AUDITED = 12, 32


@dataclass(frozen=True)
class Shown:
    """What a section shows beside its words.

    blocks      pictures, tables and listings
    words       fill the text's {names}
    originals   the photos that its command names; none: the subject
    """

    blocks: Sequence[Block] = ()
    words: Mapping[str, object] = field(default_factory=dict)
    originals: Sequence[Path] = ()


def photos(technique: str, count: int, caption: str) -> Callable[[Stage], Shown]:
    """A technique on so many photos; its caption has the photo's {name} and the result's {label}."""

    def make(stage: Stage) -> Shown:
        pictures = []
        for photo in stage.subjects[:count]:
            result = stage.run(technique, photo)
            told = caption.format(name=photo.stem, label=result.label)
            pictures.append(stage.picture(f"{technique}-{photo.stem}.png", result, told))
        return Shown(pictures)

    return make


def inspection(stage: Stage) -> Shown:
    """The layers, as a listing."""
    return Shown([Text(code="\n".join(stage.run("inspect").lines()))])


def predictions(stage: Stage) -> Shown:
    """The best classes of each photo."""
    answers = []
    for photo in stage.subjects:
        best = stage.net.predict(photo, top=3)[0]
        answers.append(", ".join(f"{item.label} {item.probability:.0%}" for item in best))
    return Shown(
        [Table({"photo": [photo.stem for photo in stage.subjects], "most probable classes": answers})]
    )


def filters(stage: Stage) -> Shown:
    """Of the first convolution and of a deeper one."""
    first = "The 32 filters of the first convolution, each on its own scale and all on one."
    deeper = "A deeper convolution (1×1): output channels as rows, input channels as columns."
    return Shown(
        [
            stage.made("filters.png", first, "filters", wide=False),
            stage.made("filters-deeper.png", deeper, "filters", "blocks.1.expand", wide=False),
        ]
    )


def activations(stage: Stage) -> Shown:
    """Of two layers."""
    pictures = []
    for layer, name in ((_SHALLOW, "shallow"), (_MIDDLE, "middle")):
        told = f"Layer {layer}: bright where the channel answers."
        picture = stage.made(f"activations-{name}.png", told, "activations", stage.subject, layer, wide=False)
        pictures.append(picture)
    return Shown(pictures)


def patches(stage: Stage) -> Shown:
    """The overviews of two layers."""
    pictures = []
    for layer, name, channels in ((_MIDDLE, "middle", _MIDDLE_CHANNELS), (_DEEP, "deep", _DEEP_CHANNELS)):
        folder = stage.folder / f"patches-{name}"
        stage.run("patches", stage.crops, layer, channel=channels).save(folder, progress=stage.progress)
        told = f"Layer {layer}: the nine patches that each of eight channels likes best."
        pictures.append(Figure(folder / "overview.png", told))
    return Shown(pictures, words={"count": sum(1 for _ in stage.crops.iterdir())})


def neighbours(stage: Stage) -> Shown:
    """Rows of crops."""
    told = "Queries on the left, then their nearest neighbours with distances."
    return Shown([stage.made("neighbours.png", told, "neighbours", stage.crops, k=7)])


def maps(stage: Stage) -> Shown:
    """By t-SNE and by PCA."""
    methods = {"tsne": "t-SNE", "pca": "PCA"}
    told = "{} of the last hidden layer."
    return Shown(
        [
            stage.made(f"map-{method}.png", told.format(name), "map", stage.crops, method=method)
            for method, name in methods.items()
        ]
    )


def attributions(stage: Stage) -> Shown:
    """A few methods at a glance, and all of them."""
    from onnxviz.attribution.result import Attributions

    paths = stage.subjects[:3]
    # Enough for a picture, and a demo that is done in minutes; the defaults are 25 to 100. With 24 steps the parts of
    # integrated gradients missed their sum by 58 % on one of these photos, with 32 by 6 % at most.
    found = stage.run("attributions", paths, samples=20, steps=32)
    grid = [[next(one for one in row if one.method == name) for name in _FEW] for row in found.grid]
    few = Attributions(
        found.values[:, [found.methods.index(name) for name in _FEW]], found.manifest, grid, found.names
    )
    told = f"{len(found.methods)} methods on {len(paths)} photos, each for the photo's top class."
    return Shown(
        [
            stage.drawn("attributions-few.png", few.picture(), "Five of them at a glance."),
            stage.picture("attributions.png", found, told, wide=True),
        ],
        originals=stage.subjects[:2],
    )


def cams(stage: Stage) -> Shown:
    """Four methods, and the difference of two classes."""
    found = stage.run("attributions", stage.subjects[:3], _CAMS, layers=_CAM_LAYER)
    told = f"Four methods on {_CAM_LAYER}, whose maps have 14×14 places."
    first, second = stage.net.predict(stage.subject, top=2)[0]
    rather = logit(first.index) - logit(second.index)
    one = stage.run("cam", stage.subject, objective=rather, method="hirescam", signed=True)
    one.label = f"{first.label} rather than {second.label}"
    said = f"Red speaks for {first.label!r} against {second.label!r}, blue the other way round."
    return Shown(
        [
            stage.picture("cams.png", found, told, wide=True),
            stage.picture("cam-difference.png", one, said, wide=True),
        ]
    )


def dreams(stage: Stage) -> Shown:
    """Of a layer, of a channel, and guided by another photo."""
    photo = stage.first("china", "coffee")
    guide = stage.first("flower", "coffee", "astronaut")
    pictures = []
    for name, channels, text in (
        ("layer", None, "a whole layer in the middle"),
        ("channel", [3], "one channel of it, which likes eyes and feathers"),
    ):
        steps = 20 if channels else 15
        made = stage.run("dream", photo, "blocks.7.add", channels=channels, size=448, steps=steps)
        rise = min(octave["rise"] for octave in made.manifest["figures"]["octaves"])
        told = f"{photo.stem}: {text}. Its answer rises {rise:.1f}-fold or more at every octave."
        pictures.append(stage.picture(f"dream-{name}.png", made, told))
    made = stage.run("dream", photo, "blocks.8.expand.relu6", guide=guide, size=448, steps=15)
    told = f"{photo.stem}, guided by the features of {guide.stem}."
    return Shown([*pictures, stage.picture("dream-guided.png", made, told)], originals=[photo])


def inversions(stage: Stage) -> Shown:
    """Of four layers."""
    told = "The photo, and what comes back from four layers, shallow to deep."
    return Shown([stage.made("inversion.png", told, "invert", stage.subject, _INVERTED, steps=70)])


def gram_textures(stage: Stage) -> Shown:
    """Of two photos."""
    pictures = []
    names = stage.some("coffee", "hubble_deep_field", "flower", "china")[:2]
    for name in names:
        made = stage.run("texture", stage.photos[name], "gram", size=224, steps=100)
        told = (
            f"The texture of {name}, from noise: the loss fell {made.manifest['figures']['fall']:,.0f}-fold."
        )
        pictures.append(stage.picture(f"texture-{name}.png", made, told))
    return Shown(pictures, originals=[stage.photos[name] for name in names[:1]])


def styles(stage: Stage) -> Shown:
    """Two pairs of photos, each beside what was made of them."""
    pictures = []
    chosen = [pair for pair in _PAIRS if len(stage.some(*pair)) == 2][:2]
    for content, source in chosen:
        paint = _STYLES.get(source, source)
        given = [stage.photos[name] for name in (content, source)]
        made = stage.run("style", *given, size=320, steps=70, scales=2)
        made.save(stage.folder / f"style-{content}.png")
        cards = [
            (read(given[0]), content),
            (read(given[1]), paint),
            (made.image, f"{content} painted in {paint}"),
        ]
        sheet = side_by_side(cards, height=280)
        told = f"{content} in the style of {paint}."
        pictures.append(stage.drawn(f"style-{content}-sheet.png", sheet, told))
    return Shown(pictures, originals=[stage.photos[name] for name in chosen[0]])


def classes(stage: Stage) -> Shown:
    """Six of them."""
    told = "The class's rank and probability when the picture is shown to the network."
    return Shown([stage.made("ascent-classes.png", told, "ascent", target=list(_CLASSES))])


def channels(stage: Stage) -> Shown:
    """Of two layers, those whose best patches the demo shows too."""
    options: dict[str, Any] = {"size": 128, "steps": 128}
    pictures = []
    for layer, name, listed in _FEATURES:
        told = f"Layer {layer}: what eight channels answer to most."
        pictures.append(
            stage.made(f"ascent-{name}.png", told, "ascent", layer=layer, channel=list(listed), **options)
        )
    return Shown(pictures)


def textures(stage: Stage) -> Shown:
    """Three sources and three methods."""
    methods: dict[str, dict[str, Any]] = {"nearest": {}, "quilt": {}, "gram": {"steps": 200}}
    table: list[Row] = []
    for name in stage.some(*_PATCHES)[:3]:
        down, across, side = _PATCHES[name]
        whole = read(stage.photos[name])[down, across]
        source = np.asarray(Image.fromarray(whole).resize((side, side), Image.Resampling.LANCZOS))
        if not table:
            write_atomic(stage.folder / "texture-source.png", png_bytes(Image.fromarray(source)))
        made = [stage.run("texture", source, method, size=_SIDE, **more) for method, more in methods.items()]
        framed = np.full((_SIDE, _SIDE, 3), 255, np.uint8)
        framed[:side, :side] = source
        table.append(Row(name, [framed, *(np.rint(one.values * 255).astype(np.uint8) for one in made)]))
    heads = ["source, to scale", "nearest, pixel by pixel", "quilt, block by block"]
    sheet = rows(table, side=2 * _SIDE, lead=1, heads=[*heads, "Gram matrices of the network, from noise"])
    return Shown(
        [stage.drawn("textures.png", sheet, "A small source, and larger images of the same texture.")]
    )


def fooling(stage: Stage) -> Shown:
    """One photo with a slight change, and all of them within a bound."""
    one = stage.run("fool", stage.subject, target="toaster", confidence=0.9)
    first = one.outcomes[0]
    told = f"From {first.source_label} to {first.target_label}: the two photos look the same."
    several = stage.run("fool", stage.subjects, target="lemon", method="pgd")
    bound = several.manifest["parameters"]["bound"]
    table = Table(
        {
            "photo": [photo.stem for photo in stage.subjects],
            "before": [f"{o.source_label} {o.source_before:.0%}" for o in several.outcomes],
            f"after PGD, {bound:g} of 255": [f"{o.top_label} {o.top_after:.0%}" for o in several.outcomes],
        }
    )
    words = {**several.manifest["figures"], "bound": f"{bound:g}"}
    return Shown([stage.picture("fool.png", one, told, wide=True), table], words=words)


def compared(stage: Stage) -> Shown:
    """The network and its int8 file: the blocks of the comparison's own page."""
    from onnxviz.comparing.page import page

    path = write_int8(stage.net, stage.spread(_CALIBRATED), stage.folder / _INT8)
    other = onnxviz.load(path, provider=stage.net.provider, threads=stage.net.threads)
    found = stage.run("compare", other, stage.spread(_COMPARED))
    found.save(stage.folder / "compared")
    shown = page(found)
    blocks: list[Block] = [Text(" ".join(shown.lead))]
    for section in shown.sections:
        if section.title in _OF_COMPARISON:
            # Of several tables the first: the others are in the report.
            tables = [block for block in section.blocks if isinstance(block, Table)]
            kept = [block for block in section.blocks if block not in tables[1:]]
            blocks += [Text(section.lead, head=section.title), *kept]
    return Shown(blocks)


def album(stage: Stage) -> Shown:
    """The photos as `report` has them: a map to choose from, answers, maps to lay over each."""
    paths = [stage.folder / stage.original(photo) for photo in stage.photos.values()]
    found = stage.run("report", paths, methods=("grad-cam", "smoothgrad"), explained=_EXPLAINED)
    found.save(stage.folder / "report")
    return Shown([Text(head="Photos", text=found.shown().lead), *found.shown().blocks])


def audited(stage: Stage) -> Shown:
    """Verdict and findings of the bundled network, and what every check measured."""
    found = stage.run("audit", stage.spread(_AUDITED))
    found.save(stage.folder / "audited")
    page = found.page()
    blocks: list[Block] = [Text(" ".join(page.lead), head=f"Verdict: {found.verdict}")]
    for one in found.findings:
        blocks.append(Text(f"{one.told}. {one.advice}", head=f"{one.severity}: {one.id}"))
        blocks += [
            Figure(proof.picture, proof.caption) for proof in one.evidence if proof.picture is not None
        ]
    checks = {
        "check": [one.id for one in found.checks],
        "asks": [one.title for one in found.checks],
        "state": [one.state for one in found.checks],
        "measured, or why not": [one.reason or one.figure for one in found.checks],
    }
    links = [f"audited/report.html#check-{one.id}" for one in found.checks]
    return Shown([*blocks, Text(head="Checks"), Table(checks, links={"check": links})])


def painted(stage: Stage) -> Shown:
    """Photos in one row, behind the style."""
    net = onnxviz.load(_PAINTER, provider=stage.net.provider, threads=stage.net.threads)
    cards = [
        (read(stage.photos[name]), "the style\na stained section of tissue") for name in stage.some("ihc")
    ]
    for photo in stage.subjects[:3]:
        result = onnxviz.style_apply(net, photo, size=480)
        result.save(stage.folder / f"painted-{photo.stem}.png")
        cards.append((result.image, photo.stem))
    sheet = side_by_side(cards, height=320)
    return Shown([stage.drawn("painted.png", sheet, "Photos, each painted in one pass.")])
