"""The demo's sections on textures and fooling images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from onnxviz.demo.page import Picture, Section
from onnxviz.files import png_bytes, write_atomic
from onnxviz.image.io import read
from onnxviz.image.sheet import Row, rows, side_by_side

if TYPE_CHECKING:
    from onnxviz.demo.sections import Stage

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
        pictures = [framed, *(np.rint(one.values * 255).astype(np.uint8) for one in made)]
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
        command="onnxviz fool efficientnet-lite0 cat.png --target toaster --confidence 0.9 -o fooled.png",
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
        command=f"onnxviz style-apply {_PAINTER} cat.png -o painted.png",
        pictures=[Picture(path, "Photos, each painted in one pass.", wide=True)],
    )
