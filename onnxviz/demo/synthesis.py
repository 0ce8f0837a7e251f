"""The demo's sections on pictures that are made: by ascent, dreams, inversions, textures, styles and fooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from onnxviz.demo.page import Picture, Section
from onnxviz.demo.photos import Stage
from onnxviz.figures.grids import Row, rows, side_by_side
from onnxviz.files import png_bytes, write_atomic
from onnxviz.image.io import read

# Layers of the bundled network: what they know of a photo falls off visibly from one to the next.
_INVERTED = ("blocks.1.expand.relu6", "blocks.5.expand.relu6", "blocks.10.add", "blocks.14.add")


def dreams(stage: Stage) -> Section:
    """DeepDream"""
    import onnxviz

    photo = next((stage.photos[name] for name in ("china", "coffee") if name in stage.photos), stage.subject)
    pictures = []
    for name, layer, channels, text in (
        ("layer", "blocks.7.add", None, "a whole layer in the middle"),
        ("channel", "blocks.7.add", [3], "one channel of it, which likes eyes and feathers"),
    ):
        made = onnxviz.dream(
            stage.net,
            photo.path,
            layer,
            channels=channels,
            size=448,
            steps=20 if channels else 15,
            seed=stage.seed,
            progress=stage.progress,
        )
        rise = min(octave["rise"] for octave in made.manifest["figures"]["octaves"])
        path = made.save(stage.file(f"dream-{name}.png"))
        pictures.append(
            Picture(path, f"{photo.name}: {text}. Its answer rises {rise:.1f}-fold or more at every octave.")
        )
    guide = next(
        (stage.photos[name] for name in ("flower", "coffee", "astronaut") if name in stage.photos), photo
    )
    made = onnxviz.dream(
        stage.net,
        photo.path,
        "blocks.8.expand.relu6",
        guide=guide.path,
        size=448,
        steps=15,
        seed=stage.seed,
        progress=stage.progress,
    )
    pictures.append(
        Picture(
            made.save(stage.file("dream-guided.png")),
            f"{photo.name}, guided by the features of {guide.name}.",
        )
    )
    return Section(
        anchor="dream",
        title="DeepDream",
        question="What does a layer see in a photo, if it may exaggerate?",
        text="Step by step the photo is changed so that a layer answers more, at several sizes from small to large. "
        "What the layer looks for appears where the photo has something like it (Mordvintsev et al. 2015).",
        command=f"onnxviz dream efficientnet-lite0 {stage.original(photo)} --layer blocks.7.add -o dream.png",
        pictures=pictures,
    )


def inversions(stage: Stage) -> Section:
    """Feature inversion"""
    import onnxviz

    made = onnxviz.invert(
        stage.net,
        stage.subject.path,
        _INVERTED,
        steps=70,
        seed=stage.seed,
        progress=stage.progress,
    )
    path = made.save(stage.file("inversion.png"))
    return Section(
        anchor="invert",
        title="Feature inversion",
        question="What does a layer still know of the photo?",
        text="Pictures are sought, from noise, that a layer cannot tell from the photo (Mahendran & Vedaldi 2015). "
        "Early layers keep nearly everything; deep ones know what and roughly where, but no longer how it looked.",
        command=f"onnxviz invert efficientnet-lite0 {stage.original()} --layer blocks.10.add -o inverted.png",
        pictures=[
            Picture(path, "The photo, and what comes back from four layers, shallow to deep.", wide=True)
        ],
    )


def gram_textures(stage: Stage) -> Section:
    """Textures from the network"""
    import onnxviz

    names = [name for name in ("coffee", "hubble_deep_field", "flower", "china") if name in stage.photos][:2]
    pictures = []
    for name in names:
        photo = stage.photos[name]
        made = onnxviz.texture(
            stage.net, photo.path, "gram", size=224, steps=100, seed=stage.seed, progress=stage.progress
        )
        path = made.save(stage.file(f"texture-{name}.png"))
        fall = made.manifest["figures"]["fall"]
        pictures.append(Picture(path, f"The texture of {name}, from noise: the loss fell {fall:,.0f}-fold."))
    return Section(
        anchor="texture-gram",
        title="Textures from the network",
        question="What is left of a photo if only its textures count?",
        text="From noise, a picture is made whose channels go together as those of the photo do, whatever stands where "
        "(Gatys, Ecker & Bethge 2015): Gram matrices of five layers, matched by L-BFGS.",
        command=f"onnxviz texture efficientnet-lite0 {stage.original(photo)} --method gram -o texture.png",
        pictures=pictures,
    )


# What a photo lends as a style, where its name does not tell.
_STYLES = {"coffee": "coffee and wood", "ihc": "stained tissue"}


def styles(stage: Stage) -> Section:
    """Style transfer"""
    import onnxviz

    pairs = (("astronaut", "coffee"), ("china", "ihc"), ("chelsea", "china"), ("flower", "china"))
    chosen = [pair for pair in pairs if pair[0] in stage.photos and pair[1] in stage.photos][:2]
    manner = " ".join(stage.original(stage.photos[name]) for name in chosen[0])
    pictures = []
    for content, source in chosen:
        paint = _STYLES.get(source, source)
        made = onnxviz.style(
            stage.net,
            stage.photos[content].path,
            stage.photos[source].path,
            size=320,
            steps=70,
            scales=2,
            seed=stage.seed,
            progress=stage.progress,
        )
        path = made.save(stage.file(f"style-{content}.png"))
        sheet = side_by_side(
            [
                (read(stage.photos[content].path), content),
                (read(stage.photos[source].path), paint),
                (made.image, f"{content} painted in {paint}"),
            ],
            height=280,
        )
        beside = path.with_name(f"style-{content}-sheet.png")
        write_atomic(beside, png_bytes(sheet))
        pictures.append(Picture(beside, f"{content} in the style of {paint}.", wide=True))
    return Section(
        anchor="style",
        title="Style transfer",
        question="How would one picture look in the manner of another?",
        text="The activations of one layer keep what stands where, the Gram matrices of five bring the other picture's "
        "colours, strokes and grain (Gatys, Ecker & Bethge 2016). No layer was named: they are chosen by stride.",
        command=f"onnxviz style efficientnet-lite0 {manner} -o painted.png",
        pictures=pictures,
    )


DREAMS: tuple[Callable[[Stage], Section], ...] = (dreams, inversions, gram_textures, styles)


# Classes that a reader knows by their look: things, animals, a place.
_CLASSES = ("volcano", "flamingo", "tiger", "daisy", "balloon", "lemon")
# The channels whose best patches the demo shows too: faces, text, stars, bricks; cats, motorcycles, rockets, cups. In
# front of their ReLU6, which cuts off at 6: there the gradient ends long before the picture is finished.
_FEATURES = (
    ("blocks.5.expand", "middle", (2, 36, 5, 66, 103, 35, 108, 138)),
    ("head", "deep", (4, 398, 1053, 177, 436, 961, 1116, 46)),
)


def classes(stage: Stage) -> Section:
    """Class visualisation"""
    import onnxviz

    result = onnxviz.ascent(stage.net, target=list(_CLASSES), seed=stage.seed, progress=stage.progress)
    path = result.save(stage.file("ascent-classes.png"))
    return Section(
        anchor="ascent",
        title="Class visualisation",
        question="What does the network think these classes look like?",
        text="From noise, a picture is changed step by step so that one class score rises. It is moved as a spectrum "
        "with decorrelated colours, and shown to the network shifted, scaled, turned and blurred at random: only what "
        "survives that is drawn. Picture, transforms, network, gradient and optimiser are one ONNX graph.",
        command="onnxviz ascent efficientnet-lite0 --target volcano -o volcano.png",
        pictures=[
            Picture(
                path, "The class's rank and probability when the picture is shown to the network.", wide=True
            )
        ],
    )


def features(stage: Stage) -> Section:
    """Feature visualisation"""
    import onnxviz

    pictures = []
    for layer, name, channels in _FEATURES:
        result = onnxviz.ascent(
            stage.net, layer=layer, channel=list(channels), size=128, steps=128, seed=stage.seed,
            progress=stage.progress,
        )  # fmt: skip
        path = result.save(stage.file(f"ascent-{name}.png"))
        pictures.append(Picture(path, f"Layer {layer}: what eight channels answer to most.", wide=True))
    layer, _, channels = _FEATURES[0]
    return Section(
        anchor="ascent-features",
        title="Feature visualisation",
        question="What does each channel look for?",
        text="The same for single channels: these are the channels whose best patches of real photos stand above, or "
        "below, on this page. With --channel all, a page of every channel of a layer.",
        command=f"onnxviz ascent efficientnet-lite0 --layer {layer} --channel {channels[0]} -o channel.png",
        pictures=pictures,
    )


MADE: tuple[Callable[[Stage], Section], ...] = (classes, features)


# Where a photo is all texture, of those that are installed: rows and columns, and the side that they are shown at.
_PATCHES = {
    "brick": (slice(128, 256), slice(128, 256), 64),
    "gravel": (slice(128, 256), slice(128, 256), 64),
    "coffee": (slice(300, 364), slice(20, 84), 64),
    "flower": (slice(140, 268), slice(220, 348), 64),
}
_SIDE = 144
_METHODS: dict[str, dict[str, Any]] = {"nearest": {}, "quilt": {}, "gram": {"steps": 200}}
_PAINTER, _PAINTED = "tissue", 480
_MISTAKEN = ("toaster", "lemon")


def textures(stage: Stage) -> Section:
    """Textures"""
    import onnxviz

    table: list[Row] = []
    for name, (down, across, side) in _PATCHES.items():
        if name not in stage.photos or len(table) == 3:
            continue
        whole = read(stage.photos[name].path)[down, across]
        source = np.asarray(Image.fromarray(whole).resize((side, side), Image.Resampling.LANCZOS))
        made = [
            onnxviz.texture(
                stage.net, source, method, size=_SIDE, seed=stage.seed, progress=stage.progress, **options
            )
            for method, options in _METHODS.items()
        ]
        framed = np.full((_SIDE, _SIDE, 3), 255, np.uint8)
        framed[:side, :side] = source
        pictures = [framed, *(np.rint(np.asarray(one.values) * 255).astype(np.uint8) for one in made)]
        table.append(Row(name, pictures))
    sheet = rows(
        table,
        side=2 * _SIDE,
        lead=1,
        heads=[
            "source, to scale",
            "nearest, pixel by pixel",
            "quilt, block by block",
            "Gram matrices of the network, from noise",
        ],
    )
    path = write_atomic(stage.file("textures.png"), png_bytes(sheet))
    return Section(
        anchor="texture",
        title="Textures",
        question="Can a texture be continued from its own pieces, or from what a network sees in it?",
        text="The first two look for pieces of the source that fit what is there already: nearest sets one pixel at a "
        "time from the neighbourhood that matches best (Efros & Leung 1999), quilt lays whole blocks and cuts along "
        "the path where they differ least (Efros & Freeman 2001). The last starts from noise and makes the network's "
        "features go together as in the source, whatever stands where (Gatys, Ecker & Bethge 2015).",
        command="onnxviz texture efficientnet-lite0 bricks.png --method nearest --size 192x192 -o texture.png",
        pictures=[Picture(path, "A small source, and larger images of the same texture.", wide=True)],
    )


def fooling(stage: Stage) -> Section:
    """Fooling images"""
    import onnxviz

    one = onnxviz.fool(
        stage.net, stage.subject.path, target=_MISTAKEN[0], confidence=0.9, progress=stage.progress
    )
    pictures = [
        Picture(
            one.save(stage.file("fool.png")),
            f"From {one.outcomes[0].source_label} to {one.outcomes[0].target_label}: the two photos look the same.",
            wide=True,
        )
    ]
    paths = [photo.path for photo in stage.subjects]
    several = onnxviz.fool(
        stage.net, paths, target=_MISTAKEN[1], method="pgd", seed=stage.seed, progress=stage.progress
    )
    figures = several.manifest["figures"]
    bound = several.manifest["parameters"]["bound"]
    return Section(
        anchor="fool",
        title="Fooling images",
        question="How little must change for another answer?",
        text="Steps along the gradient by the pixels until the network is sure of a class that is not there, then "
        "back as far as it stays so. What counts is the rounded 8-bit picture: the saved file fools as it is. With "
        f"PGD, {figures['fooled']} of {figures['images']} photos become a {_MISTAKEN[1]} by changing no pixel by more "
        f"than {bound:g} of 255 grey levels.",
        command=f"onnxviz fool efficientnet-lite0 {stage.original()} --target toaster --confidence 0.9 -o fool.png",
        pictures=pictures,
        table=[
            ("photo", "before", f"after PGD, {bound:g} of 255"),
            *(
                (
                    paths[i].stem,
                    f"{o.source_label} {o.source_before:.0%}",
                    f"{o.top_label} {o.top_after:.0%}",
                )
                for i, o in enumerate(several.outcomes)
            ),
        ],
    )


def painted(stage: Stage) -> Section:
    """A style network"""
    import onnxviz

    net = onnxviz.load(_PAINTER, provider=stage.net.provider, threads=stage.net.threads)
    cards = []
    if "ihc" in stage.photos:
        cards.append((read(stage.photos["ihc"].path), "the style\na stained section of tissue"))
    for photo in stage.subjects[:3]:
        result = onnxviz.style_apply(net, photo.path, size=_PAINTED)
        result.save(stage.file(f"painted-{photo.name}.png"))
        cards.append((result.image, photo.name))
    path = write_atomic(stage.file("painted.png"), png_bytes(side_by_side(cards, height=320)))
    return Section(
        anchor="style-apply",
        title="Feed-forward style networks",
        question="Can a network paint at a glance?",
        text="A style network is trained once, on any pictures, against what another network sees: here "
        "EfficientNet-Lite0, whose gradient graph moved the painter's weights (style-train; Johnson et al. 2016). It "
        "then paints pictures of any size in one pass. Any ONNX file from a picture to a picture will do.",
        command=f"onnxviz style-apply {_PAINTER} {stage.original()} -o painted.png",
        pictures=[Picture(path, "Photos, each painted in one pass.", wide=True)],
    )
