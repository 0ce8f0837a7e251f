"""The demo's sections on pictures made from pictures: dreams, inversions, textures and styles."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from onnxviz.demo.page import Picture, Section
from onnxviz.files import png_bytes, write_atomic
from onnxviz.image.io import read
from onnxviz.image.sheet import side_by_side

if TYPE_CHECKING:
    from onnxviz.demo.sections import Stage

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
        command="onnxviz dream efficientnet-lite0 photo.jpg --layer blocks.7.add -o dream.png",
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
        command="onnxviz invert efficientnet-lite0 cat.png --layer blocks.10.add -o inverted.png",
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
        command="onnxviz texture efficientnet-lite0 photo.jpg --method gram -o texture.png",
        pictures=pictures,
    )


# What a photo lends as a style, where its name does not tell.
_STYLES = {"coffee": "coffee and wood", "ihc": "stained tissue"}


def styles(stage: Stage) -> Section:
    """Style transfer"""
    import onnxviz

    pairs = (("astronaut", "coffee"), ("china", "ihc"), ("chelsea", "china"), ("flower", "china"))
    chosen = [pair for pair in pairs if pair[0] in stage.photos and pair[1] in stage.photos][:2]
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
        command="onnxviz style efficientnet-lite0 photo.jpg painting.jpg -o painted.png",
        pictures=pictures,
    )


DREAMS: tuple[Callable[[Stage], Section], ...] = (dreams, inversions, gram_textures, styles)
