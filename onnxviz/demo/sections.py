"""The demo's sections, a row each: what is asked, in words, and what is run and shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

import onnxviz
from onnxviz.demo.page import Picture, Section
from onnxviz.demo.photos import Photo, Stage
from onnxviz.figures.grids import Row, rows, side_by_side
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


@dataclass(frozen=True)
class Shown:
    """What a section shows beside its words.

    words       fill the text's {names}
    originals   the photos that its command names; none: the subject
    """

    pictures: Sequence[Picture] = ()
    table: Sequence[tuple[str, ...]] = ()
    listing: str = ""
    words: tuple[tuple[str, object], ...] = ()
    originals: Sequence[Photo] = ()


@dataclass(frozen=True)
class Topic:
    """A row: the words of a section, as in `page.Section`, and what makes the rest of it."""

    anchor: str
    title: str
    question: str
    text: str
    command: str
    make: Callable[[Stage], Shown]

    def section(self, stage: Stage) -> Section:
        """Run it."""
        shown = self.make(stage)
        command = self.command
        if "{photos}" in command:
            named = [stage.original(photo) for photo in shown.originals or [stage.subject]]
            command = command.replace("{photos}", " ".join(named))
        return Section(
            self.anchor,
            self.title,
            self.question,
            self.text.format(**dict(shown.words)),
            command,
            list(shown.pictures),
            list(shown.table),
            shown.listing,
        )


def photos(technique: str, count: int, caption: str) -> Callable[[Stage], Shown]:
    """A technique on so many photos; its caption has the photo's {name} and the result's {label}."""

    def make(stage: Stage) -> Shown:
        pictures = []
        for photo in stage.subjects[:count]:
            result = stage.run(technique, photo.path)
            told = caption.format(name=photo.name, label=result.label)
            pictures.append(stage.picture(f"{technique}-{photo.name}.png", result, told))
        return Shown(pictures)

    return make


def inspection(stage: Stage) -> Shown:
    """The layers, as a listing."""
    return Shown(listing="\n".join(stage.run("inspect").lines()))


def predictions(stage: Stage) -> Shown:
    """The best classes of each photo."""
    table = [("photo", "most probable classes")]
    for photo in stage.subjects:
        best = stage.net.predict(photo.path, top=3)[0]
        table.append((photo.name, ", ".join(f"{item.label} {item.probability:.0%}" for item in best)))
    return Shown(table=table)


def filters(stage: Stage) -> Shown:
    """Of the first convolution and of a deeper one."""
    first = "The 32 filters of the first convolution, each on its own scale and all on one."
    deeper = "A deeper convolution (1×1): output channels as rows, input channels as columns."
    return Shown(
        [
            stage.picture("filters.png", stage.run("filters"), first),
            stage.picture("filters-deeper.png", stage.run("filters", "blocks.1.expand"), deeper),
        ]
    )


def activations(stage: Stage) -> Shown:
    """Of two layers."""
    return Shown(
        [
            stage.picture(
                f"activations-{name}.png",
                stage.run("activations", stage.subject.path, layer),
                f"Layer {layer}: bright where the channel answers.",
            )
            for layer, name in ((_SHALLOW, "shallow"), (_MIDDLE, "middle"))
        ]
    )


def patches(stage: Stage) -> Shown:
    """The overviews of two layers."""
    pictures = []
    for layer, name, channels in ((_MIDDLE, "middle", _MIDDLE_CHANNELS), (_DEEP, "deep", _DEEP_CHANNELS)):
        folder = stage.file(f"patches-{name}")
        stage.run("patches", stage.crops, layer, channel=channels).save(folder, progress=stage.progress)
        told = f"Layer {layer}: the nine patches that each of eight channels likes best."
        pictures.append(Picture(folder / "overview.png", told))
    return Shown(pictures, words=(("count", sum(1 for _ in stage.crops.iterdir())),))


def neighbours(stage: Stage) -> Shown:
    """Rows of crops."""
    result = stage.run("neighbours", stage.crops, k=7)
    told = "Queries on the left, then their nearest neighbours with distances."
    return Shown([stage.picture("neighbours.png", result, told, wide=True)])


def maps(stage: Stage) -> Shown:
    """By t-SNE and by PCA."""
    return Shown(
        [
            stage.picture(
                f"map-{method}.png",
                stage.run("map", stage.crops, method=method),
                f"{name} of the last hidden layer.",
                wide=True,
            )
            for method, name in (("tsne", "t-SNE"), ("pca", "PCA"))
        ]
    )


def attributions(stage: Stage) -> Shown:
    """A few methods at a glance, and all of them."""
    from onnxviz.attribution.result import Attributions

    paths = [photo.path for photo in stage.subjects[:3]]
    # Enough for a picture, and a demo that is done in a minute; the defaults are 25 to 100.
    found = stage.run("attributions", paths, samples=20, steps=24)
    grid = [[next(one for one in row if one.method == name) for name in _FEW] for row in found.grid]
    few = Attributions(None, found.manifest, grid, found.names)
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
    from onnxviz.attribution.sheet import cams as sheet

    named = stage.subjects[:3]
    found = sheet(
        stage.net, [photo.path for photo in named], _CAMS, layer=_CAM_LAYER, names=[photo.name for photo in named],
        progress=stage.progress,
    )  # fmt: skip
    told = f"Four methods on {_CAM_LAYER}, whose maps have 14×14 places."
    first, second = stage.net.predict(stage.subject.path, top=2)[0]
    rather = logit(first.index) - logit(second.index)
    one = stage.run("cam", stage.subject.path, objective=rather, method="hirescam", signed=True)
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
        made = stage.run("dream", photo.path, "blocks.7.add", channels=channels, size=448, steps=steps)
        rise = min(octave["rise"] for octave in made.manifest["figures"]["octaves"])
        told = f"{photo.name}: {text}. Its answer rises {rise:.1f}-fold or more at every octave."
        pictures.append(stage.picture(f"dream-{name}.png", made, told))
    made = stage.run("dream", photo.path, "blocks.8.expand.relu6", guide=guide.path, size=448, steps=15)
    told = f"{photo.name}, guided by the features of {guide.name}."
    return Shown([*pictures, stage.picture("dream-guided.png", made, told)], originals=[photo])


def inversions(stage: Stage) -> Shown:
    """Of four layers."""
    made = stage.run("invert", stage.subject.path, _INVERTED, steps=70)
    told = "The photo, and what comes back from four layers, shallow to deep."
    return Shown([stage.picture("inversion.png", made, told, wide=True)])


def gram_textures(stage: Stage) -> Shown:
    """Of two photos."""
    pictures = []
    names = stage.some("coffee", "hubble_deep_field", "flower", "china")[:2]
    for name in names:
        made = stage.run("texture", stage.photos[name].path, "gram", size=224, steps=100)
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
        given = [stage.photos[name].path for name in (content, source)]
        made = stage.run("style", *given, size=320, steps=70, scales=2)
        made.save(stage.file(f"style-{content}.png"))
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
    result = stage.run("ascent", target=list(_CLASSES))
    told = "The class's rank and probability when the picture is shown to the network."
    return Shown([stage.picture("ascent-classes.png", result, told, wide=True)])


def channels(stage: Stage) -> Shown:
    """Of two layers, those whose best patches the demo shows too."""
    return Shown(
        [
            stage.picture(
                f"ascent-{name}.png",
                stage.run("ascent", layer=layer, channel=list(listed), size=128, steps=128),
                f"Layer {layer}: what eight channels answer to most.",
                wide=True,
            )
            for layer, name, listed in _FEATURES
        ]
    )


def textures(stage: Stage) -> Shown:
    """Three sources and three methods."""
    methods: dict[str, dict[str, Any]] = {"nearest": {}, "quilt": {}, "gram": {"steps": 200}}
    table: list[Row] = []
    for name in stage.some(*_PATCHES)[:3]:
        down, across, side = _PATCHES[name]
        whole = read(stage.photos[name].path)[down, across]
        source = np.asarray(Image.fromarray(whole).resize((side, side), Image.Resampling.LANCZOS))
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
    one = stage.run("fool", stage.subject.path, target="toaster", confidence=0.9)
    first = one.outcomes[0]
    told = f"From {first.source_label} to {first.target_label}: the two photos look the same."
    paths = [photo.path for photo in stage.subjects]
    several = stage.run("fool", paths, target="lemon", method="pgd")
    bound = several.manifest["parameters"]["bound"]
    table = [("photo", "before", f"after PGD, {bound:g} of 255")] + [
        (path.stem, f"{o.source_label} {o.source_before:.0%}", f"{o.top_label} {o.top_after:.0%}")
        for path, o in zip(paths, several.outcomes, strict=True)
    ]
    words = {**several.manifest["figures"], "bound": f"{bound:g}"}
    return Shown([stage.picture("fool.png", one, told, wide=True)], table, words=tuple(words.items()))


def painted(stage: Stage) -> Shown:
    """Photos in one row, behind the style."""
    net = onnxviz.load(_PAINTER, provider=stage.net.provider, threads=stage.net.threads)
    cards = [
        (read(stage.photos[name].path), "the style\na stained section of tissue")
        for name in stage.some("ihc")
    ]
    for photo in stage.subjects[:3]:
        result = onnxviz.style_apply(net, photo.path, size=480)
        result.save(stage.file(f"painted-{photo.name}.png"))
        cards.append((result.image, photo.name))
    sheet = side_by_side(cards, height=320)
    return Shown([stage.drawn("painted.png", sheet, "Photos, each painted in one pass.")])


TOPICS: tuple[Topic, ...] = (
    Topic(
        "occlusion",
        "Occlusion",
        "Which part of the photo does the answer rest on?",
        "A grey square slides over the photo, and the fall in the class's probability is written down where "
        "it stood. The occluded pictures are made inside the graph from window positions: no image travels "
        "twice.",
        "onnxviz occlusion efficientnet-lite0 {photos} -o occlusion.png",
        photos("occlusion", 4, "{name}: deeper where hiding costs more of {label!r}."),
    ),
    Topic(
        "rise",
        "RISE",
        "The same question, asked with thousands of random masks.",
        "Random soft masks hide half of the photo at a time; each pixel gets the mean probability over the "
        "masks that let it through (Petsiuk et al. 2018). Masks, too, are made inside the graph.",
        "onnxviz rise efficientnet-lite0 {photos} -o rise.png",
        photos("rise", 2, "{name}: how probable {label!r} stays when this place is seen."),
    ),
    Topic(
        "attributions",
        "Gradient attributions",
        "Which pixels move the score? One question, and what many methods answer.",
        "ONNX Runtime has no gradients at inference: onnxviz differentiates the graph into another graph of "
        "standard operators, and every row below is read off it. Gradients (above) resolve single pixels, "
        "class activation maps (below) the places of the last layer. Not all of them can be trusted alike: "
        "guided backprop and the deconvnet look sharp, but hardly change when the upper layers' weights are "
        "random, and the deconvnet of a network without pooling shows mostly its strides.",
        "onnxviz saliency efficientnet-lite0 {photos} --method all -o attributions.png",
        attributions,
    ),
    Topic(
        "cam",
        "Class activation maps",
        "Where does a deep layer find what speaks for the class, and where for this class rather than that?",
        "A layer's channels, added up by what they mean to the class. The backward walk stops at the layer, "
        "so a map costs hardly more than a forward pass. At the last layer all methods say nearly the same "
        "(above); further up they part: HiResCAM weighs each place by its own gradient and shows what was "
        "used there, Grad-CAM spreads a channel's mean gradient over all its places. Any objective can be "
        "explained, also a difference of two classes.",
        "onnxviz cam efficientnet-lite0 {photos} --method hirescam --signed --objective \"logit('Egyptian "
        "cat') - logit('tiger cat')\" -o cam.png",
        cams,
    ),
    Topic(
        "segment",
        "Segmentation without labels",
        "Can a network that only ever saw labels outline the object?",
        "The largest values of the map are taken for the object and the smallest for the ground; GrabCut, a "
        "mixture of colours on each side and a minimal cut through the grid of pixels, finds the border "
        "between them (Simonyan et al. 2014). The network never saw a mask.",
        "onnxviz segment efficientnet-lite0 {photos} -o object.png",
        photos("segment", 4, "{name}: what {label!r} was seen in."),
    ),
    Topic(
        "fool",
        "Fooling images",
        "How little must change for another answer?",
        "Steps along the gradient by the pixels until the network is sure of a class that is not there, "
        "then back as far as it stays so. What counts is the rounded 8-bit picture: the saved file fools as "
        "it is. With PGD, {fooled} of {images} photos become a lemon by changing no pixel by more than "
        "{bound} of 255 grey levels.",
        "onnxviz fool efficientnet-lite0 {photos} --target toaster --confidence 0.9 -o fool.png",
        fooling,
    ),
    Topic(
        "texture",
        "Textures",
        "Can a texture be continued from its own pieces, or from what a network sees in it?",
        "The first two look for pieces of the source that fit what is there already: nearest sets one pixel "
        "at a time from the neighbourhood that matches best (Efros & Leung 1999), quilt lays whole blocks "
        "and cuts along the path where they differ least (Efros & Freeman 2001). The last starts from noise "
        "and makes the network's features go together as in the source, whatever stands where (Gatys, Ecker "
        "& Bethge 2015).",
        "onnxviz texture efficientnet-lite0 bricks.png --method nearest --size 192x192 -o texture.png",
        textures,
    ),
    Topic(
        "style-apply",
        "Feed-forward style networks",
        "Can a network paint at a glance?",
        "A style network is trained once, on any pictures, against what another network sees: here "
        "EfficientNet-Lite0, whose gradient graph moved the painter's weights (style-train; Johnson et al. "
        "2016). It then paints pictures of any size in one pass. Any ONNX file from a picture to a picture "
        "will do.",
        "onnxviz style-apply tissue {photos} -o painted.png",
        painted,
    ),
    Topic(
        "ascent",
        "Class visualisation",
        "What does the network think these classes look like?",
        "From noise, a picture is changed step by step so that one class score rises. It is moved as a "
        "spectrum with decorrelated colours, and shown to the network shifted, scaled, turned and blurred "
        "at random: only what survives that is drawn. Picture, transforms, network, gradient and optimiser "
        "are one ONNX graph.",
        "onnxviz ascent efficientnet-lite0 --target volcano -o volcano.png",
        classes,
    ),
    Topic(
        "ascent-features",
        "Feature visualisation",
        "What does each channel look for?",
        "The same for single channels: these are the channels whose best patches of real photos stand "
        "above, or below, on this page. With --channel all, a page of every channel of a layer.",
        "onnxviz ascent efficientnet-lite0 --layer blocks.5.expand --channel 2 -o channel.png",
        channels,
    ),
    Topic(
        "dream",
        "DeepDream",
        "What does a layer see in a photo, if it may exaggerate?",
        "Step by step the photo is changed so that a layer answers more, at several sizes from small to "
        "large. What the layer looks for appears where the photo has something like it (Mordvintsev et al. "
        "2015).",
        "onnxviz dream efficientnet-lite0 {photos} --layer blocks.7.add -o dream.png",
        dreams,
    ),
    Topic(
        "invert",
        "Feature inversion",
        "What does a layer still know of the photo?",
        "Pictures are sought, from noise, that a layer cannot tell from the photo (Mahendran & Vedaldi "
        "2015). Early layers keep nearly everything; deep ones know what and roughly where, but no longer "
        "how it looked.",
        "onnxviz invert efficientnet-lite0 {photos} --layer blocks.10.add -o inverted.png",
        inversions,
    ),
    Topic(
        "texture-gram",
        "Textures from the network",
        "What is left of a photo if only its textures count?",
        "From noise, a picture is made whose channels go together as those of the photo do, whatever stands "
        "where (Gatys, Ecker & Bethge 2015): Gram matrices of five layers, matched by L-BFGS.",
        "onnxviz texture efficientnet-lite0 {photos} --method gram -o texture.png",
        gram_textures,
    ),
    Topic(
        "style",
        "Style transfer",
        "How would one picture look in the manner of another?",
        "The activations of one layer keep what stands where, the Gram matrices of five bring the other "
        "picture's colours, strokes and grain (Gatys, Ecker & Bethge 2016). No layer was named: they are "
        "chosen by stride.",
        "onnxviz style efficientnet-lite0 {photos} -o painted.png",
        styles,
    ),
    Topic(
        "filters",
        "Filters",
        "What does the first layer look for?",
        "First-layer weights act on the pixels themselves, so they can be shown as small colour pictures: "
        "edges at several angles, and pairs of opponent colours. Deeper weights act on channels and say "
        "less to the eye.",
        "onnxviz filters efficientnet-lite0 -o filters.png",
        filters,
    ),
    Topic(
        "activations",
        "Feature maps",
        "What does each channel make of one photo?",
        "Early maps still look like the photo, seen through one filter each. Further in they become coarse "
        "and sparse: a channel answers in a few places and is silent elsewhere.",
        "onnxviz activations efficientnet-lite0 {photos} --layer stem.relu6 -o maps.png",
        activations,
    ),
    Topic(
        "patches",
        "Maximally activating patches",
        "What excites a channel most, in a whole image set?",
        "{count} pictures through the network; for each channel the places that excite it most, cut out "
        "exactly as its receptive field covers them. The maximum and its place are found inside the graph, "
        "so memory does not grow with the number of pictures.",
        "onnxviz patches efficientnet-lite0 photos/ --layer blocks.5.expand.relu6 -o patches/",
        patches,
    ),
    Topic(
        "neighbours",
        "Nearest neighbours",
        "Which pictures are the same thing to the network?",
        "The last hidden layer as coordinates: pictures that lie close together there are alike in what "
        "they show, not in their pixels. Each row begins with a query.",
        "onnxviz neighbours efficientnet-lite0 photos/ -o neighbours.png",
        neighbours,
    ),
    Topic(
        "map",
        "Maps",
        "How does the network arrange a whole image set?",
        "The last hidden layer brought down to two dimensions, as points and as pictures on a grid on which "
        "none covers another. t-SNE keeps neighbourhoods, PCA keeps the large distances.",
        "onnxviz map efficientnet-lite0 photos/ --method tsne -o map.png",
        maps,
    ),
    Topic(
        "predict",
        "Predict",
        "What does it say about these photos?",
        "How a picture becomes the network's input stands in the file's own metadata; otherwise it is said "
        "once, with --preprocess.",
        "onnxviz predict efficientnet-lite0 {photos}",
        predictions,
    ),
    Topic(
        "inspect",
        "Inspect",
        "What is in this file?",
        "Every layer with its shape, parameters, multiply–accumulates and receptive field: the square of "
        "input pixels that one unit of the layer can see, computed from the graph's own attributes.",
        "onnxviz inspect efficientnet-lite0",
        inspection,
    ),
)
